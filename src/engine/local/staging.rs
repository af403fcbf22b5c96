//! A snapshot in the making: a directory with a dot, locked by whoever fills it, that becomes a snapshot in one rename.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::digests::{Digests, FileDigests};
use super::manifest;
use super::payload::{self, Claims};
use super::record::{self, HIDDEN, RECORD};
use super::room;
use super::store::SnapshotStore;
use super::sweep::{claim, create_private, empty, hide};
use crate::engine::EngineError;
use crate::fs::beneath::Beneath;
use crate::fs::{durable, remove, seal, space};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Snapshot, SnapshotId};

/// How often a directory is made anew because a sweep took it between its creation and its lock.
const ATTEMPTS: u32 = 10;

/// A snapshot that is being made. Dropped, it removes what was made; what can't be removed waits for a sweep.
#[derive(Debug)]
pub struct Staging {
    store: SnapshotStore,
    id: SnapshotId,
    path: PathBuf,
    /// `guest/`.
    guest: Beneath,
    /// The lock that keeps sweeps away.
    _lock: File,
    is_done: bool,
}

impl Staging {
    /// Creates the staging of the new snapshot `id`, with an empty `guest/`; the store too if it is missing.
    ///
    /// # Errors
    /// When it can't be created, or there is one of that id already.
    pub fn create(store: &SnapshotStore, id: &SnapshotId) -> Result<Self, EngineError> {
        let path = store.staging_dir(id);
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't create {}", path.display()), error)
        };
        durable::create_dir(store.directory()).map_err(failed)?;
        for _ in 0..ATTEMPTS {
            create_private(&path).map_err(failed)?;
            let lock = match claim(&path) {
                Ok(Some(lock)) => lock,
                // A sweep has found it without a lock, and removes it.
                Ok(None) => {
                    wait_until_gone(&path).map_err(failed)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let guest = match make_guest(&path) {
                Ok(guest) => guest,
                Err(error) => {
                    let _ = empty(&path);
                    return Err(failed(error));
                }
            };
            return Ok(Self {
                store: store.clone(),
                id: id.clone(),
                path,
                guest,
                _lock: lock,
                is_done: false,
            });
        }
        Err(EngineError::instance(format!(
            "can't create {}: something removes it at once, {ATTEMPTS} times in a row",
            path.display()
        )))
    }

    /// The id that the snapshot will have.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// The directory, for a journal that must find it again.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory to fill.
    pub fn dir(&self) -> &Beneath {
        &self.guest
    }

    /// Its path.
    pub fn guest(&self) -> &Path {
        self.guest.path()
    }

    /// Lists the files in `manifest`, writes `digests` down, makes everything private and durable, and gives the directory
    /// its final name and, last of all, its record. Returns `snapshot` with its sizes as they are on disk.
    ///
    /// # Errors
    /// When any step fails, or nothing could be restored from what is there; then there is no snapshot of this id.
    pub(super) fn publish(
        mut self,
        mut snapshot: Snapshot,
        stored_metadata: &Map<String, Value>,
        mut manifest: Manifest,
        digests: Vec<FileDigests>,
    ) -> Result<Snapshot, EngineError> {
        if snapshot.id != self.id {
            return Err(EngineError::instance(format!(
                "snapshot {} can't be published from the staging of {}",
                snapshot.id, self.id
            )));
        }
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't finish snapshot {}", self.id), error)
        };
        let guest = self.guest();
        let files = payload::list(self.dir()).map_err(failed)?;
        manifest.set_consistency(snapshot.consistency);
        manifest.complete(&self.id, files);
        let compression = payload::compression(&manifest);
        let manifest_bytes = manifest::write(&manifest, self.dir())?;
        seal::seal(guest).map_err(|error| {
            EngineError::caused(format!("can't finish snapshot {}", snapshot.id), error)
        })?;
        require_usable(self.dir(), &snapshot, stored_metadata)?;
        snapshot.size_bytes = space::apparent_size(guest).map_err(failed)?;
        let bytes = record::render(&snapshot, compression, stored_metadata)
            .map_err(|error| failed(error.into()))?;
        durable::write(&self.path.join(HIDDEN), &bytes, 0o600).map_err(failed)?;
        Digests::new(&self.id, &bytes, &manifest_bytes, digests)
            .write(&self.path)
            .map_err(failed)?;
        snapshot.disk_bytes = Some(space::disk_usage(&self.path).map_err(failed)?);
        room::release(&self.path).map_err(failed)?;
        self.give_name().map_err(failed)?;
        self.is_done = true;
        Ok(snapshot)
    }

    /// Makes a snapshot of the directory: its name, then its record, both durable.
    fn give_name(&self) -> io::Result<()> {
        let published = self.store.snapshot_dir(&self.id);
        rename_anew(&self.path, &published)?;
        let named = durable::sync_dir(self.store.directory())
            .and_then(|()| fs::rename(published.join(HIDDEN), published.join(RECORD)))
            .and_then(|()| durable::sync_dir(&published));
        if named.is_err() {
            // A snapshot that the next power cut may take away is none: it becomes staging again, and goes.
            hide(&published)?;
            fs::rename(&published, &self.path)?;
        }
        named
    }
}

