//! The files of a guest directory: which belong to a snapshot, and how those of a guest at rest are copied.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::EngineError;
use crate::engine::local::disks::{self, DiskPlan};
use crate::engine::local::manifest::{self, DiskEntry};
use crate::engine::local::metadata::Metadata;
use crate::engine::local::places::{Place, Places};
use crate::fs::beneath::Beneath;
use crate::fs::{copy, tree};
use crate::interrupt;
use crate::progress::Step;

/// QEMU's command line as hypeman keeps it; a restore needs the one of the snapshot (contract, section 4).
const QEMU_CONFIG: &str = "qemu-config.json";

/// Copies what belongs to a running guest and is none of its writable disks. Its saved states are left out: the
/// snapshot gets its own.
pub(super) fn copy_beside_disks(
    guest_dir: &Path,
    staged: &Beneath,
    plan: &DiskPlan,
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
    copy_tree(guest_dir, staged, &skip, step)
}

/// A disk that a registration names, and the place of its copy.
#[derive(Debug)]
pub(super) struct RestingDisk {
    source: PathBuf,
    place: Place,
}

impl RestingDisk {
    /// Whether the copy of the guest directory holds it, where it belongs.
    fn is_in_tree(&self) -> bool {
        self.place.inside.as_ref() == Some(&self.place.file)
    }
}

/// The disks that a registration names.
pub(super) fn registered_disks(
    metadata: &Metadata,
    guest_dir: &Path,
) -> Result<Vec<RestingDisk>, EngineError> {
    let mut places = Places::new(&disks::canonical(guest_dir)?);
    let sources = metadata.registered_disks.iter().flatten();
    sources
        .map(|source| {
            Ok(RestingDisk {
                source: source.clone(),
                place: places.place(&disks::canonical(source)?, ""),
            })
        })
        .collect()
}

/// Copies everything that belongs to a guest at rest, except those of `disks` whose copies have other places.
pub(super) fn copy_at_rest(
    guest_dir: &Path,
    staged: &Beneath,
    disks: &[RestingDisk],
    step: &Step,
) -> Result<(), EngineError> {
    let elsewhere: BTreeSet<&Path> = disks
        .iter()
        .filter(|disk| !disk.is_in_tree())
        .filter_map(|disk| disk.place.inside.as_deref())
        .collect();
    let skip = |relative: &Path| is_left_out(relative) || elsewhere.contains(relative);
    copy_tree(guest_dir, staged, &skip, step)
}

/// Copies those of `disks` that [`copy_at_rest`] has not copied, and lists all.
pub(super) fn copy_outside_disks(
    disks: Vec<RestingDisk>,
    staged: &Beneath,
    step: &Step,
) -> Result<Vec<DiskEntry>, EngineError> {
    let mut entries = Vec::new();
    for disk in disks {
        if !disk.is_in_tree() {
            let target = disks::make_target(staged, &disk.place.file)?;
            File::open(&disk.source)
                .and_then(|file| copy_file(&file, &target, &|bytes| step.advance(bytes)))
                .map_err(|error| {
                    interrupted_or(error, || {
                        format!("can't copy the disk {}", disk.source.display())
                    })
                })?;
        }
        entries.push(DiskEntry {
            name: None,
            source: disk.source,
            file: disk.place.file,
            format: None,
            backing: None,
        });
    }
    Ok(entries)
}

/// Puts what a restore needs beside the saved state. It becomes private when it is published.
pub(super) fn complete_state(guest_dir: &Path, state_dir: &Beneath) -> Result<(), EngineError> {
    let complete = || -> io::Result<()> {
        let Some(config) = Beneath::open(guest_dir)?.open_file(QEMU_CONFIG)? else {
            return Ok(());
        };
        let target = state_dir.create_file(QEMU_CONFIG)?;
        copy_file(&config, &target, &|_| {})
    };
    complete().map_err(|error| {
        let config = guest_dir.join(QEMU_CONFIG);
        EngineError::caused(format!("can't copy {}", config.display()), error)
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
    to: &Beneath,
    skip: &dyn Fn(&Path) -> bool,
    step: &Step,
) -> Result<(), EngineError> {
    let from = Beneath::open(from)
        .map_err(|error| EngineError::caused(format!("can't open {}", from.display()), error))?;
    let progress = |bytes| step.advance(bytes);
    match tree::copy(&from, to, skip, &interrupt::requested, &progress) {
        Ok(_) => Ok(()),
        Err(error) if error.is_cancelled() => Err(EngineError::Interrupted),
        Err(error) => Err(EngineError::caused("can't copy the guest's files", error)),
    }
}

fn copy_file(source: &File, target: &File, progress: &dyn Fn(u64)) -> io::Result<()> {
    copy::file(source, target, &interrupt::requested, progress).map(|_| ())
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
