//! Which snapshot a VMM's account of written memory goes on from, so that the next one need only save what has changed since.
//!
//! That is known only behind a capture of this tool that went well, and only as long as the very VMM runs: a link is taken
//! away before each capture, and written anew when the snapshot is published. Whatever fails, dies or is not sure in between
//! leaves none, and all of the memory is saved. What another program has the VMM save can't be seen from outside: it empties
//! the account, and what was written before it would be lost (hypeman-snap-set(1)).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::metadata::Metadata;
use super::processes;
use super::store::SnapshotStore;
use super::verdict::Verdict;
use crate::engine::EngineError;
use crate::fs::beneath::Beneath;
use crate::fs::{bounded, durable, lock};
use crate::instance::InstanceId;
use crate::snapshot::SnapshotId;
use crate::snapshot::storing::Saving;
use crate::vmm::{Process, Vmm};

/// The directory in the state directory.
const DIRECTORY: &str = "differences";
/// The memory's file, of the one VMM that saves differences.
pub(super) const MEMORY: &str = "memory";
/// So many differences are saved in a row before all of the memory is saved again.
const ROW_MAX: u32 = 20;
const LINK_MAX_BYTES: u64 = 4096;

/// Where the account of a VMM goes on from.
#[derive(Debug, Serialize, Deserialize)]
struct Link {
    snapshot_id: SnapshotId,
    process: Process,
    boot_id: String,
    /// How many differences there were in a row.
    in_a_row: u32,
}

/// How a capture saves memory, and what the one after it goes on from.
#[derive(Debug, Default)]
pub(super) struct Chain {
    base: Option<Base>,
    process: Option<Process>,
    /// Why there are no differences of this VM at all.
    impossible: Option<&'static str>,
}

/// What a capture that is published leaves for the next one.
#[derive(Debug)]
pub(super) struct Next {
    process: Process,
    in_a_row: u32,
}

impl Chain {
    /// Breaks the chain, and goes on with it if differences are `wanted`: then the link that was there leads to the memory
    /// that one can be written onto.
    ///
    /// # Errors
    /// When the old link can't be taken away, or the VMM can't be asked.
    pub(super) fn begin(
        state_dir: &Path,
        store: &SnapshotStore,
        metadata: &Metadata,
        wanted: Option<Saving>,
        vmm: &mut dyn Vmm,
        memory: &Path,
    ) -> Result<Self, EngineError> {
        let id = &metadata.id;
        let link = take(state_dir, id).map_err(|error| {
            let path = path(state_dir, id);
            EngineError::caused(format!("can't remove {}", path.display()), error)
        })?;
        let Some(Saving::Difference) = wanted else {
            return Ok(Self::default());
        };
        let of_vmm = if metadata.is_registered() {
            vmm.saves_differences()?
        } else {
            Err("hypeman itself counts what its guests write")
        };
        if let Err(why) = of_vmm {
            return Ok(Self {
                impossible: Some(why),
                ..Self::default()
            });
        }
        let process = vmm.process();
        let base = base(link, process.as_ref(), store, memory);
        let base = base.inspect_err(
            |why| log::info!(instance = id.as_str(); "all of the memory is saved: {why}"),
        );
        Ok(Self {
            base: base.ok(),
            process,
            impossible: None,
        })
    }

    /// The memory that the difference is written onto.
    pub(super) fn base(&self) -> Option<Arc<File>> {
        self.base.as_ref().map(|base| Arc::clone(&base.memory))
    }

    /// What the user should know.
    pub(super) fn warning(&self) -> Option<String> {
        let why = self.impossible?;
        Some(format!(
            "all of the memory was saved, although --method is diff: {why}"
        ))
    }

    /// What the next capture goes on from, once this one is published.
    pub(super) fn next(&self) -> Option<Next> {
        let in_a_row = self.base.as_ref().map_or(0, |base| base.in_a_row + 1);
        Some(Next {
            process: self.process.clone()?,
            in_a_row,
        })
    }
}

impl Next {
    /// Makes the published snapshot the one that the account of this VMM goes on from.
    ///
    /// # Errors
    /// When that can't be kept; all of the memory is saved the next time.
    pub(super) fn keep(
        self,
        state_dir: &Path,
        id: &InstanceId,
        snapshot_id: &SnapshotId,
    ) -> io::Result<()> {
        keep(state_dir, id, snapshot_id, self.process, self.in_a_row)
    }
}

/// Memory that a difference is written onto. Its snapshot is not deleted meanwhile.
#[derive(Debug)]
struct Base {
    memory: Arc<File>,
    in_a_row: u32,
    _reading: File,
}

fn path(state_dir: &Path, id: &InstanceId) -> PathBuf {
    state_dir.join(DIRECTORY).join(format!("{id}.json"))
}

