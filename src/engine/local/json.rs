//! Reads the small JSON files of the data directory, which other programs may be overwriting in place at that moment.

mod shape;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;

use crate::fs::bounded;

/// Larger files are no metadata; reading them would only cost memory.
pub(super) const FILE_MAX_BYTES: u64 = 1 << 20;
/// How often a file that can't be parsed is read again before that counts, and how long to wait before each.
pub(super) const RETRIES: u32 = 4;
/// See [`RETRIES`].
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(25);

/// Why a JSON file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be read at all.
    #[error(transparent)]
    File(#[from] io::Error),
    /// Whatever is in it, it is no metadata.
    #[error("{0}")]
    Unfit(&'static str),
    /// It is not what it should be; perhaps because somebody writes it at this moment.
    #[error("it can't be parsed: {0}")]
    Parse(#[from] serde_json::Error),
}

impl ReadError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads the file `name` of an open directory as [`read`] does. A symlink of that name is not followed.
///
/// # Errors
/// As [`read_once`].
pub(super) fn read_in<T: DeserializeOwned>(
    directory: BorrowedFd<'_>,
    name: &str,
) -> Result<T, ReadError> {
    patiently(
        || read_at(directory, name),
        || std::thread::sleep(RETRY_AFTER),
    )
}

/// Reads `path` once.
///
/// # Errors
/// When it is no regular file, can't be read, is longer than 1 MiB, holds very many values, or is not a `T`.
pub fn read_once<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    let not_blocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new()
        .read(true)
        // A FIFO of that name must not hang the run.
        .custom_flags(not_blocking)
        .open(path)?;
    read_open(file)
}

/// Reads the file `name` of an open directory once. A symlink of that name is not followed.
///
/// # Errors
/// As [`read_once`].
pub(super) fn read_at<T: DeserializeOwned>(
    directory: impl AsFd,
    name: &str,
) -> Result<T, ReadError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => read_open(File::from(file)),
        Err(rustix::io::Errno::LOOP) => Err(ReadError::Unfit("it is a symlink")),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn read_open<T: DeserializeOwned>(file: File) -> Result<T, ReadError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Unfit("it is no regular file"));
    }
    let bytes = match bounded::read(file, FILE_MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(ReadError::Unfit("it is longer than 1 MiB"));
        }
        read => read?,
    };
    if shape::is_too_rich(&bytes) {
        return Err(ReadError::Unfit("it holds more values than any metadata"));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// Reads `path`; while it can't be parsed, again for a tenth of a second, because hypeman overwrites files in place
/// (contract, section 4).
///
/// # Errors
/// As [`read_once`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    patiently(|| read_once(path), || std::thread::sleep(RETRY_AFTER))
}

fn patiently<T>(
    mut read_once: impl FnMut() -> Result<T, ReadError>,
    mut wait: impl FnMut(),
) -> Result<T, ReadError> {
    let mut result = read_once();
    for _ in 0..RETRIES {
        if !matches!(result, Err(ReadError::Parse(_))) {
            break;
        }
        wait();
        result = read_once();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use serde_json::Value;
    use std::fs;

    #[test]
    fn a_file_that_is_being_written_is_read_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        let mut halves = ["", r#"{"half":"#, r#"{"half":"whole"}"#].into_iter();
        fs::write(&path, halves.next().unwrap()).unwrap();
        let value: Value = patiently(
            || read_once(&path),
            || fs::write(&path, halves.next().unwrap()).unwrap(),
        )
        .unwrap();
        assert_eq!(value["half"], "whole");
    }

    #[test]
    fn what_stays_broken_is_an_error_that_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        fs::write(&path, "{\n  oops").unwrap();
        let error = read::<Value>(&path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!error.is_not_found());
    }

    #[test]
    fn a_file_that_is_missing_is_told_from_one_that_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let error = read::<Value>(&directory.path().join("missing")).unwrap_err();
        assert!(error.is_not_found());
    }

    #[test]
    fn neither_a_fifo_nor_a_directory_nor_an_endless_file_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read::<Value>(&fifo).is_err());
        assert!(read::<Value>(directory.path()).is_err());
        let large = directory.path().join("large");
        fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
        let error = read::<Value>(&large).unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
    }
}
