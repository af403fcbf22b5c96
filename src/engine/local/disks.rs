//! The disks of a running guest: where each copy goes and how it is made as of the instant of the pause.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::local::manifest::DiskEntry;
use crate::fs::copy;
use crate::interrupt;
use crate::progress::Step;
use crate::vmm::{Deadline, Disk, DiskCopy, VmmError};

/// The directory in the snapshot's `guest/` for disks that live outside the guest directory.
const OUTSIDE: &str = "disks";
/// The longest that a reflink may take inside the pause where the VMM can copy by itself. A disk in very many pieces
/// takes longer, and the start of the VMM's copy does not.
const REFLINK_MAX: Duration = Duration::from_millis(100);

/// How a disk is copied.
#[derive(Debug)]
enum Method {
    /// The file system shares the blocks: milliseconds inside the pause, more for a disk in very many pieces.
    Reflink { source: File, target: File },
    /// The VMM copies by itself while the guest goes on.
    ByVmm,
    /// This process copies inside the pause: as long as the disk is large.
    InPause { source: File, target: File },
}

/// A writable disk and its copy.
#[derive(Debug)]
pub(super) struct PlannedDisk {
    pub(super) disk: Disk,
    /// The copy, relative to the snapshot's `guest/`.
    pub(super) file: PathBuf,
    target: PathBuf,
    method: Method,
}

/// All writable disks of a guest.
#[derive(Debug)]
pub(super) struct DiskPlan {
    pub(super) disks: Vec<PlannedDisk>,
}

impl DiskPlan {
    /// Decides for each writable disk, by trial, how it will be copied, and creates the copies' files (but those that
    /// the VMM creates).
    pub(super) fn make(
        disks: Vec<Disk>,
        guest_dir: &Path,
        staged_guest: &Path,
        vmm_copies: bool,
    ) -> Result<Self, EngineError> {
        let mut planned: Vec<PlannedDisk> = Vec::new();
        for disk in disks.into_iter().filter(|disk| !disk.is_read_only) {
            let is_taken = |file: &Path| planned.iter().any(|other| other.file == file);
            let file = place(&disk.path, disk.name.as_ref(), guest_dir, is_taken)?;
            let target = staged_guest.join(&file);
            let method = choose(&disk, &target, vmm_copies)?;
            planned.push(PlannedDisk {
                disk,
                file,
                target,
                method,
            });
        }
        Ok(Self { disks: planned })
    }

    /// The disks that the VMM copies.
    pub(super) fn by_vmm(&self) -> Vec<DiskCopy> {
        self.disks
            .iter()
            .filter(|planned| matches!(planned.method, Method::ByVmm))
            .map(|planned| DiskCopy {
                disk: planned.disk.clone(),
                target: planned.target.clone(),
            })
            .collect()
    }

    /// The copies as the manifest lists them.
    pub(super) fn entries(&self) -> Vec<DiskEntry> {
        self.disks
            .iter()
            .map(|planned| DiskEntry {
                name: Some(planned.disk.name.clone()),
                source: planned.disk.path.clone(),
                file: planned.file.clone(),
                format: Some(planned.disk.format.clone()),
                // What the VMM copies stands alone.
                backing: match planned.method {
                    Method::ByVmm => None,
                    Method::Reflink { .. } | Method::InPause { .. } => planned.disk.backing.clone(),
                },
            })
            .collect()
    }

