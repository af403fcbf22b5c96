//! A snapshot in the making: a directory with a dot, locked by whoever fills it, that becomes a snapshot in one rename.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::record;
use super::store::SnapshotStore;
use super::sweep::{claim, create_private, empty};
use crate::engine::EngineError;
use crate::fs::{durable, remove, seal, space};
use crate::snapshot::{Snapshot, SnapshotId};

/// How often a directory is made anew because a sweep took it between its creation and its lock.
const ATTEMPTS: u32 = 10;

/// A snapshot that is being made. Dropped, it removes what was made; [`Staging::discard`] does the same and says
/// whether it could.
#[derive(Debug)]
pub struct Staging {
    store: SnapshotStore,
    id: SnapshotId,
    path: PathBuf,
    /// The lock that keeps sweeps away.
    _lock: File,
    is_done: bool,
}

impl Staging {
    /// Creates the staging of the new snapshot `id`, with an empty `guest/`; the store too if it is missing.
    ///
    /// # Errors
    /// When it can't be created, or there is one of that id already.
    pub fn create(store: &SnapshotStore, id: &SnapshotId) -> Result<Self, EngineError> {
        let path = store.staging_dir(id);
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't create {}", path.display()), error)
        };
        durable::create_dir(store.directory()).map_err(failed)?;
        for _ in 0..ATTEMPTS {
            create_private(&path).map_err(failed)?;
            let lock = match claim(&path) {
                Ok(Some(lock)) => lock,
                // A sweep has found it without a lock, and removes it.
                Ok(None) => {
                    wait_until_gone(&path).map_err(failed)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let staging = Self {
                store: store.clone(),
                id: id.clone(),
                path: path.clone(),
                _lock: lock,
                is_done: false,
            };
            create_private(&staging.guest()).map_err(failed)?;
            return Ok(staging);
        }
        Err(EngineError::instance(format!(
            "can't create {}: something removes it at once, {ATTEMPTS} times in a row",
            path.display()
        )))
    }

    /// The id that the snapshot will have.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The directory, for a journal that must find it again.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory to fill.
    pub fn guest(&self) -> PathBuf {
        self.path.join("guest")
    }

    /// Makes everything private and durable, writes the record last, and gives the directory its final name. Returns
    /// `snapshot` with its sizes as they are on disk.
    ///
    /// # Errors
    /// When any step fails; then there is no snapshot of this id.
    pub fn publish(
        mut self,
        mut snapshot: Snapshot,
        stored_metadata: &Map<String, Value>,
    ) -> Result<Snapshot, EngineError> {
        if snapshot.id != self.id {
            return Err(EngineError::instance(format!(
                "snapshot {} can't be published from the staging of {}",
                snapshot.id, self.id
            )));
        }
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't finish snapshot {}", snapshot.id), error)
        };
        let guest = self.guest();
        seal::seal(&guest).map_err(|error| {
            EngineError::caused(format!("can't finish snapshot {}", snapshot.id), error)
        })?;
        let size_bytes = space::apparent_size(&guest).map_err(failed)?;
        let bytes = record::render(
            &Snapshot {
                size_bytes,
                ..snapshot.clone()
            },
            stored_metadata,
        )
        .map_err(|error| failed(error.into()))?;
        durable::write(&self.path.join("snapshot.json"), &bytes, 0o600).map_err(failed)?;
        let disk_bytes = space::disk_usage(&self.path).map_err(failed)?;
        let published = self.store.snapshot_dir(&self.id);
        rename_anew(&self.path, &published).map_err(failed)?;
        if let Err(error) = durable::sync_dir(self.store.directory()) {
            // A snapshot that the next power cut may take away is none: it becomes staging again, and goes.
            std::fs::rename(&published, &self.path).map_err(failed)?;
            return Err(failed(error));
        }
        self.is_done = true;
        snapshot.size_bytes = size_bytes;
        snapshot.disk_bytes = Some(disk_bytes);
        Ok(snapshot)
    }

    /// Removes everything that was made.
    ///
    /// # Errors
    /// When something can't be removed; a sweep tries again.
    pub fn discard(mut self) -> Result<(), EngineError> {
        self.is_done = true;
        self.remove().map_err(|error| {
            EngineError::caused(
                format!(
                    "can't remove {}; `hypeman-snap prune` tries again",
                    self.path.display()
                ),
                error,
            )
        })
    }

    fn remove(&self) -> io::Result<()> {
        empty(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Err(error) = self.remove() {
            log::warn!(
                "can't remove {}: {error}; `hypeman-snap prune` tries again",
                self.path.display()
            );
        }
    }
}

/// Waits for the sweep that holds the lock of `path` to be done with it.
fn wait_until_gone(path: &Path) -> io::Result<()> {
    for _ in 0..1000 {
        match claim(path) {
            // The sweep had finished with another directory; nobody minds this one, and it is ours.
            Ok(Some(_)) => return remove::tree(path).map(drop),
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("another run holds it"))
}

/// Renames `from` to `to`, which must not exist.
fn rename_anew(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without RENAME_NOREPLACE (rename(2)). Ids are random and the target of a rename must be an empty
        // directory, so that looking first is enough.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        result => result.map_err(io::Error::from),
    }
}
