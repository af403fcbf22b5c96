//! The files of a guest directory: which belong to a snapshot, and how those of a guest at rest are copied.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::EngineError;
use crate::engine::local::disks::{self, DiskPlan};
use crate::engine::local::places::{Place, Places};
use crate::engine::local::registration::DiskAtRest;
use crate::fs::beneath::Beneath;
use crate::fs::open_files::FileId;
use crate::fs::{copy, space, tree};
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::snapshot::manifest::{DiskEntry, FILE_NAME, Identity};

/// QEMU's command line as hypeman keeps it; a restore needs the one of the snapshot (contract, section 4).
const QEMU_CONFIG: &str = "qemu-config.json";

/// Copies what belongs to a running guest and is none of its writable disks. Its saved states are left out: the
/// snapshot gets its own.
pub(super) fn copy_beside_disks(
    guest_dir: &Path,
    staged: &Beneath,
    plan: &DiskPlan,
    watch: Watch,
    step: &Step,
) -> Result<(), EngineError> {
    let disks: BTreeSet<&Path> = plan
        .disks
        .iter()
        .filter_map(|planned| planned.place.inside.as_deref())
        .collect();
    let skip = |relative: &Path| {
        is_left_out(relative) || relative == Path::new("snapshots") || disks.contains(relative)
    };
    copy_tree(guest_dir, staged, &skip, watch, step)
}

/// Copies everything that belongs to a guest at rest, its saved states if they are wanted.
pub(super) fn copy_at_rest(
    guest_dir: &Path,
    staged: &Beneath,
    with_memory: bool,
    watch: Watch,
    step: &Step,
) -> Result<(), EngineError> {
    let skip = |relative: &Path| {
        is_left_out(relative) || !with_memory && relative == Path::new("snapshots")
    };
    copy_tree(guest_dir, staged, &skip, watch, step)
}

/// A disk of a registered VM, and the place of its copy.
#[derive(Debug)]
pub(super) struct RegisteredDisk {
    source: PathBuf,
    /// The disk, opened.
    file: File,
    place: Place,
}

/// Opens the disks of a registered VM.
pub(super) fn registered_disks(
    disks: &[DiskAtRest<'_>],
) -> Result<Vec<RegisteredDisk>, EngineError> {
    let mut places = Places::new(None);
    let open = |disk: &DiskAtRest<'_>| {
        let source = disk.path();
        let failed =
            |error| EngineError::caused(format!("can't open the disk {}", source.display()), error);
        Ok(RegisteredDisk {
            source: source.to_owned(),
            file: disk.open().map_err(failed)?,
            place: places.place(source, source, ""),
        })
    };
    disks.iter().map(open).collect()
}

/// The bytes that the copies of `disks` in `staged` need at most.
pub(super) fn needed_bytes(disks: &[RegisteredDisk], staged: &Beneath) -> Result<u64, EngineError> {
    let mut needed: u64 = 0;
    for disk in disks {
        let bytes = match copy::can_share(&disk.file, staged) {
            Ok(true) => 0,
            Ok(false) => space::data_bytes(&disk.file).map_err(|error| {
                let source = disk.source.display();
                EngineError::caused(format!("can't tell the size of disk {source}"), error)
            })?,
            Err(error) => {
                let directory = staged.path().display();
                let what = format!("can't try a reflink into {directory}");
                return Err(EngineError::caused(what, error));
            }
        };
        needed = needed.saturating_add(bytes);
    }
    Ok(needed)
}

/// Copies `disks`, and lists them.
pub(super) fn copy_registered_disks(
    disks: Vec<RegisteredDisk>,
    staged: &Beneath,
    watch: Watch,
    step: &Step,
) -> Result<Vec<DiskEntry>, EngineError> {
    let mut entries = Vec::new();
    for disk in disks {
        let target = disks::make_target(staged, &disk.place.file)?;
        copy_file(&disk.file, &target, watch, &|bytes| step.advance(bytes)).map_err(|error| {
            over_or(watch, error, || {
                format!("can't copy the disk {}", disk.source.display())
            })
        })?;
        entries.push(DiskEntry {
            name: None,
            source: disk.source,
            identity: FileId::of(&disk.file).ok().map(Identity::from),
            file: disk.place.file,
            format: None,
            backing: None,
            backing_file: None,
        });
    }
    Ok(entries)
}

/// Puts what a restore needs beside the saved state. It becomes private when it is published.
pub(super) fn complete_state(
    guest_dir: &Path,
    state_dir: &Beneath,
    watch: Watch,
) -> Result<(), EngineError> {
    let complete = || -> io::Result<()> {
        let Some(config) = Beneath::open(guest_dir)?.open_file(QEMU_CONFIG)? else {
            return Ok(());
        };
        let target = state_dir.create_file(QEMU_CONFIG)?;
        copy_file(&config, &target, watch, &|_| {})
    };
    complete().map_err(|error| {
        let config = guest_dir.join(QEMU_CONFIG);
        EngineError::caused(format!("can't copy {}", config.display()), error)
    })
}

/// What never belongs to a snapshot: logs, half-made compressions (contract, "copy rules"), and what is written anew.
pub(super) fn is_left_out(relative: &Path) -> bool {
    let name = relative.file_name().and_then(|name| name.to_str());
    let is_half_made =
        name.is_some_and(|name| name.ends_with(".lz4.tmp") || name.ends_with(".zst.tmp"));
    is_half_made
        || ["logs", "metadata.json", FILE_NAME]
            .iter()
            .any(|left_out| relative == Path::new(left_out))
}

fn copy_tree(
    from: &Path,
    to: &Beneath,
    skip: &dyn Fn(&Path) -> bool,
    watch: Watch,
    step: &Step,
) -> Result<(), EngineError> {
    let from = Beneath::open(from)
        .map_err(|error| EngineError::caused(format!("can't open {}", from.display()), error))?;
    let progress = |bytes| step.advance(bytes);
    match tree::copy(&from, to, skip, &|| watch.is_over(), &progress) {
        Ok(_) => Ok(()),
        Err(error) => {
            watch.check()?;
            Err(EngineError::caused("can't copy the guest's files", error))
        }
    }
}

fn copy_file(source: &File, target: &File, watch: Watch, progress: &dyn Fn(u64)) -> io::Result<()> {
    copy::file(source, target, &|| watch.is_over(), progress).map(|_| ())
}

/// What a copy failed by: that it had to end, or `error`.
fn over_or(watch: Watch, error: io::Error, message: impl FnOnce() -> String) -> EngineError {
    match watch.check() {
        Err(over) => over.into(),
        Ok(()) => EngineError::caused(message(), error),
    }
}

/// Writes the snapshot's own `metadata.json`: that of the instance at rest.
pub(super) fn write_metadata(
    staged: &Beneath,
    metadata: &serde_json::Map<String, serde_json::Value>,
) -> Result<(), EngineError> {
    const FILE_NAME: &str = "metadata.json";
    serde_json::to_vec_pretty(metadata)
        .map_err(io::Error::from)
        .and_then(|bytes| staged.write_new(FILE_NAME, &bytes))
        .map_err(|error| {
            let path = staged.path().join(FILE_NAME);
            EngineError::caused(format!("can't write {}", path.display()), error)
        })
}
