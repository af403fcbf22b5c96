//! A snapshot's `snapshot.json`, to the letter of the contract (section 4), so that hypeman and this tool read each
//! other's. Pure: bytes in, bytes out.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::metadata::local_time;
use crate::snapshot::{Consistency, Kind, Snapshot, SnapshotId};

/// The record's file name.
pub(super) const RECORD: &str = "snapshot.json";
/// What it is called while the directory is no snapshot yet, or no more: hypeman lists every directory that holds a
/// record, also one with a dot (contract, section 5).
pub(super) const HIDDEN: &str = ".snapshot.json";

/// The state of a snapshot whose memory is compressed.
const COMPRESSED: &str = "compressed";

/// The key that `register` writes into an instance's metadata.
const REGISTERED: &str = "HypemanSnapRegistered";

/// The part of a record that is read. Everything else in it, the instance's stored metadata among it, is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    snapshot: Wire,
    #[serde(default)]
    stored_metadata: Option<Stored>,
}

/// What is read of the instance's metadata: the rest of it is never built.
#[derive(Debug, Deserialize)]
struct Stored {
    #[serde(rename = "Id", default)]
    id: Option<String>,
    #[serde(rename = "HypemanSnapRegistered", default)]
    is_registered: bool,
    #[serde(rename = "FirecrackerDeferredSnapshotMemoryPath", default)]
    deferred_memory: Option<String>,
}

impl Record {
    /// Whether `register` made the instance known.
    pub(super) fn is_registered(&self) -> bool {
        let stored = self.stored_metadata.as_ref();
        stored.is_some_and(|stored| stored.is_registered)
    }

    /// Whether hypeman left the memory where it was when it made the snapshot.
    pub(super) fn has_memory_elsewhere(&self) -> bool {
        let stored = self.stored_metadata.as_ref();
        let path = stored.and_then(|stored| stored.deferred_memory.as_deref());
        path.is_some_and(|path| !path.trim().is_empty())
    }

    /// How long the compressed memory is; `None` where the record does not say that there is some.
    pub(super) fn packed_bytes(&self) -> Option<u64> {
        let wire = &self.snapshot;
        let is_packed = wire.compression_state.as_deref() == Some(COMPRESSED);
        wire.compressed_size_bytes
            .filter(|bytes| is_packed && *bytes > 0)
    }

    /// Why the record can't be true of the snapshot in the directory `name`, if so.
    pub(super) fn contradiction(&self, name: &str) -> Option<String> {
        let wire = &self.snapshot;
        if wire.id.as_str() != name {
            return Some(format!(
                "its snapshot.json is of another snapshot, {}",
                wire.id
            ));
        }
        let stored = self.stored_metadata.as_ref()?.id.as_deref()?;
        (stored != wire.source_instance_id).then(|| {
            format!(
                "its snapshot.json names two instances, {:?} and {stored:?}",
                wire.source_instance_id
            )
        })
    }
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
    #[serde(default)]
    compression_state: Option<String>,
    #[serde(default)]
    compressed_size_bytes: Option<u64>,
    // This tool's own; hypeman passes over what it does not know.
    #[serde(default)]
    consistency: Option<Consistency>,
}

