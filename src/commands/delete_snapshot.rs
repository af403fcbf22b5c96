//! `delete-snapshot`: deletes snapshots by name, whoever made them. Protected ones stay.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use crate::cli::DeleteSnapshotArgs;
use crate::engine::EngineError;
use crate::error::in_words;
use crate::report::{Answer, DeletedSnapshot};
use crate::snapshot::Protection;
use crate::snapshot::{self, Snapshot};
use crate::store::Store;
use crate::{clock, interrupt};

/// Deletes what was named, after asking on a terminal: nothing is deleted when a reference means no snapshot or several,
/// or when one of them is protected.
///
/// # Errors
/// Why nothing was deleted; what could not be deleted of several is in the answer.
pub fn run(context: &Context<'_>, args: &DeleteSnapshotArgs) -> anyhow::Result<Answer> {
    interrupt::catch().context("can't catch signals")?;
    let engine = (context.ports)()?.engine;
    let listing = engine.list()?.snapshots;
    let mut named: Vec<&Snapshot> = Vec::new();
    for reference in &args.snapshot {
        let found = snapshot::find(reference, &listing)?;
        if !named.iter().any(|it| it.id == found.id) {
            named.push(found);
        }
    }
    for snapshot in &named {
        if let Some(protection) = context.store.protection(&snapshot.id, clock::now())? {
            return Err(Refused::Usage(protected(snapshot, &protection)).into());
        }
    }
    if !args.yes {
        confirm(&named)?;
    }
    let timeout = context.settings.lock_timeout;
    let rows = named
        .into_iter()
        .map(|snapshot| DeletedSnapshot {
            snapshot: snapshot.clone(),
            error: delete(context.store, timeout, snapshot, &|| {
                engine.delete(&snapshot.id)
            })
            .err()
            .map(|error| format!("{error:#}")),
        })
        .collect::<Vec<_>>();
    for row in &rows {
        if let Some(error) = &row.error {
            log::error!("snapshot {}: {error}", row.snapshot.id);
        }
    }
    Ok(Answer::DeletedSnapshots(rows))
}

fn delete(
    store: &Store,
    timeout: std::time::Duration,
    snapshot: &Snapshot,
    delete: &dyn Fn() -> Result<(), EngineError>,
) -> anyhow::Result<()> {
    if interrupt::requested() {
        return Err(EngineError::Interrupted.into());
    }
    let _lock = store.lock_deletion(timeout)?;
    // It may have been protected while somebody was asked.
    if let Some(protection) = store.protection(&snapshot.id, clock::now())? {
        return Err(Refused::Usage(protected(snapshot, &protection)).into());
    }
    delete().map_err(|error| anyhow::anyhow!(in_words(&error)))?;
    store.unprotect(&snapshot.id)?;
    Ok(())
}

fn protected(snapshot: &Snapshot, protection: &Protection) -> String {
    let why = protection.reason.as_ref();
    let why = why.map_or_else(String::new, |reason| format!(" ({reason})"));
    let id = &snapshot.id;
    format!(
        "snapshot {id} is protected{why}; nothing was deleted: `hypeman-snap unprotect {id}` first"
    )
}

/// Asks on a terminal.
fn confirm(named: &[&Snapshot]) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Refused::Usage(
            "there is no terminal to ask on: give --yes to delete without a question".to_owned(),
        )
        .into());
    }
    let mut ask = io::stderr().lock();
    for snapshot in named {
        let kind = snapshot.kind;
        let taken = snapshot.created_at.with_timezone(&chrono::Local);
        writeln!(
            ask,
            "{:?} ({}), {kind}, of {:?}, taken {}",
            snapshot.name,
            snapshot.id,
            snapshot.source_instance_name,
            taken.format("%F %T %:z"),
        )?;
    }
    write!(ask, "Delete for good? [y/N] ")?;
    ask.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    anyhow::bail!("nothing was deleted")
}
