//! What a VMM teaches of its VM while it answers: which process it is, and which disks a snapshot must have when nobody
//! answers any more.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::registration::{DiskAtRest, LearntDisk, Seen};
use crate::engine::local::processes;
use crate::engine::registrar::Declared;
use crate::fs::absence::is_absent;
use crate::fs::given::Given;
use crate::fs::open_files::FileId;
use crate::vmm::disk_files::DiskFiles;
use crate::vmm::{self, Disk, Timeouts, Vmm, VmmError};

/// What came of asking a VMM.
#[derive(Debug)]
pub(super) enum Asked {
    /// It answered.
    Answered {
        /// Which process it is, where the kernel can tell.
        vmm: Option<Seen>,
        /// The disks that its guest writes to.
        disks: Result<Vec<LearntDisk>, VmmError>,
    },
    /// Somebody listens and says nothing of use.
    Silent(VmmError),
    /// Nobody listens.
    Nobody(io::Error),
}

/// Asks the VMM of a VM that is being registered. Costs up to the time-out of a request, or two.
pub(super) fn ask(declared: &Declared, timeouts: Timeouts) -> Asked {
    match vmm::open(declared.hypervisor, &declared.socket, timeouts) {
        Ok(mut vmm) => Asked::Answered {
            disks: written(vmm.as_mut(), declared),
            vmm: seen(vmm.as_ref()),
        },
        Err(VmmError::Unreachable { source, .. }) if is_nobody(&source) => Asked::Nobody(source),
        Err(error) => Asked::Silent(error),
    }
}

/// Whether an error of a connect says for certain that nobody listens.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    is_absent(error) || error.kind() == io::ErrorKind::ConnectionRefused
}

/// The process behind a connection.
pub(super) fn seen(vmm: &dyn Vmm) -> Option<Seen> {
    let process = vmm.process()?;
    Some(Seen {
        uid: process.user()?,
        pid: process.pid,
        start_ticks: process.start_ticks,
        boot_id: processes::boot_id()?,
    })
}

/// The disks that a guest writes to. They must be open in the VMM's own process, or named by the admin: a VMM may call any
/// file a disk.
fn written(vmm: &mut dyn Vmm, declared: &Declared) -> Result<Vec<LearntDisk>, VmmError> {
    let disks = vmm.disks()?;
    let process = vmm.process();
    let files = DiskFiles::of(process.as_ref(), &declared.disks).within(&declared.disk_roots);
    let learn = |disk: &Disk| {
        let found = files.find(disk)?;
        let cant = |source| VmmError::File {
            what: format!("can't open the disk {}", found.path.display()),
            source,
        };
        found
            .given
            .open()
            .and_then(|file| self::disk(&file))
            .map_err(cant)
    };
    let written = disks.iter().filter(|disk| !disk.is_read_only);
    written.map(learn).collect()
}

/// A disk that is open as `file`.
///
/// # Errors
/// When it can't be told which file that is.
pub(super) fn disk(file: &File) -> io::Result<LearntDisk> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if path.to_str().is_none() {
        return Err(io::Error::other(format!(
            "the path {path:?} is not valid UTF-8; rename it"
        )));
    }
    Ok(LearntDisk {
        file: FileId::of(file)?,
        path,
    })
}

impl DiskAtRest<'_> {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Learnt(disk) => &disk.path,
        }
    }

    /// Opens it for reading. A disk that was learnt must be the file that its VMM had: whoever may write to its directory
    /// could put a link to any file of the host in its place.
    ///
    /// # Errors
    /// When it can't be opened, or is another file.
    pub(super) fn open(&self) -> io::Result<File> {
        let learnt = match self {
            Self::Named(path) => return Given::trusted(path)?.open(),
            Self::Learnt(learnt) => learnt,
        };
        let given = Given::plain(&learnt.path)?;
        if learnt.file.is_same_inode(given.id()) {
            return given.open();
        }
        Err(io::Error::other(
            "it is not the file that the VMM had; name the disk with `hypeman-snap register --disk`, or register the VM \
             again while it runs",
        ))
    }
}
