//! The port to the process that runs one VM, and one adapter for each VMM.
//!
//! A driver speaks one VMM's protocol with a deadline on every connect, read and write. It never retries, never
//! decides whether a pause is wanted, and never touches a guest that somebody else paused.
//!
//! A capture begins with [`Vmm::prepare`], and each of its stages leads to the next; after a failure at any point the
//! caller calls [`Vmm::resume`] and [`Vmm::discard`]. Disks that the VMM does not copy are copied by the caller, before or
//! after the save as [`Vmm::disks_settle`] says. The caller syncs the data of the disks that it copies itself right before
//! the pause, which makes that shorter: a VMM that stops its guest writes out what the guest left unwritten.

mod address;
mod bounded;
#[cfg(test)]
mod capture_tests;
pub mod cloud_hypervisor;
pub mod disk_files;
pub mod firecracker;
#[cfg(test)]
mod foreign_tests;
mod handover;
mod http;
pub mod launch;
mod outlook;
mod pause;
mod peer;
mod process;
pub mod qemu;
mod stages;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fs::beneath::Beneath;
use crate::instance::Hypervisor;
pub use crate::interrupt::Deadline;
use crate::interrupt::{Over, Watch};
use crate::snapshot::manifest::Devices;
pub use outlook::{Method, Outlook};
pub use process::Process;
pub use stages::{Prepared, Saved};

/// More disks than any guest has.
pub const MAX_DISKS: usize = 256;

/// What a VMM says of its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmmState {
    /// The guest runs.
    Running,
    /// The guest's processors are stopped and [`Vmm::resume`] lets it go on, also after a save that stopped it (QEMU's
    /// `paused`, `postmigrate` and `finish-migrate`).
    Paused,
    /// The guest has not been started yet.
    Created,
    /// The guest has shut down, the VMM is still there.
    Shutdown,
    /// Anything else, in the VMM's own word: an I/O error, a panic, an incoming migration.
    Other(String),
}

/// A disk of the guest, as its VMM knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The VMM's own name for it: a node, a drive id. Unique within the guest.
    pub name: String,
    /// The file or block device behind it, in the VMM's words: see [`disk_files`] for which one that is.
    pub path: PathBuf,
    /// The image format, such as `raw` or `qcow2`; `None` where the VMM does not tell.
    pub format: Option<String>,
    /// Whether the guest can't write to it.
    pub is_read_only: bool,
    /// The file that the image refers to for unchanged data, if any. It is not part of the snapshot.
    pub backing: Option<PathBuf>,
}

/// A disk that the VMM shall copy by itself, at the instant of the pause.
#[derive(Debug, Clone)]
pub struct DiskCopy {
    /// What to copy.
    pub disk: Disk,
    /// Its file, for reading.
    pub source: Arc<File>,
    /// The file to copy to: new, empty, 0600, open for reading and writing.
    pub target: Arc<File>,
    /// Its path, for messages.
    pub target_path: PathBuf,
}

/// From when on the disks of a paused guest are those that its saved state counts on, until the resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisksSettle {
    /// From the pause on, and until the save.
    ByPause,
    /// From the save on: until it has taken the devices' state, writes that the guest had asked for are still carried
    /// out, and the saved state counts them as done.
    BySave,
}

/// What a capture wants from the VMM.
#[derive(Debug, Clone)]
pub struct SavePlan {
    /// The directory for memory and device state: empty, 0700; `None` for disks alone.
    pub state_dir: Option<Beneath>,
    /// The memory of the last snapshot, onto which the VMM may write what has changed since: [`Vmm::saves_differences`];
    /// `None` for all of it.
    pub base: Option<Arc<File>>,
    /// A directory with a short path, for the socket by which memory is streamed out while the guest runs, if it is to be:
    /// [`Vmm::migrates`].
    pub socket_dir: Option<Beneath>,
    /// The disks that the VMM copies itself; empty unless [`Vmm::copies_disks`].
    pub disks: Vec<DiskCopy>,
}

/// How a VMM is set where a capture sets it otherwise and puts it back, also after this process has died.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// The migration capabilities that are on.
    pub capabilities: Vec<String>,
    /// The speed limit of a save, in bytes per second.
    pub bandwidth: Option<u64>,
}

