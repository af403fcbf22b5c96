//! The disks of a running guest: where each copy goes and how it is made as of the instant of the pause.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::local::learn;
use crate::engine::local::places::{Place, Places};
use crate::engine::local::registration::LearntDisk;
use crate::fs::beneath::Beneath;
use crate::fs::open_files::FileId;
use crate::fs::{copy, space};
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::snapshot::manifest::{DiskEntry, Identity, ReadOnlyDisk, Stamp};
use crate::vmm::disk_files::{self, DiskFile, DiskFiles};
use crate::vmm::{Deadline, Disk, DiskCopy, MAX_DISKS, VmmError};

/// The longest that a reflink may take inside the pause where the VMM can copy by itself. A disk in very many pieces
/// takes longer, and the start of the VMM's copy does not.
const REFLINK_MAX: Duration = Duration::from_millis(100);

/// How a disk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyMode {
    /// The file system shares the blocks: milliseconds inside the pause, more for a disk in very many pieces.
    Reflink,
    /// The VMM copies by itself while the guest goes on.
    ByVmm,
    /// This process copies inside the pause: as long as the disk is large.
    InPause,
}

/// A writable disk and its copy.
#[derive(Debug)]
pub(super) struct PlannedDisk {
    pub(super) disk: Disk,
    /// Where it is, for people.
    path: PathBuf,
    /// Its file, opened once.
    source: Arc<File>,
    /// Where the copy goes.
    pub(super) place: Place,
    target: Arc<File>,
    target_path: PathBuf,
    method: CopyMode,
}

/// All disks of a guest.
#[derive(Debug)]
pub(super) struct DiskPlan {
    pub(super) disks: Vec<PlannedDisk>,
    /// Those that the guest can't write to, and that are not copied.
    pub(super) read_only: Vec<ReadOnlyDisk>,
}

impl DiskPlan {
    /// Finds the file of each writable disk, decides by trial how it will be copied, and creates the copies' files in
    /// `staged`.
    pub(super) fn make(
        disks: Vec<Disk>,
        files: &DiskFiles<'_>,
        guest_dir: Option<&Path>,
        staged: &Beneath,
        vmm_copies: bool,
    ) -> Result<Self, EngineError> {
        if disks.len() > MAX_DISKS {
            return Err(EngineError::instance(format!(
                "the VMM names {} disks, and a snapshot can hold {MAX_DISKS}",
                disks.len()
            )));
        }
        let mut places = Places::new(guest_dir.map(canonical).transpose()?);
        let (read_only, disks): (Vec<Disk>, Vec<Disk>) =
            disks.into_iter().partition(|disk| disk.is_read_only);
        let planned = disks
            .into_iter()
            .map(|disk| PlannedDisk::make(disk, files, &mut places, staged, vmm_copies));
        Ok(Self {
            disks: planned.collect::<Result<_, _>>()?,
            read_only: read_only
                .into_iter()
                .map(|disk| without_copy(disk, files))
                .collect(),
        })
    }

    /// The disks as they are remembered for the time when no VMM answers.
    pub(super) fn learnt(&self) -> Result<Vec<LearntDisk>, EngineError> {
        let learn = |planned: &PlannedDisk| learn::disk(&planned.source);
        let learnt: io::Result<_> = self.disks.iter().map(learn).collect();
        learnt.map_err(|error| EngineError::caused("can't tell which files the disks are", error))
    }

    /// The disks that the VMM copies.
    pub(super) fn by_vmm(&self) -> Vec<DiskCopy> {
        self.disks
            .iter()
            .filter(|planned| planned.method == CopyMode::ByVmm)
            .map(|planned| DiskCopy {
                disk: planned.disk.clone(),
                source: Arc::clone(&planned.source),
                target: Arc::clone(&planned.target),
                target_path: planned.target_path.clone(),
            })
            .collect()
    }

    /// The files of the copies that the VMM made, relative to the snapshot's `guest/`.
    pub(super) fn files_by_vmm(&self) -> Vec<&Path> {
        let by_vmm = self.disks.iter();
        let by_vmm = by_vmm.filter(|planned| planned.method == CopyMode::ByVmm);
        by_vmm.map(|planned| planned.place.file.as_path()).collect()
    }

    /// The copies as the manifest lists them.
    pub(super) fn entries(&self) -> Vec<DiskEntry> {
        self.disks
            .iter()
            .map(|planned| DiskEntry {
                name: Some(planned.disk.name.clone()),
                source: planned.path.clone(),
                identity: FileId::of(&planned.source).ok().map(Identity::from),
                file: planned.place.file.clone(),
                format: planned.disk.format.clone(),
                backing: planned.backing().cloned(),
                backing_file: planned.backing().and_then(|path| stamp(path.metadata())),
            })
            .collect()
    }

    /// The bytes that the copies will need at most, those that share blocks not counted.
    pub(super) fn needed_bytes(&self) -> Result<u64, EngineError> {
        self.bytes_of(|method| method != CopyMode::Reflink)
    }

    fn bytes_of(&self, is_wanted: fn(CopyMode) -> bool) -> Result<u64, EngineError> {
        let mut needed: u64 = 0;
        for planned in self.disks.iter().filter(|it| is_wanted(it.method)) {
            let bytes = space::data_bytes(&planned.source).map_err(|error| {
                EngineError::caused(
                    format!("can't tell the size of disk {}", planned.path.display()),
                    error,
                )
            })?;
            needed = needed.saturating_add(bytes);
        }
        Ok(needed)
    }

