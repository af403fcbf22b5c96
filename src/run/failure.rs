//! What goes wrong in a run, by where it went wrong. It becomes text only in the report.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::engine::EngineError;
use crate::error;
use crate::instance::Instance;
use crate::interrupt;
use crate::plan;
use crate::schedule::duration::format_human;
use crate::snapshot::SnapshotId;
use crate::store::{LockError, StoreError};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The engine, or an instance by its word.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The same, where several instances meet it.
    #[error(transparent)]
    Shared(Arc<EngineError>),
    /// A schedule file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An instance's lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A hook failed, or is not run.
    #[error(transparent)]
    Hook(#[from] HookFailed),
    /// The instance's state allows no snapshot.
    #[error("{}", plan::state_in_words(.0))]
    State(Instance),
    /// What an earlier run left behind is still there.
    #[error("could not put right what an earlier run left behind")]
    Unrecovered(#[source] EngineError),
    /// Nothing is known of the snapshots.
    #[error("retention could not be applied")]
    Unjudged(#[source] Arc<EngineError>),
    /// Snapshots that should be gone are there.
    #[error("could not delete {}", Undeleted(.0))]
    Undeleted(Vec<(SnapshotId, EngineError)>),
    /// A process has had an instance for longer than there is between two of its runs.
    #[error(
        "{} has kept it since {}, longer than its interval of {}, so that it gets no snapshots: see what that process \
         waits for (a VMM, a hook, a disk), and end it with SIGTERM if nothing moves",
        process.map_or_else(|| "another run".to_owned(), |it| format!("process {it}")),
        since.format("%Y-%m-%dT%H:%M:%SZ"),
        format_human(*interval)
    )]
    Stuck {
        /// Which one, where that can be told.
        process: Option<u32>,
        /// Since when.
        since: DateTime<Utc>,
        /// The time between two runs.
        interval: Duration,
    },
    /// The guest has been resumed while unwinding, or the next run does it.
    #[error(
        "internal error: the run of this instance panicked; its message is on stderr; please report it"
    )]
    Panicked,
}

/// A hook failed, or is not run: which one, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct HookFailed(pub(super) String);

struct Undeleted<'a>(&'a [(SnapshotId, EngineError)]);

impl fmt::Display for Undeleted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (id, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{id}: {}", error::in_words(error))?;
        }
        Ok(())
    }
}

impl Failure {
    /// Whether it is no failure but the end of this process: what was cut short may have become another error on its way
    /// here.
    pub(super) fn is_interruption(&self) -> bool {
        let engine = match self {
            Self::Engine(error) | Self::Unrecovered(error) => Some(error),
            Self::Shared(error) | Self::Unjudged(error) => Some(error.as_ref()),
            Self::Store(_)
            | Self::Lock(_)
            | Self::Hook(_)
            | Self::State(_)
            | Self::Undeleted(_)
            | Self::Stuck { .. }
            | Self::Panicked => None,
        };
        matches!(engine, Some(EngineError::Interrupted)) || interrupt::requested()
    }

    /// How long the guest was paused for nothing, as far as that is known.
    pub(super) fn pause(&self) -> Option<Duration> {
        if let Self::Engine(error) = self {
            return error.pause();
        }
        None
    }

    /// It and its causes in one line.
    pub(super) fn in_words(&self) -> String {
        error::in_words(self)
    }

    /// Whether another process held the instance's lock for too long.
    pub(super) const fn is_locked(&self) -> bool {
        matches!(self, Self::Lock(LockError::Held { .. }))
    }
}
