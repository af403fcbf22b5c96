//! What verification and rehearsals found of a snapshot, `hypeman-snap-verified.json` beside its record.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::json;
use crate::fs::durable;
use crate::snapshot::Rehearsal;

/// The file's name in the snapshot's directory.
pub(super) const FILE_NAME: &str = "hypeman-snap-verified.json";
const VERSION: u32 = 1;

/// A verdict. A later pass takes it back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    version: u32,
    /// When every byte of it was last read and found to be what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verified_at: Option<DateTime<Utc>>,
    /// Why it can't be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flaw: Option<String>,
    /// When that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) found_at: Option<DateTime<Utc>>,
    /// How its last rehearsal ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rehearsed: Option<Rehearsal>,
}

impl Verdict {
    /// That all of it is as it was.
    pub(super) fn sound(self, now: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            verified_at: Some(now),
            flaw: None,
            found_at: None,
            ..self
        }
    }

    /// That it is damaged.
    pub(super) fn damaged(self, flaw: String, now: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            flaw: Some(flaw),
            found_at: Some(now),
            ..self
        }
    }

    /// That it was rehearsed.
    pub(super) fn rehearsed(self, rehearsal: Rehearsal) -> Self {
        Self {
            version: VERSION,
            rehearsed: Some(rehearsal),
            ..self
        }
    }

    /// Reads that of the snapshot in the open `directory`; without one, or with one that makes no sense, nothing was found.
    pub(super) fn read(directory: impl AsFd) -> Self {
        json::read_at(directory, FILE_NAME).unwrap_or_default()
    }

    /// Makes it that of the snapshot in `directory`, durably.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        durable::write(&directory.join(FILE_NAME), &bytes, 0o600)
    }
}
