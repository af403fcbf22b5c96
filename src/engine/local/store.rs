//! The snapshot store, `snapshots/` of the data directory (contract, section 4): what is in it, and where. Never writes.
//!
//! What has its final name is whole. Names with a dot are work under way: `.staging-ID` becomes a snapshot, `.trash-ID`
//! was one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::json;
use super::look::{self, Seen};
use crate::engine::{EngineError, Listing};
use crate::fs::space;
use crate::snapshot::SnapshotId;

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

    /// Every snapshot, usable or not, without [`crate::snapshot::Snapshot::disk_bytes`], and what is in the store and is
    /// none. A store that does not exist yet is empty. Costs two small reads per snapshot and a look at each of its
    /// files.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the directory can't be read.
    pub fn list(&self) -> Result<Listing, EngineError> {
        self.list_patiently(|| std::thread::sleep(json::RETRY_AFTER))
    }

    fn list_patiently(&self, mut wait: impl FnMut()) -> Result<Listing, EngineError> {
        let mut listing = Listing::default();
        let Some(directory) = self.open()? else {
            return Ok(listing);
        };
        let mut unparsable = Vec::new();
        for name in self.names()? {
            if name.to_string_lossy().starts_with('.') || name == LOST_AND_FOUND {
                continue;
            }
            let seen = look::at(&directory, &self.directory, &name);
            if matches!(seen, Seen::Unparsable { .. }) {
                unparsable.push(name);
            } else {
                add(&mut listing, seen);
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
            unparsable.retain(|name| {
                let seen = look::at(&directory, &self.directory, name);
                let is_waited_for = !is_last && matches!(seen, Seen::Unparsable { .. });
                if !is_waited_for {
                    add(&mut listing, seen);
                }
                is_waited_for
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
        let failed = |error: io::Error| self.unreadable(error);
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        entries
            .map(|entry| entry.map(|entry| entry.file_name()).map_err(failed))
            .collect()
    }

    /// Whether there is no name in the store. Costs the same however many there are.
    pub(super) fn is_empty(&self) -> Result<bool, EngineError> {
        match std::fs::read_dir(&self.directory) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// Its directory, opened; `None` when there is none yet.
    fn open(&self) -> Result<Option<File>, EngineError> {
        match File::open(&self.directory) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, error: io::Error) -> EngineError {
        EngineError::Unavailable {
            message: format!(
                "can't read snapshot store {}; check its permissions",
                self.directory.display()
            ),
            source: Some(error.into()),
        }
    }
}

fn add(listing: &mut Listing, seen: Seen) {
    match seen {
        Seen::Nothing => {}
        Seen::Snapshot(snapshot) => listing.snapshots.push(*snapshot),
        Seen::Problem(line) => listing.problems.push(line),
        Seen::Unparsable { line, snapshot } | Seen::Broken { line, snapshot } => {
            listing.problems.push(line);
            listing.snapshots.extend(snapshot.map(|it| *it));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::snapshot::Kind;
    use proptest::prelude::*;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A store in a new data directory, with these whole snapshots.
    pub(in crate::engine::local) fn store(ids: &[&str]) -> (TempDir, SnapshotStore) {
        let root = tempfile::tempdir().unwrap();
        let data_dir = DataDir::at(root.path()).unwrap();
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
    fn whatever_is_no_whole_snapshot_is_a_problem_or_not_usable() {
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
        let moved = snapshots.join("moved");
        symlink(put(root.path(), ".elsewhere"), &moved).unwrap();
        let listing = store.list().unwrap();
        for name in ["no-record", "broken", "empty", "liar", "hostile", "moved"] {
            let path = snapshots.join(name).display().to_string();
            let lines = listing.problems.iter().filter(|line| line.contains(&path));
            assert_eq!(lines.count(), 1, "{name}: {:#?}", listing.problems);
        }
        assert_eq!(listing.problems.len(), 6, "{:#?}", listing.problems);
        let mut unusable: Vec<(&str, &str)> = listing
            .snapshots
            .iter()
            .filter_map(|it| Some((it.id.as_str(), it.unusable.as_deref()?)))
            .collect();
        unusable.sort_unstable();
        for ((id, flaw), (name, says)) in unusable.iter().zip([
            ("broken", "can't be parsed"),
            ("empty", "can't be parsed"),
            ("hostile", "can't be parsed"),
            ("liar", "another snapshot, good"),
            ("linked-guest", "guest is not a directory"),
            ("no-guest", "its files are lost"),
        ]) {
            assert_eq!(*id, name);
            assert!(flaw.contains(says), "{name}: {flaw}");
        }
        assert_eq!(listing.snapshots.len(), 7);
        assert_eq!(unusable.len(), 6);
    }

    #[test]
    fn a_snapshot_whose_record_says_nothing_belongs_to_no_schedule_but_to_its_instance() {
        let (root, store) = store(&["a"]);
        let directory = root.path().join("snapshots/a");
        let two = json!({"snapshot": {
            "id": "a", "kind": "Stopped", "source_instance_id": "victim",
            "tags": {"hypeman.scheduled": "true", "hypeman.schedule_instance_id": "victim"},
            "created_at": "2026-09-02T05:15:20+02:00",
        }, "stored_metadata": {"Id": "vm1"}});
        let metadata = json!({"Id": "vm1", "Name": "web", "HypervisorType": "qemu"});
        fs::write(directory.join("guest/metadata.json"), metadata.to_string()).unwrap();
        let long = " ".repeat((1 << 20) + 1);
        for (content, says) in [
            (two.to_string(), "two instances, \"victim\" and \"vm1\""),
            ("{".to_owned(), "can't be parsed"),
            (long, "longer than 1 MiB"),
        ] {
            fs::write(directory.join("snapshot.json"), content).unwrap();
            let listing = store.list().unwrap();
            let [snapshot] = &listing.snapshots[..] else {
                panic!("{listing:?}");
            };
            let flaw = snapshot.unusable.as_deref().unwrap();
            assert!(flaw.contains(says), "{flaw}");
            assert_eq!(snapshot.source_instance_id, "vm1");
            assert_eq!(snapshot.source_instance_name, "web");
            assert!(!snapshot.is_scheduled());
            assert_eq!(listing.problems.len(), 1);
        }
        fs::remove_file(directory.join("snapshot.json")).unwrap();
        symlink("/etc/passwd", directory.join("snapshot.json")).unwrap();
        let listing = store.list().unwrap();
        assert!(listing.problems[0].contains("symlink"), "{listing:?}");
        // Like any other it goes by its name.
        store.delete(&listing.snapshots[0].id).unwrap();
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn what_is_none_of_the_stores_is_passed_over() {
        let (root, store) = store(&["good"]);
        let snapshots = root.path().join("snapshots");
        put(root.path(), ".staging-s1");
        put(root.path(), ".trash-s2");
        fs::create_dir(snapshots.join("lost+found")).unwrap();
        fs::write(snapshots.join("README"), "x").unwrap();
        let listing = store.list().unwrap();
        assert_eq!(ids(&store), ["good"]);
        assert_eq!(listing.problems, Vec::<String>::new());
    }

    #[test]
    fn what_is_called_like_a_record_and_is_none_is_not_waited_for() {
        let (root, store) = store(&["fifo", "endless", "directory", "good"]);
        let record = |name: &str| {
            let path = root.path().join("snapshots").join(name);
            path.join("snapshot.json")
        };
        for name in ["fifo", "endless", "directory"] {
            fs::remove_file(record(name)).unwrap();
        }
        let fifo = record("fifo");
        let mode = rustix::fs::Mode::RUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        let endless = fs::File::create(record("endless")).unwrap();
        endless.set_len(1 << 40).unwrap();
        fs::create_dir(record("directory")).unwrap();
        let listing = store.list().unwrap();
        assert_eq!(listing.snapshots.len(), 4);
        for snapshot in listing.snapshots {
            let is_good = snapshot.id.as_str() == "good";
            assert_eq!(snapshot.is_usable(), is_good, "{snapshot:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_record_makes_a_listing_fail(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            id in "[a-z./]{0,6}",
            size in any::<i64>(),
            created_at in "[-+0-9TZ:.]{0,30}",
            tag in any::<String>(),
            depth in 0usize..300,
        ) {
            let (root, store) = store(&["a", "good"]);
            let path = root.path().join("snapshots/a/snapshot.json");
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let hostile = json!({"snapshot": {
                "id": id, "kind": "Standby", "source_instance_id": tag, "tags": {&tag: &tag},
                "size_bytes": size, "created_at": created_at,
            }, "stored_metadata": {"Id": &tag}});
            for content in [bytes, hostile.to_string().into_bytes(), nested.into_bytes()] {
                fs::write(&path, content).unwrap();
                // Without the wait for a record that is being written.
                let listing = store.list_patiently(|| ()).unwrap();
                let usable = listing.snapshots.iter().filter(|it| it.is_usable()).count();
                prop_assert_eq!(usable, 1);
            }
        }
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
