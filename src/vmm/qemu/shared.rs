//! Guest memory that is shared (memfd, /dev/shm): a save reads all of it while the guest is paused, and a page that nobody
//! has touched takes up room once it is read. Private memory has a page of zeros for that, which takes none.

use procfs::{Current, Meminfo, process};
use serde::Deserialize;
use serde_json::json;

use super::super::{Process, VmmError};
use super::qmp::Qmp;

/// Less than this is read in no time and missed by nobody, in bytes.
const NEGLIGIBLE: u64 = 64 << 20;

/// An entry of `query-memdev`.
#[derive(Debug, Deserialize)]
struct Memdev {
    size: u64,
    #[serde(default)]
    share: bool,
}

/// Shared memory of a guest that nobody has touched yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untouched {
    /// All shared memory of the guest, in bytes.
    size: u64,
    /// What of it takes up no room yet, in bytes.
    untouched: u64,
}

impl Untouched {
    /// What there is of it; nothing when that is negligible or can't be told.
    ///
    /// # Errors
    /// When QEMU can't be asked.
    pub fn look(qmp: &mut Qmp, process: Option<&Process>) -> Result<Option<Self>, VmmError> {
        let memdevs: Vec<Memdev> = qmp.query("query-memdev", &json!({}))?;
        let shared = memdevs.iter().filter(|memdev| memdev.share);
        let size = shared.fold(0, |sum: u64, memdev| sum.saturating_add(memdev.size));
        let resident = process.and_then(|process| resident_bytes(process.pid));
        Ok(resident.and_then(|resident| Self::of(size, resident)))
    }

    fn of(size: u64, resident: u64) -> Option<Self> {
        let untouched = size.saturating_sub(resident);
        (untouched >= NEGLIGIBLE).then_some(Self { size, untouched })
    }

    /// How much of it there is, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.untouched
    }

    /// What that means for a snapshot, in words for the user.
    pub fn warning(&self) -> String {
        format!(
            "the guest's memory is shared (memfd, /dev/shm), and a snapshot reads all {} MiB of it while the guest is \
             paused: that takes {} MiB more of the host's memory, once and for good, and seconds for each GiB; private \
             memory (share=off) would take neither",
            self.size >> 20,
            self.untouched >> 20
        )
    }

    /// Refuses a save that needs more memory than the host has left.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`], with the figures.
    pub fn check_room(&self) -> Result<(), VmmError> {
        let available = Meminfo::current().ok().and_then(|host| host.mem_available);
        match available {
            Some(available) if available < self.untouched => Err(VmmError::Unsupported(format!(
                "the guest's memory is shared, and a snapshot of it would take {} MiB of the host's memory, which has {} \
                 MiB left; give the guest private memory (share=off), or the host more",
                self.untouched >> 20,
                available >> 20
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a process has of shared memory, in memory or in swap, in bytes.
fn resident_bytes(pid: i32) -> Option<u64> {
    let status = process::Process::new(pid).ok()?.status().ok()?;
    // Swapped out shared memory is in no figure of the process's own: such a guest is warned of once too often.
    status.rssshmem.map(|kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_nobody_has_touched_is_foreseen_and_the_rest_is_not() {
        let found = Untouched::of(2048 * MIB, 38 * MIB).unwrap();
        let warning = found.warning();
        assert!(
            warning.contains("2048 MiB") && warning.contains("2010 MiB"),
            "{warning}"
        );
        assert_eq!(Untouched::of(2048 * MIB, 2040 * MIB), None);
        assert_eq!(Untouched::of(0, 38 * MIB), None);
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let all = Untouched {
            size: u64::MAX,
            untouched: u64::MAX,
        };
        let error = all.check_room().unwrap_err().to_string();
        assert!(error.contains("private memory"), "{error}");
        let little = Untouched {
            size: 1,
            untouched: 1,
        };
        little.check_room().unwrap();
    }
}
