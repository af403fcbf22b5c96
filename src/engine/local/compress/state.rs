//! What a record says of the compression of its memory, in hypeman's words (contract, sections 3 and 5).

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json as value};

use crate::engine::local::json;
use crate::engine::local::record::RECORD;
use crate::fs::durable;
use crate::snapshot::storing::Method;

/// The keys that tell it.
const KEYS: [&str; 5] = [
    "compression_state",
    "compression_error",
    "compression",
    "compressed_size_bytes",
    "uncompressed_size_bytes",
];
/// The state of one whose compression has failed for good.
const ERROR: &str = "error";

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The memory is as it was saved.
    None,
    /// A frame is being made.
    Compressing(Method),
    /// The frame has taken the place of the memory.
    Compressed {
        method: Method,
        packed_bytes: u64,
        raw_bytes: u64,
        /// The sum of the lengths of the snapshot's files.
        size_bytes: u64,
    },
    /// The memory stays as it was saved, for this reason.
    Failed(String),
}

/// Whether the compression of a snapshot with this record failed for good.
pub(super) fn is_given_up(record: &[u8]) -> bool {
    let record: Option<Value> = serde_json::from_slice(record).ok();
    record.is_some_and(|record| record["snapshot"]["compression_state"] == ERROR)
}

/// Why the memory of the snapshot in `directory` stays uncompressed, where that was tried.
pub(in crate::engine::local) fn error_of(directory: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Record {
        snapshot: Told,
    }
    #[derive(serde::Deserialize)]
    struct Told {
        compression_state: Option<String>,
        compression_error: Option<String>,
    }
    let told = json::read_once::<Record>(&directory.join(RECORD)).ok()?;
    let told = told.snapshot;
    (told.compression_state.as_deref() == Some(ERROR)).then(|| {
        let why = told.compression_error;
        why.unwrap_or_else(|| "it is not said why".to_owned())
    })
}

/// Writes the state into the record `path`, durably.
///
/// # Errors
/// When it can't be read, is no record, or can't be written.
pub(super) fn note(path: &Path, state: &State) -> io::Result<()> {
    let before = std::fs::read(path)?;
    let after = with(&before, state)?;
    if after == before {
        return Ok(());
    }
    durable::write(path, &after, 0o600)
}

/// The record with this state; all else in it is as it was.
fn with(record: &[u8], state: &State) -> io::Result<Vec<u8>> {
    let mut record: Value = serde_json::from_slice(record)?;
    let Some(Value::Object(snapshot)) = record.get_mut("snapshot") else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the record tells of no snapshot",
        ));
    };
    for key in KEYS.iter().filter(|key| **key != "compression_state") {
        snapshot.shift_remove(*key);
    }
    for (key, value) in words(state) {
        snapshot.insert(key, value);
    }
    let mut bytes = serde_json::to_vec_pretty(&record)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn words(state: &State) -> Map<String, Value> {
    let method = |method: Method| value!({"enabled": true, "algorithm": method.algorithm(), "level": method.level()});
    let words = match state {
        State::None => value!({"compression_state": "none"}),
        State::Compressing(by) => {
            value!({"compression_state": "compressing", "compression": method(*by)})
        }
        State::Compressed {
            method: by,
            packed_bytes,
            raw_bytes,
            size_bytes,
        } => value!({
            "compression_state": "compressed",
            "compression": method(*by),
            "compressed_size_bytes": packed_bytes,
            "uncompressed_size_bytes": raw_bytes,
            "size_bytes": size_bytes,
        }),
        State::Failed(why) => value!({"compression_state": ERROR, "compression_error": why}),
    };
    let words = words.as_object();
    words.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "{\n  \"snapshot\": {\n    \"id\": \"s1\",\n    \"size_bytes\": 9,\n    \"compression_state\": \"none\"\n  },\n  \"stored_metadata\": {\n    \"B\": 1,\n    \"A\": 2\n  }\n}\n";

    #[test]
    fn states_are_told_as_hypeman_does_and_taken_back_without_a_trace() {
        let method = Method::Zstd(3);
        let compressing = with(RECORD.as_bytes(), &State::Compressing(method)).unwrap();
        let json: Value = serde_json::from_slice(&compressing).unwrap();
        assert_eq!(json["snapshot"]["compression_state"], "compressing");
        assert_eq!(
            json["snapshot"]["compression"],
            value!({"enabled": true, "algorithm": "zstd", "level": 3})
        );
        let compressed = State::Compressed {
            method,
            packed_bytes: 5,
            raw_bytes: 100,
            size_bytes: 7,
        };
        let compressed = with(&compressing, &compressed).unwrap();
        let json: Value = serde_json::from_slice(&compressed).unwrap();
        let snapshot = &json["snapshot"];
        assert_eq!(snapshot["compression_state"], "compressed");
        assert_eq!(snapshot["compressed_size_bytes"], 5);
        assert_eq!(snapshot["uncompressed_size_bytes"], 100);
        assert_eq!(snapshot["size_bytes"], 7);
        assert!(!is_given_up(&compressed));

        let failed = with(&compressing, &State::Failed("why".to_owned())).unwrap();
        assert!(is_given_up(&failed));
        let json: Value = serde_json::from_slice(&failed).unwrap();
        assert_eq!(json["snapshot"]["compression_error"], "why");
        assert_eq!(json["snapshot"].get("compression"), None);
        let back = with(&failed, &State::None).unwrap();
        assert_eq!(String::from_utf8(back).unwrap(), RECORD);
    }

    #[test]
    fn what_is_no_record_stays_as_it_is() {
        for other in ["", "{", "[]", "{\"snapshot\": 1}"] {
            assert!(with(other.as_bytes(), &State::None).is_err());
            assert!(!is_given_up(other.as_bytes()));
        }
    }
}
