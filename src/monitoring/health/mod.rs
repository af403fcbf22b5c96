//! Whether an instance's newest snapshot is young enough, and if not, what is wrong. Pure: no I/O, no clock.
//!
//! The level depends on ages, so that it can be foretold, on retention and on what is left; the cause explains it. The limits:
//!
//! - The RPO (recovery point objective) is the age up to which the newest scheduled snapshot is good enough. What is
//!   not declared is the interval, the instance's jitter and a slack together.
//! - The slack is a tenth of the interval, at least 5 minutes and at most an hour, and the time that the last run took:
//!   enough for a minute's tick, for runs that wait for each other, and for the first retries of one that failed.
//! - Older than the RPO is a warning; older than twice the RPO is critical.
//! - A newest snapshot from which nothing can be restored is critical, and so is a store in which none is left.
//! - A run that has not ended within the interval is a warning, whatever the age: what comes next waits for it.
//! - Retention that fails is a warning, whatever the age: snapshots are still taken, until the disk is full of them.
//! - Where no RPO is declared, an instance whose next run is still to come, and for which nothing has failed, is never
//!   late: that is so after a new or a changed interval.

pub mod require;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::cadence::Due;
use crate::schedule::Schedule;

/// The least slack; also how long something that is due may wait before "run-due does not run" is the reason.
const MIN_SLACK: Duration = Duration::from_secs(5 * 60);
/// The greatest slack that comes from the interval.
const MAX_SLACK: Duration = Duration::from_secs(60 * 60);

/// How good or bad it is, in the order in which the worst one counts (as monitoring plugins order them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is as declared.
    Ok,
    /// It can't be told.
    Unknown,
    /// Someone should look.
    Warning,
    /// Someone must look now.
    Critical,
}

impl Level {
    /// The word in lower case, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The newest scheduled snapshot of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newest {
    /// The engine could not be asked.
    Unknown,
    /// There is none.
    None,
    /// It was taken then.
    At(DateTime<Utc>),
}

/// What a verdict is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub schedule: &'a Schedule,
    /// The newest usable snapshot that the schedule made.
    pub newest: Newest,
    /// Why nothing can be restored from the newest one, if so; then `newest` is an older one.
    pub flaw: Option<&'a str>,
    /// Whether the engine has positively said that the instance is gone.
    pub is_gone: bool,
}

/// Where the time of the newest snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The snapshot itself.
    Snapshot,
    /// What the schedule records of its last success, because the snapshots could not be listed.
    Record,
}

/// What explains a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing is wrong.
    Fresh,
    /// The schedule is new or its interval is, and its first run is still to come.
    NotYetDue,
    /// The instance is gone; nothing can be snapshotted.
    Gone,
    /// A run is due and nobody begins it: no timer, no crontab entry.
    NotRunning {
        /// Since when; `None` when the clock went backwards, so that no time says it.
        since: Option<DateTime<Utc>>,
    },
    /// A run has begun and not recorded its end: it still works, or it died and nobody takes it up.
    Unfinished {
        /// When it began.
        since: DateTime<Utc>,
    },
    /// Runs happen and fail.
    Failing,
    /// Snapshots are taken and young enough, but old ones can't be removed.
    RetentionFailing,
    /// Nothing can be restored from the newest snapshot.
    Unusable,
    /// No snapshot was read and found to be what it was for too long.
    NotVerified {
        /// When one last was; `None` if never.
        since: Option<DateTime<Utc>>,
    },
    /// No snapshot was rehearsed with a guest that lived for too long, or the last one's did not live.
    NotRehearsed {
        /// When one last lived; `None` if never.
        since: Option<DateTime<Utc>>,
        /// When the last one did not; `None` if it did.
        died_at: Option<DateTime<Utc>>,
    },
    /// The last snapshot is in the store no more.
    Lost,
    /// The interval is longer than the RPO that was asked for.
    Sparse,
    /// Too old, and nothing explains it.
    Late,
    /// The newest snapshot is dated in the future.
    InFuture,
    /// The snapshots can't be listed, and the schedule records nothing to judge by.
    Untold,
}

impl Cause {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::NotYetDue => "not_yet_due",
            Self::Gone => "gone",
            Self::NotRunning { .. } => "run_due_not_running",
            Self::Unfinished { .. } => "unfinished",
            Self::Failing => "failing",
            Self::RetentionFailing => "retention_failing",
            Self::Unusable => "unusable",
            Self::NotVerified { .. } => "not_verified",
            Self::NotRehearsed { .. } => "not_rehearsed",
            Self::Lost => "lost",
            Self::Sparse => "interval_longer_than_rpo",
            Self::Late => "late",
            Self::InFuture => "in_future",
            Self::Untold => "untold",
        }
    }
}

