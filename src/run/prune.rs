//! `prune`: retention now, whatever the cadence says, and the sweeping of what was left behind.

use std::time::Instant;

use crate::clock;
use crate::engine::{EngineError, Inventory, Ports};
use crate::instance::{InstanceId, Presence};
use crate::interrupt;
use crate::queue;
use crate::report::run::{InstanceResult, Outcome, Report};
use crate::run::failure::Failure;
use crate::run::retain::{afterwards, in_use, interrupted_retention, retain};
use crate::run::{Options, Run, result, serve};
use crate::store::Store;

/// Applies retention to the selected schedules and, where all are selected, sweeps abandoned staging.
///
/// # Errors
/// When the schedules or the instances can't be listed; everything else is in the report.
pub fn prune(
    store: &Store,
    ports: &dyn Fn() -> Result<Ports, EngineError>,
    options: &Options,
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let (mut ids, strays) = store.ids()?;
    ids.retain(|id| options.selects(id));
    let ports = ports()?;
    let context = Run::new(store, &ports, options);
    context.at_work.watch();
    let inventory = Inventory::take(&ports.engine)?;

    let results = queue::each(
        options.jobs,
        ids,
        |id| prune_one(&context, &inventory, id),
        result::panicked,
    );
    strays
        .iter()
        .for_each(|stray| context.fail(stray.to_string()));
    if options.only.is_none() && !options.dry_run && !interrupt::requested() {
        context.sweep();
    }
    Ok(context.report(started_at, results))
}

fn prune_one(context: &Run<'_>, inventory: &Inventory, id: &InstanceId) -> InstanceResult {
    if interrupt::requested() {
        return InstanceResult::interrupted(id, "not begun: interrupted by a signal");
    }
    let _working = context.at_work.begin(id);
    let began = Instant::now();
    let mut result = prune_under_lock(context, inventory, id).unwrap_or_else(|failure| {
        if failure.is_interruption() {
            return InstanceResult::interrupted(id, "interrupted by a signal");
        }
        result::failed(id, &failure)
    });
    result.duration = began.elapsed();
    result
}

fn prune_under_lock(
    context: &Run<'_>,
    inventory: &Inventory,
    id: &InstanceId,
) -> Result<InstanceResult, Failure> {
    let is_dry_run = context.options.dry_run;
    let _lock = if is_dry_run {
        None
    } else {
        match context.store.lock(id, context.options.lock_timeout) {
            Ok(lock) => Some(lock),
            Err(error) => return Ok(serve::without_lock(id, error)),
        }
    };
    let Some(mut schedule) = context.store.load(id)? else {
        return Ok(
            InstanceResult::new(id, Outcome::Skipped).noting("its schedule was deleted meanwhile")
        );
    };
    // With nothing to judge it makes no difference, and a server need not be asked about every instance that is gone for
    // good.
    let presence = has_scheduled(context, id).then(|| inventory.presence(id));
    let is_gone = presence.as_ref().is_some_and(Presence::is_gone);
    let mut result = InstanceResult::new(id, Outcome::Pruned);
    let mut failures = Vec::new();
    if is_dry_run {
        match afterwards(context, &schedule, None, is_gone) {
            Ok(afterwards) => result.foresee(afterwards),
            Err(failure) => failures.push(failure),
        }
    } else {
        let retained = retain(context, &mut schedule, None, is_gone);
        result.pruned = retained.removed;
        result.held_back = retained.held_back;
        result.notes.extend(in_use(&retained.in_use));
        failures = retained.failures;
        if retained.is_interrupted {
            result = interrupted_retention(result);
        }
    }
    if let Some(Presence::Unknown(error)) = presence {
        // It may be there, so that the floors held; but somebody has to look.
        result.outcome = Outcome::Failed;
        failures.push(error.into());
    }
    result.error = result::all_in_words(&failures);
    Ok(result)
}

/// Whether a schedule of the instance has made a snapshot that is there.
fn has_scheduled(context: &Run<'_>, id: &InstanceId) -> bool {
    context.listing().is_ok_and(|listing| {
        listing
            .snapshots
            .iter()
            .any(|snapshot| snapshot.is_scheduled_for(id))
    })
}
