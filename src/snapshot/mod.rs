//! Snapshots: what one is, how scheduled ones are named and recognised. Pure: no I/O, no clock.

pub mod manifest;
pub mod storing;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::instance::{InstanceId, State, matching};

/// The tag that marks a scheduled snapshot; its value is `true` (contract, section 3).
pub const TAG_SCHEDULED: &str = "hypeman.scheduled";
/// The tag that names the instance whose schedule made the snapshot (contract, section 3).
pub const TAG_INSTANCE: &str = "hypeman.schedule_instance_id";
/// The name prefix of a scheduled snapshot whose schedule sets none (contract, section 3).
pub const DEFAULT_PREFIX: &str = "scheduled";

/// A snapshot's id: one plain path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

/// Why a string is no snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot id {0:?} is not one plain path component")]
pub struct InvalidSnapshotId(String);

impl SnapshotId {
    /// The id that stands for a snapshot which is only planned.
    pub fn not_taken_yet() -> Self {
        Self("not-taken-yet".to_owned())
    }

    /// The id that stands for the snapshot of a later run; of two runs, the later one's is greater.
    pub fn planned(run: usize) -> Self {
        Self(format!("planned-{run:09}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        // The rules for ids of instances and snapshots are the same: both become path components.
        id.parse::<InstanceId>()
            .map(|_| Self(id.to_owned()))
            .map_err(|_| InvalidSnapshotId(id.to_owned()))
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = InvalidSnapshotId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        id.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Memory, device state and disks.
    Standby,
    /// Disks and metadata.
    Stopped,
}

impl Kind {
    /// The kind that an instance in `state` gets; `None` where none can be taken (contract, section 3).
    pub const fn for_state(state: State) -> Option<Self> {
        match state {
            State::Running | State::Standby => Some(Self::Standby),
            State::Stopped => Some(Self::Stopped),
            State::Created
            | State::Initializing
            | State::Paused
            | State::Shutdown
            | State::Unknown => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Standby => "Standby",
            Self::Stopped => "Stopped",
        })
    }
}

/// At which moment of the guest's life its disks were taken, which is what it finds when it is started from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// With its memory: it goes on where it was.
    Memory,
    /// While it ran, without its memory: it starts as after a power cut.
    Crash,
    /// While it was off.
    Stopped,
}

impl Consistency {
    /// What a snapshot of `kind` is that is taken in `state`.
    pub const fn of(kind: Kind, state: State) -> Self {
        match (kind, state) {
            (Kind::Standby, _) => Self::Memory,
            (Kind::Stopped, State::Stopped) => Self::Stopped,
            (
                Kind::Stopped,
                State::Created
                | State::Initializing
                | State::Running
                | State::Paused
                | State::Shutdown
                | State::Standby
                | State::Unknown,
            ) => Self::Crash,
        }
    }

    /// What a snapshot of `kind` is that does not say it: only this tool takes disks of a running guest, and says so.
    pub const fn unsaid(kind: Kind) -> Self {
        match kind {
            Kind::Standby => Self::Memory,
            Kind::Stopped => Self::Stopped,
        }
    }

    /// Whether a snapshot of `kind` can be so.
    pub const fn is_of(self, kind: Kind) -> bool {
        matches!(self, Self::Memory) == matches!(kind, Kind::Standby)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Crash => "crash",
            Self::Stopped => "stopped",
        }
    }
}

/// A snapshot that an engine lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its name; empty when it has none.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// At which moment of the guest's life it was taken.
    pub consistency: Consistency,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The id of the instance it was taken from; text, because foreign records may hold anything.
    pub source_instance_id: String,
    /// The name that instance had then.
    pub source_instance_name: String,
    /// The hypervisor that instance had then, as written in the record.
    pub source_hypervisor: String,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
    /// The sum of the lengths of its files, as the record states it, in bytes.
    pub size_bytes: u64,
    /// What it occupies on disk, in bytes; `None` where the engine can't tell.
    pub disk_bytes: Option<u64>,
    /// Why nothing can be restored from it, such as a file that is missing or cut; `None` when it is usable, as far as
    /// the engine can tell without reading it.
    pub unusable: Option<String>,
    /// When every byte of it was last read and found to be what it was; `None` if never, or where that can't be told.
    pub verified_at: Option<DateTime<Utc>>,
    /// How its last rehearsal ended; `None` if there was none, or where that can't be told.
    pub rehearsed: Option<Rehearsal>,
}

