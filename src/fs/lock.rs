//! `flock` on files that only this user can open: others could hold the lock as long as they like. Such a file is
//! created once and never renamed or removed, so that two holders never hold locks on two different files of one name.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::durable;
use crate::interrupt;

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

/// A lock, until it is dropped or the process ends.
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

/// What came of waiting for a lock.
#[derive(Debug)]
pub enum Waited {
    /// Here it is.
    Locked(Lock),
    /// Somebody else held it all the time.
    Held,
    /// This process was asked to stop meanwhile.
    Interrupted,
}

/// Takes the lock that `path` is, waiting up to `timeout` for whoever holds it. The file and its directory are created;
/// the file's time of modification is when it was last taken.
///
/// # Errors
/// When the file can't be created, opened or locked, or is no regular one.
pub fn take(path: &Path, timeout: Duration) -> io::Result<Waited> {
    wait_for(path, timeout, try_lock)
}

/// As [`take`], beside others that share it.
///
/// # Errors
/// As [`take`].
pub fn share(path: &Path, timeout: Duration) -> io::Result<Waited> {
    wait_for(path, timeout, try_share)
}

/// Takes the lock that `path` is, if nobody holds it, and writes `content` there, durably. Its holder removes the file in
/// the end; nobody gets one that has lost its name, so that there is one holder at most.
///
/// # Errors
/// As [`take`], and when it can't be written.
pub fn take_removable(path: &Path, content: &[u8]) -> io::Result<Option<Lock>> {
    let file = open(path)?;
    if !try_lock(&file)? {
        return Ok(None);
    }
    let lock = Lock { file };
    let held = lock.file.metadata()?;
    let is_named = std::fs::symlink_metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
    if !is_named {
        return Ok(None);
    }
    lock.file.set_len(0)?;
    lock.file.write_all_at(content, 0)?;
    lock.file.sync_all()?;
    durable::sync_dir(path.parent().unwrap_or(Path::new("/")))?;
    Ok(Some(lock))
}

fn wait_for(
    path: &Path,
    timeout: Duration,
    try_lock: impl Fn(&File) -> io::Result<bool>,
) -> io::Result<Waited> {
    let begin = Instant::now();
    let file = open(path)?;
    while !try_lock(&file)? {
        let left = timeout.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(Waited::Held);
        }
        if interrupt::requested() {
            return Ok(Waited::Interrupted);
        }
        thread::sleep(left.min(POLL));
    }
    // Only told to those who ask since when it is held.
    let _ = rustix::fs::futimens(&file, &MODIFIED_NOW);
    Ok(Waited::Locked(Lock { file }))
}

fn open(path: &Path) -> io::Result<File> {
    durable::create_dir(path.parent().unwrap_or(Path::new("/")))?;
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

/// Locks `file`, or a directory, as long as it is open; `false` when somebody else holds it.
///
/// # Errors
/// When it can't be locked at all.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // The trait's function by its name: std has a method that is spelled the same.
    is_had(FileExt::try_lock_exclusive(file))
}

/// As [`try_lock`], beside others that share it.
///
/// # Errors
/// As [`try_lock`].
pub fn try_share(file: &File) -> io::Result<bool> {
    is_had(FileExt::try_lock_shared(file))
}

fn is_had(locked: io::Result<()>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_free(path: &Path) -> bool {
        matches!(take(path, Duration::ZERO), Ok(Waited::Locked(_)))
    }

    #[test]
    fn a_released_lock_is_free_even_while_a_copy_of_its_file_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/x.lock");
        let Ok(Waited::Locked(lock)) = take(&path, Duration::ZERO) else {
            panic!("nobody else has it");
        };
        let _copy = lock.file.try_clone().unwrap();
        assert!(!is_free(&path));
        drop(lock);
        assert!(is_free(&path));
    }
}
