//! The snapshot store, `snapshots/` of the data directory (contract, section 4): what is in it, and where. Never writes.
//!
//! What has its final name is whole. Names with a dot are work under way: `.staging-ID` becomes a snapshot, `.trash-ID`
//! was one.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::json::{self, ReadError};
use super::record::Record;
use crate::engine::{EngineError, Listing};
use crate::fs::space;
use crate::snapshot::{Snapshot, SnapshotId};

/// The prefix of directories that become snapshots.
pub(super) const STAGING: &str = ".staging-";
/// The prefix of directories that were snapshots.
pub(super) const TRASH: &str = ".trash-";
/// What `mkfs` puts into a new file system.
const LOST_AND_FOUND: &str = "lost+found";
/// Letters and digits of a new snapshot's id, the first always a letter, as in hypeman's own ids.
const ID_CHARACTERS: usize = 24;

/// The snapshot store of one data directory.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    directory: PathBuf,
}

impl SnapshotStore {
    /// The store of `data_dir`, whether its directory is there already or not.
    pub fn of(data_dir: &DataDir) -> Self {
        Self {
            directory: data_dir.snapshots_dir(),
        }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of one snapshot, whether it is there or not.
    pub fn snapshot_dir(&self, id: &SnapshotId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// The directory in which one snapshot is staged, whether it is there or not.
    pub fn staging_dir(&self, id: &SnapshotId) -> PathBuf {
        self.directory.join(format!("{STAGING}{id}"))
    }

    /// Every whole snapshot, without [`Snapshot::disk_bytes`], and what is in the store and is none. A store that does
    /// not exist yet is empty. Costs one small read per snapshot.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the directory can't be read.
    pub fn list(&self) -> Result<Listing, EngineError> {
        self.list_patiently(|| std::thread::sleep(json::RETRY_AFTER))
    }

    fn list_patiently(&self, mut wait: impl FnMut()) -> Result<Listing, EngineError> {
        let mut listing = Listing::default();
        let mut unparsable = Vec::new();
        for name in self.names()? {
            if name.to_string_lossy().starts_with('.') || name == LOST_AND_FOUND {
                continue;
            }
            match self.look_at(&name) {
                Ok(Some(snapshot)) => listing.snapshots.push(snapshot),
                // Deleted since the directory was read.
                Ok(None) => {}
                Err(Problem::Unparsable(_)) => unparsable.push(name),
                Err(Problem::Other(line)) => listing.problems.push(line),
            }
        }
        // hypeman overwrites records in place, so one may be half-written at this moment. All of them are waited for
        // together: many broken records cost no more time than one.
        for round in 1..=json::RETRIES {
            if unparsable.is_empty() {
                break;
            }
            wait();
            let is_last = round == json::RETRIES;
            unparsable.retain(|name| match self.look_at(name) {
                Err(Problem::Unparsable(_)) if !is_last => true,
                Err(Problem::Unparsable(line) | Problem::Other(line)) => {
                    listing.problems.push(line);
                    false
                }
                Ok(found) => {
                    listing.snapshots.extend(found);
                    false
                }
            });
        }
        Ok(listing)
    }

    /// What a snapshot occupies on disk, in bytes; blocks that it shares with other files count in full.
    ///
    /// # Errors
    /// When something in it can't be looked at.
    pub fn disk_usage(&self, id: &SnapshotId) -> Result<u64, EngineError> {
        let directory = self.snapshot_dir(id);
        space::disk_usage(&directory).map_err(|error| {
            EngineError::caused(format!("can't measure {}", directory.display()), error)
        })
    }

    /// An id for a new snapshot.
    ///
    /// # Errors
    /// Never in practice: what it makes is a valid id.
    pub fn new_id() -> Result<SnapshotId, EngineError> {
        let id: String = (0..ID_CHARACTERS)
            .map(|place| {
                if place == 0 {
                    fastrand::lowercase()
                } else {
                    fastrand::digit(36).to_ascii_lowercase()
                }
            })
            .collect();
        id.parse()
            .map_err(|error| EngineError::caused("can't make a snapshot id", error))
    }

    /// Every name in the store.
    pub(super) fn names(&self) -> Result<Vec<std::ffi::OsString>, EngineError> {
        let failed = |error: io::Error| EngineError::Unavailable {
            message: format!(
                "can't read snapshot store {}; check its permissions",
                self.directory.display()
            ),
            source: Some(error.into()),
        };
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        entries
            .map(|entry| entry.map(|entry| entry.file_name()).map_err(failed))
            .collect()
    }

    /// The snapshot of that name; `None` when it has just gone, or is no directory and so none of the store's.
    fn look_at(&self, name: &OsStr) -> Result<Option<Snapshot>, Problem> {
        let path = self.directory.join(name);
        let shown = path.display();
        let other = |what: &str| Problem::Other(format!("{shown} {what}"));
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(other(&format!("can't be looked at: {error}"))),
        }
        let record = match json::read_once::<Record>(&path.join("snapshot.json")) {
            Ok(record) => record,
            Err(error) if error.is_not_found() => {
                return if path.symlink_metadata().is_ok() {
                    Err(other(
                        "has no snapshot.json: another program is still making it, or never finished",
                    ))
                } else {
                    Ok(None)
                };
            }
            Err(ReadError::Parse(error)) => {
                return Err(Problem::Unparsable(format!(
                    "{shown} has a snapshot.json that can't be parsed: {error}"
                )));
            }
            Err(ReadError::File(error)) => {
                return Err(other(&format!(
                    "has a snapshot.json that can't be read: {error}"
                )));
            }
        };
        let snapshot = Snapshot::from(record);
        if name != snapshot.id.as_str() {
            return Err(other(&format!(
                "has a snapshot.json of another snapshot, {}",
                snapshot.id
            )));
        }
        match std::fs::symlink_metadata(path.join("guest")) {
            Ok(guest) if guest.is_dir() => Ok(Some(snapshot)),
            Ok(_) => Err(other("has a guest that is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.symlink_metadata().is_ok() {
                    Err(other("has no guest directory: its files are lost"))
                } else {
                    Ok(None)
                }
            }
            Err(error) => Err(other(&format!(
                "has a guest that can't be looked at: {error}"
            ))),
        }
    }
}

/// Why something in the store is no whole snapshot.
enum Problem {
    /// Its record may be half-written at this moment.
    Unparsable(String),
    /// Looking again does not help.
    Other(String),
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::snapshot::Kind;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A store in a new data directory, with these whole snapshots.
    pub(in crate::engine::local) fn store(ids: &[&str]) -> (TempDir, SnapshotStore) {
        let root = tempfile::tempdir().unwrap();
        let data_dir = DataDir::create(root.path()).unwrap();
        for name in ids {
            put(root.path(), name);
        }
        (root, SnapshotStore::of(&data_dir))
    }

