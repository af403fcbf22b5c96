//! How directories leave the snapshot store: renamed away first, so that they are not listed, then removed.
//!
//! Whoever works on a directory with a dot holds a lock on it, so that what nobody holds was left by the dead.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use super::record::{HIDDEN, RECORD};
use super::store::{STAGING, SnapshotStore, TRASH};
use crate::engine::EngineError;
use crate::fs::{durable, lock, remove};
use crate::snapshot::SnapshotId;

/// How often a lock is tried again before it counts as held, and how long to wait before each.
const CLAIM_RETRIES: u32 = 20;
/// See [`CLAIM_RETRIES`].
const CLAIM_AGAIN_AFTER: Duration = Duration::from_millis(25);

impl SnapshotStore {
    /// Deletes a snapshot: first it gets a name that is not listed, then its files go. One that is gone is no error.
    ///
    /// # Errors
    /// When it could not be renamed, then it is untouched; or when its files could not all be removed, then it is no
    /// snapshot any more and [`SnapshotStore::sweep`] tries again.
    pub fn delete(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let directory = self.snapshot_dir(id);
        let shown = directory.display();
        let failed = |error: io::Error| EngineError::caused(format!("can't delete {shown}"), error);
        match std::fs::symlink_metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(EngineError::instance(format!(
                    "can't delete {shown}: it is not a directory, so it is no snapshot"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let trash = self.directory().join(format!("{TRASH}{id}"));
        // What an earlier deletion of the same id may have left would be in the way.
        remove::tree(&trash).map_err(failed)?;
        // Held until the end, so that a sweep of another run leaves it to us.
        let claimed = match claim_patiently(&directory) {
            Ok(claimed) => claimed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if claimed.is_none() {
            return Err(EngineError::InUse(id.clone()));
        }
        // Without its record first: hypeman lists what has one, whatever it is called.
        hide(&directory).map_err(failed)?;
        match std::fs::rename(&directory, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                show(&directory).map_err(failed)?;
                return Err(failed(error));
            }
        }
        durable::sync_dir(self.directory()).map_err(failed)?;
        empty(&trash).map_err(|error| {
            EngineError::caused(
                format!(
                    "snapshot {id} is deleted, but its files in {} could not be removed; `hypeman-snap prune` tries \
                     again",
                    trash.display()
                ),
                error,
            )
        })
    }

    /// Removes staging that nobody works on and finishes deletions that were cut short. Returns a line for each.
    ///
    /// # Errors
    /// When something could not be removed; the others are.
    pub fn sweep(&self) -> Result<Vec<String>, EngineError> {
        let mut done = Vec::new();
        let mut failures = Vec::new();
        for name in self.names()? {
            let text = name.to_string_lossy();
            let path = self.directory().join(&name);
            let what = if text.starts_with(STAGING) {
                "staging that a run left behind"
            } else if text.starts_with(TRASH) {
                "what an unfinished deletion left"
            } else if is_hidden(&path) {
                "a snapshot that was never finished, or was being deleted"
            } else {
                continue;
            };
            let is_named = !text.starts_with('.');
            match claim(&path) {
                // Its maker has finished it since.
                Ok(Some(_)) if is_named && !is_hidden(&path) => {}
                Ok(Some(_claimed)) => match empty(&path) {
                    Ok(()) => done.push(format!("removed {}: {what}", path.display())),
                    Err(error) => failures.push(format!("{}: {error}", path.display())),
                },
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
        if failures.is_empty() {
            return Ok(done);
        }
        for line in &done {
            log::info!("{line}");
        }
        Err(EngineError::instance(format!(
            "can't remove {}",
            failures.join(", nor ")
        )))
    }

    /// Removes what is not finished of one snapshot, if it is there and nobody works on it; says whether it was there.
    ///
    /// # Errors
    /// When it can't be removed, or a live run works on it.
    pub fn discard_staging(&self, id: &SnapshotId) -> Result<bool, EngineError> {
        let was_staged = self.discard(&self.staging_dir(id), |_| true)?;
        let named = self.snapshot_dir(id);
        let was_named = is_hidden(&named) && self.discard(&named, is_hidden)?;
        Ok(was_staged || was_named)
    }

    /// Removes the directory `path` if, once nobody else holds it, it still `is_unfinished`.
    fn discard(
        &self,
        path: &Path,
        is_unfinished: impl Fn(&Path) -> bool,
    ) -> Result<bool, EngineError> {
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't remove {}", path.display()), error)
        };
        match claim_patiently(path) {
            Ok(Some(_)) if !is_unfinished(path) => Ok(false),
            Ok(Some(_claimed)) => empty(path).map(|()| true).map_err(failed),
            Ok(None) => Err(EngineError::instance(format!(
                "can't remove {}: another run works on it",
                path.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Takes the record of the snapshot `directory` out of sight; one that has none is left as it is.
pub(super) fn hide(directory: &Path) -> io::Result<()> {
    rename_if_there(&directory.join(RECORD), &directory.join(HIDDEN))
}

/// Undoes [`hide`].
fn show(directory: &Path) -> io::Result<()> {
    rename_if_there(&directory.join(HIDDEN), &directory.join(RECORD))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether a directory has a hidden record and no other: it was to become a snapshot, or was one.
fn is_hidden(directory: &Path) -> bool {
    let is_there = |name| directory.join(name).symlink_metadata().is_ok();
    is_there(HIDDEN) && !is_there(RECORD)
}

/// Removes a directory with a dot: its record first, because hypeman lists every directory that has one.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    durable::remove(&path.join(RECORD))?;
    remove::tree(path).map(drop)
}

/// Opens the directory `path` and locks it, for as long as the file is open; `None` when somebody else holds it, or
/// when it has become another directory meanwhile.
///
/// # Errors
/// When there is no such directory, or it can't be opened or locked.
pub(super) fn claim(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?)
        .open(path)?;
    if !lock::try_lock(&directory)? {
        return Ok(None);
    }
    let (locked, named) = (directory.metadata()?, std::fs::symlink_metadata(path)?);
    let is_same = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
    Ok(is_same.then_some(directory))
}

/// Like [`claim`], but waits a moment for whoever holds it: a child that this process has just started holds every lock
/// of its parent until it has become another program.
fn claim_patiently(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..CLAIM_RETRIES {
        if let Some(claimed) = claim(path)? {
            return Ok(Some(claimed));
        }
        std::thread::sleep(CLAIM_AGAIN_AFTER);
    }
    claim(path)
}

/// Creates the directory `path`, 0700, which must not exist.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{ids, put, store};
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use support::wait::wait_until;

    fn id(id: &str) -> SnapshotId {
        id.parse().unwrap()
    }

    fn names(store: &SnapshotStore) -> Vec<String> {
        let mut names: Vec<String> = store
            .names()
            .unwrap()
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_deleted_snapshot_is_gone_and_the_others_stay() {
        let (_root, store) = store(&["a", "b"]);
        store.delete(&id("a")).unwrap();
        assert_eq!(names(&store), ["b"]);
        assert_eq!(ids(&store), ["b"]);
        store.delete(&id("a")).unwrap();
        store.delete(&id("never-was")).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_not_deleted() {
        let (root, store) = store(&["a"]);
        let snapshots = root.path().join("snapshots");
        fs::write(snapshots.join("file"), "x").unwrap();
        symlink(snapshots.join("a"), snapshots.join("link")).unwrap();
        for bad in ["file", "link"] {
            let error = store.delete(&id(bad)).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert_eq!(names(&store), ["a", "file", "link"]);
        assert_eq!(ids(&store), ["a"]);
    }

    #[test]
    fn a_deletion_that_was_cut_short_is_not_listed_and_finished_by_the_sweep() {
        let (root, store) = store(&["a"]);
        // Killed right after the rename, and killed in the middle of the removal.
        put(root.path(), ".trash-s1");
        fs::remove_file(put(root.path(), ".trash-s2").join("snapshot.json")).unwrap();
        assert_eq!(ids(&store), ["a"]);
        let done = store.sweep().unwrap();
        assert_eq!(done.len(), 2, "{done:?}");
        assert!(
            done.iter().all(|line| line.contains(".trash-s")),
            "{done:?}"
        );
        assert_eq!(names(&store), ["a"]);
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_trash_of_an_earlier_deletion_is_not_in_the_way() {
        let (root, store) = store(&["a"]);
        put(root.path(), ".trash-a");
        store.delete(&id("a")).unwrap();
        assert_eq!(names(&store), Vec::<String>::new());
    }

    #[test]
    fn what_somebody_holds_is_left_to_them() {
        let (root, store) = store(&["a"]);
        let staging = put(root.path(), ".staging-s1");
        let trash = put(root.path(), ".trash-s2");
        let held = [
            claim(&staging).unwrap().unwrap(),
            claim(&trash).unwrap().unwrap(),
            claim(&root.path().join("snapshots/a")).unwrap().unwrap(),
        ];
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        assert!(store.discard_staging(&id("s1")).is_err());
        assert!(store.delete(&id("a")).is_err());
        assert_eq!(names(&store), [".staging-s1", ".trash-s2", "a"]);
        drop(held);
        let mut swept = 0;
        wait_until("both are swept", || {
            swept += store.sweep().unwrap().len();
            swept == 2
        });
        store.delete(&id("a")).unwrap();
        assert_eq!(names(&store), Vec::<String>::new());
    }

    #[test]
    fn what_another_process_holds_is_left_to_it() {
        let (root, store) = store(&[]);
        let staging = put(root.path(), ".staging-s1");
        // Holds the lock until its input ends, and says when it has it.
        let mut child = std::process::Command::new("flock")
            .args(["--exclusive", "--nonblock"])
            .arg(&staging)
            .args(["--command", "echo locked; cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 7];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"locked\n");
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        assert!(staging.join("guest").is_dir());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        wait_until("it is swept", || store.sweep().unwrap().len() == 1);
        assert!(!staging.exists());
    }

    #[test]
    fn a_directory_that_was_replaced_since_it_was_opened_is_not_claimed() {
        let (root, _store) = store(&[]);
        let path = put(root.path(), ".staging-s1");
        let held = claim(&path).unwrap().unwrap();
        fs::rename(&path, root.path().join("elsewhere")).unwrap();
        let other = put(root.path(), ".staging-s1");
        // The lock belongs to the directory that moved, not to its name.
        assert!(claim(&other).unwrap().is_some());
        drop(held);
    }

    #[test]
    fn the_sweep_goes_on_behind_what_it_can_not_remove() {
        let (root, store) = store(&[]);
        let snapshots = root.path().join("snapshots");
        put(root.path(), ".trash-s1");
        symlink("/etc", snapshots.join(".trash-s0")).unwrap();
        fs::write(snapshots.join(".staging-s2"), "x").unwrap();
        let error = store.sweep().unwrap_err().to_string();
        assert!(
            error.contains(".trash-s0") && error.contains(".staging-s2"),
            "{error}"
        );
        assert!(!error.contains(".trash-s1"), "{error}");
        assert_eq!(names(&store), [".staging-s2", ".trash-s0"]);
    }

    #[test]
    fn one_staging_is_discarded_by_its_id() {
        let (root, store) = store(&["s1"]);
        put(root.path(), ".staging-s1");
        put(root.path(), ".staging-s2");
        assert!(store.discard_staging(&id("s1")).unwrap());
        assert!(!store.discard_staging(&id("s1")).unwrap());
        assert_eq!(names(&store), [".staging-s2", "s1"]);
    }
}
