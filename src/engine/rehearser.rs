//! The port to whoever can start throw-away VMs from the snapshots on this host.

use std::time::Duration;

use chrono::{DateTime, Utc};
use regex::Regex;

use crate::engine::EngineError;
use crate::snapshot::{Rehearsed, Snapshot};

/// When a guest counts as alive.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How long it is watched at most.
    pub watched_for: Duration,
    /// What a line of its console must say; it is watched no longer then.
    pub expected: Option<&'a Regex>,
}

/// Rehearses snapshots.
pub trait Rehearser: Send + Sync {
    /// Starts a throw-away VM from the snapshot, watches it, and removes everything of it. The outcome is kept with the
    /// snapshot, which is only read, and can't be deleted meanwhile. A VM that runs from the same disks is not touched.
    ///
    /// # Errors
    /// When the store can't be used, something of the VM could not be removed, or this process is asked to stop.
    fn rehearse(
        &self,
        snapshot: &Snapshot,
        terms: Terms<'_>,
        clock: &dyn Fn() -> DateTime<Utc>,
    ) -> Result<Rehearsed, EngineError>;
}
