//! What a run does for one instance, as a value. Pure: whoever runs carries it out, and a dry run prints it.
//!
//! [`decide`] says what a due run does, and [`afterwards`] what retention does behind it: with the snapshot that is
//! expected in a plan, with the one that was taken in a run.

mod forecast;

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::{Instance, InstanceId, Presence, State};
use crate::retention::{self, Decision, Policy, Protected, Verdict};
use crate::schedule::{Attempt, Record, Schedule};
use crate::snapshot::{self, Consistency, Kind, Snapshot, SnapshotId};
pub use forecast::{Fate, Forecast, forecast};

/// What was found out about an instance before anything is decided.
#[derive(Debug)]
pub struct Observed<'a, E> {
    /// Whether it is there, and its state.
    pub presence: &'a Presence<Instance, E>,
    /// Every snapshot in the store, of whatever instance.
    pub snapshots: Result<&'a [Snapshot], &'a E>,
}

// Not derived: references are copied, whatever `E` is.
impl<E> Clone for Observed<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Observed<'_, E> {}

/// What a due run does.
#[derive(Debug, PartialEq)]
pub struct Plan<'a, E> {
    /// The record as it is while the run goes on; saved before anything is done, so that a run time can't be served twice.
    pub begun: Record,
    /// The attempt in it.
    pub attempt: Attempt,
    /// Whether it takes up the run of a process that died.
    pub takes_up: bool,
    /// What is done.
    pub action: Action<'a, E>,
}

/// What a run does about the snapshot.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them for each instance that is due"
)]
pub enum Action<'a, E> {
    /// Takes one.
    Take {
        /// The instance, with the state that the kind was chosen from.
        instance: &'a Instance,
        /// The snapshot, as far as it is known beforehand.
        expected: Snapshot,
    },
    /// Records one that a run which died had finished.
    Adopt(&'a Snapshot),
    /// None, because the instance is gone.
    OnlyRetain,
    /// None, because of this.
    Refuse(Refusal<'a, E>),
}

/// Why no snapshot can be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal<'a, E> {
    /// The instance's state allows none.
    State(&'a Instance),
    /// Whether the instance is there, or whether a run that died finished its snapshot, can't be told.
    Unknown(&'a E),
}

/// What a due run of `schedule` does at `now`.
pub fn decide<'a, E>(
    schedule: &Schedule,
    observed: Observed<'a, E>,
    now: DateTime<Utc>,
) -> Plan<'a, E> {
    let id = &schedule.instance_id;
    let snapshots = observed.snapshots.unwrap_or_default();
    let takes_up = schedule.record.attempt.is_some();
    let mut begun = schedule.clone();
    let attempt = begun.begin(now, |name| is_taken(snapshots, id, name));
    let action = match (observed.snapshots, observed.presence) {
        (Err(error), _) if takes_up => Action::Refuse(Refusal::Unknown(error)),
        _ if takes_up && finished(snapshots, id, &attempt).is_some() => {
            finished(snapshots, id, &attempt).map_or(Action::OnlyRetain, Action::Adopt)
        }
        (_, Presence::Gone) => Action::OnlyRetain,
        (_, Presence::Unknown(error)) => Action::Refuse(Refusal::Unknown(error)),
        (_, Presence::Here(instance)) => match schedule.declaration.storing.kind(instance.state) {
            Some(kind) => Action::Take {
                instance,
                expected: expected(schedule, instance, kind, &attempt),
            },
            None => Action::Refuse(Refusal::State(instance)),
        },
    };
    Plan {
        begun: begun.record,
        attempt,
        takes_up,
        action,
    }
}

/// Whether a snapshot of the instance has this name; hypeman wants names to be unique among those of one instance.
fn is_taken(snapshots: &[Snapshot], id: &InstanceId, name: &str) -> bool {
    snapshots
        .iter()
        .any(|snapshot| snapshot.source_instance_id == id.as_str() && snapshot.name == name)
}