/// What went wrong while talking to a VMM.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Nobody listens on the socket, or it can't be opened.
    #[error("can't reach the VMM at {}", socket.display())]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The VMM took the connection and did not answer: it hangs, or another client holds its only monitor.
    #[error("the VMM at {} did not answer {request} within {:.1} s{}", socket.display(), limit.as_secs_f64(), hint.map(|hint| format!(": {hint}")).unwrap_or_default())]
    TimedOut {
        /// The control socket.
        socket: PathBuf,
        /// The request that was not answered.
        request: String,
        /// The deadline.
        limit: Duration,
        /// What is likely and what to do.
        hint: Option<&'static str>,
    },
    /// The VMM answered with an error of its own.
    #[error("the VMM refused {request}: {message}")]
    Refused {
        /// The request.
        request: String,
        /// The VMM's own words.
        message: String,
    },
    /// The VMM closed the connection: most likely it died.
    #[error("the VMM at {} closed the connection during {request}", socket.display())]
    Closed {
        /// The control socket.
        socket: PathBuf,
        /// The request that was under way.
        request: String,
    },
    /// The VMM said something that its protocol does not know.
    #[error("the VMM's answer to {request} makes no sense: {detail}")]
    Protocol {
        /// The request.
        request: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// The driver can't do what this guest needs.
    #[error("{0}")]
    Unsupported(String),
    /// Somebody else had stopped the guest before we could: it is not ours to resume.
    #[error("the guest is paused, but not by this tool; it stays as it is")]
    PausedByOthers,
    /// The pause lasted as long as it may.
    #[error("the save was not done within the {:.1} s of --pause-timeout{}", limit.as_secs_f64(), if *goes_on { ", and the VMM can't break it off: its guest goes on when it is done" } else { "" })]
    PauseTooLong {
        /// The limit.
        limit: Duration,
        /// Whether the VMM goes on saving, with its guest paused, whatever is asked of it.
        goes_on: bool,
    },
    /// A save of ours goes on in the VMM, behind the running guest.
    #[error(
        "QEMU before 8.1 can't give up a save without hanging its guest, and still writes one that nobody wants any more; \
         the guest runs, and the next run clears up when that has ended"
    )]
    StillSaving,
    /// A file of the snapshot could not be made.
    #[error("{what}")]
    File {
        /// What was tried on which path.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The process was asked to stop, or the instance's time is over.
    #[error(transparent)]
    Over(#[from] Over),
}

/// How long a driver waits.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connect and for the answer to an ordinary request.
    pub request: Duration,
    /// What ends every wait.
    pub watch: Watch,
}

/// A connection to one VMM.
pub trait Vmm: Send {
    /// From now on this is what ends every wait: `Vmm::resume` and `Vmm::discard` some time later than all others.
    fn set_watch(&mut self, watch: Watch);

    /// What the guest does now.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn state(&mut self) -> Result<VmmState, VmmError>;

    /// The VMM's version, as it reports it.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn version(&mut self) -> Result<String, VmmError>;

    /// The process at the other end of the socket; `None` where the kernel can't tell.
    fn process(&self) -> Option<Process>;

    /// All disks of the guest, read-only ones included where they are local files.
    ///
    /// # Errors
    /// When the VMM can't be asked, or has a disk that can't be part of a snapshot.
    fn disks(&mut self) -> Result<Vec<Disk>, VmmError>;