impl From<Record> for Snapshot {
    fn from(record: Record) -> Self {
        let wire = record.snapshot;
        Self {
            id: wire.id,
            name: wire.name.unwrap_or_default(),
            kind: wire.kind,
            consistency: wire
                .consistency
                .filter(|it| it.is_of(wire.kind))
                .unwrap_or_else(|| Consistency::unsaid(wire.kind)),
            tags: wire.tags.unwrap_or_default(),
            source_instance_id: wire.source_instance_id,
            source_instance_name: wire.source_instance_name,
            source_hypervisor: wire.source_hypervisor,
            created_at: wire.created_at.to_utc(),
            size_bytes: wire.size_bytes,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<WrittenCompression>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed_size_bytes: Option<u64>,
    /// Where the kind does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency: Option<Consistency>,
}

#[derive(Debug, Serialize)]
struct WrittenCompression {
    enabled: bool,
    algorithm: &'static str,
}

/// How the memory of a snapshot is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compression {
    /// The algorithm, as hypeman calls it.
    pub(super) algorithm: &'static str,
    /// The length of the compressed file.
    pub(super) size_bytes: u64,
}

/// Whether the instance of this metadata was made known by `register`.
pub(super) fn is_registered(stored_metadata: &Map<String, Value>) -> bool {
    stored_metadata.get(REGISTERED) == Some(&Value::Bool(true))
}

/// The bytes of `snapshot.json`.
///
/// # Errors
/// Never in practice: everything in it has a JSON form.
pub(super) fn render(
    snapshot: &Snapshot,
    compression: Option<Compression>,
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
            // A server that can't read one record lists nothing at all, and its sizes are signed.
            size_bytes: snapshot.size_bytes.min(i64::MAX.unsigned_abs()),
            compression_state: compression.map_or("none", |_| COMPRESSED),
            compression: compression.map(|it| WrittenCompression {
                enabled: true,
                algorithm: it.algorithm,
            }),
            compressed_size_bytes: compression.map(|it| it.size_bytes),
            consistency: Some(snapshot.consistency)
                .filter(|it| *it != Consistency::unsaid(snapshot.kind)),
        },
        stored_metadata,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The contract's example.
    const EXAMPLE: &str = r#"{"snapshot":{"id":"s8p1n4f6y0u3e2j7g9l5o1xv","name":"before-deploy","kind":"Standby",
  "tags":{"team":"infra"},"source_instance_id":"mk3v9t0xq2r7w5d8h1c6b4za",
  "source_instance_name":"web-a","SourceHypervisor":"cloud-hypervisor",
  "created_at":"2026-09-02T05:15:20.123456789+02:00","size_bytes":12884901888,
  "compression_state":"none"},
 "stored_metadata":{"Id":"mk3v9t0xq2r7w5d8h1c6b4za"}}"#;

    fn parse(text: &str) -> Snapshot {
        serde_json::from_str::<Record>(text).unwrap().into()
    }

    #[test]
    fn hypemans_own_record_is_read() {
        let snapshot = parse(EXAMPLE);
        assert_eq!(snapshot.id.as_str(), "s8p1n4f6y0u3e2j7g9l5o1xv");
        assert_eq!(snapshot.name, "before-deploy");
        assert_eq!(snapshot.kind, Kind::Standby);
        assert_eq!(snapshot.tags["team"], "infra");
        assert_eq!(snapshot.source_hypervisor, "cloud-hypervisor");
        assert_eq!(
            snapshot.created_at,
            "2026-09-02T03:15:20.123456789Z"
                .parse::<DateTime<chrono::Utc>>()
                .unwrap()
        );
        assert_eq!(snapshot.size_bytes, 12_884_901_888);
    }

    #[test]
    fn a_record_is_written_as_hypeman_reads_it() {
        let snapshot = parse(EXAMPLE);
        let Value::Object(stored) = json!({"Id": "vm", "Zebra": 1, "Aardvark": null}) else {
            panic!("not an object");
        };
        let text = String::from_utf8(render(&snapshot, None, &stored).unwrap()).unwrap();
        assert_eq!(parse(&text), snapshot);
        let value: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&String> = value["snapshot"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "id",
                "name",
                "kind",
                "tags",
                "source_instance_id",
                "source_instance_name",
                "SourceHypervisor",
                "created_at",
                "size_bytes",
                "compression_state"
            ]
        );
        assert_eq!(value["stored_metadata"], json!(stored));
        assert!(text.starts_with("{\n  \"snapshot\": {\n    \"id\""));
        assert!(text.find("Zebra") < text.find("Aardvark"));
        // Nanoseconds and an offset or `Z`, as Go reads them.
        let created_at = value["snapshot"]["created_at"].as_str().unwrap();
        assert!(created_at.contains(".123456789"), "{created_at}");
        DateTime::parse_from_rfc3339(created_at).unwrap();
    }

    #[test]
    fn what_is_empty_is_left_out_or_written_as_the_contract_says() {
        let mut snapshot = parse(EXAMPLE);
        snapshot.name.clear();
        snapshot.tags.clear();
        let value: Value =
            serde_json::from_slice(&render(&snapshot, None, &Map::new()).unwrap()).unwrap();
        assert_eq!(value["snapshot"]["name"], "");
        assert_eq!(value["snapshot"].get("tags"), None);
    }

    #[test]
    fn compressed_memory_is_said_to_be_compressed() {
        let compression = Compression {
            algorithm: "zstd",
            size_bytes: 77,
        };
        let bytes = render(&parse(EXAMPLE), Some(compression), &Map::new()).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["snapshot"]["compression_state"], "compressed");
        assert_eq!(
            value["snapshot"]["compression"],
            json!({"enabled": true, "algorithm": "zstd"})
        );
        assert_eq!(value["snapshot"]["compressed_size_bytes"], 77);
    }

    #[test]
    fn missing_and_null_optionals_are_empty_and_unknown_fields_no_obstacle() {
        let snapshot = parse(
            r#"{"snapshot":{"id":"s","kind":"Stopped","name":null,"tags":null,"source_instance_id":"vm",
                "source_hypervisor":"qemu","created_at":"2026-09-02T03:15:20Z","new":{"x":[1]}},"more":1}"#,
        );
        assert_eq!((snapshot.name.as_str(), snapshot.tags.len()), ("", 0));
        assert_eq!(snapshot.source_hypervisor, "");
        assert_eq!(snapshot.size_bytes, 0);
    }

    #[test]
    fn a_size_is_one_that_a_server_can_read() {
        let snapshot = Snapshot {
            size_bytes: u64::MAX,
            ..parse(EXAMPLE)
        };
        let bytes = render(&snapshot, None, &Map::new()).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["snapshot"]["size_bytes"], i64::MAX);
    }

    #[test]
    fn a_record_without_what_retention_needs_is_no_record() {
        for key in ["id", "kind", "source_instance_id", "created_at"] {
            let mut value: Value = serde_json::from_str(EXAMPLE).unwrap();
            value["snapshot"].as_object_mut().unwrap().remove(key);
            assert!(serde_json::from_value::<Record>(value).is_err(), "{key}");
        }
        for (key, bad) in [
            ("id", json!("../../etc")),
            ("kind", json!("Paused")),
            ("created_at", json!("yesterday")),
            ("size_bytes", json!(-1)),
            ("size_bytes", json!(1e300)),
            ("size_bytes", json!("7")),
            ("tags", json!({"a": 1})),
            ("created_at", json!("+999999-01-01T00:00:00Z")),
        ] {
            let mut value: Value = serde_json::from_str(EXAMPLE).unwrap();
            value["snapshot"][key] = bad;
            assert!(serde_json::from_value::<Record>(value).is_err(), "{key}");
        }
    }
}
