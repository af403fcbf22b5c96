//! The digests of a snapshot, `hypeman-snap-digests.json` beside its record: of its memory and state from its capture on, of
//! its disks from when they were first read, and of the record and the manifest. The first line is the digest of the rest,
//! so that damage to the file itself is not taken for damage to what it describes.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::RECORD;
use crate::fs::digest::{PIECE_BYTES, Piece};
use crate::fs::{bounded, durable};
use crate::snapshot::SnapshotId;
use crate::snapshot::manifest::FILE_NAME as MANIFEST;

/// The file's name in the snapshot's directory.
pub(super) const FILE_NAME: &str = "hypeman-snap-digests.json";
const VERSION: u32 = 1;
/// More than the pieces of 4 TiB need.
const MAX_BYTES: u64 = 128 << 20;
/// What a hypeman server changes in a record when it compresses the memory (contract, section 5).
const CHANGED_BY_SERVERS: [&str; 6] = [
    "compression",
    "compression_error",
    "compression_state",
    "compressed_size_bytes",
    "uncompressed_size_bytes",
    "size_bytes",
];

/// What is known of a snapshot's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digests {
    version: u32,
    snapshot_id: SnapshotId,
    /// The length of a piece.
    piece_bytes: u64,
    /// The digest of what the record says, whatever the order and the form.
    record: Option<String>,
    /// The digest of the manifest.
    manifest: Option<String>,
    pub(super) files: Vec<FileDigests>,
}

/// The pieces of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileDigests {
    /// Where it is, relative to `guest/`.
    pub(super) path: PathBuf,
    /// Its length, as its content has it: unpacked, holes included.
    pub(super) size_bytes: u64,
    /// One for each piece; null where that is all zeros.
    pieces: Vec<Option<String>>,
}

/// Why digests can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DigestsError {
    /// There are none: the snapshot is of an older version, or of hypeman.
    #[error("there are none")]
    None,
    /// They are of another snapshot, or their own digest does not fit.
    #[error("{FILE_NAME} {0}")]
    Damaged(&'static str),
    /// The file can't be read.
    #[error("{FILE_NAME} can't be read: {0}")]
    Io(#[from] io::Error),
}

impl FileDigests {
    pub(super) fn new(path: PathBuf, size_bytes: u64, pieces: &[Piece]) -> Self {
        let in_hex = |piece: &Piece| piece.map(|hash| hash.to_hex().to_string());
        Self {
            path,
            size_bytes,
            pieces: pieces.iter().map(in_hex).collect(),
        }
    }

    /// What is different in `now`, if anything: the lengths, or the place of the first piece that differs, in bytes.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        let shown = self.path.display();
        if now.size_bytes < self.size_bytes {
            return Some(format!(
                "{shown} is cut: {} of {} bytes",
                now.size_bytes, self.size_bytes
            ));
        }
        if now.size_bytes > self.size_bytes {
            return Some(format!(
                "{shown} has grown from {} to {} bytes",
                self.size_bytes, now.size_bytes
            ));
        }
        let mut pairs = self.pieces.iter().zip(&now.pieces);
        let first = pairs.position(|(then, now)| then != now)?;
        let start = PIECE_BYTES.saturating_mul(u64::try_from(first).unwrap_or(u64::MAX));
        let end = start.saturating_add(PIECE_BYTES).min(self.size_bytes);
        let others = pairs.filter(|(then, now)| then != now).count();
        let others = match others {
            0 => String::new(),
            1 => ", and one more piece".to_owned(),
            others => format!(", and {others} more pieces"),
        };
        Some(format!(
            "{shown} is not what it was between byte {start} and byte {end}{others}"
        ))
    }
}

impl Digests {
    /// Those of a snapshot with this record and manifest, as bytes.
    pub(super) fn new(
        id: &SnapshotId,
        record: &[u8],
        manifest: &[u8],
        files: Vec<FileDigests>,
    ) -> Self {
        Self {
            version: VERSION,
            snapshot_id: id.clone(),
            piece_bytes: PIECE_BYTES,
            record: of_record(record),
            manifest: Some(of_bytes(manifest)),
            files,
        }
    }

    /// Those of a snapshot that has none yet.
    pub(super) fn first(id: &SnapshotId) -> Self {
        Self {
            version: VERSION,
            snapshot_id: id.clone(),
            piece_bytes: PIECE_BYTES,
            record: None,
            manifest: None,
            files: Vec::new(),
        }
    }

    /// What is different in the record and the manifest as they are now, if anything.
    pub(super) fn differences(&self, record: &[u8], manifest: Option<&[u8]>) -> Vec<String> {
        let mut found = Vec::new();
        if self.record.is_some() && of_record(record) != self.record {
            found.push(format!("{RECORD} is not what it was"));
        }
        if let Some(then) = &self.manifest {
            match manifest {
                Some(now) if of_bytes(now) == *then => {}
                Some(_) => found.push(format!("{MANIFEST} is not what it was")),
                None => found.push(format!("{MANIFEST} is missing")),
            }
        }
        found
    }

