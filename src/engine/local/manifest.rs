//! `guest/hypeman-snap.json`: what a person or a script needs to start a VM from a snapshot without hypeman, and which
//! files are there. When it is read it is a stranger's: no path in it is used before [`Manifest::read`] has checked it.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::engine::local::disks::DiskPlan;
use crate::engine::local::json::{self, FILE_MAX_BYTES, ReadError};
use crate::fs::beneath::Beneath;
use crate::snapshot::SnapshotId;

/// The manifest's file name in the snapshot's `guest/`.
pub(super) const FILE_NAME: &str = "hypeman-snap.json";
/// The version that is written. Version 1 has no `files`.
const VERSION: u32 = 2;
/// More files than this are no guest's.
const FILES_MAX: usize = 4096;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The version of this format.
    version: u32,
    /// The snapshot that it was written for; absent in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    /// The VMM's version when the snapshot was taken; a restore wants the same or a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vmm_version: Option<String>,
    /// The directory with memory and device state, relative to `guest/`; absent in a snapshot of disks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    /// How long the guest was paused, in milliseconds; absent if it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause_ms: Option<f64>,
    /// Disk copies whose place or format is not the original's, and all those of a running guest.
    #[serde(default)]
    pub(super) disks: Vec<DiskEntry>,
    /// Every file below `guest/` but `metadata.json` and the manifest itself; empty in version 1.
    #[serde(default)]
    pub(super) files: Vec<FileEntry>,
}

/// One disk copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskEntry {
    /// The VMM's name for the disk; absent if no VMM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Where the disk was.
    pub(super) source: PathBuf,
    /// Where its copy is, relative to `guest/`.
    pub(super) file: PathBuf,
    /// The image format, where the VMM told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<String>,
    /// The file that the copy still refers to for unchanged data and that is not part of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) backing: Option<PathBuf>,
}

/// One file of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Where it is, relative to `guest/`.
    pub(super) path: PathBuf,
    /// Its length, holes included.
    pub(super) size_bytes: u64,
}

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it names {0:?}, which is not a plain path below the snapshot's guest/")]
    Path(PathBuf),
    #[error("it lists {0} files, and {FILES_MAX} are allowed")]
    TooMany(usize),
}

impl Manifest {
    /// The manifest of a guest that ran.
    pub(super) fn of_running(
        vmm_version: &str,
        plan: &DiskPlan,
        state_dir: &str,
        pause: Duration,
    ) -> Self {
        Self {
            vmm_version: Some(vmm_version.to_owned()),
            state_dir: Some(state_dir.to_owned()),
            pause_ms: Some(pause.as_secs_f64() * 1000.0),
            ..Self::at_rest(plan.entries())
        }
    }

    /// The manifest of a guest that did not run.
    pub(super) const fn at_rest(disks: Vec<DiskEntry>) -> Self {
        Self {
            version: VERSION,
            snapshot_id: None,
            vmm_version: None,
            state_dir: None,
            pause_ms: None,
            disks,
            files: Vec::new(),
        }
    }

    /// Adds what is in `guest/` of the snapshot `id`.
    pub(super) fn complete(&mut self, id: &SnapshotId, files: Vec<FileEntry>) {
        self.snapshot_id = Some(id.to_string());
        self.files = files;
    }

    /// Whether it may have been written for the snapshot `id`. hypeman restores ours with their manifests and copies
    /// those into its own later snapshots of that instance, about which they say nothing.
    pub(super) fn is_of(&self, id: &SnapshotId) -> bool {
        !self.lists_files() || self.snapshot_id.as_deref() == Some(id.as_str())
    }

    /// Reads the manifest in the open directory `guest/`. Its paths are plain ones below that directory.
    ///
    /// # Errors
    /// When there is none, it can't be read, or says what no manifest says.
    pub(super) fn read(guest: impl AsFd) -> Result<Self, ManifestError> {
        let manifest: Self = json::read_at(guest, FILE_NAME)?;
        let count = manifest.files.len().max(manifest.disks.len());
        if count > FILES_MAX {
            return Err(ManifestError::TooMany(count));
        }
        if let Some(path) = manifest.paths().find(|path| !is_plain(path)) {
            return Err(ManifestError::Path(path.to_owned()));
        }
        Ok(manifest)
    }

    /// Every path that it names below `guest/`.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = self.files.iter().map(|entry| entry.path.as_path());
        let disks = self.disks.iter().map(|entry| entry.file.as_path());
        files
            .chain(disks)
            .chain(self.state_dir.as_deref().map(Path::new))
    }

    /// The directory with memory and device state, where the manifest says it.
    pub(super) fn state_dir(&self) -> Option<&Path> {
        self.state_dir.as_deref().map(Path::new)
    }

    /// Whether the manifest lists the snapshot's files.
    pub(super) const fn lists_files(&self) -> bool {
        self.version >= VERSION
    }

    /// Writes the manifest into the snapshot's `guest/`.
    ///
    /// # Errors
    /// When it can't be written, or could not be read again.
    pub(super) fn write(&self, guest: &Beneath) -> Result<(), EngineError> {
        let path = guest.path().join(FILE_NAME);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| {
            EngineError::caused(format!("can't make {}", path.display()), error)
        })?;
        if self.files.len() > FILES_MAX || bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(EngineError::instance(format!(
                "the snapshot would have {} files, and {FILES_MAX} are allowed; remove from the instance's directory \
                 what is not the instance's",
                self.files.len()
            )));
        }
        guest
            .write_new(FILE_NAME, &bytes)
            .map_err(|error| EngineError::caused(format!("can't write {}", path.display()), error))
    }
}

/// Whether a path leads from a directory downwards and nowhere else.
fn is_plain(path: &Path) -> bool {
    let is_below = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    is_below && !path.as_os_str().is_empty() && !path.as_os_str().as_encoded_bytes().contains(&0)
}
