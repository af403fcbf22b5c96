//! Finds and removes what captures leave in QEMU, of this process or of one that died: all of it carries our prefix.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::super::{Tuning, VmmError};
use super::capabilities::{self, Capabilities};
use super::migration::{self, MigrationState};
use super::qmp::Qmp;
use super::{IO_ERROR, MEMORY_FD, PREFIX, status};
use super::{dirty_bitmap, jobs};

/// What QEMU is set to now.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn settings(qmp: &mut Qmp) -> Result<Tuning, VmmError> {
    Ok(Tuning {
        capabilities: Capabilities::look(qmp)?.on(),
        bandwidth: migration::bandwidth(qmp)?,
    })
}

/// Removes everything of ours, and puts settings back to what they were `before`. Each part is tried, whatever became of the others, except on a dead connection. A save
/// that goes on is ended if `ends_save`, which says how long it may make no progress if it can't be cancelled.
///
/// # Errors
/// The first thing that could not be removed.
pub(super) fn remove_all(
    qmp: &mut Qmp,
    ends_save: Option<Duration>,
    before: &Tuning,
) -> Result<(), VmmError> {
    let mut first = None;
    let mut attempt = |result: Result<(), VmmError>| match result {
        Ok(()) => Ok(()),
        Err(
            error @ (VmmError::TimedOut { .. }
            | VmmError::Closed { .. }
            | VmmError::Over(_)
            | VmmError::StillSaving),
        ) => Err(error),
        Err(error) => {
            first.get_or_insert(error);
            Ok(())
        }
    };
    if ends_save.is_some() {
        attempt(migration::cancel_if_harmless(qmp))?;
    }
    attempt(remove_jobs(qmp))?;
    attempt(remove_nodes(qmp))?;
    // Our own nodes took theirs along, which can't be removed by themselves.
    attempt(dirty_bitmap::remove_all(qmp))?;
    attempt(remove_fdsets(qmp))?;
    if let Some(stall) = ends_save {
        // It may have to be waited for, so what is in the guest's way has gone before.
        attempt(migration::end(qmp, stall))?;
    }
    attempt(close_memory(qmp))?;
    attempt(restore_settings(qmp, before))?;
    first.map_or(Ok(()), Err)
}

/// Removes our jobs. A guest that stopped because our copy failed in the way of its write goes on: QEMU repeats that
/// write, which nothing of ours stands in the way of any more.
fn remove_jobs(qmp: &mut Qmp) -> Result<(), VmmError> {
    if !jobs::remove(qmp, PREFIX)? {
        return Ok(());
    }
    if status(qmp)? == IO_ERROR {
        qmp.execute("cont", &json!({}))?;
    }
    Ok(())
}

/// Removes our nodes, uppermost first: one that another stands on is refused until that one is gone.
fn remove_nodes(qmp: &mut Qmp) -> Result<(), VmmError> {
    loop {
        let mut refusal = None;
        let mut removed = false;
        for node in nodes(qmp)? {
            match qmp.execute("blockdev-del", &json!({"node-name": node})) {
                Ok(()) => removed = true,
                Err(error @ VmmError::Refused { .. }) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        match refusal {
            None => return Ok(()),
            Some(error) if !removed => return Err(error),
            Some(_) => {}
        }
    }
}

fn nodes(qmp: &mut Qmp) -> Result<Vec<String>, VmmError> {
    let names = dirty_bitmap::nodes(qmp)?
        .into_iter()
        .filter_map(|node| node.node_name);
    Ok(names.filter(|name| name.starts_with(PREFIX)).collect())
}

/// An entry of `query-fdsets`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FdSet {
    fdset_id: u64,
    #[serde(default)]
    fds: Vec<FdOfSet>,
}

#[derive(Deserialize)]
struct FdOfSet {
    opaque: Option<String>,
}

fn remove_fdsets(qmp: &mut Qmp) -> Result<(), VmmError> {
    let sets: Vec<FdSet> = qmp.query("query-fdsets", &json!({}))?;
    for set in sets {
        let is_ours = |fd: &FdOfSet| {
            let opaque = fd.opaque.as_deref();
            opaque.is_some_and(|opaque| opaque.starts_with(PREFIX))
        };
        if set.fds.iter().any(is_ours) {
            qmp.execute("remove-fd", &json!({"fdset-id": set.fdset_id}))?;
        }
    }
    Ok(())
}

/// Closes the memory file's descriptor, if no save has taken it yet.
fn close_memory(qmp: &mut Qmp) -> Result<(), VmmError> {
    match qmp.execute("closefd", &json!({"fdname": MEMORY_FD})) {
        // QEMU knows no such descriptor: that is what was wanted.
        Ok(()) | Err(VmmError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts back what a save was set up with, unless a migration goes on: then it is somebody else's.
fn restore_settings(qmp: &mut Qmp, before: &Tuning) -> Result<(), VmmError> {
    if migration::look(qmp)?.phase == MigrationState::UnderWay {
        return Ok(());
    }
    migration::restore_bandwidth(qmp, before.bandwidth)?;
    capabilities::put_back(qmp, before)
}
