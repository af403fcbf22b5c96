//! A plan that is not carried out, as a result.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::engine::{CreateRequest, EngineError};
use crate::error::in_words;
use crate::instance::Instance;
use crate::plan::{Action, Plan, Refusal};
use crate::report::run::{HookRun, InstanceResult, Outcome};
use crate::run::failure::Failure;
use crate::run::retain::{afterwards, dispensable};
use crate::run::{Run, result};
use crate::schedule::Schedule;
use crate::schedule::hooks::Stage;
use crate::snapshot::Snapshot;

/// What a run would come to.
pub(super) fn result(
    context: &Run<'_>,
    schedule: &Schedule,
    plan: &Plan<'_, Arc<EngineError>>,
    mut notes: Vec<String>,
    now: DateTime<Utc>,
) -> InstanceResult {
    if plan.takes_up {
        notes.push("an earlier run died, or is still at it".to_owned());
    }
    let mut failures = Vec::new();
    let mut outcome = match &plan.action {
        Action::Take { .. } | Action::Adopt(_) => Outcome::Snapshotted,
        Action::OnlyRetain => Outcome::Pruned,
        Action::Refuse(refusal) => {
            failures.push(match refusal {
                Refusal::State(instance) => Failure::State((*instance).clone()),
                Refusal::Unknown(error) => Failure::Shared(Arc::clone(error)),
            });
            Outcome::Failed
        }
    };
    let is_gone = outcome == Outcome::Pruned;
    if let Action::Take { instance, expected } = &plan.action {
        match foresee_room(context, schedule, instance, expected, now) {
            Ok(note) => notes.extend(note),
            Err(failure) => {
                outcome = Outcome::Failed;
                failures.push(failure);
            }
        }
    }
    let mut result = InstanceResult {
        kind: plan.snapshot().map(|snapshot| snapshot.kind),
        snapshot_name: (!is_gone).then(|| plan.attempt.snapshot_name.clone()),
        notes,
        hooks: hooks(schedule, outcome),
        ..InstanceResult::new(&schedule.instance_id, outcome)
    };
    let foreseen = plan.foreseen(schedule, now);
    match afterwards(context, &foreseen, plan.snapshot(), is_gone) {
        Ok(afterwards) => {
            let retires = afterwards.retires;
            result.foresee(afterwards);
            if retires {
                result.outcome = Outcome::Retired;
                result = result.noting(result::RETIRED);
            }
        }
        Err(failure) => failures.push(failure),
    }
    result.error = result::all_in_words(&failures);
    result
}

/// Whether the snapshot will fit; a note if it does only when others are removed before.
fn foresee_room(
    context: &Run<'_>,
    schedule: &Schedule,
    instance: &Instance,
    expected: &Snapshot,
    now: DateTime<Utc>,
) -> Result<Option<String>, Failure> {
    let engine = &context.ports.engine;
    let foreseen = engine.foresee_room(&CreateRequest {
        instance,
        kind: expected.kind,
        name: &expected.name,
        tags: &expected.tags,
        max_pause: schedule.declaration.max_pause,
        storing: &schedule.declaration.storing,
        now,
    });
    let (message, missing_bytes) = match foreseen {
        Ok(()) => return Ok(None),
        Err(EngineError::NoRoom {
            message,
            missing_bytes,
        }) => (message, missing_bytes),
        // The run itself will meet it, and say more.
        Err(error) => return Ok(Some(in_words(&error))),
    };
    let dispensable = dispensable(context, schedule, expected)?;
    // Blocks that they share with others do not become free: at worst it is foreseen that too much fits.
    let sizes = engine.disk_bytes(&dispensable.iter().collect::<Vec<_>>());
    let sizes = sizes.into_iter().flatten();
    if sizes.fold(0, u64::saturating_add) < missing_bytes {
        return Err(Failure::Engine(EngineError::NoRoom {
            message,
            missing_bytes,
        }));
    }
    let count = dispensable.len();
    Ok(Some(format!(
        "{count} snapshots would be removed first, to make room"
    )))
}

/// The hooks that would run: all of them where a snapshot would be taken, else those of a failure.
fn hooks(schedule: &Schedule, outcome: Outcome) -> Vec<HookRun> {
    Stage::ALL
        .into_iter()
        .filter(|stage| match outcome {
            Outcome::Snapshotted => true,
            Outcome::Failed => *stage == Stage::Failure,
            Outcome::Pruned | Outcome::Skipped | Outcome::Retired | Outcome::Interrupted => false,
        })
        .map(|stage| HookRun {
            stage,
            command: schedule.declaration.hooks.command(stage).to_vec(),
            duration: None,
            error: None,
        })
        .filter(|hook| !hook.command.is_empty())
        .collect()
}
