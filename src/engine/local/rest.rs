//! The capture of a guest that does not run: `Stopped`, or `Standby` with its saved state on disk.

use std::path::Path;

use crate::engine::EngineError;
use crate::engine::local::capture::{Captured, require_space};
use crate::engine::local::guest_files;
use crate::engine::local::manifest::Manifest;
use crate::engine::local::metadata::Metadata;
use crate::engine::local::staging::Staging;
use crate::fs::beneath::Beneath;
use crate::fs::{copy, space};
use crate::progress::Progress;

/// Copies the guest's files into `staging`. Whether it stayed at rest meanwhile is the caller's to check.
pub(super) fn at_rest(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    staging: &Staging,
    progress: &Progress,
) -> Result<Captured, EngineError> {
    let guest = staging.dir();
    if let Some(guest_dir) = guest_dir {
        let mut total_bytes = None;
        if !can_share_blocks(guest_dir, guest) {
            let needed = space::disk_usage(guest_dir).map_err(|error| {
                EngineError::caused(format!("can't measure {}", guest_dir.display()), error)
            })?;
            require_space(guest.path(), needed)?;
            total_bytes = Some(needed);
        }
        let step = progress.begin(&metadata.name, "copying files", total_bytes);
        guest_files::copy_at_rest(guest_dir, guest, &step)?;
    }
    let mut disks = Vec::new();
    if let Some(registration) = &metadata.registration {
        let step = progress.begin(&metadata.name, "copying disks", None);
        disks = guest_files::copy_registered_disks(registration, guest, &step)?;
    }
    Ok(Captured {
        manifest: Manifest::at_rest(disks),
        pause: None,
        warnings: Vec::new(),
    })
}

/// Whether copies from the guest directory take no space, as tried with its metadata.
fn can_share_blocks(guest_dir: &Path, staged: &Beneath) -> bool {
    std::fs::File::open(guest_dir.join("metadata.json"))
        .and_then(|file| copy::try_reflink(&file, staged))
        .is_ok_and(|took| took.is_some())
}
