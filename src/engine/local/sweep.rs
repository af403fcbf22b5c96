//! How directories leave the snapshot store: renamed away first, so that they are not listed, then removed.
//!
//! Whoever works on a directory with a dot holds a lock on it, so that what nobody holds was left by the dead.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use fs2::FileExt;
use rustix::fs::OFlags;

use super::store::{STAGING, SnapshotStore, TRASH};
use crate::engine::EngineError;
use crate::fs::{durable, remove};
use crate::snapshot::SnapshotId;

impl SnapshotStore {
    /// Deletes a snapshot: first it gets a name that is not listed, then its files go. One that is gone is no error.
    ///
    /// # Errors
    /// When it could not be renamed, then it is untouched; or when its files could not all be removed, then it is no
    /// snapshot any more and [`SnapshotStore::sweep`] tries again.
    pub fn delete(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let directory = self.snapshot_dir(id);
        let shown = directory.display();
        let failed = |error: io::Error| EngineError::caused(format!("can't delete {shown}"), error);
        match std::fs::symlink_metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(EngineError::instance(format!(
                    "can't delete {shown}: it is not a directory, so it is no snapshot"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let trash = self.directory().join(format!("{TRASH}{id}"));
        // What an earlier deletion of the same id may have left would be in the way.
        remove::tree(&trash).map_err(failed)?;
        // Held until the end, so that a sweep of another run leaves it to us.
        let claimed = match claim(&directory) {
            Ok(claimed) => claimed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if claimed.is_none() {
            return Err(EngineError::instance(format!(
                "can't delete {shown}: another run is at it"
            )));
        }
        match std::fs::rename(&directory, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        durable::sync_dir(self.directory()).map_err(failed)?;
        empty(&trash).map_err(|error| {
            EngineError::caused(
                format!(
                    "snapshot {id} is deleted, but its files in {} could not be removed; `hypeman-snap prune` tries \
                     again",
                    trash.display()
                ),
                error,
            )
        })
    }

    /// Removes staging that nobody works on and finishes deletions that were cut short. Returns a line for each.
    ///
    /// # Errors
    /// When something could not be removed; the others are.
    pub fn sweep(&self) -> Result<Vec<String>, EngineError> {
        let mut done = Vec::new();
        let mut failures = Vec::new();
        for name in self.names()? {
            let text = name.to_string_lossy();
            let what = if text.starts_with(STAGING) {
                "staging that a run left behind"
            } else if text.starts_with(TRASH) {
                "what an unfinished deletion left"
            } else {
                continue;
            };
            let path = self.directory().join(&name);
            match claim(&path) {
                Ok(Some(_claimed)) => match empty(&path) {
                    Ok(()) => done.push(format!("removed {}: {what}", path.display())),
                    Err(error) => failures.push(format!("{}: {error}", path.display())),
                },
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
        if failures.is_empty() {
            return Ok(done);
        }
        for line in &done {
            log::info!("{line}");
        }
        Err(EngineError::instance(format!(
            "can't remove {}",
            failures.join(", nor ")
        )))
    }

    /// Removes the staging of one snapshot, if it is there and nobody works on it; says whether it was there.
    ///
    /// # Errors
    /// When it can't be removed, or a live run works on it.
    pub fn discard_staging(&self, id: &SnapshotId) -> Result<bool, EngineError> {
        let path = self.staging_dir(id);
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't remove {}", path.display()), error)
        };
        match claim(&path) {
            Ok(Some(_claimed)) => empty(&path).map(|()| true).map_err(failed),
            Ok(None) => Err(EngineError::instance(format!(
                "can't remove {}: another run works on it",
                path.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Removes a directory with a dot: its record first, because hypeman lists every directory that has one.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    durable::remove(&path.join("snapshot.json"))?;
    remove::tree(path).map(drop)
}

/// Opens the directory `path` and locks it, for as long as the file is open; `None` when somebody else holds it, or
/// when it has become another directory meanwhile.
///
/// # Errors
/// When there is no such directory, or it can't be opened or locked.
pub(super) fn claim(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?)
        .open(path)?;
    // The trait's function by its name: std has a method that is spelled the same.
    match FileExt::try_lock_exclusive(&directory) {
        Ok(()) => {}
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => return Ok(None),
        Err(error) => return Err(error),
    }
    let (locked, named) = (directory.metadata()?, std::fs::symlink_metadata(path)?);
    let is_same = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
    Ok(is_same.then_some(directory))
}

/// Creates the directory `path`, 0700, which must not exist.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}