/// Takes the link of an instance away, durably.
///
/// # Errors
/// When it is there and can't be removed: nothing may be captured then.
fn take(state_dir: &Path, id: &InstanceId) -> io::Result<Option<Link>> {
    let path = path(state_dir, id);
    let bytes = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => bounded::read(opened?, LINK_MAX_BYTES)?,
    };
    durable::remove(&path)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// Makes the snapshot the one that the account of this VMM goes on from.
///
/// # Errors
/// When that can't be kept; all of the memory is saved the next time.
fn keep(
    state_dir: &Path,
    id: &InstanceId,
    snapshot_id: &SnapshotId,
    process: Process,
    in_a_row: u32,
) -> io::Result<()> {
    let boot_id = processes::boot_id().ok_or(io::ErrorKind::NotFound)?;
    let bytes = serde_json::to_vec(&Link {
        snapshot_id: snapshot_id.clone(),
        process,
        boot_id,
        in_a_row,
    })?;
    let path = path(state_dir, id);
    if let Some(directory) = path.parent() {
        durable::create_dir(directory)?;
    }
    durable::write(&path, &bytes, 0o600)
}

/// The memory that the link leads to, held; else why all of the memory is saved. `memory` is its place in a snapshot's
/// `guest/`.
fn base(
    link: Option<Link>,
    process: Option<&Process>,
    store: &SnapshotStore,
    memory: &Path,
) -> Result<Base, String> {
    let link = link.ok_or("there is no snapshot that is surely the one before")?;
    let is_same = Some(&link.process) == process
        && processes::boot_id().as_deref() == Some(link.boot_id.as_str());
    if !is_same {
        return Err("its VMM is another process than at the snapshot before".to_owned());
    }
    if link.in_a_row >= ROW_MAX {
        return Err(format!("{ROW_MAX} differences were saved in a row"));
    }
    let id = &link.snapshot_id;
    let directory = store.snapshot_dir(id);
    let gone = |error: io::Error| format!("snapshot {id}: {error}");
    let reading = File::open(&directory).map_err(gone)?;
    if !lock::try_share(&reading).map_err(gone)? {
        return Err(format!("snapshot {id} is being deleted"));
    }
    if Verdict::read(&reading).flaw.is_some() {
        return Err(format!("snapshot {id} is damaged"));
    }
    let guest = Beneath::open(&directory).and_then(|held| held.open_dir("guest"));
    let memory = guest.map_err(gone)?.open_file(memory).map_err(gone)?;
    let memory =
        memory.ok_or_else(|| format!("snapshot {id} has no memory that is not compressed"))?;
    Ok(Base {
        memory: Arc::new(memory),
        in_a_row: link.in_a_row,
        _reading: reading,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_had_once_and_only_of_the_same_process() {
        let state = tempfile::tempdir().unwrap();
        let id: InstanceId = "vm-a".parse().unwrap();
        let snapshot: SnapshotId = "s1".parse().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::of(own).unwrap();
        let data = tempfile::tempdir().unwrap();
        let store = crate::engine::local::data_dir::DataDir::at(data.path()).unwrap();
        let store = SnapshotStore::of(&store);
        let memory = Path::new("snapshots/snapshot-latest/memory");
        let why = |link, process: &Process| base(link, Some(process), &store, memory).unwrap_err();
        assert!(take(state.path(), &id).unwrap().is_none());
        assert!(why(None, &process).contains("no snapshot"));
        let keep = |in_a_row| keep(state.path(), &id, &snapshot, process.clone(), in_a_row);
        keep(0).unwrap();
        let link = take(state.path(), &id).unwrap();
        assert!(
            take(state.path(), &id).unwrap().is_none(),
            "it is taken away"
        );
        let other = Process {
            start_ticks: process.start_ticks + 1,
            ..process.clone()
        };
        assert!(why(link, &other).contains("another process"));
        keep(ROW_MAX).unwrap();
        assert!(why(take(state.path(), &id).unwrap(), &process).contains("in a row"));
        keep(1).unwrap();
        assert!(why(take(state.path(), &id).unwrap(), &process).contains("snapshot s1"));
        let guest = store
            .snapshot_dir(&snapshot)
            .join("guest/snapshots/snapshot-latest");
        std::fs::create_dir_all(&guest).unwrap();
        keep(1).unwrap();
        assert!(why(take(state.path(), &id).unwrap(), &process).contains("not compressed"));
        std::fs::write(guest.join("memory"), "memory").unwrap();
        keep(1).unwrap();
        let link = take(state.path(), &id).unwrap();
        assert_eq!(
            base(link, Some(&process), &store, memory).unwrap().in_a_row,
            1
        );
        // What makes no sense is none.
        keep(1).unwrap();
        std::fs::write(path(state.path(), &id), "{").unwrap();
        assert!(take(state.path(), &id).unwrap().is_none());
    }
}
