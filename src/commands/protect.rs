//! `protect`, `unprotect`: which snapshots stay whatever retention says. Kept on this host, for both engines.

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Utc};

use super::Context;
use super::failure::Refused;
use crate::cli::{ProtectArgs, UnprotectArgs};
use crate::clock;
use crate::report::{Answer, ProtectionRow};
use crate::snapshot::Protection;
use crate::snapshot::{self, Snapshot, SnapshotId};

/// Longest reason, in characters.
const REASON_MAX_CHARS: usize = 256;

/// Protects snapshots: all that were named, or none. The same again changes nothing.
///
/// # Errors
/// When a value breaks a rule, when a reference means no snapshot or several, when a snapshot is being deleted for too
/// long, and when it can't be written.
pub fn protect(context: &Context<'_>, args: &ProtectArgs) -> anyhow::Result<Answer> {
    let now = clock::now();
    let reason = args.reason.as_deref().map(reason).transpose()?;
    let until = args.until.as_deref().map(|it| until(it, now)).transpose()?;
    let engine = (context.ports)()?.engine;
    // Nobody deletes from here on, so that what is listed is there when it is protected.
    let _lock = context
        .store
        .lock_protections(context.settings.lock_timeout)?;
    let listing = engine.list()?.snapshots;
    let named: Vec<&Snapshot> = args
        .snapshot
        .iter()
        .map(|reference| snapshot::find(reference, &listing))
        .collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for snapshot in named {
        let before = context.store.protection(&snapshot.id, now)?;
        let mut protection = Protection {
            reason: reason.clone(),
            until,
            protected_at: now,
        };
        let is_changed = match before {
            Some(before) => {
                protection.protected_at = before.protected_at;
                protection != before
            }
            None => true,
        };
        if is_changed {
            context.store.protect(&snapshot.id, &protection)?;
        }
        rows.push(ProtectionRow {
            snapshot_id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            is_changed,
            protection: Some(protection),
        });
    }
    Ok(Answer::Protections(rows))
}

/// Takes protections back; of snapshots that are not listed any more, too, by their ids.
///
/// # Errors
/// When a reference means nothing or several snapshots, and when a protection can't be removed.
pub fn unprotect(context: &Context<'_>, args: &UnprotectArgs) -> anyhow::Result<Answer> {
    let now = clock::now();
    let protections = context.store.protections(now)?;
    let is_known = |reference: &String| {
        let id = reference.parse::<SnapshotId>().ok();
        id.filter(|id| protections.contains_key(id))
    };
    let mut named: Vec<(SnapshotId, String)> = Vec::new();
    let mut listing = None;
    for reference in &args.snapshot {
        if let Some(id) = is_known(reference) {
            named.push((id, String::new()));
            continue;
        }
        let listing = match &mut listing {
            Some(listing) => listing,
            none => none.insert((context.ports)()?.engine.list()?.snapshots),
        };
        let found = snapshot::find(reference, listing)?;
        named.push((found.id.clone(), found.name.clone()));
    }
    let _lock = context
        .store
        .lock_protections(context.settings.lock_timeout)?;
    let mut rows = Vec::new();
    for (snapshot_id, name) in named {
        let is_changed = context.store.unprotect(&snapshot_id)?;
        rows.push(ProtectionRow {
            snapshot_id,
            name,
            is_changed,
            protection: None,
        });
    }
    Ok(Answer::Protections(rows))
}

fn reason(text: &str) -> Result<String, Refused> {
    let text = text.trim();
    let is_line = !text.chars().any(char::is_control);
    if (1..=REASON_MAX_CHARS).contains(&text.chars().count()) && is_line {
        return Ok(text.to_owned());
    }
    Err(Refused::Usage(format!(
        "--reason {text:?}: must be one line of 1 to {REASON_MAX_CHARS} characters"
    )))
}

/// A moment, by the host's clock where it names no offset; a day begins at midnight.
fn until(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refused> {
    let invalid = |rule: &str| Refused::Usage(format!("--until {text:?}: {rule}"));
    let local = || {
        let day = |text| {
            Some(
                NaiveDate::parse_from_str(text, "%Y-%m-%d")
                    .ok()?
                    .and_time(NaiveTime::MIN),
            )
        };
        let time = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]
            .into_iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        // In the hour that the clock shows twice, the later one: too long is better than too short.
        Some(
            Local
                .from_local_datetime(&time.or_else(|| day(text))?)
                .latest()?
                .to_utc(),
        )
    };
    let time = DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .ok()
        .or_else(local)
        .ok_or_else(|| {
            invalid("must be a time, such as 2027-01-31, 2027-01-31 18:00 or 2027-01-31T18:00:00Z")
        })?;
    if time <= now {
        return Err(invalid("must lie in the future"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_time_in_the_future() {
        let now: DateTime<Utc> = "2026-09-02T12:00:00Z".parse().unwrap();
        let exact = until("2026-09-02T14:00:01+02:00", now).unwrap();
        assert_eq!(
            exact,
            "2026-09-02T12:00:01Z".parse::<DateTime<Utc>>().unwrap()
        );
        let day = until("2027-01-31", now).unwrap();
        assert_eq!(
            day.with_timezone(&Local).naive_local().time(),
            NaiveTime::MIN
        );
        assert_eq!(until("2027-01-31 00:00", now).unwrap(), day);
        for (text, rule) in [
            ("2026-09-02T12:00:00Z", "future"),
            ("2026-01-01", "future"),
            ("tomorrow", "must be a time"),
            ("2027-02-30", "must be a time"),
        ] {
            let error = until(text, now).unwrap_err().to_string();
            assert!(error.contains(rule) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(reason(" before 5.0 ").unwrap(), "before 5.0");
        for bad in ["", " ", "a\nb", &"x".repeat(257)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }
}
