//! What a run did, per instance: the data behind `run-due` and `prune` output. No formatting here.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
use crate::plan::Afterwards;
use crate::retention::Decision;
use crate::schedule::hooks::Stage;
use crate::snapshot::{Kind, Snapshot, SnapshotId};

/// How a run ended for one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A snapshot was taken (or, in a dry run, would be).
    Snapshotted,
    /// No snapshot was due, retention was applied.
    Pruned,
    /// Nothing was done: another run works on the instance, or there was nothing to do.
    Skipped,
    /// Something failed; `error` says what.
    Failed,
    /// The instance is gone for good and its schedule was removed.
    Retired,
    /// A signal ended the run before it was done or begun; the next run takes it up.
    Interrupted,
}

impl Outcome {
    /// The word in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshotted => "snapshotted",
            Self::Pruned => "pruned",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Retired => "retired",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What happened to one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceResult {
    pub instance_id: InstanceId,
    /// How it ended.
    pub outcome: Outcome,
    /// The kind of the snapshot that was taken or tried.
    pub kind: Option<Kind>,
    /// The snapshot that was taken; in a dry run there is none yet.
    pub snapshot_id: Option<SnapshotId>,
    pub snapshot_name: Option<String>,
    /// What retention removed, oldest first.
    pub pruned: Vec<SnapshotId>,
    /// What goes as well, oldest first, and waits for the next run.
    pub held_back: Vec<SnapshotId>,
    /// The snapshots whose memory was compressed, newest first.
    pub compressed: Vec<Packed>,
    /// In a dry run, every scheduled snapshot of the instance, newest first, and what becomes of it.
    pub judged: Vec<(Snapshot, Decision)>,
    /// How long the guest was paused.
    pub pause: Option<Duration>,
    /// How long everything took.
    pub duration: Duration,
    /// What failed, causes included.
    pub error: Option<String>,
    /// Whether it failed only because another process held the instance's lock for too long.
    pub is_locked: bool,
    /// Whether a signal kept it from being done: from being begun, or from what comes after the snapshot.
    pub is_interrupted: bool,
    /// What the user should know although it did not fail: a clock that jumped, a recovered guest, a long pause, why it
    /// was skipped.
    pub notes: Vec<String>,
    /// The hooks that ran or, in a dry run, would run, in their order.
    pub hooks: Vec<HookRun>,
}

impl InstanceResult {
    /// A result of which only the outcome is known.
    pub fn new(id: &InstanceId, outcome: Outcome) -> Self {
        Self {
            instance_id: id.clone(),
            outcome,
            kind: None,
            snapshot_id: None,
            snapshot_name: None,
            pruned: Vec::new(),
            held_back: Vec::new(),
            compressed: Vec::new(),
            judged: Vec::new(),
            pause: None,
            duration: Duration::ZERO,
            error: None,
            is_locked: false,
            is_interrupted: false,
            notes: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// The same with something to tell besides.
    #[must_use]
    pub fn noting(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Tells what retention would do.
    pub fn foresee(&mut self, afterwards: Afterwards) {
        self.pruned = afterwards.removals;
        self.held_back = afterwards.held_back;
        self.judged = afterwards.judged;
    }

    /// A signal ended it before it was done, and what becomes of it.
    pub fn interrupted(id: &InstanceId, note: &str) -> Self {
        Self {
            is_interrupted: true,
            ..Self::new(id, Outcome::Interrupted).noting(note)
        }
    }
}

/// A snapshot whose memory was compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// How long its memory was.
    pub raw_bytes: u64,
    /// How long it is.
    pub packed_bytes: u64,
}

/// A hook that ran, or in a dry run would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    /// When it runs.
    pub stage: Stage,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it ran; `None` in a dry run.
    pub duration: Option<Duration>,
    /// How it failed.
    pub error: Option<String>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// One for each instance that anything was done or tried for.
    pub results: Vec<InstanceResult>,
    /// What failed and concerns no single instance, such as a store that can't be read.
    pub problems: Vec<String>,
    /// What the user should look at although nothing failed, such as a directory without a record in the store.
    pub warnings: Vec<String>,
    /// Whether nothing was carried out (`--dry-run`).
    pub is_dry_run: bool,
}

impl Report {
    /// The instances that a signal kept from being done.
    pub fn interrupted(&self) -> Vec<&InstanceId> {
        self.results
            .iter()
            .filter(|result| result.is_interrupted)
            .map(|result| &result.instance_id)
            .collect()
    }

    /// Whether the exit code has to say that something failed.
    pub fn has_failures(&self) -> bool {
        !self.problems.is_empty()
            || self
                .results
                .iter()
                .any(|result| result.outcome == Outcome::Failed || result.error.is_some())
    }
}
