//! `snapshots`: what is in the store, and for each one why it is kept or that it goes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::Context;
use crate::cli::{OutputFormat, SnapshotsArgs};
use crate::clock;
use crate::engine::{Inventory, measure};
use crate::error::in_words;
use crate::instance::{InstanceId, InstanceRef, resolve};
use crate::report::{Answer, Keeping, SnapshotRow};
use crate::retention::{self, Policy, Reason};
use crate::schedule::Schedule;
use crate::snapshot::Protection;
use crate::snapshot::{Snapshot, SnapshotId};

/// Lists the snapshots of one instance, or all.
///
/// # Errors
/// When the engine can't be used, and when nothing or several things have the name that was given.
pub fn run(context: &Context<'_>, args: &SnapshotsArgs) -> anyhow::Result<Answer> {
    let engine = (context.ports)()?.engine;
    let inventory = Inventory::take(&engine)?;
    let listing = engine.list()?;
    for problem in &listing.problems {
        log::warn!("{problem}");
    }
    let mut snapshots = listing.snapshots;
    if let Some(reference) = &args.instance {
        let (scheduled, _) = context.store.ids()?;
        let candidates = candidates(&inventory, &scheduled, &snapshots);
        let wanted = resolve(reference, &candidates)?.id.clone();
        snapshots.retain(|snapshot| snapshot.source_instance_id == wanted.as_str());
    }
    measure(engine.as_ref(), &mut snapshots);
    let is_asked = match context.format {
        OutputFormat::Wide => true,
        OutputFormat::Json => args.instance.is_some(),
        OutputFormat::Table => false,
    };
    let occupied = |snapshot: &Snapshot| is_asked.then(|| engine.occupied(&snapshot.id));
    let now = clock::now();
    let protections = context.store.protections(now)?;
    let mut by_source: BTreeMap<String, Vec<Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        by_source
            .entry(snapshot.source_instance_id.clone())
            .or_default()
            .push(snapshot);
    }
    let mut rows = Vec::new();
    for (source, snapshots) in by_source {
        let keepings = keepings(context, &source, &snapshots, &inventory, &protections, now);
        rows.extend(
            snapshots
                .into_iter()
                .zip(keepings)
                .map(|(snapshot, keeping)| SnapshotRow {
                    protection: protections.get(&snapshot.id).cloned(),
                    occupied: occupied(&snapshot),
                    snapshot,
                    keeping,
                }),
        );
    }
    rows.sort_by(|a, b| {
        let [a, b] = [a, b].map(|row| &row.snapshot);
        a.source_instance_name
            .cmp(&b.source_instance_name)
            .then_with(|| a.source_instance_id.cmp(&b.source_instance_id))
            .then_with(|| a.created_at.cmp(&b.created_at))
            .then_with(|| a.id.cmp(&b.id))
    });
    Ok(Answer::Snapshots(rows))
}

/// Everything that a reference can mean: instances that exist, that have a schedule, and that left snapshots behind.
fn candidates(
    inventory: &Inventory,
    scheduled: &[InstanceId],
    snapshots: &[Snapshot],
) -> Vec<InstanceRef> {
    let mut names: BTreeMap<InstanceId, String> = BTreeMap::new();
    for snapshot in snapshots {
        if let Ok(id) = snapshot.source_instance_id.parse() {
            names.insert(id, snapshot.source_instance_name.clone());
        }
    }
    for id in scheduled {
        names.entry(id.clone()).or_default();
    }
    // What an instance is called now wins over what it was called when the snapshot was taken.
    names.extend(inventory.names().clone());
    names
        .into_iter()
        .map(|(id, name)| InstanceRef { id, name })
        .collect()
}

/// What becomes of each of one instance's snapshots, in their order.
fn keepings(
    context: &Context<'_>,
    source: &str,
    snapshots: &[Snapshot],
    inventory: &Inventory,
    protections: &BTreeMap<SnapshotId, Protection>,
    now: DateTime<Utc>,
) -> Vec<Keeping> {
    let all = |scheduled: Keeping| -> Vec<Keeping> {
        snapshots
            .iter()
            .map(|snapshot| {
                if snapshot.is_scheduled() {
                    scheduled.clone()
                } else {
                    Keeping::Manual
                }
            })
            .collect()
    };
    let Ok(id) = source.parse::<InstanceId>() else {
        return all(Keeping::Unscheduled);
    };
    if !snapshots.iter().any(Snapshot::is_scheduled) {
        return all(Keeping::Unscheduled);
    }
    let schedule = match context.store.load(&id) {
        Ok(Some(schedule)) => schedule,
        Ok(None) => return all(Keeping::Unscheduled),
        Err(error) => {
            log::warn!(instance = id.as_str(); "{}", in_words(&error));
            return all(Keeping::Unreadable);
        }
    };
    let exists = !inventory.presence(&id).is_gone();
    let grace = context.settings.limits.missing_grace;
    let Schedule {
        declaration,
        record,
        ..
    } = &schedule;
    let protected = protections
        .iter()
        .map(|(id, protection)| (id.clone(), protection.until))
        .collect();
    let policy = Policy::of(declaration, record, exists, grace, protected, now);
    retention::verdicts(&id, snapshots, &policy, now)
        .into_iter()
        .map(|verdict| match verdict.decision.reasons() {
            [Reason::NotOurs, ..] => Keeping::Manual,
            _ => Keeping::Judged(verdict.decision),
        })
        .collect()
}
