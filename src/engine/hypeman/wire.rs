//! The API's JSON (contract, section 3): what is sent, what is read, and how it becomes the tool's own types.
//!
//! Unknown fields are ignored, unknown states are kept as a note, unknown kinds are refused: a snapshot of a kind that
//! is not understood must not be judged by retention.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::clean;
use super::fault::Fault;
use crate::instance::{Instance, InstanceRef, InvalidInstanceId, State};
use crate::snapshot::Consistency;
use crate::snapshot::storing::Method;
use crate::snapshot::{InvalidSnapshotId, Kind, Snapshot};

/// Longer than any name of hypeman's.
const NAME_MAX_BYTES: usize = 255;
/// Four times the characters that the longest text of a snapshot may have (contract, section 3).
const TEXT_MAX_BYTES: usize = 1024;
/// A snapshot's tags (contract, section 3).
const TAGS_MAX: usize = 50;

/// The body of a creation. The server refuses an empty name and takes an empty map of tags.
#[derive(Debug, Serialize)]
pub(super) struct NewSnapshot<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) tags: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compression: Option<Compression>,
}

/// How the server shall compress memory (contract, section 3).
#[derive(Debug, Serialize)]
pub(super) struct Compression {
    enabled: bool,
    algorithm: &'static str,
    level: u8,
}

impl Compression {
    pub(super) fn of(method: Method) -> Self {
        Self {
            enabled: true,
            algorithm: method.algorithm(),
            level: method.level(),
        }
    }
}

/// What this tool reads of an instance.
#[derive(Debug, Deserialize)]
pub(super) struct WireInstance {
    pub(super) id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    state: String,
    state_error: Option<String>,
}

impl WireInstance {
    /// The instance; its state is [`State::Unknown`] with a note where this version does not know the word.
    ///
    /// # Errors
    /// [`Fault::Garbled`] when its id is none.
    pub(super) fn into_instance(mut self) -> Result<Instance, Fault> {
        let known = serde_json::from_value::<State>(Value::String(self.state.clone())).ok();
        let state_note = self
            .state_error
            .take()
            .filter(|note| !note.is_empty())
            .or_else(|| {
                known
                    .is_none()
                    .then(|| format!("the server calls its state {:?}", self.state))
            });
        let InstanceRef { id, name } = self.into_ref().map_err(garbled)?;
        Ok(Instance {
            id,
            name,
            state: known.unwrap_or(State::Unknown),
            // It goes into messages.
            state_note: state_note.map(|note| clean(&note, None)),
        })
    }

    /// Its id and name. A name that can't be one names nothing: it would have to be typed, and is given to hooks.
    ///
    /// # Errors
    /// When its id is none.
    pub(super) fn into_ref(self) -> Result<InstanceRef, Unfit> {
        let is_name = self.name.len() <= NAME_MAX_BYTES && !self.name.chars().any(char::is_control);
        Ok(InstanceRef {
            id: self.id.parse()?,
            name: if is_name { self.name } else { String::new() },
        })
    }
}

/// Why a record of the server's is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It is longer than any record.
    #[error("it is longer than {0} KiB")]
    Long(usize),
    /// It is not in the contract's form.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    /// It can't be an instance's id.
    #[error(transparent)]
    Instance(#[from] InvalidInstanceId),
    /// It can't be a snapshot's id.
    #[error(transparent)]
    Snapshot(#[from] InvalidSnapshotId),
    /// It holds a text of so many bytes.
    #[error("it holds a text of {0} bytes where {TEXT_MAX_BYTES} are enough")]
    LongText(usize),
    /// It has more tags than a snapshot can have.
    #[error("it has more than {TAGS_MAX} tags")]
    ManyTags,
}

/// What this tool reads of a snapshot.
#[derive(Debug, Deserialize)]
pub(super) struct WireSnapshot {
    id: String,
    name: Option<String>,
    kind: Kind,
    tags: Option<BTreeMap<String, String>>,
    source_instance_id: String,
    #[serde(default)]
    source_instance_name: String,
    #[serde(default)]
    source_hypervisor: String,
    created_at: DateTime<Utc>,
    size_bytes: u64,
}

impl WireSnapshot {
    /// The snapshot.
    ///
    /// # Errors
    /// When its id is none, or when it holds more than the contract allows.
    pub(super) fn into_snapshot(self) -> Result<Snapshot, Unfit> {
        let texts = [
            self.name.as_deref().unwrap_or_default(),
            &self.source_instance_id,
            &self.source_instance_name,
            &self.source_hypervisor,
        ];
        let tags = self.tags.iter().flatten();
        if let Some(long) = texts
            .into_iter()
            .chain(tags.flat_map(|(key, value)| [key.as_str(), value]))
            .find(|text| text.len() > TEXT_MAX_BYTES)
        {
            return Err(Unfit::LongText(long.len()));
        }
        if self.tags.as_ref().is_some_and(|tags| tags.len() > TAGS_MAX) {
            return Err(Unfit::ManyTags);
        }
        Ok(Snapshot {
            id: self.id.parse()?,
            name: self.name.unwrap_or_default(),
            kind: self.kind,
            consistency: Consistency::unsaid(self.kind),
            tags: self.tags.unwrap_or_default(),
            source_instance_id: self.source_instance_id,
            source_instance_name: self.source_instance_name,
            source_hypervisor: self.source_hypervisor,
            created_at: self.created_at,
            size_bytes: self.size_bytes,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
        })
    }
}

/// What this tool reads of a schedule that the server keeps itself.
#[derive(Debug, Deserialize)]
pub(super) struct WireSchedule {
    pub(super) instance_id: String,
    pub(super) interval: String,
}

/// Whether this is what a server that is well answers to `GET /health` (contract, section 3).
pub(super) fn is_well(body: &[u8]) -> bool {
    parse::<Map<String, Value>>(body)
        .is_ok_and(|health| health.get("status").is_some_and(|status| status == "ok"))
}

/// A JSON answer.
///
/// # Errors
/// [`Fault::Garbled`] when it has another form.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(garbled)
}

/// An answer that is not the contract's.
pub(super) fn garbled(cause: impl std::fmt::Display) -> Fault {
    // The parser's message may quote the server's text.
    Fault::Garbled(clean(&cause.to_string(), None))
}
