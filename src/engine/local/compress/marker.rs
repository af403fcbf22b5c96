//! Which snapshots are being compressed: a file for each, which says where it is, and which its maker holds locked. One that
//! nobody holds was left by the dead.

use std::io;
use std::path::{Path, PathBuf};

use crate::fs::bounded;
use crate::fs::lock::{self, Lock};
use crate::snapshot::SnapshotId;

/// Longer than any path.
const PATH_MAX_BYTES: u64 = 4096;

/// All of them.
#[derive(Debug)]
pub(in crate::engine::local) struct Markers {
    directory: PathBuf,
}

impl Markers {
    /// Those in `directory`; nothing is created yet.
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Marks the snapshot `id`, which is at `place`, durably; `None` when somebody else holds its marker.
    ///
    /// # Errors
    /// When the marker can't be made.
    pub(super) fn take(&self, id: &SnapshotId, place: &Path) -> io::Result<Option<Lock>> {
        let content = place.as_os_str().as_encoded_bytes();
        lock::take_removable(&self.directory.join(id.as_str()), content)
    }

    /// Removes a marker whose snapshot is in order.
    ///
    /// # Errors
    /// When it can't be removed.
    pub(super) fn remove(&self, id: &SnapshotId, marker: Lock) -> io::Result<()> {
        // Not durable: one that comes back is found to be of no account.
        let removed = std::fs::remove_file(self.directory.join(id.as_str()));
        drop(marker);
        removed
    }

    /// The snapshots that are marked, and where they are.
    ///
    /// # Errors
    /// When they can't be read.
    pub(super) fn list(&self) -> io::Result<Vec<(SnapshotId, PathBuf)>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let place = match std::fs::File::open(self.directory.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => bounded::read(opened?, PATH_MAX_BYTES)?,
            };
            let place = String::from_utf8_lossy(&place).into_owned();
            found.push((id, PathBuf::from(place)));
        }
        Ok(found)
    }
}
