//! Finds and removes what captures leave in QEMU, of this process or of one that died: all of it carries our prefix.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Settings, VmmError};
use super::capabilities::{self, Capabilities};
use super::migration::{self, Phase};
use super::qmp::Qmp;
use super::{IO_ERROR, MEMORY_FD, PREFIX, status};
use super::{jobs, map};

/// What QEMU is set to now.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn settings(qmp: &mut Qmp) -> Result<Settings, VmmError> {
    Ok(Settings {
        capabilities: Capabilities::look(qmp)?.on(),
        bandwidth: migration::bandwidth(qmp)?,
    })
}

/// Removes everything of ours, and puts settings back to what they were `before`. Each part is tried, whatever became of the others, except on a dead connection. A save
/// that goes on is ended if `ends_save`, which says how long it may stand still if it can't be cancelled.
///
/// # Errors
/// The first thing that could not be removed.
pub(super) fn remove_all(
    qmp: &mut Qmp,
    ends_save: Option<Duration>,
    before: &Settings,
) -> Result<(), VmmError> {
    let mut first = None;
    let mut attempt = |result: Result<(), VmmError>| match result {
        Ok(()) => Ok(()),
        Err(error @ (VmmError::TimedOut { .. } | VmmError::Closed { .. } | VmmError::Over(_))) => {
            Err(error)
        }
        Err(error) => {
            first.get_or_insert(error);
            Ok(())
        }
    };
    if let Some(stall) = ends_save {
        attempt(migration::end(qmp, stall))?;
    }
    attempt(remove_jobs(qmp))?;
    attempt(remove_nodes(qmp))?;
    // Our own nodes took theirs along, which can't be removed by themselves.
    attempt(map::remove_all(qmp))?;
    attempt(remove_fdsets(qmp))?;
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
                Ok(_) => removed = true,
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
    let nodes = qmp.execute("query-named-block-nodes", &json!({"flat": true}))?;
    Ok(nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node.get("node-name")?.as_str())
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect())
}

fn remove_fdsets(qmp: &mut Qmp) -> Result<(), VmmError> {
    let sets = qmp.execute("query-fdsets", &json!({}))?;
    for set in sets.as_array().into_iter().flatten() {
        let is_ours = set
            .get("fds")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|fd| fd.get("opaque")?.as_str())
            .any(|opaque| opaque.starts_with(PREFIX));
        if is_ours {
            qmp.execute("remove-fd", &json!({"fdset-id": set.get("fdset-id")}))?;
        }
    }
    Ok(())
}

/// Closes the memory file's descriptor, if no save has taken it yet.
fn close_memory(qmp: &mut Qmp) -> Result<(), VmmError> {
    match qmp.execute("closefd", &json!({"fdname": MEMORY_FD})) {
        // QEMU knows no such descriptor: that is what was wanted.
        Ok(_) | Err(VmmError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts back what a save was set up with, unless a migration goes on: then it is somebody else's.
fn restore_settings(qmp: &mut Qmp, before: &Settings) -> Result<(), VmmError> {
    if migration::look(qmp)?.phase == Phase::UnderWay {
        return Ok(());
    }
    migration::restore_bandwidth(qmp, before.bandwidth)?;
    capabilities::put_back(qmp, before)
}