/// What is to be said of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// How bad it is.
    pub level: Level,
    /// Why.
    pub cause: Cause,
    /// Why nothing can be restored from the newest snapshot, if so.
    pub flaw: Option<String>,
    /// When the newest scheduled snapshot was taken, and how that is known.
    pub newest: Option<(DateTime<Utc>, Source)>,
    /// How old that is, or how long there has been no snapshot at all; `None` where that can't be told.
    pub age: Option<Duration>,
    /// The age up to which it is good enough.
    pub rpo: Duration,
    /// The age from which on it is a warning: the RPO, or more after a changed interval.
    pub warning_after: Duration,
    /// The age from which on it is critical.
    pub critical_after: Duration,
}

/// The time by which a run may be late before anybody is told.
pub fn slack(schedule: &Schedule) -> Duration {
    let last_run = Duration::from_millis(schedule.record.last_duration_ms.unwrap_or_default());
    (schedule.gap() / 10)
        .clamp(MIN_SLACK, MAX_SLACK)
        .saturating_add(last_run.min(schedule.gap()))
}

/// The RPO of a schedule for which none is declared.
pub fn default_rpo(schedule: &Schedule) -> Duration {
    let cadence = &schedule.declaration.cadence;
    let gap = schedule.gap();
    gap.saturating_add(cadence.jitter(&schedule.instance_id, gap))
        .saturating_add(slack(schedule))
}

/// Judges one instance by its newest snapshot and its schedule's record. `rpo` is what the user asks for, if anything.
pub fn judge(facts: &Facts<'_>, rpo: Option<Duration>, now: DateTime<Utc>) -> Assessment {
    let verdict = judge_age(facts, rpo, now);
    if let Some(flaw) = facts.flaw {
        // However young it is, and whether or not the instance is there to make another one.
        return Assessment {
            level: Level::Critical,
            cause: Cause::Unusable,
            flaw: Some(flaw.to_owned()),
            ..verdict
        };
    }
    if verdict.level >= Level::Warning {
        return verdict;
    }
    let interval = facts.schedule.gap();
    let cause = if matches!(verdict.cause, Cause::Unfinished { since } if elapsed(since, now) > interval)
    {
        verdict.cause
    } else if facts.schedule.record.retention_error.is_some() {
        Cause::RetentionFailing
    } else {
        return verdict;
    };
    Assessment {
        level: Level::Warning,
        cause,
        ..verdict
    }
}

/// What the age of the newest snapshot means.
fn judge_age(facts: &Facts<'_>, rpo: Option<Duration>, now: DateTime<Utc>) -> Assessment {
    let schedule = facts.schedule;
    let newest = newest(facts);
    let limit = rpo.unwrap_or_else(|| default_rpo(schedule));
    let verdict = Assessment {
        level: Level::Ok,
        cause: Cause::Gone,
        flaw: None,
        newest,
        age: newest.map(|(at, _)| elapsed(at, now)),
        rpo: limit,
        warning_after: limit,
        critical_after: limit.saturating_mul(2),
    };
    // Without the engine, what the last run found has to do.
    if facts.is_gone || (facts.newest == Newest::Unknown && schedule.record.missing_since.is_some())
    {
        return verdict;
    }
    if newest.is_none() && !has_no_snapshot(facts) {
        return Assessment {
            level: Level::Unknown,
            cause: Cause::Untold,
            ..verdict
        };
    }

    let since = newest.map_or(schedule.record.created_at, |(at, _)| at);
    let age = elapsed(since, now);
    let is_awaited = is_awaited(facts, newest.is_none(), rpo.is_none(), now);
    let warning_after = if is_awaited {
        // The newest one is as old as it is by the user's own doing, until the next run should have been.
        limit.max(elapsed(
            since,
            add(schedule.record.next_run_at, slack(schedule)),
        ))
    } else {
        limit
    };
    let critical_after = warning_after.saturating_add(limit);
    let level = if age > critical_after || is_nothing_left(facts) {
        Level::Critical
    } else if age > warning_after || is_in_future(newest, now) {
        Level::Warning
    } else {
        Level::Ok
    };
    Assessment {
        level,
        cause: cause(facts, newest, rpo, level, now),
        age: Some(age),
        warning_after,
        critical_after,
        ..verdict
    }
}

/// When the newest snapshot was taken, as far as anybody knows.
fn newest(facts: &Facts<'_>) -> Option<(DateTime<Utc>, Source)> {
    match facts.newest {
        Newest::At(at) => Some((at, Source::Snapshot)),
        Newest::None => None,
        Newest::Unknown => recorded_success(facts.schedule).map(|at| (at, Source::Record)),
    }
}

/// The last success that the schedule's file records; hypeman's own files do so by naming the last run's snapshot.
fn recorded_success(schedule: &Schedule) -> Option<DateTime<Utc>> {
    schedule.record.last_success_at.or_else(|| {
        schedule
            .record
            .last_run_at
            .filter(|_| schedule.record.last_snapshot_id.is_some())
    })
}

