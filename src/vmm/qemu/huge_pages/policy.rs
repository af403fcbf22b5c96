//! What the host's admin, the kernel and the process itself say of huge pages. Parses and judges; looks at nothing.

/// For which memory the host wants huge pages (`/sys/kernel/mm/transparent_hugepage/enabled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For none.
    Never,
    /// For that of which its process says so, as QEMU does of its guest's.
    Madvise,
    /// For all.
    Always,
}

/// What the setting for all sizes says, and the one for the size in question, which counts unless it inherits (Linux 6.8).
pub(super) fn wanted(all: &str, this_size: Option<&str>) -> Wanted {
    let word = |text: &str| {
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(word, _)| word.to_owned())
    };
    let of = |text: &str| match word(text).as_deref() {
        Some("always") => Some(Wanted::Always),
        Some("madvise") => Some(Wanted::Madvise),
        Some("never") => Some(Wanted::Never),
        Some(_) | None => None,
    };
    this_size
        .and_then(of)
        .or_else(|| of(all))
        .unwrap_or(Wanted::Never)
}

/// A mapping of a process, as far as it matters here (`smaps`, proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Private, writable memory with no file behind it.
    pub is_private: bool,
    /// The process wants huge pages for it.
    pub is_advised: bool,
    /// The process wants none.
    pub is_advised_against: bool,
    /// What it takes in memory, in bytes.
    pub resident: u64,
    /// What of it is in huge pages already, in bytes.
    pub huge: u64,
}

impl Mapping {
    /// Whether huge pages are wanted here, and some are missing.
    pub fn may_gain(&self, wanted: Wanted) -> bool {
        let is_wanted = match wanted {
            Wanted::Never => false,
            Wanted::Madvise => self.is_advised,
            Wanted::Always => true,
        };
        is_wanted && self.is_private && !self.is_advised_against && self.huge < self.resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_of_the_size_counts_unless_it_inherits() {
        for (all, this_size, expected) in [
            ("always [madvise] never", None, Wanted::Madvise),
            ("[always] madvise never", None, Wanted::Always),
            ("always madvise [never]", None, Wanted::Never),
            (
                "always [madvise] never",
                Some("always [inherit] madvise never"),
                Wanted::Madvise,
            ),
            (
                "always [madvise] never",
                Some("always inherit madvise [never]"),
                Wanted::Never,
            ),
            (
                "always madvise [never]",
                Some("[always] inherit madvise never"),
                Wanted::Always,
            ),
            ("", None, Wanted::Never),
            ("of another form", Some("[too"), Wanted::Never),
        ] {
            assert_eq!(wanted(all, this_size), expected, "{all} {this_size:?}");
        }
    }

    #[test]
    fn only_private_memory_for_which_huge_pages_are_wanted_and_missing_gains() {
        let ram = Mapping {
            is_private: true,
            is_advised: true,
            is_advised_against: false,
            resident: 8,
            huge: 4,
        };
        assert!(ram.may_gain(Wanted::Madvise));
        assert!(!ram.may_gain(Wanted::Never));
        let gains = |change: fn(&mut Mapping), wanted| {
            let mut changed = ram;
            change(&mut changed);
            changed.may_gain(wanted)
        };
        assert!(!gains(|it| it.is_advised = false, Wanted::Madvise));
        assert!(gains(|it| it.is_advised = false, Wanted::Always));
        assert!(!gains(|it| it.is_private = false, Wanted::Always));
        assert!(!gains(|it| it.is_advised_against = true, Wanted::Always));
        assert!(!gains(|it| it.huge = 8, Wanted::Always));
    }
}
