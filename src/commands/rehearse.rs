//! `rehearse`: whether guests live that are started from snapshots.

use std::collections::BTreeMap;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use regex::Regex;

use super::Context;
use super::failure::Refused;
use super::restore::{is_for_default, newest_usable, source};
use crate::cli::RehearseArgs;
use crate::engine::rehearser::Terms;
use crate::error::in_words;
use crate::host::priority::IdleDisk;
use crate::instance::ResolveError;
use crate::report::{Answer, RehearsedRow};
use crate::snapshot::{self, Rehearsed, Snapshot};
use crate::{clock, interrupt};

/// Rehearses the snapshots that are named, the newest usable ones of the instances that are named, or of all, one after the
/// other.
///
/// # Errors
/// When a reference means nothing or several things, and when the engine keeps no snapshots on this host. What came of each
/// is in the answer.
pub fn run(context: &Context<'_>, args: &RehearseArgs) -> anyhow::Result<Answer> {
    interrupt::catch().context("can't catch signals")?;
    let ports = (context.ports)()?;
    let rehearser = ports.rehearser.ok_or_else(|| {
        Refused::Usage(
            "`rehearse` is for the local engine, but the engine is hypeman, whose server keeps the snapshots".to_owned(),
        )
    })?;
    let listing = ports.engine.list()?;
    for problem in &listing.problems {
        log::warn!("{problem}");
    }
    let mut wanted = select(&args.what, &listing.snapshots)?;
    if let Some(within) = args.newer_than {
        let now = clock::now();
        let was_lately = |it: &Snapshot| {
            let last = last_rehearsed(&it.source_instance_id, &listing.snapshots);
            last.is_some_and(|at| (now - at).to_std().is_ok_and(|ago| ago <= within))
        };
        wanted.retain(|it| !was_lately(it));
    }
    let _idle = IdleDisk::begin();
    let mut rows = Vec::new();
    for snapshot in wanted {
        let rehearsed = if interrupt::requested() {
            Err("interrupted by a signal".to_owned())
        } else {
            expected(context, args, &snapshot).and_then(|expected| {
                let terms = Terms {
                    watched_for: args.timeout,
                    expected: expected.as_ref(),
                };
                rehearser
                    .rehearse(&snapshot, terms, &clock::now)
                    .map_err(|error| in_words(&error))
            })
        };
        let id = &snapshot.id;
        match &rehearsed {
            Ok(Rehearsed::Alive) => {}
            Ok(Rehearsed::Dead(why)) => log::error!("snapshot {id} did not live: {why}"),
            Ok(Rehearsed::Impossible(why)) => log::warn!("snapshot {id} is not rehearsed: {why}"),
            Err(error) => log::error!("snapshot {id} is not rehearsed: {error}"),
        }
        rows.push(RehearsedRow {
            snapshot,
            rehearsed,
            is_named: !args.what.is_empty(),
        });
    }
    Ok(Answer::Rehearsed(rows))
}

/// What the guest's console must say: what was typed, else what the schedule of its instance says, if there is one.
fn expected(
    context: &Context<'_>,
    args: &RehearseArgs,
    snapshot: &Snapshot,
) -> Result<Option<Regex>, String> {
    if args.expect.is_some() {
        return Ok(args.expect.clone());
    }
    let Ok(id) = snapshot.source_instance_id.parse() else {
        return Ok(None);
    };
    let schedule = context.store.load(&id).map_err(|error| in_words(&error))?;
    let pattern = schedule.and_then(|schedule| schedule.declaration.expect);
    let parsed = pattern.map(|pattern| Regex::new(&pattern)).transpose();
    parsed.map_err(|error| format!("the schedule's \"expect\" is no regular expression: {error}"))
}

/// When a snapshot of the instance was last rehearsed.
fn last_rehearsed(instance: &str, listing: &[Snapshot]) -> Option<DateTime<Utc>> {
    let its = listing
        .iter()
        .filter(|it| it.source_instance_id == instance);
    its.filter_map(|it| it.rehearsed.as_ref())
        .map(|it| it.at)
        .max()
}

/// What the references mean: the newest usable snapshot of an instance, or one.
fn select(references: &[String], listing: &[Snapshot]) -> anyhow::Result<Vec<Snapshot>> {
    if references.is_empty() {
        let mut newest: BTreeMap<&str, &Snapshot> = BTreeMap::new();
        for it in listing.iter().filter(|it| is_for_default(it)) {
            let best = newest.entry(&it.source_instance_id).or_insert(it);
            if (it.created_at, &it.id) > (best.created_at, &best.id) {
                *best = it;
            }
        }
        let mut newest: Vec<Snapshot> = newest.into_values().cloned().collect();
        newest.sort_by(|a, b| a.source_instance_name.cmp(&b.source_instance_name));
        return Ok(newest);
    }
    let mut wanted: Vec<Snapshot> = Vec::new();
    for reference in references {
        let found = match source(reference, listing) {
            Ok(instance) => newest_usable(instance.id.as_str(), listing).ok_or_else(|| {
                Refused::NotFound(format!("instance {instance} has no usable snapshot"))
            })?,
            Err(error) => match error.downcast_ref::<ResolveError>() {
                Some(ResolveError::NotFound(_)) => snapshot::find(reference, listing)?,
                _ => return Err(error),
            },
        };
        if !wanted.iter().any(|it| it.id == found.id) {
            wanted.push(found.clone());
        }
    }
    Ok(wanted)
}