/// Whether it is certain that there is no snapshot: there is none in the store or, if that can't be read, no run has
/// ever begun or all of them have failed.
fn has_no_snapshot(facts: &Facts<'_>) -> bool {
    facts.newest == Newest::None
        || facts.schedule.record.last_run_at.is_none()
        || facts.schedule.record.consecutive_failures > 0
}

/// Whether the instance only waits for its next run: nothing has failed, is under way or is lost, and either there never
/// was a run, or no RPO is declared that says more than the schedule itself.
fn is_awaited(
    facts: &Facts<'_>,
    has_none: bool,
    has_default_rpo: bool,
    now: DateTime<Utc>,
) -> bool {
    let schedule = facts.schedule;
    let is_first = has_none && schedule.record.last_run_at.is_none();
    let is_quiet = schedule.record.attempt.is_none() && !is_failing(schedule) && !is_lost(facts);
    let is_on_grid = !matches!(
        schedule.times().due(&schedule.instance_id, now),
        Due::Misplaced { .. }
    );
    is_quiet && is_on_grid && (is_first || has_default_rpo)
}

fn cause(
    facts: &Facts<'_>,
    newest: Option<(DateTime<Utc>, Source)>,
    rpo: Option<Duration>,
    level: Level,
    now: DateTime<Utc>,
) -> Cause {
    let schedule = facts.schedule;
    if is_in_future(newest, now) {
        return Cause::InFuture;
    }
    if is_nothing_left(facts) {
        return Cause::Lost;
    }
    match &schedule.record.attempt {
        // An attempt beside an error is one whose end is not clear; it waits for its retry like any failure.
        Some(attempt) if schedule.record.run_error().is_none() => {
            return Cause::Unfinished {
                since: attempt.started_at,
            };
        }
        Some(_) | None => {}
    }
    match overdue(schedule, now) {
        Overdue::Since(since) => return Cause::NotRunning { since: Some(since) },
        // A jumped clock is put right by the next tick; it matters only when none comes.
        Overdue::Unclear if level > Level::Ok => return Cause::NotRunning { since: None },
        Overdue::Unclear | Overdue::No => {}
    }
    if is_failing(schedule) {
        Cause::Failing
    } else if is_lost(facts) {
        Cause::Lost
    } else if level == Level::Ok {
        let is_first = newest.is_none_or(|(at, _)| elapsed(at, now) > default_rpo(schedule));
        if is_first {
            Cause::NotYetDue
        } else {
            Cause::Fresh
        }
    } else if rpo.is_some_and(|rpo| rpo < schedule.gap()) {
        Cause::Sparse
    } else {
        Cause::Late
    }
}

/// Whether something is due and has waited for longer than ticks and runs that wait for each other explain.
enum Overdue {
    No,
    Since(DateTime<Utc>),
    /// It is due because the clock went backwards; no time says since when.
    Unclear,
}

fn overdue(schedule: &Schedule, now: DateTime<Utc>) -> Overdue {
    match schedule.times().due(&schedule.instance_id, now) {
        Due::No => Overdue::No,
        Due::Misplaced { .. } => Overdue::Unclear,
        Due::Now => {
            let times = [Some(schedule.record.next_run_at), schedule.record.retry_at];
            match times.into_iter().flatten().filter(|at| *at <= now).min() {
                Some(since) if elapsed(since, now) > MIN_SLACK => Overdue::Since(since),
                Some(_) => Overdue::No,
                None => Overdue::Unclear,
            }
        }
    }
}

fn is_failing(schedule: &Schedule) -> bool {
    schedule.record.consecutive_failures > 0 || schedule.record.run_error().is_some()
}

/// Whether there were snapshots, and there is none any more.
fn is_nothing_left(facts: &Facts<'_>) -> bool {
    facts.newest == Newest::None && recorded_success(facts.schedule).is_some()
}

/// Whether the schedule records a success that is in the store no more. A server's clock may differ from this host's.
fn is_lost(facts: &Facts<'_>) -> bool {
    let recorded = recorded_success(facts.schedule);
    match facts.newest {
        Newest::Unknown => false,
        Newest::None => recorded.is_some(),
        Newest::At(at) => recorded.is_some_and(|recorded| recorded > add(at, MIN_SLACK)),
    }
}

fn is_in_future(newest: Option<(DateTime<Utc>, Source)>, now: DateTime<Utc>) -> bool {
    newest.is_some_and(|(at, _)| at > add(now, MIN_SLACK))
}

/// The time from one point to a later one; zero when it is not later.
fn elapsed(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

fn add(at: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by)
        .ok()
        .and_then(|by| at.checked_add_signed(by))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests;
