//! The disks of a running guest: where each copy goes and how it is made as of the instant of the pause.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::local::manifest::DiskEntry;
use crate::engine::local::places::{Place, Places};
use crate::fs::beneath::Beneath;
use crate::fs::copy;
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::vmm::{Deadline, Disk, DiskCopy, VmmError};

/// The longest that a reflink may take inside the pause where the VMM can copy by itself. A disk in very many pieces
/// takes longer, and the start of the VMM's copy does not.
const REFLINK_MAX: Duration = Duration::from_millis(100);

/// How a disk is copied.
#[derive(Debug)]
enum Method {
    /// The file system shares the blocks: milliseconds inside the pause, more for a disk in very many pieces.
    Reflink { source: File, target: File },
    /// The VMM copies by itself while the guest goes on.
    ByVmm(DiskCopy),
    /// This process copies inside the pause: as long as the disk is large.
    InPause { source: File, target: File },
}

/// A writable disk and its copy.
#[derive(Debug)]
pub(super) struct PlannedDisk {
    pub(super) disk: Disk,
    /// Where the copy goes.
    pub(super) place: Place,
    method: Method,
}

/// All writable disks of a guest.
#[derive(Debug)]
pub(super) struct DiskPlan {
    pub(super) disks: Vec<PlannedDisk>,
}

impl DiskPlan {
    /// Decides for each writable disk, by trial, how it will be copied, and creates the copies' files in `staged`.
    pub(super) fn make(
        disks: Vec<Disk>,
        guest_dir: Option<&Path>,
        staged: &Beneath,
        vmm_copies: bool,
    ) -> Result<Self, EngineError> {
        let mut places = Places::new(guest_dir.map(canonical).transpose()?);
        let mut planned = Vec::new();
        for disk in disks.into_iter().filter(|disk| !disk.is_read_only) {
            let place = places.place(&canonical(&disk.path)?, &disk.name);
            let method = choose(&disk, staged, &place, vmm_copies)?;
            planned.push(PlannedDisk {
                disk,
                place,
                method,
            });
        }
        Ok(Self { disks: planned })
    }

    /// The disks that the VMM copies.
    pub(super) fn by_vmm(&self) -> Vec<DiskCopy> {
        self.disks
            .iter()
            .filter_map(|planned| match &planned.method {
                Method::ByVmm(copy) => Some(copy.clone()),
                Method::Reflink { .. } | Method::InPause { .. } => None,
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
                file: planned.place.file.clone(),
                format: Some(planned.disk.format.clone()),
                // What the VMM copies stands alone.
                backing: match planned.method {
                    Method::ByVmm(_) => None,
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
    pub(super) fn copy(
        &self,
        deadline: Deadline,
        watch: Watch,
        step: &Step,
    ) -> Result<(), EngineError> {
        let is_cancelled = || watch.is_over() || deadline.has_passed();
        for planned in &self.disks {
            let copied = match &planned.method {
                Method::ByVmm(_) => Ok(()),
                Method::Reflink { source, target } => copy::reflink(source, target),
                Method::InPause { source, target } => {
                    let progress = |bytes| step.advance(bytes);
                    copy::sparse(source, target, &is_cancelled, &progress).map(|_| ())
                }
            };
            copied.map_err(|error| {
                if let Err(over) = watch.check() {
                    over.into()
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

/// `path` without symlinks.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, EngineError> {
    path.canonicalize()
        .map_err(|error| EngineError::caused(format!("can't find {}", path.display()), error))
}

fn choose(
    disk: &Disk,
    staged: &Beneath,
    place: &Place,
    vmm_copies: bool,
) -> Result<Method, EngineError> {
    let failed = |what: &str, path: &Path| format!("can't {what} {}", path.display());
    let directory = make_parent(staged, &place.file)?;
    let target = make_target(staged, &place.file)?;
    let by_vmm = |target| {
        Method::ByVmm(DiskCopy {
            disk: disk.clone(),
            target: Arc::new(target),
            target_path: staged.path().join(&place.file),
        })
    };
    // A copy that leans on a backing file would be lost with it; the VMM can make one that stands alone.
    if disk.backing.is_some() && vmm_copies {
        return Ok(by_vmm(target));
    }
    let source = File::open(&disk.path)
        .map_err(|error| EngineError::caused(failed("open the disk", &disk.path), error))?;
    let reflink_takes = copy::try_reflink(&source, &directory).map_err(|error| {
        EngineError::caused(failed("try a reflink into", directory.path()), error)
    })?;
    if vmm_copies && reflink_takes.is_none_or(|took| took > REFLINK_MAX) {
        return Ok(by_vmm(target));
    }
    Ok(if reflink_takes.is_some() {
        Method::Reflink { source, target }
    } else {
        Method::InPause { source, target }
    })
}

/// Creates the directory for the copy `file` in `staged`.
fn make_parent(staged: &Beneath, file: &Path) -> Result<Beneath, EngineError> {
    let directory = file.parent().unwrap_or(Path::new(""));
    staged.create_dir(directory).map_err(|error| {
        let path = staged.path().join(directory);
        EngineError::caused(format!("can't create {}", path.display()), error)
    })
}

/// Creates the copy `file` in `staged`, empty, with its directory.
pub(super) fn make_target(staged: &Beneath, file: &Path) -> Result<File, EngineError> {
    make_parent(staged, file)?;
    staged.create_file(file).map_err(|error| {
        let path = staged.path().join(file);
        EngineError::caused(format!("can't create {}", path.display()), error)
    })
}
