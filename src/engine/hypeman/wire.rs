//! The API's JSON (contract, section 3): what is sent, what is read, and how it becomes the tool's own types.
//!
//! Unknown fields are ignored, unknown states are kept as a note, unknown kinds are refused: a snapshot of a kind that
//! is not understood must not be judged by retention.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::clean;
use super::fault::Fault;
use crate::engine::Listing;
use crate::instance::{Instance, InstanceRef, State};
use crate::snapshot::{Kind, Snapshot};

/// The body of a creation. The server refuses an empty name and takes an empty map of tags.
#[derive(Debug, Serialize)]
pub(super) struct NewSnapshot<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) tags: &'a BTreeMap<String, String>,
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
    pub(super) fn into_instance(self) -> Result<Instance, Fault> {
        let known = serde_json::from_value::<State>(Value::String(self.state.clone())).ok();
        let state_note = self
            .state_error
            .filter(|note| !note.is_empty())
            .or_else(|| {
                known
                    .is_none()
                    .then(|| format!("the server calls its state {:?}", self.state))
            });
        Ok(Instance {
            id: self.id.parse().map_err(garbled)?,
            name: self.name,
            state: known.unwrap_or(State::Unknown),
            state_note,
        })
    }
}

#[derive(Debug, Deserialize)]
struct WireSnapshot {
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
    fn into_snapshot(self) -> Result<Snapshot, String> {
        Ok(Snapshot {
            id: self.id.parse().map_err(|invalid| format!("{invalid}"))?,
            name: self.name.unwrap_or_default(),
            kind: self.kind,
            tags: self.tags.unwrap_or_default(),
            source_instance_id: self.source_instance_id,
            source_instance_name: self.source_instance_name,
            source_hypervisor: self.source_hypervisor,
            created_at: self.created_at,
            size_bytes: self.size_bytes,
            disk_bytes: None,
            unusable: None,
        })
    }
}

/// What this tool reads of a schedule that the server keeps itself.
#[derive(Debug, Deserialize)]
pub(super) struct WireSchedule {
    pub(super) instance_id: String,
    pub(super) interval: String,
}

/// A JSON answer.
///
/// # Errors
/// [`Fault::Garbled`] when it has another form.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(garbled)
}

/// A JSON answer that is an array; `null` is an empty one, as Go writes it.
///
/// # Errors
/// [`Fault::Garbled`] when it is something else.
pub(super) fn parse_array(body: &[u8]) -> Result<Vec<Value>, Fault> {
    parse::<Option<Vec<Value>>>(body).map(Option::unwrap_or_default)
}

/// One record of the server's instances: its id and name.
///
/// # Errors
/// [`Fault::Garbled`] when it has none.
pub(super) fn parse_instance_ref(record: Value) -> Result<InstanceRef, Fault> {
    let instance: WireInstance = serde_json::from_value(record).map_err(garbled)?;
    Ok(InstanceRef {
        id: instance.id.parse().map_err(garbled)?,
        name: instance.name,
    })
}

/// One snapshot.
///
/// # Errors
/// [`Fault::Garbled`] when it is none, or of a kind that is not known.
pub(super) fn parse_snapshot(body: &[u8]) -> Result<Snapshot, Fault> {
    parse::<WireSnapshot>(body)?
        .into_snapshot()
        .map_err(Fault::Garbled)
}

/// The server's snapshots; a record that can't be understood becomes a problem, and is never deleted.
pub(super) fn listing(records: Vec<Value>) -> Listing {
    let mut listing = Listing::default();
    for record in records {
        let id = record
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let snapshot = serde_json::from_value::<WireSnapshot>(record)
            .map_err(|invalid| invalid.to_string())
            .and_then(WireSnapshot::into_snapshot);
        match snapshot {
            Ok(snapshot) => listing.snapshots.push(snapshot),
            Err(invalid) => listing.problems.push(format!(
                "the server's snapshot {id:?} is left alone, its record can't be understood: {}",
                clean(&invalid, None)
            )),
        }
    }
    listing
}

fn garbled(cause: impl std::fmt::Display) -> Fault {
    // The parser's message may quote the server's text.
    Fault::Garbled(clean(&cause.to_string(), None))
}
