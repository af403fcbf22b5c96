//! What a schedule will do if every run goes well: a loop over the same decisions that runs carry out, with a clock of
//! its own.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use super::{Action, Observed, Terms, decide, removals, verdicts};
use crate::instance::{Instance, Presence, State};
use crate::retention::Decision;
use crate::schedule::Schedule;
use crate::snapshot::{Consistency, Snapshot, SnapshotId};

/// What will happen between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The first moment, which is not part of it.
    pub from: DateTime<Utc>,
    /// The last moment.
    pub until: DateTime<Utc>,
    /// Each run.
    pub runs: Vec<DateTime<Utc>>,
    /// Each scheduled snapshot, oldest first: those that are there, then those that will be taken.
    pub fates: Vec<Fate>,
    /// The most snapshots that are there at once, each run's own included.
    pub most_at_once: usize,
    /// The most room that they take at once, in bytes; `None` where nothing is known of any snapshot's.
    pub bytes_at_most: Option<u64>,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Its id; `None` for one that is not taken yet.
    pub id: Option<SnapshotId>,
    /// When it was or will be taken.
    pub created_at: DateTime<Utc>,
    /// When it is removed, if that is within the time.
    pub removed_at: Option<DateTime<Utc>>,
    /// Why it is removed, or why it stays at the end.
    pub decision: Decision,
}

impl Forecast {
    /// How many stay at the end.
    pub fn kept_at_end(&self) -> usize {
        self.fates
            .iter()
            .filter(|fate| fate.removed_at.is_none())
            .count()
    }
}

/// Too many runs to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are more than {MOST_RUNS} runs")]
pub struct TooManyRuns;

/// More runs than a year of minutes has.
pub const MOST_RUNS: usize = 600_000;

/// What `schedule` will do in (`from`, `until`] with what is listed now. A run that is overdue comes with the next minute.
/// The instance is there and every run takes a snapshot as the newest one is.
///
/// # Errors
/// When there would be more than [`MOST_RUNS`].
pub fn forecast(
    schedule: &Schedule,
    snapshots: &[Snapshot],
    terms: &Terms,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Forecast, TooManyRuns> {
    let mut schedule = schedule.clone();
    // Whatever failed before, runs go well from here on.
    schedule.record.retry_at = None;
    schedule.record.attempt = None;
    schedule.record.missing_since = None;
    let runs = runs(&schedule, from, until)?;
    let id = schedule.instance_id.clone();
    let mut there: Vec<Snapshot> = snapshots
        .iter()
        .filter(|snapshot| snapshot.is_scheduled_for(&id))
        .cloned()
        .collect();
    there.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let newest = there.iter().rev().find(|snapshot| snapshot.is_usable());
    let state = match newest.map(|snapshot| snapshot.consistency) {
        Some(Consistency::Stopped) => State::Stopped,
        Some(Consistency::Memory | Consistency::Crash) | None => State::Running,
    };
    let presence: Presence<Instance, ()> = Presence::Here(Instance {
        id,
        name: newest.map_or_else(String::new, |it| it.source_instance_name.clone()),
        state,
        state_note: None,
    });
    // What the next one takes: as much as the greatest did.
    let each_bytes = there.iter().map(bytes).max();
    let mut bytes_now: u64 = there.iter().map(bytes).sum();

    let mut gone: BTreeMap<SnapshotId, (DateTime<Utc>, Decision)> = BTreeMap::new();
    let mut all: Vec<(SnapshotId, DateTime<Utc>, bool)> = there
        .iter()
        .map(|snapshot| (snapshot.id.clone(), snapshot.created_at, true))
        .collect();
    let mut made = 0;
    let (mut most_at_once, mut bytes_at_most) = (there.len(), bytes_now);
    for &now in &runs {
        made += 1;
        // Names matter to nobody here, and are not compared with thousands of others.
        let observed = Observed {
            presence: &presence,
            snapshots: Ok(&[]),
        };
        let plan = decide(&schedule, observed, now);
        let taken = match &plan.action {
            Action::Take { expected, .. } => Some(Snapshot {
                id: SnapshotId::planned(made),
                size_bytes: each_bytes.unwrap_or(0),
                ..expected.clone()
            }),
            Action::Adopt(_) | Action::OnlyRetain | Action::Refuse(_) => None,
        };
        let foreseen = plan.foreseen(&schedule, now);
        schedule.record = foreseen.record;
        schedule.record.attempt = None;
        if let Some(taken) = taken {
            all.push((taken.id.clone(), taken.created_at, false));
            bytes_now = bytes_now.saturating_add(bytes(&taken));
            there.push(taken);
        }
        most_at_once = most_at_once.max(there.len());
        bytes_at_most = bytes_at_most.max(bytes_now);
        let verdicts = verdicts(&schedule, there.iter(), terms, now);
        let (goes, _) = removals(&verdicts, terms);
        if goes.is_empty() {
            continue;
        }
        for snapshot in &goes {
            let verdict = verdicts.iter().find(|it| it.snapshot.id == snapshot.id);
            if let Some(verdict) = verdict {
                bytes_now = bytes_now.saturating_sub(bytes(snapshot));
                gone.insert(snapshot.id.clone(), (now, verdict.decision.clone()));
            }
        }
        there.retain(|snapshot| !gone.contains_key(&snapshot.id));
    }
    // What would go by then, no run removes.
    let last = runs.last().copied().unwrap_or(from);
    let at_end: BTreeMap<SnapshotId, Decision> = verdicts(&schedule, there.iter(), terms, last)
        .into_iter()
        .map(|verdict| (verdict.snapshot.id.clone(), verdict.decision))
        .collect();
    let fates = all
        .into_iter()
        .filter_map(|(id, created_at, is_listed)| {
            let (removed_at, decision) = match gone.get(&id) {
                Some((at, decision)) => (Some(*at), decision.clone()),
                None => (None, at_end.get(&id)?.clone()),
            };
            Some(Fate {
                id: is_listed.then_some(id),
                created_at,
                removed_at,
                decision,
            })
        })
        .collect();
    Ok(Forecast {
        from,
        until,
        runs,
        fates,
        most_at_once,
        bytes_at_most: each_bytes.map(|_| bytes_at_most),
    })
}

/// Each run.
fn runs(
    schedule: &Schedule,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<DateTime<Utc>>, TooManyRuns> {
    let mut runs = Vec::new();
    let mut planned = schedule.record.next_run_at;
    loop {
        let now = if planned > from {
            planned
        } else {
            next_minute(from)
        };
        if now > until {
            return Ok(runs);
        }
        if runs.len() >= MOST_RUNS {
            return Err(TooManyRuns);
        }
        runs.push(now);
        let cadence = &schedule.declaration.cadence;
        planned = cadence.next(&schedule.instance_id, planned, now);
    }
}

/// What a snapshot takes.
fn bytes(snapshot: &Snapshot) -> u64 {
    snapshot.disk_bytes.unwrap_or(snapshot.size_bytes)
}

/// When the timer starts the next run.
fn next_minute(after: DateTime<Utc>) -> DateTime<Utc> {
    let minute = TimeDelta::minutes(1);
    after
        .duration_trunc(minute)
        .map_or(after, |start| start + minute)
}

#[cfg(test)]
mod tests;
