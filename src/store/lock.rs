//! One lock per instance, and one for what runs write together.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Store;
use crate::fs::lock::{self, Waited};
use crate::instance::InstanceId;
use crate::schedule::duration::format_human;

/// The right to work on one instance, until it is dropped or the process ends.
pub use crate::fs::lock::Lock;

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it all the time.
    #[error("another run works on instance {id} and held {} for longer than {}; try again later, or raise --lock-timeout", path.display(), format_human(*timeout))]
    Held {
        /// The instance.
        id: InstanceId,
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// Somebody was deleting snapshots, or protecting one, all the time.
    #[error("another process deletes or protects snapshots and held {} for longer than {}; try again later, or raise --lock-timeout", path.display(), format_human(*timeout))]
    Deleting {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// This process was asked to stop while it waited.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The system refused.
    #[error("can't lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Takes `id`'s lock, waiting up to `timeout` for whoever holds it.
    ///
    /// # Errors
    /// [`LockError::Held`] when it was not released in time, [`LockError::Interrupted`] when this process was asked to
    /// stop first, [`LockError::Io`] when it can't be taken at all.
    pub fn lock(&self, id: &InstanceId, timeout: Duration) -> Result<Lock, LockError> {
        let path = self.lock_path(id);
        match lock::take(&path, timeout) {
            Ok(Waited::Locked(lock)) => Ok(lock),
            Ok(Waited::Held) => Err(LockError::Held {
                id: id.clone(),
                path,
                timeout,
            }),
            Ok(Waited::Interrupted) => Err(LockError::Interrupted),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    /// Takes `id`'s lock if nobody holds it; `None` when somebody does.
    ///
    /// # Errors
    /// [`LockError::Io`] when it can't be taken at all.
    pub fn try_lock(&self, id: &InstanceId) -> Result<Option<Lock>, LockError> {
        match self.lock(id, Duration::ZERO) {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a run works on `id` now, by the kernel's list of locks: unlike an attempt to take the lock this creates no
    /// file and gets in nobody's way. A run of another PID namespace is not on the list.
    pub fn is_busy(&self, id: &InstanceId) -> bool {
        self.holder(id).is_some()
    }

    /// The id of the process that took `id`'s lock, by the same list. It may have handed it on to a child and be gone.
    pub fn holder(&self, id: &InstanceId) -> Option<u32> {
        let inode = std::fs::symlink_metadata(self.lock_path(id)).ok()?.ino();
        holder_of(&std::fs::read_to_string("/proc/locks").ok()?, inode)
    }

    /// When `id`'s lock was last taken; `None` when that can't be told.
    pub fn held_since(&self, id: &InstanceId) -> Option<DateTime<Utc>> {
        let modified = std::fs::symlink_metadata(self.lock_path(id))
            .ok()?
            .modified();
        modified.ok().map(DateTime::from)
    }

    /// The lock of runs that write one file of metrics, which is where others can write, too. No instance's id begins
    /// with a dot.
    pub fn metrics_lock(&self) -> PathBuf {
        self.locks().join(".metrics.lock")
    }

    fn lock_path(&self, id: &InstanceId) -> PathBuf {
        self.locks().join(format!("{id}.lock"))
    }
}

/// The process that holds an `flock` of the file with this inode, by `/proc/locks` (proc_locks(5)). The file's device is
/// not compared: for btrfs the list has another one than `stat`.
fn holder_of(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // `1: FLOCK  ADVISORY  WRITE 4242 fd:00:1234 0 EOF`; who waits for a lock has `->` behind the number.
        let number = fields.get(5).and_then(|file| file.rsplit(':').next());
        let is_it =
            fields.get(1) == Some(&"FLOCK") && number.and_then(|it| it.parse().ok()) == Some(inode);
        // The lock of another PID namespace has the number 0.
        let process = fields.get(4).and_then(|it| it.parse().ok()).unwrap_or(0);
        is_it.then_some(process)
    })
}

#[cfg(test)]
mod tests;
