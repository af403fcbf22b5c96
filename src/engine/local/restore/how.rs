//! What is known of a VM that is to be started, and what comes of it.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::engine::local::packed;
use crate::finding::Finding;
use crate::fs::frame::Format;
use crate::snapshot::manifest::{Manifest, Vmm};
use crate::vmm::launch::rehearsal::Tap;
use crate::vmm::launch::{IsSame, Moved, Request, Unlaunchable};

/// The VM's log, in its directory.
const LOG: &str = "vm.log";

/// Why a VM can't be started by this tool.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStartable {
    #[error("VMs of {0:?} are started by hand (hypeman-snap(5))")]
    Hypervisor(String),
    #[error("it has no manifest of this tool")]
    NoManifest,
    #[error(
        "its command line was not recorded, because it did not run or this user could not look"
    )]
    NoProcess,
    #[error(
        "its VMM ran in the root directory {}, as in a jail: put the files into such a one, and start it there by hand \
         (hypeman-snap(5))", .0.display()
    )]
    Root(PathBuf),
    #[error("its program was not recorded")]
    NoProgram,
    #[error("its manifest names no memory")]
    NoMemory,
    #[error("its saved state lacks {0}")]
    Lacks(&'static str),
    #[error(transparent)]
    Arguments(#[from] Unlaunchable),
    #[error("it ran as user {0}, and only root can start it as another user")]
    OtherUser(u32),
    #[error("its program {} is not run, because {} {why}", program.display(), place.display())]
    Untrusted {
        program: PathBuf,
        place: PathBuf,
        why: String,
    },
    #[error("its program {} is not run, because it had libraries from a relative directory", .0.display())]
    RelativeLibraries(PathBuf),
    #[error("its program {}: {source}", program.display())]
    Missing { program: PathBuf, source: io::Error },
    #[error("{}: {why}; start the version that it was saved with, or leave the memory out: --disks-only", program.display())]
    Format { program: PathBuf, why: String },
    #[error("{} does not say its version", .0.display())]
    Silent(PathBuf),
    #[error("{} has version {now}, and the snapshot is of {then}, which is newer", program.display())]
    Older {
        program: PathBuf,
        now: String,
        then: String,
    },
    #[error(
        "the path of its monitor, {}, is longer than a socket's may be; name a directory with a shorter one", .0.display()
    )]
    LongSocket(PathBuf),
    #[error(
        "Firecracker opens {} while it loads, before it can be told where the disk is now: put any file there first \
         (touch)", .0.display()
    )]
    OldPlace(PathBuf),
}

/// Where everything is that a VM is started from, once the snapshot is laid down.
#[derive(Debug)]
pub(super) struct Laid {
    /// The directory of its state and of what goes with it.
    pub(super) directory: PathBuf,
    /// Its disks, as the manifest lists them.
    pub(super) disks: Vec<PathBuf>,
    /// Where its own monitor is; `None` for a monitor that is made in the directory, instead of its own ones.
    pub(super) monitor: Option<PathBuf>,
    /// Where what it says goes.
    pub(super) log: PathBuf,
    /// What a throw-away copy is given; `None` for a VM that stays.
    pub(super) throw_away: Option<ThrowAway>,
}

/// What a throw-away copy is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThrowAway {
    /// The number of its vsock.
    pub(super) cid: u32,
    /// Whether its disks are images of what changes, over the snapshot's own.
    pub(super) has_overlays: bool,
}

impl Laid {
    /// In a directory of its own.
    pub(super) fn beside(directory: &Path, manifest: Option<&Manifest>) -> Self {
        let disks = manifest.map_or(&[][..], |it| &it.disks);
        Self {
            directory: directory.to_owned(),
            disks: disks
                .iter()
                .map(|disk| directory.join(&disk.file))
                .collect(),
            monitor: None,
            log: directory.join(LOG),
            throw_away: None,
        }
    }

    /// The directory of a copy, whose files are not the first VM's; `None` in place.
    pub(super) fn own(&self) -> Option<&Path> {
        self.monitor.is_none().then_some(&self.directory)
    }

    /// Where the monitor will be, which is called `name` where it is made.
    pub(super) fn monitor_or(&self, name: &str) -> PathBuf {
        let made = || self.directory.join(name);
        self.monitor.clone().unwrap_or_else(made)
    }
}

/// What is known of the VM.
pub(super) struct Known<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) vmm: &'a Vmm,
    /// The configuration that Cloud Hypervisor saved.
    pub(super) config: Option<&'a Value>,
    pub(super) laid: &'a Laid,
    pub(super) disks: &'a [Moved],
    pub(super) is_same: IsSame<'a>,
    /// The directory with the saved state, as the snapshot has it and where it will be, if that is wanted.
    pub(super) state: Option<(PathBuf, PathBuf)>,
    /// The numbers of the program's version.
    pub(super) version: &'a [u64],
}

/// How it is started.
#[derive(Debug, Default)]
pub(super) struct How {
    /// The command line, without the program.
    pub(super) arguments: Vec<String>,
    /// The socket of its monitor.
    pub(super) monitor: PathBuf,
    /// What its API is asked, once it listens.
    pub(super) requests: Vec<Request>,
    /// What lets the loaded guest go on, where that is asked of an API.
    pub(super) resume: Option<Request>,
    /// Files of the saved state that the copy has with other content, below its directory.
    pub(super) rewritten: Vec<(PathBuf, Vec<u8>)>,
    /// Whether the guest's clock is set.
    pub(super) sets_clock: bool,
    /// What is to be said of it.
    pub(super) findings: Vec<Finding>,
    /// What a throw-away copy needs besides.
    pub(super) alone: Alone,
}

/// What a throw-away copy needs besides.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// The files that its guest's words go to, besides its log.
    pub(super) consoles: Vec<PathBuf>,
    /// A file with what happens in it, a JSON object each (Cloud Hypervisor).
    pub(super) events: Option<PathBuf>,
    /// Taps that it expects.
    pub(super) taps: Vec<Tap>,
    /// Files that stand in the place of others as it sees them: where they are, and that place.
    pub(super) in_place_of: Vec<(PathBuf, PathBuf)>,
    /// How much memory its guest has, in bytes.
    pub(super) memory_bytes: u64,
    /// The stored file that it gets as standard input, below the snapshot's `guest/`.
    pub(super) memory: Option<PathBuf>,
}

/// Requires the files of a saved state, of which memory may be compressed: it is unpacked when it is laid down.
///
/// # Errors
/// When one is not there.
pub(super) fn require(state: &Path, files: &[&'static str]) -> Result<(), NotStartable> {
    let is_there = |name: &&&str| {
        let raw = state.join(name);
        let forms = Format::ALL.map(|format| packed::form_of(&raw, format));
        raw.is_file() || packed::is_memory(&raw) && forms.iter().any(|form| form.is_file())
    };
    match files.iter().find(|name| !is_there(name)) {
        None => Ok(()),
        Some(missing) => Err(NotStartable::Lacks(missing)),
    }
}