    /// Puts a whole snapshot into the store's directory `name`.
    pub(in crate::engine::local) fn put(root: &Path, name: &str) -> PathBuf {
        let directory = root.join("snapshots").join(name);
        fs::create_dir_all(directory.join("guest")).unwrap();
        fs::write(directory.join("guest/disk"), vec![7; 64 << 10]).unwrap();
        fs::write(directory.join("snapshot.json"), record(name)).unwrap();
        directory
    }

    fn record(id: &str) -> String {
        json!({"snapshot": {
            "id": id, "name": format!("nightly-{id}"), "kind": "Stopped", "source_instance_id": "vm1",
            "created_at": "2026-09-02T05:15:20+02:00", "size_bytes": 5,
        }})
        .to_string()
    }

    pub(in crate::engine::local) fn ids(store: &SnapshotStore) -> Vec<String> {
        let mut ids: Vec<String> = store
            .list()
            .unwrap()
            .snapshots
            .iter()
            .map(|snapshot| snapshot.id.to_string())
            .collect();
        ids.sort();
        ids
    }

    #[test]
    fn whole_snapshots_are_listed_without_a_problem() {
        let (_root, store) = store(&["a", "b"]);
        let listing = store.list().unwrap();
        assert_eq!(listing.problems, Vec::<String>::new());
        assert_eq!(ids(&store), ["a", "b"]);
        let snapshot = &listing.snapshots[0];
        assert_eq!(snapshot.kind, Kind::Stopped);
        assert_eq!(snapshot.disk_bytes, None);
        assert!(store.disk_usage(&snapshot.id).unwrap() >= 64 << 10);
    }

