//! `guest/hypeman-snap.json`: what a person or a script needs to start a VM from a snapshot without hypeman.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::engine::local::disks::DiskPlan;
use crate::fs::beneath::Beneath;

/// The manifest's file name in the snapshot's `guest/`.
pub(super) const FILE_NAME: &str = "hypeman-snap.json";

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The version of this format.
    version: u32,
    /// The VMM's version when the snapshot was taken; a restore wants the same or a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vmm_version: Option<String>,
    /// The directory with memory and device state, relative to `guest/`; absent in a snapshot of disks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    /// How long the guest stood still, in milliseconds; absent if it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause_ms: Option<f64>,
    /// Disk copies whose place or format is not the original's, and all those of a running guest.
    disks: Vec<DiskEntry>,
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

impl Manifest {
    /// The manifest of a guest that ran.
    pub(super) fn of_running(
        vmm_version: &str,
        plan: &DiskPlan,
        state_dir: &str,
        pause: Duration,
    ) -> Self {
        Self {
            version: 1,
            vmm_version: Some(vmm_version.to_owned()),
            state_dir: Some(state_dir.to_owned()),
            pause_ms: Some(pause.as_secs_f64() * 1000.0),
            disks: plan.entries(),
        }
    }

    /// The manifest of a guest that did not run.
    pub(super) fn at_rest(disks: Vec<DiskEntry>) -> Self {
        Self {
            version: 1,
            vmm_version: None,
            state_dir: None,
            pause_ms: None,
            disks,
        }
    }

    /// Writes the manifest into the snapshot's `guest/`.
    pub(super) fn write(&self, guest: &Beneath) -> Result<(), EngineError> {
        serde_json::to_vec_pretty(self)
            .map_err(Into::into)
            .and_then(|bytes| guest.write_new(FILE_NAME, &bytes))
            .map_err(|error| {
                let path = guest.path().join(FILE_NAME);
                EngineError::caused(format!("can't write {}", path.display()), error)
            })
    }
}
