//! What a run would do for one instance (`--dry-run`), by the rules of the run itself: without lock, and without writing
//! anything.

use super::outcome::add_error;
use super::record::retire_if_done;
use super::steps::{heal, is_due, is_name_taken, kind_for, load};
use super::{Context, hooks, outcome, retain};
use crate::clock;
use crate::engine::describe;
use crate::instance::{Instance, InstanceId};
use crate::run::pick::Job;
use crate::run::report::{InstanceResult, Outcome};
use crate::schedule::{Attempt, Schedule};
use crate::snapshot::{self, Kind, Snapshot};

/// Says what [`super::steps::serve`] would do, without lock and without writing anything.
pub(super) fn foresee(context: &Context<'_>, job: &Job) -> InstanceResult {
    if !job.is_due {
        return outcome::skipped(&job.id, "would put right what an earlier run left behind");
    }
    foresee_due(context, &job.id).unwrap_or_else(|error| outcome::failed(&job.id, error))
}

fn foresee_due(context: &Context<'_>, id: &InstanceId) -> Result<InstanceResult, String> {
    let Some(mut schedule) = load(context, id)? else {
        return Ok(outcome::skipped(id, "its schedule was deleted meanwhile"));
    };
    let now = clock::now();
    let mut notes: Vec<String> = heal(&mut schedule, now).into_iter().collect();
    if !is_due(context, &schedule, now) {
        return Ok(InstanceResult {
            notes,
            ..outcome::plain(id, Outcome::Skipped)
        });
    }
    if schedule.record.attempt.is_some() {
        notes.push("an earlier run died, or is still at it".to_owned());
    }
    let attempt = schedule.begin(now, |name| is_name_taken(context, id, name));
    let instance = context
        .ports
        .engine
        .find(id)
        .found()
        .map_err(|error| describe(&error))?;
    let Some(instance) = instance else {
        schedule.record.note_missing(now);
        let mut result = outcome::plain(id, Outcome::Pruned);
        let retained = retain::apply(context, &schedule, None, false, now);
        retire_if_done(context, &schedule, &retained, now, &mut result)?;
        result.pruned = retained.removed;
        result.error = retained.error;
        return Ok(result);
    };
    let mut result = InstanceResult {
        snapshot_name: Some(attempt.snapshot_name.clone()),
        notes,
        ..outcome::plain(id, Outcome::Snapshotted)
    };
    let foreseen = match kind_for(&instance) {
        Ok(kind) => {
            result.kind = Some(kind);
            Some(foreseen_snapshot(&schedule, &instance, kind, &attempt)?)
        }
        Err(error) => {
            result.outcome = Outcome::Failed;
            result.error = Some(error);
            None
        }
    };
    let retained = retain::apply(context, &schedule, foreseen.as_ref(), true, now);
    add_error(&mut result, retained.error);
    result.pruned = retained.removed;
    result.hooks = hooks::foreseen(&schedule, result.outcome);
    Ok(result)
}

/// The snapshot that a run would take, so that retention can be foreseen with it.
fn foreseen_snapshot(
    schedule: &Schedule,
    instance: &Instance,
    kind: Kind,
    attempt: &Attempt,
) -> Result<Snapshot, String> {
    Ok(Snapshot {
        id: "not-taken-yet".parse().map_err(|error| describe(&error))?,
        name: attempt.snapshot_name.clone(),
        kind,
        tags: snapshot::scheduled_tags(&schedule.declaration.metadata, &schedule.instance_id),
        source_instance_id: instance.id.to_string(),
        source_instance_name: instance.name.clone(),
        source_hypervisor: String::new(),
        created_at: attempt.run_at,
        size_bytes: 0,
        disk_bytes: None,
        unusable: None,
    })
}
