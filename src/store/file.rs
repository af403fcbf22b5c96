//! One schedule file: read without trust.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;
use super::format::Refusal;
use crate::fs::bounded;

/// The largest file that is read. A schedule with all the metadata it may have stays below a twentieth of it.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// The pauses before reading again what can't be parsed: hypeman overwrites its files in place,
/// so a reader may meet an empty or a cut one.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
];

/// A file that was last written so long ago is not being written now.
const SETTLED: Duration = Duration::from_secs(2);

/// Reads the file at `path` through `parse`; `None` when there is none.
///
/// # Errors
/// When it is no regular file, too large, can't be read, or `parse` refuses it.
pub(super) fn read<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, Refusal>,
) -> Result<Option<T>, StoreError> {
    Ok(read_patiently(path, parse, thread::sleep)?.map(|(value, _)| value))
}

/// As [`read`], with the very file that was read.
///
/// # Errors
/// As [`read`].
pub(super) fn read_with_file<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, Refusal>,
) -> Result<Option<(T, File)>, StoreError> {
    read_patiently(path, parse, thread::sleep)
}

/// Why what the file says should not be run as this process's user: what cron asks of a crontab. `None` when it may.
///
/// # Errors
/// When the file can't be looked at.
pub(super) fn distrust(file: &File) -> io::Result<Option<String>> {
    let metadata = file.metadata()?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != user {
        return Ok(Some(format!(
            "belongs to user {owner}, and hooks run only from files of root or of the user that runs them ({user})"
        )));
    }
    let mode = metadata.mode() & 0o7777;
    Ok((mode & 0o022 != 0).then(|| {
        format!("has mode {mode:04o}: its group or everybody can write to it, and so to the hooks that it runs")
    }))
}

fn read_patiently<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, Refusal>,
    wait: impl Fn(Duration),
) -> Result<Option<(T, File)>, StoreError> {
    let mut pauses = PAUSES.iter();
    loop {
        let Some((bytes, file)) = read_bytes(path)? else {
            return Ok(None);
        };
        match parse(&bytes) {
            Ok(value) => return Ok(Some((value, file))),
            Err(Refusal::Invalid(rule)) => {
                return Err(StoreError::Invalid {
                    path: path.to_owned(),
                    rule,
                });
            }
            Err(Refusal::Malformed(source)) => match pauses.next() {
                Some(pause) if !is_settled(&file) => wait(*pause),
                _ => {
                    return Err(StoreError::Malformed {
                        path: path.to_owned(),
                        source,
                    });
                }
            },
        }
    }
}

fn is_settled(file: &File) -> bool {
    file.metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > SETTLED))
}

fn read_bytes(path: &Path) -> Result<Option<(Vec<u8>, File)>, StoreError> {
    let failed = |source: io::Error| StoreError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let not_a_file = |found| StoreError::NotAFile {
        path: path.to_owned(),
        found,
    };
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(not_a_file("a symbolic link")),
        Err(Errno::NXIO) => return Err(not_a_file("a socket")),
        Err(errno) => return Err(failed(errno.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        return Err(not_a_file(if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else {
            "a device"
        }));
    }
    let too_large = |size_bytes| StoreError::TooLarge {
        path: path.to_owned(),
        size_bytes,
    };
    if metadata.len() > MAX_BYTES {
        return Err(too_large(metadata.len()));
    }
    match bounded::read(&file, MAX_BYTES) {
        Ok(bytes) => Ok(Some((bytes, file))),
        // It grew while it was read.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(too_large(MAX_BYTES + 1)),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
