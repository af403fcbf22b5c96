//! A snapshot's `snapshot.json`, to the letter of the contract (section 4), so that hypeman and this tool read each
//! other's. Pure: bytes in, bytes out.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::metadata::local_time;
use crate::snapshot::{Kind, Snapshot, SnapshotId};

/// The part of a record that is read. Everything else in it, the instance's stored metadata among it, is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    snapshot: Wire,
}

#[derive(Debug, Deserialize)]
struct Wire {
    id: SnapshotId,
    #[serde(default)]
    name: Option<String>,
    kind: Kind,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    source_instance_id: String,
    #[serde(default)]
    source_instance_name: String,
    // Not a slip: hypeman's field has no tag, so this is its name in the file.
    #[serde(rename = "SourceHypervisor", default)]
    source_hypervisor: String,
    created_at: DateTime<FixedOffset>,
    #[serde(default)]
    size_bytes: u64,
}

impl From<Record> for Snapshot {
    fn from(record: Record) -> Self {
        let wire = record.snapshot;
        Self {
            id: wire.id,
            name: wire.name.unwrap_or_default(),
            kind: wire.kind,
            tags: wire.tags.unwrap_or_default(),
            source_instance_id: wire.source_instance_id,
            source_instance_name: wire.source_instance_name,
            source_hypervisor: wire.source_hypervisor,
            created_at: wire.created_at.to_utc(),
            size_bytes: wire.size_bytes,
            disk_bytes: None,
        }
    }
}

/// A record as it is written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    snapshot: WrittenSnapshot<'a>,
    stored_metadata: &'a Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct WrittenSnapshot<'a> {
    id: &'a SnapshotId,
    name: &'a str,
    kind: Kind,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
    source_instance_id: &'a str,
    source_instance_name: &'a str,
    #[serde(rename = "SourceHypervisor")]
    source_hypervisor: &'a str,
    created_at: String,
    size_bytes: u64,
    compression_state: &'static str,
}

/// The bytes of `snapshot.json`.
///
/// # Errors
/// Never in practice: everything in it has a JSON form.
pub fn render(
    snapshot: &Snapshot,
    stored_metadata: &Map<String, Value>,
) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(&Written {
        snapshot: WrittenSnapshot {
            id: &snapshot.id,
            name: &snapshot.name,
            kind: snapshot.kind,
            tags: &snapshot.tags,
            source_instance_id: &snapshot.source_instance_id,
            source_instance_name: &snapshot.source_instance_name,
            source_hypervisor: &snapshot.source_hypervisor,
            created_at: local_time(snapshot.created_at),
            size_bytes: snapshot.size_bytes,
            compression_state: "none",
        },
        stored_metadata,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