impl Snapshot {
    /// Whether it can be restored, as far as the engine can tell without reading it.
    pub const fn is_usable(&self) -> bool {
        self.unusable.is_none()
    }

    /// Whether `instance`'s schedule made this snapshot: its source and both marker tags say so.
    ///
    /// Retention looks at nothing else (contract, section 3, "Cleanup").
    pub fn is_scheduled_for(&self, instance: &InstanceId) -> bool {
        self.is_scheduled() && self.source_instance_id == instance.as_str()
    }

    /// Whether the schedule of its own source instance made this snapshot.
    pub fn is_scheduled(&self) -> bool {
        self.tags.get(TAG_SCHEDULED).map(String::as_str) == Some("true")
            && self.tags.get(TAG_INSTANCE) == Some(&self.source_instance_id)
    }
}

/// What came of looking at a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// All that was looked at is as it was.
    Sound {
        /// Whether every byte was read, or only what the files are.
        is_read: bool,
        /// Files of which there was no digest; there is one from now on.
        first_read: usize,
    },
    /// It is not what it was, each with its file and place. It counts as unusable from now on.
    Damaged(Vec<String>),
    /// It can't be told, such as of a file that can't be read; nothing has changed by that.
    Unknown(Vec<String>),
    /// It was deleted meanwhile.
    Gone,
}

/// What of a snapshot's files is whose, as far as that can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupied {
    /// How many bytes of their blocks other files have as well.
    pub shared_bytes: Option<u64>,
    /// How long its compressed memory is; `None` where it has none.
    pub compressed_bytes: Option<u64>,
    /// How long that memory was.
    pub uncompressed_bytes: Option<u64>,
}

/// How a throw-away VM fared that was started from a snapshot. It says nothing of whether the snapshot is usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Why it did not live; `None` if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<String>,
}

/// What came of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rehearsed {
    /// Its guest lived.
    Alive,
    /// It did not: why.
    Dead(String),
    /// There was none: why. That says nothing of the snapshot.
    Impossible(String),
}

/// That a snapshot stays by the user's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Why, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when; `None` means until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Since when.
    pub protected_at: DateTime<Utc>,
}

impl Protection {
    /// Whether it still counts.
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Why a reference means no single snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing matches.
    #[error("no snapshot has the id, the name or the id prefix {0:?}")]
    NotFound(String),
    /// Several match.
    #[error("{reference:?} is ambiguous: it matches {}", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// Those that match, each as `name (id)`.
        matches: Vec<String>,
    },
}

/// Finds the snapshot that `reference` means: an exact id, else an exact name, else a unique prefix of an id.
///
/// # Errors
/// When nothing matches, or when the first of these that matches anything matches several.
pub fn find<'a>(reference: &str, snapshots: &'a [Snapshot]) -> Result<&'a Snapshot, FindError> {
    let names = |it: &'a Snapshot| (it.id.as_str(), it.name.as_str());
    match matching(reference, snapshots, names).as_slice() {
        [] => Err(FindError::NotFound(reference.to_owned())),
        [one] => Ok(one),
        several => Err(FindError::Ambiguous {
            reference: reference.to_owned(),
            matches: several
                .iter()
                .map(|it| format!("{:?} ({})", it.name, it.id))
                .collect(),
        }),
    }
}

/// What a snapshot's name must be.
pub const NAME_RULE: &str =
    "must be 1 to 63 lower-case letters, digits and dashes, with no dash at either end";

/// Whether a snapshot can have this name.
pub fn is_name(name: &str) -> bool {
    const MAX_CHARS: usize = 63;
    (1..=MAX_CHARS).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A scheduled snapshot's name: `<prefix>-YYYYMMDD-HHMMSS` in UTC (contract, section 3).
pub fn scheduled_name(prefix: Option<&str>, run_at: DateTime<Utc>) -> String {
    let prefix = prefix.unwrap_or(DEFAULT_PREFIX);
    format!("{prefix}-{}", run_at.format("%Y%m%d-%H%M%S"))
}

/// A scheduled snapshot's tags: the schedule's metadata and the two markers, which win over equal keys.
pub fn scheduled_tags(
    metadata: &BTreeMap<String, String>,
    instance: &InstanceId,
) -> BTreeMap<String, String> {
    let mut tags = metadata.clone();
    tags.insert(TAG_SCHEDULED.to_owned(), "true".to_owned());
    tags.insert(TAG_INSTANCE.to_owned(), instance.to_string());
    tags
}
