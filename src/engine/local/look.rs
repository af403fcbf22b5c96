//! One directory of the snapshot store: which snapshot it is, and whether it is usable. Follows no symlink, reads two
//! small files and the metadata of the others, and never writes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::json::{self, ReadError};
use super::payload::{self, Claims};
use super::record::{HIDDEN, RECORD, Record};
use super::verdict::Verdict;
use crate::snapshot::{Consistency, Kind, Snapshot, SnapshotId};

/// What a directory of the store turned out to be.
pub(super) enum Seen {
    /// Gone since the store was read, in the making, or none of the store's.
    Nothing,
    /// A snapshot, usable or not.
    Snapshot(Box<Snapshot>),
    /// No snapshot, or one that can't be looked at.
    Problem(String),
    /// Its record can't be parsed. It may be half-written at this moment.
    Unparsable {
        line: String,
        snapshot: Option<Box<Snapshot>>,
    },
    /// Its record can't be true.
    Broken {
        line: String,
        snapshot: Option<Box<Snapshot>>,
    },
}

/// What is read of the instance's metadata in `guest/`, where the record says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Source {
    id: String,
    name: String,
    hypervisor_type: String,
}

/// Looks at `name` in the open directory `store`, which is called `path`.
pub(super) fn at(store: &File, path: &Path, name: &OsStr) -> Seen {
    let path = path.join(name);
    let shown = path.display();
    let problem = |what: &str| Seen::Problem(format!("{shown} {what}"));
    let directory = match open_dir(store, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Seen::Nothing,
        Err(Errno::NOTDIR | Errno::LOOP) => return not_a_directory(store, name, &path),
        Err(error) => return problem(&format!("can't be looked at: {error}")),
    };
    let broken = |flaw: String| {
        let line = format!("{shown}: {flaw}");
        let snapshot = without_record(&directory, name, flaw).map(Box::new);
        (line, snapshot)
    };
    let record = match json::read_at::<Record>(&directory, RECORD) {
        Ok(record) => record,
        Err(error) if error.is_not_found() => {
            let is_gone = rustix::fs::statat(store, name, AtFlags::SYMLINK_NOFOLLOW).is_err();
            let is_hidden =
                rustix::fs::statat(&directory, HIDDEN, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            return if is_gone || is_hidden {
                Seen::Nothing
            } else {
                problem(
                    "has no snapshot.json: another program is still making it, or never finished",
                )
            };
        }
        Err(ReadError::File(error)) => {
            return problem(&format!("has a snapshot.json that can't be read: {error}"));
        }
        Err(ReadError::Unfit(why)) => {
            let (line, snapshot) = broken(format!("its snapshot.json is none: {why}"));
            return Seen::Broken { line, snapshot };
        }
        Err(ReadError::Parse(error)) => {
            let (line, snapshot) = broken(format!("its snapshot.json can't be parsed: {error}"));
            return Seen::Unparsable { line, snapshot };
        }
    };
    if let Some(contradiction) = record.contradiction(&name.to_string_lossy()) {
        let (line, snapshot) = broken(contradiction);
        return Seen::Broken { line, snapshot };
    }
    let mut snapshot = match with_flaw(&directory, record) {
        Ok(snapshot) => snapshot,
        Err(error) => return problem(&format!("has a guest/ that can't be looked at: {error}")),
    };
    let verdict = Verdict::read(&directory);
    snapshot.verified_at = verdict.verified_at;
    snapshot.rehearsed = verdict.rehearsed;
    if let Some(flaw) = verdict.flaw {
        snapshot
            .unusable
            .get_or_insert_with(|| format!("verification found: {flaw}"));
    }
    // A deletion begins with its name: what is missing of it then says nothing.
    if !snapshot.is_usable() && open_dir(store, name).is_err() {
        return Seen::Nothing;
    }
    Seen::Snapshot(Box::new(snapshot))
}

/// What is wrong with the snapshot `name` in the open `directory`, by its `record` and its files' metadata alone.
pub(super) fn live_flaw(
    directory: impl AsFd,
    record: Record,
    name: &str,
) -> io::Result<Option<String>> {
    if let Some(contradiction) = record.contradiction(name) {
        return Ok(Some(contradiction));
    }
    Ok(with_flaw(directory.as_fd(), record)?.unusable)
}

/// The snapshot of `record`, with what is wrong with its files.
fn with_flaw(directory: impl AsFd, record: Record) -> io::Result<Snapshot> {
    let is_registered = record.is_registered();
    let has_memory_elsewhere = record.has_memory_elsewhere();
    let packed_bytes = record.packed_bytes();
    let mut snapshot = Snapshot::from(record);
    let claims = Claims {
        id: &snapshot.id,
        kind: snapshot.kind,
        hypervisor: &snapshot.source_hypervisor,
        is_registered,
        has_memory_elsewhere,
        packed_bytes,
    };
    snapshot.unusable = flaw(directory, &claims)?;
    Ok(snapshot)
}

/// What is wrong with a snapshot's files, if anything.
fn flaw(directory: impl AsFd, claims: &Claims<'_>) -> io::Result<Option<String>> {
    match open_dir(directory, "guest") {
        Ok(guest) => payload::flaw(&guest, claims),
        Err(Errno::NOENT) => Ok(Some("its files are lost: guest/ is missing".to_owned())),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(Some("guest is not a directory".to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// What is called like a snapshot and is no directory. A symlink is named, because who moved a snapshot and left one in
/// its place believes that it is still there.
fn not_a_directory(store: &File, name: &OsStr, path: &Path) -> Seen {
    match rustix::fs::statat(store, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => Seen::Problem(format!(
            "{} is a symlink, and those are not followed; put the snapshot's own directory there",
            path.display()
        )),
        Ok(_) | Err(_) => Seen::Nothing,
    }
}

/// The snapshot of a directory whose record says nothing: by what else is in it. It has no tags, so that no schedule
/// removes it. `None` when its name is no snapshot's.
fn without_record(directory: &OwnedFd, name: &OsStr, flaw: String) -> Option<Snapshot> {
    let id: SnapshotId = name.to_str()?.parse().ok()?;
    let guest = open_dir(directory, "guest").ok();
    let source = guest
        .as_ref()
        .and_then(|guest| json::read_at::<Source>(guest, "metadata.json").ok())
        .unwrap_or_default();
    let has_state = guest.is_some_and(|guest| open_dir(guest, "snapshots/snapshot-latest").is_ok());
    let kind = if has_state {
        Kind::Standby
    } else {
        Kind::Stopped
    };
    Some(Snapshot {
        id,
        name: String::new(),
        kind,
        consistency: Consistency::unsaid(kind),
        tags: std::collections::BTreeMap::new(),
        source_instance_id: source.id,
        source_instance_name: source.name,
        source_hypervisor: source.hypervisor_type,
        created_at: written_at(directory),
        size_bytes: 0,
        disk_bytes: None,
        unusable: Some(flaw),
        verified_at: None,
        rehearsed: None,
    })
}

/// When a directory's record was written last, for want of what it says itself.
fn written_at(directory: &OwnedFd) -> DateTime<Utc> {
    let stat = rustix::fs::statat(directory, RECORD, AtFlags::SYMLINK_NOFOLLOW)
        .or_else(|_| rustix::fs::fstat(directory));
    stat.ok()
        .and_then(|stat| DateTime::from_timestamp(stat.st_mtime, 0))
        .unwrap_or_default()
}

fn open_dir(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