    pub(super) fn of(&self, path: &Path) -> Option<&FileDigests> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Reads those in the open directory of the snapshot `id`.
    pub(super) fn read(directory: impl AsFd, id: &SnapshotId) -> Result<Self, DigestsError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(directory, FILE_NAME, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT) => return Err(DigestsError::None),
            Err(rustix::io::Errno::LOOP) => return Err(DigestsError::Damaged("is a symlink")),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        if !file.metadata()?.is_file() {
            return Err(DigestsError::Damaged("is no regular file"));
        }
        let bytes = bounded::read(file, MAX_BYTES)?;
        Self::parse(&bytes, id).ok_or(DigestsError::Damaged("is damaged"))
    }

    fn parse(bytes: &[u8], id: &SnapshotId) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (first, rest) = bytes.split_at_checked(end)?;
        let rest = rest.get(1..)?;
        (first == of_bytes(rest).as_bytes()).then_some(())?;
        let digests: Self = serde_json::from_slice(rest).ok()?;
        let is_ours = digests.version == VERSION
            && digests.piece_bytes == PIECE_BYTES
            && digests.snapshot_id == *id;
        is_ours.then_some(digests)
    }

    /// Makes them those in `directory`, durably.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut body = serde_json::to_vec(self)?;
        body.push(b'\n');
        let mut bytes = of_bytes(&body).into_bytes();
        bytes.push(b'\n');
        bytes.extend(body);
        durable::write(&directory.join(FILE_NAME), &bytes, 0o600)
    }
}

fn of_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The digest of what a record says; `None` if that is no JSON.
fn of_record(bytes: &[u8]) -> Option<String> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    if let Some(Value::Object(snapshot)) = value.get_mut("snapshot") {
        for key in CHANGED_BY_SERVERS {
            snapshot.shift_remove(key);
        }
    }
    value.sort_all_objects();
    Some(of_bytes(value.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SnapshotId {
        "s1".parse().unwrap()
    }

    fn digests() -> Digests {
        let piece = |byte: u8| Some(blake3::hash(&[byte]));
        let file = FileDigests::new("disks/0-a".into(), 9 << 20, &[piece(1), None, piece(3)]);
        Digests::new(&id(), br#"{"snapshot": {"id": "s1"}}"#, b"{}", vec![file])
    }

    #[test]
    fn what_was_written_is_read_and_each_flipped_bit_shows() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Digests::read(std::fs::File::open(dir.path()).unwrap(), &id());
        assert!(matches!(read(), Err(DigestsError::None)));
        digests().write(dir.path()).unwrap();
        assert_eq!(read().unwrap(), digests());
        let path = dir.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            std::fs::write(&path, &spoilt).unwrap();
            assert!(matches!(read(), Err(DigestsError::Damaged(_))), "byte {at}");
        }
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        assert!(matches!(read(), Err(DigestsError::Damaged(_))));
        let other = "s2".parse().unwrap();
        assert_eq!(Digests::parse(&whole, &other), None);
    }

    #[test]
    fn the_place_of_a_difference_is_told() {
        let digests = digests();
        let file = &digests.files[0];
        assert_eq!(file.difference(file), None);
        for (pieces, size, told) in [
            (
                [1, 0, 4],
                9 << 20,
                "disks/0-a is not what it was between byte 8388608 and byte 9437184",
            ),
            (
                [2, 5, 4],
                9 << 20,
                "disks/0-a is not what it was between byte 0 and byte 4194304, and 2 more pieces",
            ),
            (
                [1, 0, 3],
                8 << 20,
                "disks/0-a is cut: 8388608 of 9437184 bytes",
            ),
            (
                [1, 0, 3],
                10 << 20,
                "disks/0-a has grown from 9437184 to 10485760 bytes",
            ),
        ] {
            let pieces = pieces.map(|byte: u8| (byte != 0).then(|| blake3::hash(&[byte])));
            let now = FileDigests::new("disks/0-a".into(), size, &pieces);
            assert_eq!(file.difference(&now).as_deref(), Some(told));
        }
    }

    #[test]
    fn a_record_is_what_it_says_and_not_how() {
        let digests = Digests::new(
            &id(),
            br#"{"snapshot": {"id": "s1", "name": "n", "size_bytes": 9, "compression_state": "none"}, "stored_metadata": {"b": 1, "a": 2}}"#,
            b"m",
            Vec::new(),
        );
        let same = br#"{"stored_metadata":{"a":2,"b":1},"snapshot":{"size_bytes":3,"compression_state":"compressed","name":"n","id":"s1"}}"#;
        assert!(digests.differences(same, Some(b"m")).is_empty());
        let other = br#"{"stored_metadata":{"a":2,"b":3},"snapshot":{"name":"n","id":"s1"}}"#;
        assert_eq!(
            digests.differences(other, Some(b"n")),
            [
                "snapshot.json is not what it was",
                "hypeman-snap.json is not what it was"
            ]
        );
        assert_eq!(digests.differences(b"{", None).len(), 2);
        assert!(Digests::first(&id()).differences(b"{", None).is_empty());
    }
}