/// The snapshot of an attempt. One that lost something in the crash is taken anew.
fn finished<'a>(
    snapshots: &'a [Snapshot],
    id: &InstanceId,
    attempt: &Attempt,
) -> Option<&'a Snapshot> {
    snapshots.iter().find(|snapshot| {
        snapshot.is_usable()
            && snapshot.is_scheduled_for(id)
            && snapshot.name == attempt.snapshot_name
    })
}

fn expected(schedule: &Schedule, instance: &Instance, kind: Kind, attempt: &Attempt) -> Snapshot {
    Snapshot {
        id: SnapshotId::not_taken_yet(),
        name: attempt.snapshot_name.clone(),
        kind,
        consistency: Consistency::of(kind, instance.state),
        tags: snapshot::scheduled_tags(&schedule.declaration.metadata, &schedule.instance_id),
        source_instance_id: instance.id.to_string(),
        source_instance_name: instance.name.clone(),
        source_hypervisor: String::new(),
        created_at: attempt.started_at,
        size_bytes: 0,
        disk_bytes: None,
        unusable: None,
        verified_at: None,
        rehearsed: None,
    }
}

/// So many of an instance's snapshots are looked at for memory to compress.
const COMPRESSED_AT_MOST: usize = 3;

/// Whose memory is compressed behind a run, newest first: the newest snapshots with memory. With the one that was just taken
/// come two that earlier runs may have left; what became older than that uncompressed stays so, and nothing is tried for ever.
pub fn to_compress<'a>(schedule: &Schedule, snapshots: &'a [Snapshot]) -> Vec<&'a SnapshotId> {
    if schedule.declaration.storing.compress.is_none() {
        return Vec::new();
    }
    let mut wanted: Vec<&Snapshot> = snapshots
        .iter()
        .filter(|it| {
            it.kind == Kind::Standby && it.is_usable() && it.is_scheduled_for(&schedule.instance_id)
        })
        .collect();
    wanted.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    wanted.truncate(COMPRESSED_AT_MOST);
    wanted.into_iter().map(|it| &it.id).collect()
}

/// So many scheduled snapshots of an instance may be removed in one run even where that is more than half.
const AT_ONCE: usize = 5;

/// What retention goes by besides the schedule and the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Whether the instance is known to be gone.
    pub is_gone: bool,
    /// Whether more than half of the snapshots may be removed at once.
    pub is_uncapped: bool,
    /// How long after it went the floors hold and the schedule stays.
    pub missing_grace: Duration,
    /// What the user has protected.
    pub protected: Protected,
}

/// What retention does once the run is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Afterwards {
    /// What is removed, oldest first.
    pub removals: Vec<SnapshotId>,
    /// What goes as well, oldest first, and waits for the next run: one that would remove most of what there is may do
    /// what nobody meant.
    pub held_back: Vec<SnapshotId>,
    /// Every scheduled snapshot of the instance, newest first, and what becomes of it.
    pub judged: Vec<(Snapshot, Decision)>,
    /// Whether the schedule has served its purpose when all of that is removed, so that it is removed as well.
    pub retires: bool,
}