/// Refuses to make a snapshot that would be listed as unusable.
fn require_usable(
    guest: &Beneath,
    snapshot: &Snapshot,
    stored_metadata: &Map<String, Value>,
) -> Result<(), EngineError> {
    let claims = Claims {
        id: &snapshot.id,
        kind: snapshot.kind,
        hypervisor: &snapshot.source_hypervisor,
        is_registered: record::is_registered(stored_metadata),
        has_memory_elsewhere: false,
        packed_bytes: None,
    };
    let flaw = payload::flaw(guest, &claims).map_err(|error| {
        EngineError::caused(format!("can't look at {}", guest.path().display()), error)
    })?;
    match flaw {
        None => Ok(()),
        Some(flaw) => Err(EngineError::instance(format!(
            "nothing could be restored from this snapshot, so it was not kept: {flaw}"
        ))),
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Err(error) = empty(&self.path) {
            log::warn!(
                "can't remove {}: {error}; `hypeman-snap prune` tries again",
                self.path.display()
            );
        }
    }
}

fn make_guest(staging: &Path) -> io::Result<Beneath> {
    Beneath::open(staging)?.create_dir("guest")
}

/// Waits for the sweep that holds the lock of `path` to be done with it.
fn wait_until_gone(path: &Path) -> io::Result<()> {
    for _ in 0..1000 {
        match claim(path) {
            // The sweep had finished with another directory; nobody minds this one, and it is ours.
            Ok(Some(_)) => return remove::tree(path).map(drop),
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("another run holds it"))
}

/// Renames `from` to `to`, which must not exist.
fn rename_anew(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without RENAME_NOREPLACE (rename(2)). Ids are random and the target of a rename must be an empty
        // directory, so that looking first is enough.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        result => result.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{ids, put, store};
    use super::*;
    use crate::snapshot::Kind;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn id() -> SnapshotId {
        "s1".parse().unwrap()
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            id: id(),
            name: "nightly-1".to_owned(),
            kind: Kind::Stopped,
            consistency: crate::snapshot::Consistency::Stopped,
            tags: BTreeMap::from([("hypeman.scheduled".to_owned(), "true".to_owned())]),
            source_instance_id: "vm1".to_owned(),
            source_instance_name: "web".to_owned(),
            source_hypervisor: "qemu".to_owned(),
            created_at: "2026-09-02T03:15:20.5Z".parse().unwrap(),
            size_bytes: 0,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
        }
    }

    fn stored() -> Map<String, Value> {
        Map::from_iter([("Id".to_owned(), json!("vm1"))])
    }

    /// The staging of a snapshot of one disk.
    fn staged(store: &SnapshotStore, id: &SnapshotId) -> Staging {
        let staging = Staging::create(store, id).unwrap();
        fs::write(staging.guest().join("overlay.raw"), "x").unwrap();
        staging
    }

    fn manifest() -> Manifest {
        Manifest::at_rest(Vec::new())
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_snapshot_appears_whole_private_and_with_its_true_sizes() {
        let (root, store) = store(&[]);
        let staging = Staging::create(&store, &id()).unwrap();
        assert_eq!(mode(staging.path()), 0o700);
        assert_eq!(fs::read_dir(staging.guest()).unwrap().count(), 0);
        fs::write(staging.guest().join("memory"), vec![7; 1 << 20]).unwrap();
        fs::set_permissions(
            staging.guest().join("memory"),
            fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        fs::File::create(staging.guest().join("disk"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert_eq!(ids(&store), Vec::<String>::new());

        let published = staging
            .publish(snapshot(), &stored(), manifest(), Vec::new())
            .unwrap();
        let manifest_bytes = published.size_bytes - (1 << 30) - (1 << 20);
        assert!((1..4096).contains(&manifest_bytes), "{manifest_bytes}");
        let disk_bytes = published.disk_bytes.unwrap();
        assert!((1 << 20..2 << 20).contains(&disk_bytes), "{disk_bytes}");
        let directory = root.path().join("snapshots/s1");
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("guest/memory")), 0o600);
        assert_eq!(mode(&directory.join("snapshot.json")), 0o600);
        let listing = store.list().unwrap();
        assert_eq!(listing.problems, Vec::<String>::new());
        let listed = Snapshot {
            disk_bytes: None,
            ..published
        };
        assert_eq!(listing.snapshots, [listed]);
        let manifest = fs::read_to_string(directory.join("guest/hypeman-snap.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["version"], 2);
        assert_eq!(manifest["snapshot_id"], "s1");
        assert_eq!(
            manifest["files"],
            json!([
                {"path": "disk", "size_bytes": 1 << 30},
                {"path": "memory", "size_bytes": 1 << 20},
            ])
        );
        assert_eq!(store.names().unwrap(), ["s1"]);
        // Nobody holds it any more.
        store.delete(&id()).unwrap();
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let (_root, store) = store(&[]);
        let staging = Staging::create(&store, &id()).unwrap();
        fs::write(staging.guest().join("memory"), "x").unwrap();
        drop(staging);
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn a_panic_leaves_nothing() {
        let (_root, store) = store(&[]);
        let result = std::panic::catch_unwind({
            let store = store.clone();
            move || {
                let _staging = Staging::create(&store, &id()).unwrap();
                panic!("as a bug would");
            }
        });
        assert!(result.is_err());
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn a_live_staging_is_not_swept_and_a_dead_one_is() {
        let (root, store) = store(&[]);
        let staging = staged(&store, &id());
        put(root.path(), ".staging-dead");
        let done = store.sweep().unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
        assert!(done[0].contains(".staging-dead"), "{done:?}");
        assert!(staging.guest().is_dir());
        staging
            .publish(snapshot(), &stored(), manifest(), Vec::new())
            .unwrap();
        assert_eq!(ids(&store), ["s1"]);
    }

    #[test]
    fn a_staging_or_snapshot_that_is_there_is_not_touched() {
        let (root, store) = store(&["s1"]);
        let staging = Staging::create(&store, &id()).unwrap();
        assert!(Staging::create(&store, &id()).is_err());
        fs::write(staging.guest().join("new"), "x").unwrap();
        let error = staging
            .publish(snapshot(), &stored(), manifest(), Vec::new())
            .unwrap_err();
        assert!(
            crate::error::in_words(&error).contains("exists"),
            "{error:?}"
        );
        assert_eq!(store.names().unwrap(), ["s1"]);
        assert!(root.path().join("snapshots/s1/guest/disk").exists());
        assert!(!root.path().join("snapshots/s1/guest/new").exists());
    }

    #[test]
    fn the_record_of_another_snapshot_is_not_published() {
        let (_root, store) = store(&[]);
        let staging = Staging::create(&store, &id()).unwrap();
        let other = Snapshot {
            id: "s2".parse().unwrap(),
            ..snapshot()
        };
        assert!(
            staging
                .publish(other, &stored(), manifest(), Vec::new())
                .is_err()
        );
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn what_nothing_could_be_restored_from_is_not_published() {
        let (_root, store) = store(&[]);
        let standby = Snapshot {
            kind: Kind::Standby,
            ..snapshot()
        };
        for (snapshot, says) in [(snapshot(), "no disk"), (standby, "memory is missing")] {
            let staging = Staging::create(&store, &id()).unwrap();
            fs::write(staging.guest().join("metadata.json"), "{}").unwrap();
            let error = staging
                .publish(snapshot, &stored(), manifest(), Vec::new())
                .unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(store.names().unwrap().is_empty());
        }
    }

    #[test]
    fn a_directory_is_named_before_it_has_a_record_and_counts_as_none_until_then() {
        let (root, store) = store(&[]);
        let staging = staged(&store, &id());
        staging
            .publish(snapshot(), &stored(), manifest(), Vec::new())
            .unwrap();
        // As a kill between the two renames leaves it.
        let directory = root.path().join("snapshots/s1");
        fs::rename(
            directory.join("snapshot.json"),
            directory.join(".snapshot.json"),
        )
        .unwrap();
        let listing = store.list().unwrap();
        assert_eq!(listing.snapshots, []);
        assert_eq!(listing.problems, Vec::<String>::new());
        let held = claim(&directory).unwrap().unwrap();
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        drop(held);
        let mut swept = Vec::new();
        support::wait::wait_until("it is swept", || {
            swept.extend(store.sweep().unwrap());
            !swept.is_empty()
        });
        assert!(swept[0].contains("s1"), "{swept:?}");
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn a_failure_half_way_leaves_no_snapshot() {
        let (_root, store) = store(&[]);
        let staging = Staging::create(&store, &id()).unwrap();
        fs::remove_dir(staging.guest()).unwrap();
        assert!(
            staging
                .publish(snapshot(), &stored(), manifest(), Vec::new())
                .is_err()
        );
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn sweeps_and_creations_at_once_do_not_hurt_each_other() {
        let (_root, store) = store(&[]);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sweeps: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                            store.sweep().unwrap();
                        }
                    })
                })
                .collect();
            for number in 0..30 {
                let id: SnapshotId = format!("s{number}").parse().unwrap();
                let staging = staged(&store, &id);
                staging
                    .publish(
                        Snapshot { id, ..snapshot() },
                        &stored(),
                        manifest(),
                        Vec::new(),
                    )
                    .unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            for sweep in sweeps {
                sweep.join().unwrap();
            }
        });
        assert_eq!(ids(&store).len(), 30);
        assert_eq!(store.names().unwrap().len(), 30);
    }
}
