//! What a snapshot that would pause its guest for too long is refused with, before it begins.

use std::time::Duration;

use crate::engine::EngineError;
use crate::vmm::Outlook;

/// The longest pause, and what besides memory makes it longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct PauseLimit {
    /// `--max-pause`; `None` for any length.
    pub(super) longest: Option<Duration>,
    /// Bytes of disks that this tool copies in the pause.
    pub(super) copied: u64,
    /// Bytes of disks that the VMM copies behind the running guest, or in the pause if it saves memory there.
    pub(super) by_vmm: u64,
}

impl PauseLimit {
    /// Refuses what is foreseen to take longer.
    ///
    /// # Errors
    /// With what is foreseen, the limit and what would help.
    pub(super) fn check(&self, outlook: &Outlook) -> Result<(), EngineError> {
        let Some(longest) = self.longest else {
            return Ok(());
        };
        let copied = self.copied_in_pause(outlook);
        let pause = outlook.pause(copied);
        if pause <= longest {
            return Ok(());
        }
        let disks = match copied >> 20 {
            0 => String::new(),
            mib => format!(", with {mib} MiB of disks"),
        };
        let remedy = outlook.remedy.iter().map(|remedy| format!("{remedy}, or "));
        let share = (copied > 0).then_some("a file system with reflinks (XFS, btrfs), or ");
        Err(EngineError::instance(format!(
            "not taken: it would pause the guest for about {}, longer than --max-pause {}: {outlook}{disks}; what would \
             help: {}{}a longer --max-pause",
            in_words(pause),
            in_words(longest),
            remedy.collect::<String>(),
            share.unwrap_or_default(),
        )))
    }

    /// What to say of a pause that was longer than it was foreseen.
    pub(super) fn exceeded(&self, pause: Duration) -> Option<String> {
        let longest = self.longest.filter(|longest| pause > *longest)?;
        Some(format!(
            "the guest was paused for {}, longer than --max-pause {}, which was not foreseen",
            in_words(pause),
            in_words(longest)
        ))
    }

    fn copied_in_pause(&self, outlook: &Outlook) -> u64 {
        if outlook.saves_in_pause() {
            self.copied.saturating_add(self.by_vmm)
        } else {
            self.copied
        }
    }
}

/// What a snapshot would be like, and what would make its pause shorter.
pub(super) fn of(outlook: &Outlook) -> String {
    let pause = in_words(outlook.pause(0));
    let remedy = outlook.remedy.iter();
    let remedy: String = remedy.map(|it| format!("; shorter with {it}")).collect();
    format!("a snapshot would pause it for about {pause} ({outlook}{remedy})")
}

/// A length of time as people say it.
fn in_words(time: Duration) -> String {
    match time.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::Method;

    fn limit(longest: Option<u64>) -> PauseLimit {
        PauseLimit {
            longest: longest.map(Duration::from_millis),
            copied: 0,
            by_vmm: 4 << 30,
        }
    }

    #[test]
    fn only_what_is_foreseen_to_take_longer_is_refused_with_what_would_help() {
        let outlook = Outlook {
            method: Method::Behind {
                small: 0,
                untouched: 0,
            },
            memory: 1 << 30,
            remedy: None,
        };
        limit(None).check(&outlook).unwrap();
        limit(Some(100)).check(&outlook).unwrap();
        let refused =
            |limit: PauseLimit, outlook: &Outlook| limit.check(outlook).unwrap_err().to_string();
        let why = refused(limit(Some(1)), &outlook);
        assert!(
            why.contains("--max-pause 1 ms") && why.contains("16 ms"),
            "{why}"
        );
        let copies = PauseLimit {
            copied: 1 << 30,
            ..limit(Some(100))
        };
        let why = refused(copies, &outlook);
        assert!(
            why.contains("1024 MiB of disks") && why.contains("reflinks"),
            "{why}"
        );
        let in_pause = Outlook {
            method: Method::InPause { is_synced: false },
            remedy: Some("a newer VMM".to_owned()),
            ..outlook
        };
        let why = refused(limit(Some(2000)), &in_pause);
        // What the VMM copies is in such a pause, too.
        assert!(
            why.contains("4096 MiB of disks") && why.contains("a newer VMM, or"),
            "{why}"
        );
    }

    #[test]
    fn a_pause_that_was_longer_all_the_same_is_told() {
        assert_eq!(limit(None).exceeded(Duration::MAX), None);
        assert_eq!(limit(Some(5)).exceeded(Duration::from_millis(5)), None);
        let told = limit(Some(5)).exceeded(Duration::from_millis(1500));
        assert!(
            told.unwrap()
                .contains("1.5 s, longer than --max-pause 5 ms")
        );
    }
}
