//! The port to whoever takes and keeps snapshots, and its adapters.
//!
//! The scheduler knows an engine by this trait only. An adapter must answer "the instance is gone" (`Ok(None)` from
//! [`Engine::find`]) only on positive knowledge, never because something could not be read or reached.

pub mod hypeman;
pub mod local;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::finding::Finding;
use crate::instance::{Instance, InstanceId, InstanceRef};
use crate::interrupt::Over;
use crate::snapshot::{Kind, Snapshot, SnapshotId};
use crate::vmm::VmmError;

/// What went wrong in an engine. Every variant's text is complete: it names the thing, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine as a whole can't be used: the data directory or the server. It says nothing about any instance.
    #[error("{message}")]
    Unavailable {
        /// What can't be used, and what to do.
        message: String,
        /// The cause underneath.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// This instance's request failed; others may succeed.
    #[error("{message}")]
    Instance {
        /// What failed, and what to do.
        message: String,
        /// The cause underneath.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A creation ended without a clear answer: the snapshot may still turn up. The next attempt must look for it by
    /// its name, and use that name again, so that there are never two.
    #[error("{message}")]
    Unclear {
        /// What happened, and what was found so far.
        message: String,
    },
    /// There is no snapshot although its guest was paused for one.
    #[error("no snapshot was made, and the guest was paused for {:.1} s", pause.as_secs_f64())]
    AfterPause {
        /// How long the guest was paused.
        pause: Duration,
        /// What went wrong.
        #[source]
        error: Box<EngineError>,
    },
    /// The process was asked to stop; the guest runs again and nothing is left behind.
    #[error("interrupted by a signal")]
    Interrupted,
}

impl From<VmmError> for EngineError {
    fn from(error: VmmError) -> Self {
        if let VmmError::Over(over) = error {
            return over.into();
        }
        Self::caused("the VMM's part of the snapshot failed", error)
    }
}

impl From<Over> for EngineError {
    fn from(over: Over) -> Self {
        match over {
            Over::Signal => Self::Interrupted,
            Over::Time { .. } => Self::caused("the snapshot was given up", over),
        }
    }
}

impl EngineError {
    /// How long the guest was paused before this, if it was and the engine can tell.
    pub fn pause(&self) -> Option<Duration> {
        if let Self::AfterPause { pause, .. } = self {
            return Some(*pause);
        }
        None
    }

    /// An [`EngineError::Unavailable`] without a cause underneath.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            source: None,
        }
    }

    /// An [`EngineError::Instance`] without a cause underneath.
    pub fn instance(message: impl Into<String>) -> Self {
        Self::Instance {
            message: message.into(),
            source: None,
        }
    }

    /// An [`EngineError::Instance`] that wraps its cause.
    pub fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Instance {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

/// One snapshot to take.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The instance, with the state that `kind` was chosen from.
    pub instance: &'a Instance,
    /// What to take.
    pub kind: Kind,
    /// The snapshot's name; unique among the instance's snapshots.
    pub name: &'a str,
    /// The snapshot's tags, markers included.
    pub tags: &'a BTreeMap<String, String>,
    /// When the snapshot counts as taken.
    pub now: DateTime<Utc>,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Created {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How long the guest stood still; `None` where it did not run, or where the engine can't tell.
    pub pause: Option<Duration>,
    /// What the user should know although the snapshot is good, such as a pause that a better file system would shorten.
    pub warnings: Vec<String>,
}

/// Everything in the snapshot store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The whole snapshots, in no particular order.
    pub snapshots: Vec<Snapshot>,
    /// What is in the store and is no whole snapshot: a record that can't be parsed, a directory without a record.
    /// Never deleted; each is one line to report.
    pub problems: Vec<String>,
}

/// Who takes, lists and deletes snapshots.
pub trait Engine: Send + Sync {
    /// Every instance by id and name, without asking any VMM.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the list can't be had.
    fn instances(&self) -> Result<Vec<InstanceRef>, EngineError>;

    /// One instance and its state now; `None` only when it is positively gone.
    ///
    /// # Errors
    /// When the engine can't tell.
    fn find(&self, id: &InstanceId) -> Result<Option<Instance>, EngineError>;

    /// Instances that an earlier run left in mid-snapshot: [`Engine::recover`] wants to be called for them. Cheap: it
    /// is asked in every run.
    ///
    /// # Errors
    /// When the journals can't be listed.
    fn unfinished(&self) -> Result<Vec<InstanceId>, EngineError>;

    /// Puts right what a run that died left behind for this instance: resumes the guest if that run had paused it,
    /// cancels what it left in the VMM, removes its staging. The caller holds the instance's lock. Returns what was
    /// done, a line each; nothing when there was nothing to do.
    ///
    /// # Errors
    /// When something is still left; the next call tries again.
    fn recover(&self, id: &InstanceId) -> Result<Vec<String>, EngineError>;

    /// Takes a snapshot. The caller holds the instance's lock. When it returns, with or without an error, the guest
    /// is as it was before; on an error there is no snapshot of that name made by this call, unless the error is
    /// [`EngineError::Unclear`].
    ///
    /// # Errors
    /// When there is no whole snapshot.
    fn create(&self, request: &CreateRequest<'_>) -> Result<Created, EngineError>;

    /// Everything in the store; costs O(snapshots), so callers ask once per run.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the store can't be read.
    fn list(&self) -> Result<Listing, EngineError>;

    /// What a listed snapshot occupies on disk, in bytes; `None` where the engine can't tell. Looks at each of its
    /// files, so that only who shows it asks.
    fn disk_bytes(&self, _id: &SnapshotId) -> Option<u64> {
        None
    }

    /// Deletes a snapshot so that it stops being listed first; one that is gone already is no error.
    ///
    /// # Errors
    /// When it may still be there.
    fn delete(&self, id: &SnapshotId) -> Result<(), EngineError>;

    /// Removes staging that nobody works on any more and finishes deletions that were cut short. Returns a line for each.
    ///
    /// # Errors
    /// When something could not be removed.
    fn sweep(&self) -> Result<Vec<String>, EngineError>;

    /// Looks at everything that this engine needs and says how it is, for `doctor`. Changes nothing. What does not
    /// answer costs its own time-out at most. An instance that `is_busy` names is being worked on by a run: it is left
    /// alone, because a VMM may have only one client.
    fn examine(&self, _is_busy: &(dyn Fn(&InstanceId) -> bool + Sync)) -> Vec<Finding> {
        Vec::new()
    }

    /// A second scheduler that snapshots this instance as well, in a sentence for the user; `None` when there is none.
    ///
    /// # Errors
    /// When the engine can't tell; it says nothing about the instance.
    fn rival_schedule(&self, _id: &InstanceId) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
}

/// An error and its causes in one line.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