    /// The bytes that the copies will need at most, those that share blocks not counted.
    pub(super) fn needed_bytes(&self) -> u64 {
        self.disks
            .iter()
            .filter(|planned| !matches!(planned.method, Method::Reflink { .. }))
            .filter_map(|planned| std::fs::metadata(&planned.disk.path).ok())
            .map(|metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
            .sum()
    }

    /// Whether this process copies disks while the guest stands still.
    pub(super) fn copies_in_pause(&self) -> bool {
        self.disks
            .iter()
            .any(|planned| matches!(planned.method, Method::InPause { .. }))
    }

    /// Writes out what the kernel still holds of the disks, so that the copies inside the pause don't have to.
    pub(super) fn write_out(&self) -> Result<(), EngineError> {
        for planned in &self.disks {
            let (Method::Reflink { source, .. } | Method::InPause { source, .. }) = &planned.method
            else {
                continue;
            };
            source.sync_data().map_err(|error| {
                EngineError::caused(format!("can't sync {}", planned.disk.path.display()), error)
            })?;
        }
        Ok(())
    }

    /// Copies the disks of a guest that stands still, those of the VMM excepted.
    pub(super) fn copy(&self, deadline: Deadline, step: &Step) -> Result<(), EngineError> {
        let is_cancelled = || interrupt::requested() || deadline.has_passed();
        for planned in &self.disks {
            let copied = match &planned.method {
                Method::ByVmm => Ok(()),
                Method::Reflink { source, target } => copy::reflink(source, target),
                Method::InPause { source, target } => {
                    let progress = |bytes| step.advance(bytes);
                    copy::sparse(source, target, &is_cancelled, &progress).map(|_| ())
                }
            };
            copied.map_err(|error| {
                if interrupt::requested() {
                    EngineError::Interrupted
                } else if deadline.has_passed() {
                    VmmError::PauseTooLong {
                        limit: deadline.limit(),
                    }
                    .into()
                } else {
                    EngineError::caused(
                        format!("can't copy the disk {}", planned.disk.path.display()),
                        error,
                    )
                }
            })?;
        }
        Ok(())
    }
}

/// Where a disk's copy goes, relative to the snapshot's `guest/`: at its own place if it lives in the guest directory,
/// else under `disks/`, by its file name, or by `name` where it has none.
pub(super) fn place(
    disk: &Path,
    name: &OsStr,
    guest_dir: &Path,
    is_taken: impl Fn(&Path) -> bool,
) -> Result<PathBuf, EngineError> {
    let canonical = |path: &Path| {
        path.canonicalize()
            .map_err(|error| EngineError::caused(format!("can't find {}", path.display()), error))
    };
    let path = canonical(disk)?;
    if let Ok(inside) = path.strip_prefix(canonical(guest_dir)?) {
        return Ok(inside.to_owned());
    }
    let file_name = path.file_name().unwrap_or(name);
    let mut file = Path::new(OUTSIDE).join(file_name);
    let mut number = 1;
    while is_taken(&file) {
        let mut numbered = OsString::from(format!("{number}-"));
        numbered.push(file_name);
        file = Path::new(OUTSIDE).join(numbered);
        number += 1;
    }
    Ok(file)
}

fn choose(disk: &Disk, target: &Path, vmm_copies: bool) -> Result<Method, EngineError> {
    let failed = |what: &str, path: &Path| format!("can't {what} {}", path.display());
    let directory = target.parent().unwrap_or(target);
    crate::fs::durable::create_dir(directory)
        .map_err(|error| EngineError::caused(failed("create", directory), error))?;
    // A copy that leans on a backing file would be lost with it; the VMM can make one that stands alone.
    if disk.backing.is_some() && vmm_copies {
        return Ok(Method::ByVmm);
    }
    let source = File::open(&disk.path)
        .map_err(|error| EngineError::caused(failed("open the disk", &disk.path), error))?;
    let reflink_takes = copy::try_reflink(&source, directory)
        .map_err(|error| EngineError::caused(failed("try a reflink into", directory), error))?;
    if vmm_copies && reflink_takes.is_none_or(|took| took > REFLINK_MAX) {
        return Ok(Method::ByVmm);
    }
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(|error| EngineError::caused(failed("create", target), error))?;
    Ok(if reflink_takes.is_some() {
        Method::Reflink { source, target }
    } else {
        Method::InPause { source, target }
    })
}
