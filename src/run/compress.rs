//! What a run does at its end, when all that was due is taken: it compresses memory, until the instance is due again.

use std::collections::BTreeSet;

use crate::clock;
use crate::engine::{Compress, Compressed};
use crate::instance::InstanceId;
use crate::interrupt::{self, Watch};
use crate::plan;
use crate::report::run::{InstanceResult, Outcome, Packed};
use crate::run::failure::Failure;
use crate::run::{Run, result};
use crate::schedule::Schedule;
use crate::snapshot::SnapshotId;

/// The instances of these results whose snapshots have memory to compress. A server does that itself.
pub(super) fn wanted(context: &Run<'_>, results: &[InstanceResult]) -> BTreeSet<InstanceId> {
    if !context.ports.engine.stores_on_this_host() {
        return BTreeSet::new();
    }
    let taken = results
        .iter()
        .filter(|result| result.outcome == Outcome::Snapshotted);
    let wants = |id: &&InstanceId| {
        let schedule = context.store.load(id).ok().flatten();
        schedule.is_some_and(|it| it.declaration.storing.compress.is_some())
    };
    let ids = taken.map(|result| &result.instance_id).filter(wants);
    ids.cloned().collect()
}

/// Compresses what the instance has to compress.
pub(super) fn compress(context: &Run<'_>, id: &InstanceId) -> InstanceResult {
    let done = || -> Result<InstanceResult, Failure> {
        let result = InstanceResult::new(id, Outcome::Skipped);
        let Some(schedule) = context.store.load(id)? else {
            return Ok(result);
        };
        let listing = context.listing().map_err(Failure::Unjudged)?;
        let wanted = plan::to_compress(&schedule, &listing.snapshots);
        each(context, &schedule, &wanted, result)
    };
    done().unwrap_or_else(|failure| result::failed(id, &failure))
}

fn each(
    context: &Run<'_>,
    schedule: &Schedule,
    wanted: &[&SnapshotId],
    mut result: InstanceResult,
) -> Result<InstanceResult, Failure> {
    let storing = &schedule.declaration.storing;
    for id in wanted {
        let due_in = schedule.times().wanted_at() - clock::now();
        let (Some(method), Ok(due_in)) = (storing.compress, due_in.to_std()) else {
            break;
        };
        if interrupt::requested() {
            result.is_interrupted = true;
            break;
        }
        let compressed = context.ports.engine.compress(&Compress {
            id,
            method,
            min_free: storing.min_free,
            watch: Watch::begin(Some(due_in)),
        })?;
        match compressed {
            Compressed::Nothing => {}
            Compressed::Done {
                raw_bytes,
                packed_bytes,
            } => result.compressed.push(Packed {
                snapshot_id: (*id).clone(),
                raw_bytes,
                packed_bytes,
            }),
            Compressed::Later(why) => result.notes.push(format!(
                "the memory of snapshot {id} is not compressed yet: {why}; the next run tries again"
            )),
            Compressed::Never(why) => result.notes.push(format!(
                "the memory of snapshot {id} stays uncompressed: {why}"
            )),
            Compressed::Interrupted => {
                result.is_interrupted = true;
                result = result.noting(format!(
                    "the compression of snapshot {id} was interrupted by a signal; its memory is as it was, and the next run \
                     takes it up"
                ));
                break;
            }
        }
    }
    Ok(result)
}
