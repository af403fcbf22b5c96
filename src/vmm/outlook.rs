//! How long a snapshot would pause a guest, foreseen from how its memory is saved, how much it is, and of which pages.
//! Only calculates: the figures are what was measured (README), and no promise.

use std::fmt;
use std::time::Duration;

/// What any pause takes: its requests, and the reflinks of a few disks.
const ALWAYS: f64 = 0.008;
/// Seconds for each GiB of memory that is protected, in huge pages.
const HUGE_PER_GIB: f64 = 0.008;
/// The same in small pages, of which there are 512 times as many.
const SMALL_PER_GIB: f64 = 0.13;
/// Seconds for each GiB of shared memory that nobody has touched and that QEMU has the kernel fill with zeros.
const UNTOUCHED_PER_GIB: f64 = 3.0;
/// Seconds for each GiB that is written while the guest is paused, and what it takes more until it is on the disk.
const WRITTEN_PER_GIB: f64 = 0.9;
const SYNCED_PER_GIB: f64 = 1.5;
const GIB: f64 = 1_073_741_824.0;

/// How a VMM saves its guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Behind the running guest, once it is protected.
    Behind {
        /// How much of it is in small pages then, in bytes.
        small: u64,
        /// How much shared memory nobody has touched, in bytes.
        untouched: u64,
    },
    /// While the guest is paused.
    InPause {
        /// Whether it is also waited for until it is on the disk.
        is_synced: bool,
    },
    /// Not at all.
    Left,
}

/// What is foreseen of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// How memory is saved.
    pub method: Method,
    /// The memory that is protected or written, in bytes.
    pub memory: u64,
    /// What would make the pause shorter; `None` where nothing is known to.
    pub remedy: Option<String>,
}

impl Outlook {
    /// That of a snapshot of the disks alone.
    pub const DISKS: Self = Self {
        method: Method::Left,
        memory: 0,
        remedy: None,
    };

    /// Whether memory is written while the guest is paused.
    pub const fn saves_in_pause(&self) -> bool {
        matches!(self.method, Method::InPause { .. })
    }

    /// About how long the pause would be, with so many bytes of disks that are copied in it.
    pub fn pause(&self, copied: u64) -> Duration {
        let gib = |bytes: u64| bytes as f64 / GIB;
        let memory = match self.method {
            Method::Behind { small, untouched } => {
                gib(self.memory) * HUGE_PER_GIB
                    + gib(small) * SMALL_PER_GIB
                    + gib(untouched) * UNTOUCHED_PER_GIB
            }
            Method::Left => 0.0,
            Method::InPause { is_synced: false } => gib(self.memory) * WRITTEN_PER_GIB,
            Method::InPause { is_synced: true } => {
                gib(self.memory) * (WRITTEN_PER_GIB + SYNCED_PER_GIB)
            }
        };
        let seconds = ALWAYS + memory + gib(copied) * WRITTEN_PER_GIB;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// The method and the amount of memory, as a part of a sentence.
impl fmt::Display for Outlook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory >> 20;
        match self.method {
            Method::Behind { small, untouched } => {
                write!(
                    out,
                    "{mib} MiB of memory are saved behind the running guest"
                )?;
                if untouched > 0 {
                    write!(
                        out,
                        ", {} MiB of it shared and still untouched",
                        untouched >> 20
                    )?;
                }
                match small >> 20 {
                    0 => Ok(()),
                    small => write!(out, ", {small} MiB of it in small pages"),
                }
            }
            Method::Left => write!(out, "memory is left out"),
            Method::InPause { is_synced } => {
                let sync = if is_synced { " and synced" } else { "" };
                write!(out, "{mib} MiB of memory are written{sync} in the pause")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(method: Method, memory: u64, copied: u64) -> u128 {
        let outlook = Outlook {
            method,
            memory,
            remedy: None,
        };
        outlook.pause(copied).as_millis()
    }

    #[test]
    fn what_is_foreseen_is_about_what_was_measured() {
        const GIB: u64 = 1 << 30;
        let behind = |small| Method::Behind {
            small,
            untouched: 0,
        };
        // As the README and its bench have them, from the least to the most.
        for (method, memory, seen) in [
            (behind(0), GIB, 10..=25),
            (behind(GIB / 2), GIB, 60..=95),
            (behind(0), 4 * GIB, 23..=48),
            (behind(2 * GIB), 4 * GIB, 270..=500),
            (Method::InPause { is_synced: false }, GIB, 380..=1200),
            (Method::InPause { is_synced: true }, GIB, 1800..=2700),
            (Method::InPause { is_synced: true }, 2 * GIB, 3700..=5900),
        ] {
            let foreseen = ms(method, memory, 0);
            assert!(seen.contains(&foreseen), "{method:?} {memory}: {foreseen}");
        }
        assert!(ms(behind(0), GIB, GIB) > ms(behind(0), GIB, 0) + 500);
        // Whatever a VMM says.
        assert!(ms(Method::InPause { is_synced: true }, u64::MAX, u64::MAX) > 1 << 32);
    }
}