    #[test]
    fn a_store_that_does_not_exist_yet_is_empty_and_one_that_is_no_directory_an_error() {
        let (root, store) = store(&[]);
        assert_eq!(ids(&store), Vec::<String>::new());
        fs::write(root.path().join("snapshots"), "").unwrap();
        assert!(matches!(store.list(), Err(EngineError::Unavailable { .. })));
    }

    #[test]
    fn whatever_is_no_whole_snapshot_is_one_problem_that_names_it() {
        let (root, store) = store(&["good"]);
        let snapshots = root.path().join("snapshots");
        fs::remove_file(put(root.path(), "no-record").join("snapshot.json")).unwrap();
        fs::remove_dir_all(put(root.path(), "no-guest").join("guest")).unwrap();
        fs::write(put(root.path(), "broken").join("snapshot.json"), "{\"snap").unwrap();
        fs::write(put(root.path(), "empty").join("snapshot.json"), "").unwrap();
        fs::write(
            put(root.path(), "liar").join("snapshot.json"),
            record("good"),
        )
        .unwrap();
        fs::write(
            put(root.path(), "hostile").join("snapshot.json"),
            record("../../x"),
        )
        .unwrap();
        let linked = put(root.path(), "linked-guest");
        fs::remove_dir_all(linked.join("guest")).unwrap();
        symlink("/etc", linked.join("guest")).unwrap();
        let listing = store.list().unwrap();
        assert_eq!(ids(&store), ["good"]);
        assert_eq!(listing.problems.len(), 7, "{:#?}", listing.problems);
        for name in [
            "no-record",
            "no-guest",
            "broken",
            "empty",
            "liar",
            "hostile",
            "linked-guest",
        ] {
            let path = snapshots.join(name).display().to_string();
            let lines = listing.problems.iter().filter(|line| line.contains(&path));
            assert_eq!(lines.count(), 1, "{name}: {:#?}", listing.problems);
        }
    }

    #[test]
    fn what_is_none_of_the_stores_is_passed_over() {
        let (root, store) = store(&["good"]);
        let snapshots = root.path().join("snapshots");
        put(root.path(), ".staging-s1");
        put(root.path(), ".trash-s2");
        fs::create_dir(snapshots.join("lost+found")).unwrap();
        fs::write(snapshots.join("README"), "x").unwrap();
        symlink(snapshots.join("good"), snapshots.join("link")).unwrap();
        let listing = store.list().unwrap();
        assert_eq!(ids(&store), ["good"]);
        assert_eq!(listing.problems, Vec::<String>::new());
    }

    #[test]
    fn a_record_that_is_being_overwritten_is_waited_for() {
        let (root, store) = store(&["a"]);
        let record_path = root.path().join("snapshots/a/snapshot.json");
        let whole = fs::read(&record_path).unwrap();
        fs::write(&record_path, &whole[..10]).unwrap();
        let mut halves = [whole[..40].to_vec(), whole].into_iter();
        let listing = store
            .list_patiently(|| fs::write(&record_path, halves.next().unwrap()).unwrap())
            .unwrap();
        assert_eq!(listing.snapshots.len(), 1);
        assert_eq!(listing.problems, Vec::<String>::new());
    }

    #[test]
    fn new_ids_look_like_hypemans_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..200)
            .map(|_| SnapshotStore::new_id().unwrap().to_string())
            .collect();
        assert_eq!(ids.len(), 200);
        for id in ids {
            assert_eq!(id.len(), 24);
            assert!(id.starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
            assert!(
                id.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
                "{id}"
            );
        }
    }
}
