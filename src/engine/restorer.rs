//! The port to whoever gives snapshots back on this host.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::engine::EngineError;
use crate::finding::Finding;
use crate::instance::Hypervisor;
use crate::snapshot::Snapshot;
use crate::vmm::launch::Request;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Where its content goes.
    pub to: Destination<'a>,
    /// Whether memory is left out, so that the guest boots anew.
    pub disks_only: bool,
    /// Whether the VM is to be started.
    pub starts: bool,
    /// The moment that counts as the one of the restore.
    pub now: DateTime<Utc>,
}

/// Where a snapshot is given back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A directory: absolute, and not there yet, or empty.
    Directory(&'a Path),
    /// The instance itself, whose lock the caller holds: its disks become what they were, and what they are now becomes a
    /// snapshot of this name.
    InPlace(&'a str),
}

/// What giving it back comes to.
#[derive(Debug, Default)]
pub struct Preflight {
    /// What was looked at, in the order in which that is told.
    pub findings: Vec<Finding>,
    /// How the VM is started; `None` where nothing is known of that.
    pub launch: Option<Launch>,
    /// Whether it goes on from its memory.
    pub has_memory: bool,
}

/// How a VM is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Whose program that is.
    pub hypervisor: Hypervisor,
    /// The program and its arguments, with what makes it run as its user.
    pub argv: Vec<String>,
    /// The directory to start it in.
    pub directory: PathBuf,
    /// The socket of its monitor, once it runs.
    pub monitor: PathBuf,
    /// What its API is asked, in this order, once it listens.
    pub requests: Vec<Request>,
    /// What lets the guest go on once it is loaded and paused, where an API is asked for that.
    pub resume: Option<Request>,
    /// Files that are laid down with other content than the snapshot's: their paths in the directory, and that.
    pub rewritten: Vec<(PathBuf, Vec<u8>)>,
    /// Whether the guest's clock is set by that.
    pub sets_clock: bool,
    /// Sockets that it makes, and can't if one that it left is still there.
    pub sockets: Vec<PathBuf>,
    /// Where what it says goes.
    pub log: PathBuf,
    /// The user and the group that its files belong to; `None` for this process's own.
    pub owner: Option<(u32, u32)>,
}

/// Gives snapshots back.
pub trait Restorer: Send + Sync {
    /// Whether it gives them back into a directory, too.
    fn restores_beside(&self) -> bool {
        true
    }

    /// Looks at everything that could be in the way, and touches nothing.
    ///
    /// # Errors
    /// When the snapshot can't be looked at.
    fn preflight(&self, wanted: &Wanted<'_>) -> Result<Preflight, EngineError>;

    /// Lays the snapshot's content down, whole and durable, or not at all. The snapshot is only read, and can't be
    /// deleted meanwhile. Returns the snapshot of what was there, in place.
    ///
    /// # Errors
    /// When something is there, the instance is not off, or it can't be written. Then nothing is changed; a restore in
    /// place that died half way is finished by [`super::Recovery::recover`].
    fn lay_down(
        &self,
        wanted: &Wanted<'_>,
        preflight: &Preflight,
    ) -> Result<Option<Snapshot>, EngineError>;

    /// Starts the VM, detached, and returns its process once the guest runs.
    ///
    /// # Errors
    /// When it ends or does not run in time; then it is ended, and what was laid down stays.
    fn start(
        &self,
        wanted: &Wanted<'_>,
        launch: &Launch,
        has_memory: bool,
    ) -> Result<u32, EngineError>;
}

/// Whether something can be restored from the snapshot.
pub fn usable(snapshot: &Snapshot) -> Finding {
    const CHECK: &str = "snapshot";
    match &snapshot.unusable {
        None => Finding::ok(CHECK, &snapshot.id, format!("{} is usable", snapshot.name)),
        Some(flaw) => Finding::broken(
            CHECK,
            &snapshot.id,
            format!("nothing can be restored from it: {flaw}"),
            "take another one: hypeman-snap snapshots",
        ),
    }
}
