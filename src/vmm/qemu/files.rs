//! The files of a capture: created for their owner alone, with room reserved before anybody depends on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::super::VmmError;

/// QEMU copies disks in pieces of this size, in bytes.
const CLUSTER: u64 = 64 << 10;
/// Data that is less than this apart is reserved in one piece, in bytes.
const GAP: u64 = 1 << 20;

/// A new file that only its owner may read.
///
/// # Errors
/// [`VmmError::File`] with the path.
pub(super) fn create(path: &Path) -> Result<File, VmmError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| VmmError::File {
            what: format!("can't create {}", path.display()),
            source,
        })
}

/// Reserves room in `target` wherever the file `source` holds data now. A source that can't tell where it has holes,
/// such as a block device, gets nothing reserved.
pub(super) fn reserve_like(target: &File, source: &Path, length: u64) -> io::Result<()> {
    let source = File::open(source)?;
    let mut at = 0;
    while at < length {
        let Some((start, mut end)) = data_from(&source, at)? else {
            break;
        };
        while let Some((next_start, next_end)) = data_from(&source, end)? {
            if next_start > end.saturating_add(GAP) || next_end <= end {
                break;
            }
            end = next_end;
        }
        let start = start / CLUSTER * CLUSTER;
        let end = end.next_multiple_of(CLUSTER).min(length);
        if end <= start {
            break;
        }
        reserve(target, start, end - start)?;
        at = end;
    }
    Ok(())
}

/// Where the next data from `at` on begins and ends.
fn data_from(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        // No more data; not a file that knows holes.
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) if end > start => Ok(Some((start, end))),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reserves room without changing the file's length. Where the file system can't, the caller's own look at the free
/// space must do.
pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives back what was reserved behind the end of `file`.
///
/// # Errors
/// When the file system fails.
pub(super) fn release(file: &File) -> io::Result<()> {
    // To cut a file at its own length drops the blocks behind it.
    file.set_len(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn room_is_reserved_where_the_source_has_data() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("source");
        let source = File::create(&path).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[1; 4096], 3 << 20).unwrap();
        source.write_all_at(&[1; 4096], 40 << 20).unwrap();
        let target = create(&directory.path().join("target")).unwrap();
        target.set_len(64 << 20).unwrap();
        reserve_like(&target, &path, 64 << 20).unwrap();
        let metadata = target.metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 20);
        let reserved = metadata.blocks() * 512;
        assert!((2 * CLUSTER..8 << 20).contains(&reserved), "{reserved}");
    }

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = create(&directory.path().join("target")).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        reserve(&file, 0, 32 << 20).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 32 << 20);
        release(&file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 4096);
        assert!(metadata.blocks() * 512 <= 1 << 20);
    }

    #[test]
    fn a_target_is_its_owners_alone_and_never_replaces_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("target");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let error = create(&path).unwrap_err().to_string();
        assert!(error.contains("target"), "{error}");
    }
}
