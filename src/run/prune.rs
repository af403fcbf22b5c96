//! `prune`: retention now, whatever the cadence says, and the sweeping of what was left behind.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::clock;
use crate::engine::{Engine, EngineError, describe};
use crate::instance::InstanceId;
use crate::interrupt;
use crate::run::report::{InstanceResult, Outcome, Report};
use crate::run::{Context, Options, outcome, parallel, retain, steps};
use crate::store::Store;

/// Applies retention to the selected schedules and, where all are selected, sweeps abandoned staging.
///
/// # Errors
/// When the schedules or the instances can't be listed; everything else is in the report.
pub fn prune(
    store: &Store,
    engine: &dyn Fn() -> Result<Box<dyn Engine>, EngineError>,
    options: &Options,
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let (mut ids, strays) = store.ids()?;
    ids.retain(|id| options.selects(id));
    let engine = engine()?;
    let context = Context::new(store, engine.as_ref(), options);
    context.at_work.watch();
    let known: BTreeSet<InstanceId> = engine
        .instances()?
        .into_iter()
        .map(|instance| instance.id)
        .collect();

    let results = parallel::each(
        options.jobs,
        &ids,
        |id| prune_one(&context, id, known.contains(id)),
        outcome::panicked,
    );
    let mut problems: Vec<String> = strays.iter().map(ToString::to_string).collect();
    if options.only.is_none() && !options.dry_run && !interrupt::requested() {
        match engine.sweep() {
            Ok(lines) => context.warn(lines),
            Err(error) => problems.push(describe(&error)),
        }
    }
    Ok(context.report(started_at, results, problems))
}

fn prune_one(context: &Context<'_>, id: &InstanceId, is_known: bool) -> InstanceResult {
    if interrupt::requested() {
        return outcome::interrupted(id, "not begun: interrupted by a signal");
    }
    let _working = context.at_work.begin(id);
    let began = Instant::now();
    let mut result = prune_under_lock(context, id, is_known).unwrap_or_else(|error| {
        if interrupt::requested() {
            return outcome::interrupted(id, "interrupted by a signal");
        }
        outcome::failed(id, error)
    });
    result.duration = began.elapsed();
    result
}

fn prune_under_lock(
    context: &Context<'_>,
    id: &InstanceId,
    is_known: bool,
) -> Result<InstanceResult, String> {
    let _lock = if context.options.dry_run {
        None
    } else {
        match context.store.lock(id, context.options.lock_timeout) {
            Ok(lock) => Some(lock),
            Err(error) => return Ok(steps::without_lock(id, &error)),
        }
    };
    let Some(mut schedule) = context.store.load(id).map_err(|error| describe(&error))? else {
        return Ok(outcome::skipped(id, "its schedule was deleted meanwhile"));
    };
    // Not being listed may mean unreadable; only the engine's positive word means gone. With nothing to judge it makes
    // no difference, and a server need not be asked about every instance that is gone for good.
    let exists = is_known
        || !has_scheduled(context, id)
        || context
            .engine
            .find(id)
            .map_err(|error| describe(&error))?
            .is_some();
    let retained = retain::apply(context, &schedule, None, exists, clock::now());
    let mut result = outcome::plain(id, Outcome::Pruned);
    retain::record(context, &mut schedule, &retained, &mut result);
    result.pruned = retained.removed;
    Ok(result)
}

/// Whether a schedule of the instance has made a snapshot that is there.
fn has_scheduled(context: &Context<'_>, id: &InstanceId) -> bool {
    context.listing().is_ok_and(|listing| {
        listing
            .snapshots
            .iter()
            .any(|snapshot| snapshot.is_scheduled_for(id))
    })
}