    /// Whether the VMM keeps account of the memory that the guest writes between two saves. Any save, a whole one too,
    /// starts that account anew, so that a difference which somebody else saves later lacks what was written before.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn tracks_writes(&mut self) -> Result<bool, VmmError> {
        Ok(false)
    }

    /// Whether the VMM can save what was written since its last save alone, onto the memory of that one
    /// ([`SavePlan::base`]); else why not.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn saves_differences(&mut self) -> Result<Result<(), &'static str>, VmmError> {
        Ok(Err("only Firecracker saves differences"))
    }

    /// Whether the VMM can stream its guest's memory out while the guest runs, as for a migration; else why not.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn migrates(&mut self) -> Result<Result<(), String>, VmmError> {
        Ok(Err("only Cloud Hypervisor does that".to_owned()))
    }

    /// What memory and device state take in files at most, in bytes.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn memory_bytes(&mut self) -> Result<u64, VmmError>;

    /// What the guest has besides memory and disks, as far as the VMM tells; `argv` is its command line, where that is
    /// known.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn devices(&mut self, argv: &[String]) -> Result<Devices, VmmError>;

    /// What will make a snapshot of this guest worse than it could be, in sentences for the user.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn foreseen(&mut self) -> Result<Vec<String>, VmmError> {
        Ok(Vec::new())
    }

    /// How a capture of this guest would go now. Changes nothing.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn outlook(&mut self) -> Result<Outlook, VmmError>;

    /// How the VMM is set before a capture changes that.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn settings(&mut self) -> Result<Tuning, VmmError> {
        Ok(Tuning::default())
    }

    /// The settings that [`Vmm::discard`] puts back, from before a capture whose process died.
    fn know_settings(&mut self, _settings: Tuning) {}

    /// Whether the VMM can copy disks by itself as of the instant of the pause, while the guest goes on.
    fn copies_disks(&self) -> bool;

    /// When the disks that the VMM does not copy may be copied.
    fn disks_settle(&self) -> DisksSettle;

    /// Does everything slow or fallible that a save needs. The guest runs.
    ///
    /// # Errors
    /// When the VMM refuses; [`Vmm::discard`] removes what was left.
    fn prepare<'v>(&'v mut self, plan: &SavePlan) -> Result<Prepared<'v>, VmmError>;

    /// Begins to load the guest's memory from what the process got as standard input; does nothing where a request of
    /// its own or the command line does that.
    ///
    /// # Errors
    /// When the VMM refuses.
    fn load(&mut self) -> Result<(), VmmError> {
        Ok(())
    }

    /// What has befallen the guest since this connection was made and was not told yet, in sentences for the user: that
    /// it boots anew, that it panicked, that a disk failed. Nothing where the VMM does not tell.
    ///
    /// # Errors
    /// When the connection fails.
    fn mishaps(&mut self) -> Result<Vec<String>, VmmError> {
        Ok(Vec::new())
    }

    /// The threads that are the guest's processors, by what the VMM says; `None` where it says nothing.
    ///
    /// # Errors
    /// When the VMM can't be asked.
    fn processors(&mut self) -> Result<Option<Vec<i32>>, VmmError> {
        Ok(None)
    }

    /// Lets the guest go on, and returns when it does. A guest that runs already is no error, and neither is one that,
    /// as this driver knows, is paused because of somebody else: after [`VmmError::PausedByOthers`], or after an
    /// earlier `resume` that succeeded. A signal does not end it at once ([`Watch::check_cleanup`]).
    ///
    /// # Errors
    /// When the guest may still be paused.
    fn resume(&mut self) -> Result<(), VmmError>;

    /// Cancels and removes whatever a capture of ours, of this process or of one that died, left in the VMM. Does not
    /// resume the guest, except one that stopped at a write because our copy of its disk failed. A save that is under
    /// way in the VMM is cancelled only if `save_may_have_begun`: otherwise it is somebody else's migration. Where a
    /// VMM can't cancel a save without harm to the guest (QEMU before 8.1), it is waited for, as long as it moves.
    /// A signal does not end it at once.
    ///
    /// # Errors
    /// When something may still be left.
    fn discard(&mut self, save_may_have_begun: bool) -> Result<(), VmmError>;
}

/// Connects to the VMM behind `socket`.
///
/// # Errors
/// When nobody answers there within the deadline, or the hypervisor has no driver.
pub fn open(
    hypervisor: Hypervisor,
    socket: &Path,
    timeouts: Timeouts,
) -> Result<Box<dyn Vmm>, VmmError> {
    match hypervisor {
        Hypervisor::Qemu | Hypervisor::QemuMicrovm => {
            Ok(Box::new(qemu::Qemu::connect(socket, timeouts)?))
        }
        Hypervisor::CloudHypervisor => Ok(Box::new(cloud_hypervisor::CloudHypervisor::connect(
            socket, timeouts,
        )?)),
        Hypervisor::Firecracker => Ok(Box::new(firecracker::Firecracker::connect(
            socket, timeouts,
        )?)),
    }
}

/// Asks the API behind `socket` for something, which it does within `limit`.
///
/// # Errors
/// When nobody answers there in time, or the VMM refuses.
pub fn ask(
    socket: &Path,
    request: &launch::Request,
    timeouts: Timeouts,
    limit: Duration,
) -> Result<(), VmmError> {
    http::HttpSocket::connect(socket, timeouts)?.ask(request, limit)
}
