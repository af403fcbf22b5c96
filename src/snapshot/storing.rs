//! What a snapshot holds and how it is stored, as a schedule declares it. Pure.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

use super::Kind;
use crate::instance::State;

/// What a snapshot holds, and how it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storing {
    /// Whether the memory of a guest that runs is left out.
    pub no_memory: bool,
    /// How memory is saved; `None` for the VMM's own way, all of it.
    pub saving: Option<Saving>,
    /// How memory is compressed, once the guest runs again; `None` for not at all.
    pub compress: Option<Method>,
    /// What stays free on the file system of the snapshots; `None` for what holds for the host.
    pub min_free: Option<MinFree>,
}

impl Storing {
    /// What a snapshot of an instance in `state` holds; `None` where none can be taken.
    pub fn kind(&self, state: State) -> Option<Kind> {
        let kind = Kind::for_state(state)?;
        Some(if self.no_memory { Kind::Stopped } else { kind })
    }

    /// Whether snapshots of this kind are taken.
    pub const fn makes(&self, kind: Kind) -> bool {
        match kind {
            Kind::Standby => !self.no_memory,
            Kind::Stopped => true,
        }
    }
}

/// How memory is saved where that is not the VMM's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// What was written since the last snapshot, onto that one's memory; all of it where that is not surely possible.
    Difference,
    /// Streamed out while the guest runs, as for a migration, which is refused at its end (Cloud Hypervisor).
    Migration,
}

/// What a method of saving must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be full, diff or migrate")]
pub struct InvalidSaving;

impl FromStr for Saving {
    type Err = InvalidSaving;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "diff" => Ok(Self::Difference),
            "migrate" => Ok(Self::Migration),
            _ => Err(InvalidSaving),
        }
    }
}

impl fmt::Display for Saving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Difference => "diff",
            Self::Migration => "migrate",
        })
    }
}

/// How memory is compressed (contract, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// zstd, at level 1 to 19.
    Zstd(u8),
    /// lz4, at level 0 to 9.
    Lz4(u8),
}

/// What a method of compression must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be zstd, zstd:1 to zstd:19, lz4, or lz4:0 to lz4:9, or none")]
pub struct InvalidMethod;

impl Method {
    /// The algorithm, as hypeman calls it.
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Zstd(_) => "zstd",
            Self::Lz4(_) => "lz4",
        }
    }

    /// Its level.
    pub const fn level(self) -> u8 {
        match self {
            Self::Zstd(level) | Self::Lz4(level) => level,
        }
    }
}

impl FromStr for Method {
    type Err = InvalidMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, level) = match text.split_once(':') {
            None => (text, None),
            Some((algorithm, level)) => {
                // Where `+1` is a number too.
                if !level.bytes().all(|it| it.is_ascii_digit()) {
                    return Err(InvalidMethod);
                }
                (algorithm, Some(level.parse().map_err(|_| InvalidMethod)?))
            }
        };
        // Without a level, hypeman's own.
        match (algorithm, level) {
            ("zstd", None) => Ok(Self::Zstd(1)),
            ("zstd", Some(level @ 1..=19)) => Ok(Self::Zstd(level)),
            ("lz4", None) => Ok(Self::Lz4(0)),
            ("lz4", Some(level @ 0..=9)) => Ok(Self::Lz4(level)),
            _ => Err(InvalidMethod),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.level())
    }
}

/// How much of a file system stays free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// So many bytes.
    Bytes(u64),
    /// So much of all, in percent, below 100.
    Percent(u8),
}

/// What a size that stays free must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a size such as 20GiB or 20GB, or a percentage from 0% to 99%")]
pub struct InvalidMinFree;

impl MinFree {
    /// In bytes, of a file system with `total_bytes`.
    pub fn bytes_of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let share = u128::from(total_bytes) * u128::from(percent) / 100;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for MinFree {
    type Err = InvalidMinFree;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(percent) = text.strip_suffix('%') {
            let is_plain = percent.bytes().all(|it| it.is_ascii_digit());
            let percent = percent.parse().ok().filter(|it| is_plain && *it < 100);
            return percent.map(Self::Percent).ok_or(InvalidMinFree);
        }
        let size: ByteSize = text.trim().parse().map_err(|_| InvalidMinFree)?;
        Ok(Self::Bytes(size.as_u64()))
    }
}

/// So that it reads as it was typed, where a unit allows that.
impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 8] = [
            (1 << 40, "TiB"),
            (1_000_000_000_000, "TB"),
            (1 << 30, "GiB"),
            (1_000_000_000, "GB"),
            (1 << 20, "MiB"),
            (1_000_000, "MB"),
            (1 << 10, "KiB"),
            (1000, "KB"),
        ];
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => match UNITS
                .iter()
                .find(|(unit, _)| *bytes > 0 && bytes % unit == 0)
            {
                Some((unit, name)) => write!(f, "{}{name}", bytes / unit),
                None => write!(f, "{bytes}B"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn methods_are_those_that_hypeman_knows() {
        for (text, method) in [
            ("zstd", Method::Zstd(1)),
            ("zstd:1", Method::Zstd(1)),
            ("zstd:19", Method::Zstd(19)),
            ("lz4", Method::Lz4(0)),
            ("lz4:9", Method::Lz4(9)),
        ] {
            assert_eq!(text.parse(), Ok(method));
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        for text in [
            "", "gzip", "zstd:0", "zstd:20", "zstd:", "zstd:+1", "zstd:-1", "lz4:10", "ZSTD",
            "lz4:1:1",
        ] {
            assert_eq!(text.parse::<Method>(), Err(InvalidMethod), "{text:?}");
        }
    }

    #[test]
    fn sizes_and_percentages_are_read_and_nothing_else() {
        for (text, bytes) in [
            ("0", 0),
            ("20GiB", 20 << 30),
            ("20 GB", 20_000_000_000),
            ("1.5MiB", 3 << 19),
            ("10%", 100),
            ("0%", 0),
        ] {
            let read: MinFree = text.parse().unwrap();
            assert_eq!(read.bytes_of(1000), bytes, "{text}");
        }
        for text in [
            "", "%", "100%", "-1%", "1.5%", "+1%", "lots", "-5GiB", "10 %",
        ] {
            assert_eq!(text.parse::<MinFree>(), Err(InvalidMinFree), "{text:?}");
        }
        assert_eq!(MinFree::Bytes(20 << 30).to_string(), "20GiB");
        assert_eq!(MinFree::Bytes(5_000_000).to_string(), "5MB");
        assert_eq!(
            MinFree::Percent(99).bytes_of(u64::MAX),
            u64::MAX / 100 * 99 + 14
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes: u64, percent in 0u8..100) {
            for min_free in [MinFree::Bytes(bytes), MinFree::Percent(percent)] {
                prop_assert_eq!(min_free.to_string().parse(), Ok(min_free));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<MinFree>();
            let _ = text.parse::<Method>();
        }
    }
}
