//! The schedule files: which can't be read, which are overdue or fail, and when anything ran last.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::cadence::Due;
use crate::error::in_words;
use crate::finding::Finding;
use crate::run;
use crate::schedule::Schedule;
use crate::schedule::hooks::Stage;
use crate::store::Store;

const CHECK: &str = "schedule";
/// A run takes up what is due within a minute; a schedule that waits for longer than this waits for nobody.
const PATIENCE: TimeDelta = TimeDelta::minutes(5);

/// What all schedules say together.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// One for each schedule that needs somebody, and one for all the others.
    pub(super) findings: Vec<Finding>,
    /// How many there are, readable or not.
    pub(super) count: usize,
    /// How many are overdue.
    pub(super) overdue: usize,
    /// The programs of all hooks that are named by their paths.
    pub(super) hooks: BTreeSet<String>,
    /// When a run began last.
    pub(super) last_run_at: Option<DateTime<Utc>>,
    /// When a schedule was written last.
    pub(super) newest_write: Option<DateTime<Utc>>,
}

/// Reads every schedule file, as of `now`.
pub(super) fn examine(store: &Store, now: DateTime<Utc>) -> Examined {
    let mut examined = Examined::default();
    let (ids, problems) = match store.ids() {
        Ok(found) => found,
        Err(error) => {
            examined.findings.push(Finding::broken(
                CHECK,
                "all",
                in_words(&error),
                "make the directory readable for this user",
            ));
            return examined;
        }
    };
    for problem in problems {
        examined.count += 1;
        examined.findings.push(Finding::broken(
            CHECK,
            problem.path.display(),
            format!("is no schedule: {}", problem.rule),
            "rename or remove it",
        ));
    }
    let mut fine = 0;
    for id in ids {
        match store.load(&id) {
            Ok(None) => continue,
            Ok(Some(schedule)) => {
                for stage in Stage::ALL {
                    let program = schedule.declaration.hooks.command(stage).first();
                    let path = program.filter(|it| it.starts_with('/'));
                    examined.hooks.extend(path.cloned());
                }
                examined.last_run_at = examined.last_run_at.max(schedule.record.last_run_at);
                examined.newest_write = examined.newest_write.max(Some(schedule.record.updated_at));
                let waits_since = waits_since(&schedule, now);
                // Who holds the lock is at it.
                let overdue = waits_since
                    .filter(|since| now - *since > PATIENCE)
                    .filter(|_| !store.is_busy(&id));
                if let Some(since) = overdue {
                    examined.overdue += 1;
                    examined.findings.push(overdue_since(&schedule, since));
                } else if let Some(finding) = judge(&schedule, now) {
                    examined.findings.push(finding);
                } else {
                    fine += 1;
                }
            }
            Err(error) => examined.findings.push(Finding::broken(
                CHECK,
                &id,
                in_words(&error),
                "correct the file, or remove it and set the schedule again",
            )),
        }
        examined.count += 1;
    }
    if fine > 0 || examined.count == 0 {
        examined.findings.push(Finding::ok(
            CHECK,
            "all others",
            match (fine, examined.count) {
                (_, 0) => "there are none; `hypeman-snap set` makes one".to_owned(),
                (1, _) => "1 is as it should be".to_owned(),
                (fine, _) => format!("{fine} are as they should be"),
            },
        ));
    }
    examined
}

/// Since when a schedule that is due has been due; `None` when it is not.
fn waits_since(schedule: &Schedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let times = schedule.times();
    if !matches!(times.due(&schedule.instance_id, now), Due::Now) {
        return None;
    }
    let began = times.attempt.map(|(started_at, _)| started_at);
    [Some(times.next_run_at), times.retry_at, began]
        .into_iter()
        .flatten()
        .filter(|at| *at <= now)
        .min()
}

fn overdue_since(schedule: &Schedule, since: DateTime<Utc>) -> Finding {
    Finding::broken(
        CHECK,
        &schedule.instance_id,
        format!("overdue since {}: nobody runs `run-due`", shown(since)),
        "hypeman-snap run-due, and see to it that it is started each minute",
    )
}

/// What is wrong with a schedule that is not overdue, if anything.
fn judge(schedule: &Schedule, now: DateTime<Utc>) -> Option<Finding> {
    let id = &schedule.instance_id;
    if let Due::Misplaced { .. } = schedule.times().due(id, now) {
        return Some(Finding::warning(
            CHECK,
            id,
            format!(
                "its next run is at {}, further ahead than its interval allows: the clock went backwards",
                shown(schedule.record.next_run_at)
            ),
            "the next `run-due` puts it right; look at the clock",
        ));
    }
    if let Some((stage, refusal)) = run::refused_hooks(&schedule.declaration.hooks)
        .into_iter()
        .next()
    {
        return Some(Finding::broken(
            CHECK,
            id,
            refusal,
            format!(
                "let nobody but root write there, or change {}",
                stage.flag()
            ),
        ));
    }
    if let Some(since) = schedule.record.missing_since {
        return Some(Finding::warning(
            CHECK,
            id,
            format!("its instance is gone since {}", shown(since)),
            format!("if that is meant: hypeman-snap delete {id}"),
        ));
    }
    if let Some(error) = schedule.record.run_error() {
        let failures = match schedule.record.consecutive_failures {
            0 | 1 => "its last run failed".to_owned(),
            more => format!("its last {more} runs failed"),
        };
        return Some(Finding::warning(
            CHECK,
            id,
            format!("{failures}: {error}"),
            format!("put right what failed, then: hypeman-snap run-due --force --instance {id}"),
        ));
    }
    let error = schedule.record.retention_error.as_ref()?;
    Some(Finding::warning(
        CHECK,
        id,
        format!("its old snapshots can't be removed: {error}"),
        format!("put right what failed, then: hypeman-snap prune {id}"),
    ))
}

/// A time, the same for everybody.
pub(super) fn shown(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}
