//! Whether the clock can be trusted: it says what is due and what is too old.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use crate::finding::Finding;

/// Where systemd-timesyncd says that the clock was set; its directory is there while it runs (systemd-timesyncd(8)).
pub const TIMESYNC_DIR: &str = "/run/systemd/timesync";
/// This tool is younger than any clock that shows an earlier time: 2026-01-01.
const EARLIEST: i64 = 1_767_225_600;
/// Clocks that are set step by so much without anybody noticing.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// Whether `now` can be right. `newest` is the newest time that this host has written down itself.
pub fn examine(now: DateTime<Utc>, newest: Option<DateTime<Utc>>, timesync_dir: &Path) -> Finding {
    const CHECK: &str = "clock";
    const REMEDY: &str =
        "set the clock, and let systemd-timesyncd or chrony keep it: `timedatectl`";
    let subject = "this host";
    if now.timestamp() < EARLIEST {
        return Finding::broken(
            CHECK,
            subject,
            format!("it shows {}, which can't be", now.format("%Y-%m-%d")),
            REMEDY,
        );
    }
    if let Some(newest) = newest.filter(|newest| *newest > now + TOLERANCE) {
        return Finding::warning(
            CHECK,
            subject,
            format!(
                "it went backwards: a schedule was written at {}",
                newest.format("%Y-%m-%d %H:%M:%SZ")
            ),
            REMEDY,
        );
    }
    if timesync_dir.join("synchronized").exists() {
        return Finding::ok(CHECK, subject, "synchronised by systemd-timesyncd");
    }
    if timesync_dir.is_dir() {
        return Finding::warning(
            CHECK,
            subject,
            "systemd-timesyncd runs and has not reached a time server yet",
            "look at `timedatectl timesync-status`",
        );
    }
    Finding::ok(
        CHECK,
        subject,
        "plausible; systemd-timesyncd does not run, so whether another service keeps it is not known",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn timesyncd_says_whether_the_clock_was_set() {
        let directory = tempfile::tempdir().unwrap();
        let now = at("2026-11-23T14:00:00Z");
        let examined = |dir: &Path| examine(now, Some(now), dir);
        assert_eq!(examined(&directory.path().join("none")).status, Status::Ok);
        assert_eq!(examined(directory.path()).status, Status::Warning);
        std::fs::write(directory.path().join("synchronized"), "").unwrap();
        let set = examined(directory.path());
        assert_eq!(set.status, Status::Ok);
        assert!(set.detail.contains("systemd-timesyncd"), "{}", set.detail);
    }

    #[test]
    fn a_clock_before_its_own_records_went_backwards() {
        let none = Path::new("/nonexistent");
        let now = at("2026-11-23T14:00:00Z");
        let newest = Some(now + TimeDelta::minutes(2));
        assert_eq!(examine(now, newest, none).status, Status::Warning);
        let newest = Some(now + TimeDelta::seconds(30));
        assert_eq!(examine(now, newest, none).status, Status::Ok);
        let epoch = at("1970-01-01T00:00:05Z");
        assert_eq!(examine(epoch, None, none).status, Status::Broken);
    }
}
