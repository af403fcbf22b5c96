//! One lock per instance: `flock` on a file that is created once and never renamed or removed, so that two holders
//! never hold locks on two different files of the same name.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use fs2::FileExt;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::Store;
use crate::fs::durable;
use crate::instance::InstanceId;
use crate::interrupt;
use crate::schedule::duration::format_human;

/// How often a held lock is tried again; `flock` itself knows no time-out.
const POLL: Duration = Duration::from_millis(50);

const MODIFIED_NOW: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    },
};

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

/// The right to work on one instance, until it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is just starting may still hold a copy of the file for a
        // moment, and unlocking undoes it for all copies. If that fails, closing remains.
        let _ = FileExt::unlock(&self.file);
    }
}

impl Store {
    /// Takes `id`'s lock, waiting up to `timeout` for whoever holds it.
    ///
    /// # Errors
    /// [`LockError::Held`] when it was not released in time, [`LockError::Interrupted`] when this process was asked to
    /// stop first, [`LockError::Io`] when it can't be taken at all.
    pub fn lock(&self, id: &InstanceId, timeout: Duration) -> Result<Lock, LockError> {
        let begin = Instant::now();
        let path = self.lock_path(id);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let file = open(self.locks(), &path).map_err(failed)?;
        while !is_locked(&file).map_err(failed)? {
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(LockError::Held {
                    id: id.clone(),
                    path,
                    timeout,
                });
            }
            if interrupt::requested() {
                return Err(LockError::Interrupted);
            }
            thread::sleep(left.min(POLL));
        }
        // For `held_since`; what goes by it can do without.
        let _ = rustix::fs::futimens(&file, &MODIFIED_NOW);
        Ok(Lock { file })
    }

    /// Takes `id`'s lock if nobody holds it; `None` when somebody does.
    ///
    /// # Errors
    /// [`LockError::Io`] when it can't be taken at all.
    pub fn try_lock(&self, id: &InstanceId) -> Result<Option<Lock>, LockError> {
        match self.lock(id, Duration::ZERO) {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Held { .. }) => Ok(None),
            Err(error @ (LockError::Interrupted | LockError::Io { .. })) => Err(error),
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

    fn lock_path(&self, id: &InstanceId) -> PathBuf {
        self.locks().join(format!("{id}.lock"))
    }
}

fn open(directory: &Path, path: &Path) -> io::Result<File> {
    durable::create_dir(directory)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file; remove it",
        ))
    }
}

/// Tries to lock the file, and says whether it is locked now.
fn is_locked(file: &File) -> io::Result<bool> {
    match FileExt::try_lock_exclusive(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
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
