//! The files of a guest directory: which belong to a snapshot, and how those of a guest at rest are copied.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::engine::EngineError;
use crate::engine::local::disks::{self, DiskPlan};
use crate::engine::local::manifest::{self, DiskEntry};
use crate::engine::local::metadata::Metadata;
use crate::fs::{copy, tree};
use crate::interrupt;
use crate::progress::Step;

/// QEMU's command line as hypeman keeps it; a restore needs the one of the snapshot (contract, section 4).
const QEMU_CONFIG: &str = "qemu-config.json";

/// Copies what belongs to a running guest and is none of its writable disks. Its saved states are left out: the
/// snapshot gets its own.
pub(super) fn copy_beside_disks(
    guest_dir: &Path,
    staged: &Path,
    plan: &DiskPlan,
    step: &Step,
) -> Result<(), EngineError> {
    let disks: BTreeSet<&Path> = plan
        .disks
        .iter()
        .map(|planned| planned.file.as_path())
        .collect();
    let skip = |relative: &Path| {
        is_left_out(relative) || relative == Path::new("snapshots") || disks.contains(relative)
    };
    copy_tree(guest_dir, staged, &skip, step)
}

/// Copies everything that belongs to a guest at rest.
pub(super) fn copy_at_rest(
    guest_dir: &Path,
    staged: &Path,
    step: &Step,
) -> Result<(), EngineError> {
    copy_tree(guest_dir, staged, &is_left_out, step)
}

/// Copies the disks that a registration names and that live outside the guest directory.
pub(super) fn copy_outside_disks(
    metadata: &Metadata,
    guest_dir: &Path,
    staged: &Path,
    step: &Step,
) -> Result<Vec<DiskEntry>, EngineError> {
    let mut entries: Vec<DiskEntry> = Vec::new();
    for source in metadata.registered_disks.iter().flatten() {
        let is_taken = |file: &Path| entries.iter().any(|entry| entry.file == file);
        let file = disks::place(source, source.as_os_str(), guest_dir, is_taken)?;
        let target = staged.join(&file);
        if !target.exists() {
            copy_file(source, &target, &|bytes| step.advance(bytes)).map_err(|error| {
                interrupted_or(error, || {
                    format!("can't copy the disk {}", source.display())
                })
            })?;
        }
        entries.push(DiskEntry {
            name: None,
            source: source.clone(),
            file,
            format: None,
            backing: None,
        });
    }
    Ok(entries)
}

/// Puts what a restore needs beside the saved state and makes everything there private: VMMs create files by their own
/// umask.
pub(super) fn complete_state(guest_dir: &Path, state_dir: &Path) -> Result<(), EngineError> {
    let complete = || -> io::Result<()> {
        let config = guest_dir.join(QEMU_CONFIG);
        if config.is_file() {
            copy_file(&config, &state_dir.join(QEMU_CONFIG), &|_| {})?;
        }
        for entry in fs::read_dir(state_dir)? {
            let path = entry?.path();
            if path.symlink_metadata()?.is_file() {
                fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
            }
        }
        Ok(())
    };
    complete().map_err(|error| {
        EngineError::caused(format!("can't complete {}", state_dir.display()), error)
    })
}

/// What never belongs to a snapshot: logs, half-made compressions (contract, "copy rules"), and what is written anew.
fn is_left_out(relative: &Path) -> bool {
    let name = relative.file_name().and_then(|name| name.to_str());
    let is_half_made =
        name.is_some_and(|name| name.ends_with(".lz4.tmp") || name.ends_with(".zst.tmp"));
    is_half_made
        || ["logs", "metadata.json", manifest::FILE_NAME]
            .iter()
            .any(|left_out| relative == Path::new(left_out))
}

fn copy_tree(
    from: &Path,
    to: &Path,
    skip: &dyn Fn(&Path) -> bool,
    step: &Step,
) -> Result<(), EngineError> {
    let progress = |bytes| step.advance(bytes);
    match tree::copy(from, to, skip, &interrupt::requested, &progress) {
        Ok(_) => Ok(()),
        Err(error) if error.is_cancelled() => Err(EngineError::Interrupted),
        Err(error) => Err(EngineError::caused("can't copy the guest's files", error)),
    }
}

fn copy_file(source: &Path, target: &Path, progress: &dyn Fn(u64)) -> io::Result<()> {
    if let Some(directory) = target.parent() {
        crate::fs::durable::create_dir(directory)?;
    }
    let source = File::open(source)?;
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)?;
    copy::file(&source, &target, &interrupt::requested, progress).map(|_| ())
}

fn interrupted_or(error: io::Error, message: impl FnOnce() -> String) -> EngineError {
    if interrupt::requested() {
        EngineError::Interrupted
    } else {
        EngineError::caused(message(), error)
    }
}

/// Writes the snapshot's own `metadata.json`: that of the instance at rest.
pub(super) fn write_metadata(
    staged: &Path,
    metadata: &serde_json::Map<String, serde_json::Value>,
) -> Result<(), EngineError> {
    let path = staged.join("metadata.json");
    serde_json::to_vec_pretty(metadata)
        .map_err(io::Error::from)
        .and_then(|bytes| crate::fs::durable::write(&path, &bytes, 0o600))
        .map_err(|error| EngineError::caused(format!("can't write {}", path.display()), error))
}
