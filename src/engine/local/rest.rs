//! The capture of a guest that does not run: `Stopped`, or `Standby` with its saved state on disk.

use std::path::Path;

use crate::engine::EngineError;
use crate::engine::local::capture::{Captured, Surroundings};
use crate::engine::local::guest_files;
use crate::engine::local::metadata::Metadata;
use crate::engine::local::registration::RestoredMemory;
use crate::engine::local::staging::Staging;
use crate::fs::beneath::Beneath;
use crate::fs::{copy, space};
use crate::host::priority::IdleDisk;
use crate::snapshot::Kind;
use crate::snapshot::manifest::{DiskEntry, Manifest};

/// Copies the guest's files into `staging`, with the memory that was `restored` for it. Whether it stayed at rest meanwhile is the caller's to check.
pub(super) fn at_rest(
    around: &Surroundings<'_>,
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    restored: Option<&RestoredMemory>,
    kind: Kind,
    staging: &Staging,
) -> Result<Captured, EngineError> {
    // Others run.
    let _idle = IdleDisk::begin();
    let guest = staging.dir();
    let guest_dir = guest_dir.or(restored.map(|it| it.directory.as_path()));
    let disks = guest_files::registered_disks(&metadata.disks_at_rest())?;
    let mut tree_bytes = None;
    if let Some(guest_dir) = guest_dir.filter(|guest_dir| !can_share_blocks(guest_dir, guest)) {
        let bytes = space::disk_usage(guest_dir).map_err(|error| {
            EngineError::caused(format!("can't measure {}", guest_dir.display()), error)
        })?;
        tree_bytes = Some(bytes);
    }
    let disk_bytes = guest_files::needed_bytes(&disks, guest)?;
    let needed_bytes = tree_bytes.unwrap_or(0).saturating_add(disk_bytes);
    around.room.reserve(staging.path(), needed_bytes)?;
    let watch = around.timeouts.watch.sized(needed_bytes);
    let progress = around.progress;
    if let Some(guest_dir) = guest_dir {
        let step = progress.begin(&metadata.name, "copying files", tree_bytes);
        guest_files::copy_at_rest(guest_dir, guest, kind == Kind::Standby, watch, &step)?;
    }
    let disk_bytes = (disk_bytes > 0).then_some(disk_bytes);
    let step = progress.begin(&metadata.name, "copying disks", disk_bytes);
    let disks = guest_files::copy_registered_disks(disks, guest, watch, &step)?;
    drop(step);
    Ok(Captured {
        manifest: manifest(disks, restored),
        pause: None,
        warnings: Vec::new(),
        next: None,
    })
}

/// The manifest of a guest at rest with these disks: how its memory was made, if it has some of a restore, goes with it.
pub(super) fn manifest(disks: Vec<DiskEntry>, restored: Option<&RestoredMemory>) -> Manifest {
    let manifest = Manifest::at_rest(disks);
    match restored {
        Some(restored) => manifest.with_state_of(&restored.manifest),
        None => manifest,
    }
}

/// Whether copies from the guest directory take no space, as tried with its metadata.
fn can_share_blocks(guest_dir: &Path, staged: &Beneath) -> bool {
    Beneath::open(guest_dir)
        .and_then(|guest_dir| guest_dir.open_file("metadata.json"))
        .ok()
        .flatten()
        .is_some_and(|file| copy::can_share(&file, staged).unwrap_or(false))
}