    /// The bytes of those that this process copies while the guest is paused.
    pub(super) fn bytes_in_pause(&self) -> Result<u64, EngineError> {
        self.bytes_of(|method| method == CopyMode::InPause)
    }

    /// Whether this process copies disks while the guest is paused.
    pub(super) fn copies_in_pause(&self) -> bool {
        self.disks
            .iter()
            .any(|planned| planned.method == CopyMode::InPause)
    }

    /// Writes out what the kernel still holds of the disks, so that the copies inside the pause don't have to.
    pub(super) fn write_out(&self) -> Result<(), EngineError> {
        for planned in self.disks.iter().filter(|it| it.method != CopyMode::ByVmm) {
            planned.source.sync_data().map_err(|error| {
                EngineError::caused(format!("can't sync {}", planned.path.display()), error)
            })?;
        }
        Ok(())
    }

    /// Copies the disks of a paused guest, those of the VMM excepted.
    pub(super) fn copy(
        &self,
        deadline: Deadline,
        watch: Watch,
        step: &Step,
    ) -> Result<(), EngineError> {
        let is_cancelled = || watch.is_over() || deadline.has_passed();
        for planned in &self.disks {
            let (source, target) = (&planned.source, &planned.target);
            let copied = match planned.method {
                CopyMode::ByVmm => Ok(()),
                CopyMode::Reflink => copy::reflink(source, target),
                CopyMode::InPause => {
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
                        goes_on: false,
                    }
                    .into()
                } else {
                    EngineError::caused(
                        format!("can't copy the disk {}", planned.path.display()),
                        error,
                    )
                }
            })?;
        }
        Ok(())
    }
}

/// What a restore needs to know of a disk that is not copied. One whose file can't be found is not guessed at.
fn without_copy(disk: Disk, files: &DiskFiles<'_>) -> ReadOnlyDisk {
    let file = files.find(&disk).and_then(|found| {
        found.given.open().map_err(|source| VmmError::File {
            what: format!("can't open the disk {}", found.path.display()),
            source,
        })
    });
    let file = file
        .inspect_err(|error| log::debug!("read-only disk {}: {error}", disk.name))
        .ok();
    ReadOnlyDisk {
        identity: file
            .as_ref()
            .and_then(|file| FileId::of(file).ok())
            .map(Identity::from),
        stamp: file.and_then(|file| stamp(file.metadata())),
        name: disk.name,
        source: disk.path,
        format: disk.format,
    }
}

impl From<FileId> for Identity {
    fn from(file: FileId) -> Self {
        match file {
            FileId::File(device, inode) => Self {
                device,
                inode: Some(inode),
            },
            FileId::Device(device) => Self {
                device,
                inode: None,
            },
        }
    }
}

fn stamp(metadata: io::Result<Metadata>) -> Option<Stamp> {
    let metadata = metadata.ok()?;
    Some(Stamp {
        size_bytes: metadata.len(),
        modified_at: metadata.modified().ok()?.into(),
    })
}

/// `path` without symlinks.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, EngineError> {
    path.canonicalize()
        .map_err(|error| EngineError::caused(format!("can't find {}", path.display()), error))
}

impl PlannedDisk {
    /// What its copy refers to for unchanged data. What the VMM copies stands alone.
    fn backing(&self) -> Option<&PathBuf> {
        match self.method {
            CopyMode::ByVmm => None,
            CopyMode::Reflink | CopyMode::InPause => self.disk.backing.as_ref(),
        }
    }

    fn make(
        mut disk: Disk,
        files: &DiskFiles<'_>,
        places: &mut Places,
        staged: &Beneath,
        vmm_copies: bool,
    ) -> Result<Self, EngineError> {
        let DiskFile { path, given } = files.find(&disk)?;
        let failed =
            |error| EngineError::caused(format!("can't open the disk {}", path.display()), error);
        let place = places.place(&given.path().map_err(failed)?, &path, &disk.name);
        let source = given.open().map_err(failed)?;
        if disk.format.is_none() {
            disk.format = Some(disk_files::format_of(&source).map_err(failed)?.to_owned());
        }
        let method = choose(
            &disk,
            &source,
            &make_parent(staged, &place.file)?,
            vmm_copies,
        )?;
        Ok(Self {
            target: Arc::new(make_target(staged, &place.file)?),
            target_path: staged.path().join(&place.file),
            source: Arc::new(source),
            disk,
            path,
            place,
            method,
        })
    }
}

/// How `disk`, which is open as `source`, is copied into `directory`, found out by trial.
fn choose(
    disk: &Disk,
    source: &File,
    directory: &Beneath,
    vmm_copies: bool,
) -> Result<CopyMode, EngineError> {
    // A copy that leans on a backing file would be lost with it; the VMM can make one that stands alone.
    if disk.backing.is_some() && vmm_copies {
        return Ok(CopyMode::ByVmm);
    }
    let reflink_takes = copy::try_reflink(source, directory).map_err(|error| {
        let directory = directory.path().display();
        EngineError::caused(format!("can't try a reflink into {directory}"), error)
    })?;
    Ok(match reflink_takes {
        Some(took) if !vmm_copies || took <= REFLINK_MAX => CopyMode::Reflink,
        Some(_) | None if vmm_copies => CopyMode::ByVmm,
        Some(_) | None => CopyMode::InPause,
    })
}

/// Creates the directory for the copy `file` in `staged`.
pub(super) fn make_parent(staged: &Beneath, file: &Path) -> Result<Beneath, EngineError> {
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
