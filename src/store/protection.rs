//! Which snapshots stay by the user's word: one small file each, in the state directory, whatever engine has the snapshot.
//!
//! Who protects one and who deletes one exclude each other by a lock, so that nothing is deleted that is protected by
//! then: deleting is shared, because it takes long and concerns many; protecting is not.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::format::Refusal;
use super::lock::{Lock, LockError};
use super::{SUFFIX, Store, StoreError, file};
use crate::fs::durable;
use crate::fs::lock::{self, Waited};
use crate::snapshot::{Protection, SnapshotId};

const FILE_MODE: u32 = 0o600;

impl Store {
    /// The protections that count at `now`, by their snapshots.
    ///
    /// # Errors
    /// When one can't be read: then it is not known what may be deleted.
    pub fn protections(
        &self,
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<SnapshotId, Protection>, StoreError> {
        let failed = |source| StoreError::Io {
            action: "list",
            path: self.protected.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.protected) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut protections = BTreeMap::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            // Temporary files begin with a dot.
            let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(id) = id.and_then(|id| id.parse::<SnapshotId>().ok()) else {
                continue;
            };
            if let Some(protection) = self.protection(&id, now)? {
                protections.insert(id, protection);
            }
        }
        Ok(protections)
    }

    /// The protection of this snapshot, if it counts at `now`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn protection(
        &self,
        id: &SnapshotId,
        now: DateTime<Utc>,
    ) -> Result<Option<Protection>, StoreError> {
        let parse = |bytes: &[u8]| Ok::<Protection, Refusal>(serde_json::from_slice(bytes)?);
        let protection = match file::read(&self.protection_path(id), parse) {
            Err(StoreError::Malformed { path, source }) => Err(StoreError::Io {
                action: "read",
                path,
                source: source.into(),
            }),
            read => read,
        }?;
        Ok(protection.filter(|protection| protection.holds(now)))
    }

    /// Protects a snapshot, durably. The caller holds [`Store::lock_protections`].
    ///
    /// # Errors
    /// When it can't be written.
    pub fn protect(&self, id: &SnapshotId, protection: &Protection) -> Result<(), StoreError> {
        let path = self.protection_path(id);
        let written = serde_json::to_vec_pretty(protection).map_err(io::Error::from);
        written
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                durable::create_dir(&self.protected)?;
                durable::replace(&path, &bytes, FILE_MODE)
            })
            .map_err(|source| StoreError::Io {
                action: "write",
                path,
                source,
            })
    }

    /// Takes a protection back, and says whether there was one.
    ///
    /// # Errors
    /// When it is there and can't be removed.
    pub fn unprotect(&self, id: &SnapshotId) -> Result<bool, StoreError> {
        let path = self.protection_path(id);
        durable::remove(&path).map_err(|source| StoreError::Io {
            action: "remove",
            path,
            source,
        })
    }

    /// As long as this is held nobody deletes a snapshot.
    ///
    /// # Errors
    /// [`LockError::Deleting`] when somebody did all the time.
    pub fn lock_protections(&self, timeout: Duration) -> Result<Lock, LockError> {
        self.protections_lock(lock::take, timeout)
    }

    /// As long as this is held nobody protects a snapshot.
    ///
    /// # Errors
    /// [`LockError::Deleting`] when somebody did all the time.
    pub fn lock_deletion(&self, timeout: Duration) -> Result<Lock, LockError> {
        self.protections_lock(lock::share, timeout)
    }

    fn protections_lock(
        &self,
        take: impl Fn(&std::path::Path, Duration) -> io::Result<Waited>,
        timeout: Duration,
    ) -> Result<Lock, LockError> {
        // No instance's id begins with a dot.
        let path = self.locks.join(".protections.lock");
        match take(&path, timeout) {
            Ok(Waited::Locked(lock)) => Ok(lock),
            Ok(Waited::Held) => Err(LockError::Deleting { path, timeout }),
            Ok(Waited::Interrupted) => Err(LockError::Interrupted),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    fn protection_path(&self, id: &SnapshotId) -> PathBuf {
        self.protected.join(format!("{}{SUFFIX}", id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protection_counts_until_it_ends_or_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("state"));
        let now: DateTime<Utc> = "2026-09-02T12:00:00Z".parse().unwrap();
        let [a, b]: [SnapshotId; 2] = ["a", "b"].map(|id| id.parse().unwrap());
        assert!(store.protections(now).unwrap().is_empty());
        let forever = Protection {
            reason: Some("before the migration".to_owned()),
            until: None,
            protected_at: now,
        };
        let for_an_hour = Protection {
            reason: None,
            until: Some(now + chrono::TimeDelta::hours(1)),
            protected_at: now,
        };
        store.protect(&a, &forever).unwrap();
        store.protect(&b, &for_an_hour).unwrap();
        let all = store.protections(now).unwrap();
        assert_eq!(all[&a], forever);
        assert_eq!(all[&b], for_an_hour);
        let later = now + chrono::TimeDelta::hours(1);
        assert_eq!(store.protections(later).unwrap().len(), 1);
        assert!(store.unprotect(&a).unwrap());
        assert!(!store.unprotect(&a).unwrap());
        assert_eq!(store.protection(&a, now).unwrap(), None);
    }

    #[test]
    fn one_that_cannot_be_read_is_an_error_and_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        std::fs::create_dir(dir.path().join("protected")).unwrap();
        std::fs::write(dir.path().join("protected/a.json"), "{").unwrap();
        std::fs::write(dir.path().join("protected/.a.json.new"), "{").unwrap();
        let error = store.protections(DateTime::UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
    }

    #[test]
    fn deleting_and_protecting_exclude_each_other_and_deleting_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let now = Duration::ZERO;
        let deleting = store.lock_deletion(now).unwrap();
        let also = store.lock_deletion(now).unwrap();
        assert!(store.lock_protections(now).is_err());
        drop((deleting, also));
        let protecting = store.lock_protections(now).unwrap();
        assert!(store.lock_deletion(now).is_err());
        drop(protecting);
    }
}
