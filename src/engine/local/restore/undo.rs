//! What a restore in place replaces becomes a snapshot: linked where it lies on the store's file system, copied where not.
//! The only copy of it is never moved, so that a kill at any moment leaves it where it can be found.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};

use super::targets::Target;
use crate::engine::EngineError;
use crate::engine::local::journal::Restoring;
use crate::engine::local::metadata::Metadata;
use crate::engine::local::places::Places;
use crate::engine::local::record::RECORD;
use crate::engine::local::rest;
use crate::engine::local::staging::Staging;
use crate::engine::local::store::SnapshotStore;
use crate::engine::local::{disks, guest_files};
use crate::fs::beneath::Beneath;
use crate::fs::copy;
use crate::instance::State;
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::snapshot::manifest::{DiskEntry, Identity};
use crate::snapshot::{Consistency, Kind, Snapshot};

/// Makes the snapshot of what lies beside the disks by now; `None` if it is made already, or nothing was there.
///
/// # Errors
/// When it can't be made; then all of it lies where it lay.
pub(super) fn keep(
    store: &SnapshotStore,
    metadata: &Metadata,
    restoring: &Restoring,
    watch: Watch,
    step: &Step,
) -> Result<Option<Snapshot>, EngineError> {
    let id = &restoring.undo_id;
    if store.snapshot_dir(id).join(RECORD).exists() {
        return Ok(None);
    }
    let old: Vec<_> = restoring
        .disks
        .iter()
        .filter_map(|disk| Some((disk, disk.old?)))
        .collect();
    if old.is_empty() {
        return Ok(None);
    }
    store.discard_staging(id)?;
    let staging = Staging::create(store, id)?;
    let mut places = Places::new(None);
    let mut entries = Vec::new();
    for (disk, file_id) in old {
        let file = places.place(&disk.path, &disk.path, "").file;
        let source = Target::at(&disk.path)
            .map_err(io::Error::other)
            .and_then(|target| target.open_beside(&disk.beside, file_id))
            .map_err(|error| {
                EngineError::caused(
                    format!("can't open what was {}", disk.path.display()),
                    error,
                )
            })?;
        take(&source, staging.dir(), &file, watch, step)?;
        entries.push(DiskEntry {
            name: None,
            source: disk.path.clone(),
            identity: Some(Identity::from(file_id)),
            file,
            format: None,
            backing: None,
            backing_file: None,
        });
    }
    let memory = restoring.old_memory.as_ref();
    let memory = memory.filter(|_| restoring.is_old_memory_fresh);
    if let Some(memory) = memory {
        guest_files::copy_at_rest(&memory.directory, staging.dir(), true, watch, step)?;
    }
    let (kind, state) = match memory {
        Some(_) => (Kind::Standby, State::Standby),
        None => (Kind::Stopped, State::Stopped),
    };
    let stored_metadata = metadata.for_snapshot(state, restoring.began_at);
    guest_files::write_metadata(staging.dir(), &stored_metadata)?;
    let snapshot = Snapshot {
        id: id.clone(),
        name: restoring.undo_name.clone(),
        kind,
        consistency: Consistency::of(kind, state),
        tags: std::collections::BTreeMap::new(),
        source_instance_id: metadata.id.to_string(),
        source_instance_name: metadata.name.clone(),
        source_hypervisor: metadata.hypervisor.clone(),
        created_at: restoring.began_at,
        size_bytes: 0,
        disk_bytes: None,
        unusable: None,
        verified_at: None,
        rehearsed: None,
    };
    let manifest = rest::manifest(entries, memory);
    let published = staging.publish(snapshot, &stored_metadata, manifest, Vec::new())?;
    Ok(Some(published))
}

/// Makes `source` the file `name` of the snapshot.
fn take(
    source: &File,
    staged: &Beneath,
    name: &Path,
    watch: Watch,
    step: &Step,
) -> Result<(), EngineError> {
    let failed = |error: io::Error| {
        let path: PathBuf = staged.path().join(name);
        EngineError::caused(
            format!("can't keep what was there as {}", path.display()),
            error,
        )
    };
    // Who has another name for it could go on writing to it.
    let is_ours_alone = source.metadata().map_err(failed)?.nlink() == 1;
    if is_ours_alone {
        disks::make_parent(staged, name)?;
        let us = rustix::process::geteuid().as_raw();
        let our_group = rustix::process::getegid().as_raw();
        std::os::unix::fs::fchown(source, Some(us), Some(our_group)).map_err(failed)?;
        // The file that is open, whatever its name leads to by now.
        let held = format!("/proc/self/fd/{}", source.as_raw_fd());
        if rustix::fs::linkat(CWD, held, staged, name, AtFlags::SYMLINK_FOLLOW).is_ok() {
            return Ok(());
        }
    }
    let target = disks::make_target(staged, name)?;
    let copied = copy::file(source, &target, &|| watch.is_over(), &|bytes| {
        step.advance(bytes);
    });
    match copied {
        Ok(_) => Ok(()),
        Err(error) => {
            watch.check()?;
            Err(failed(error))
        }
    }
}