/// What retention does for `schedule`, as it is recorded, with `taken` besides what is listed.
///
/// The listing may be older than what other processes did meanwhile: it can only lack newer snapshots, so that judging
/// by it keeps more, never less.
pub fn afterwards(
    schedule: &Schedule,
    snapshots: &[Snapshot],
    taken: Option<&Snapshot>,
    terms: &Terms,
    now: DateTime<Utc>,
) -> Afterwards {
    let listed = snapshots
        .iter()
        .filter(|listed| taken.is_none_or(|taken| taken.id != listed.id));
    let verdicts = verdicts(schedule, listed.chain(taken), terms, now);
    let count = verdicts.len();
    let (removals, held_back) = removals(&verdicts, terms);
    let left = count - removals.len();
    let ids = |snapshots: Vec<&Snapshot>| snapshots.into_iter().map(|it| it.id.clone()).collect();
    let afterwards = Afterwards {
        retires: terms.is_gone && schedule.can_retire(left, terms.missing_grace, now),
        removals: ids(removals),
        held_back: ids(held_back),
        judged: Vec::new(),
    };
    let mut judged: Vec<(Snapshot, Decision)> = verdicts
        .into_iter()
        .map(|verdict| (verdict.snapshot.clone(), verdict.decision))
        .collect();
    judged.sort_by(|(a, _), (b, _)| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    Afterwards {
        judged,
        ..afterwards
    }
}

/// What may be removed before the snapshot `expected` is taken, oldest first: what would go behind it, but for those that
/// stay whatever the limits say as long as it isn't there.
pub fn dispensable(
    schedule: &Schedule,
    snapshots: &[Snapshot],
    expected: &Snapshot,
    terms: &Terms,
    now: DateTime<Utc>,
) -> Vec<SnapshotId> {
    let before = verdicts(schedule, snapshots.iter(), terms, now);
    let is_held = |id: &SnapshotId| {
        let verdict = before.iter().find(|verdict| verdict.snapshot.id == *id);
        verdict.is_some_and(|verdict| verdict.decision.is_held())
    };
    let mut removals = afterwards(schedule, snapshots, Some(expected), terms, now).removals;
    removals.retain(|id| !is_held(id));
    removals
}

/// What becomes of each of the schedule's snapshots.
fn verdicts<'a>(
    schedule: &Schedule,
    snapshots: impl Iterator<Item = &'a Snapshot>,
    terms: &Terms,
    now: DateTime<Utc>,
) -> Vec<Verdict<'a>> {
    let id = &schedule.instance_id;
    let policy = Policy::of(
        &schedule.declaration,
        &schedule.record,
        !terms.is_gone,
        terms.missing_grace,
        terms.protected.clone(),
        now,
    );
    retention::verdicts(
        id,
        snapshots.filter(|snapshot| snapshot.is_scheduled_for(id)),
        &policy,
        now,
    )
}

/// What goes now, and what waits for the next run, both oldest first.
fn removals<'a>(verdicts: &[Verdict<'a>], terms: &Terms) -> (Vec<&'a Snapshot>, Vec<&'a Snapshot>) {
    let mut removals = retention::removals(verdicts);
    let most = if terms.is_uncapped {
        usize::MAX
    } else {
        AT_ONCE.max(verdicts.len() / 2)
    };
    let held_back = removals.split_off(removals.len().min(most));
    (removals, held_back)
}

impl<E> Plan<'_, E> {
    /// The schedule as it will be recorded if all goes well.
    pub fn foreseen(&self, schedule: &Schedule, now: DateTime<Utc>) -> Schedule {
        let mut foreseen = schedule.clone();
        foreseen.record = self.begun.clone();
        match &self.action {
            Action::Take { expected, .. } => {
                let record = &mut foreseen.record;
                record.succeed(expected.id.as_str(), expected.created_at, now);
            }
            Action::Adopt(snapshot) => {
                let record = &mut foreseen.record;
                record.succeed(snapshot.id.as_str(), snapshot.created_at, now);
            }
            Action::OnlyRetain => foreseen.record.note_missing(now),
            Action::Refuse(_) => {}
        }
        foreseen
    }

    /// The snapshot that will be there if all goes well.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        match &self.action {
            Action::Take { expected, .. } => Some(expected),
            Action::Adopt(snapshot) => Some(snapshot),
            Action::OnlyRetain | Action::Refuse(_) => None,
        }
    }
}

/// Why an instance in a state that allows no snapshot gets none, in words.
pub fn state_in_words(instance: &Instance) -> String {
    let state = instance.state;
    let what = format!("can't snapshot an instance in state {state}");
    match &instance.state_note {
        // The note says what to do.
        Some(note) if state == State::Unknown => format!("{what}: {note}"),
        Some(note) => format!("{what}: {note}; it must be Running, Standby or Stopped"),
        None => format!("{what}; it must be Running, Standby or Stopped"),
    }
}

#[cfg(test)]
mod tests;
