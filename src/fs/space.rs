//! How much room there is and how much is taken. Only looks, and never follows a symlink below the path it is given.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

/// The unit of `st_blocks`, whatever the file system's block size is (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;
/// By how much the last block of a file may reach beyond its end, in bytes: generously.
const BLOCK_BYTES: u64 = 64 << 10;

/// How many bytes this user may still write to the file system that `path` is on.
///
/// # Errors
/// When the file system can't be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    room(path).map(|room| room.free_bytes)
}

/// How many bytes this user may still write to the file system of the open directory `dir`.
///
/// # Errors
/// When the file system can't be asked.
pub fn free_bytes_in(dir: impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What this user may still write.
    pub free_bytes: u64,
    /// What there is in all.
    pub total_bytes: u64,
    /// How many more files it can hold; `None` where it does not count them.
    pub free_files: Option<u64>,
}

/// How much room the file system has that `path` is on.
///
/// # Errors
/// When the file system can't be asked.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_files: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

/// What `directory` and everything below it occupy, in bytes. Holes count nothing, a file with several names counts
/// once, and blocks that a reflink shares with other files count in full.
///
/// # Errors
/// When something below can't be read.
pub fn disk_usage(directory: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let occupied = |entry: &Metadata| entry.blocks().saturating_mul(STAT_BLOCK_BYTES);
    let mut total = occupied(&std::fs::symlink_metadata(directory)?);
    visit(directory, &mut |entry| {
        if entry.is_dir() || entry.nlink() < 2 || seen.insert((entry.dev(), entry.ino())) {
            total = total.saturating_add(occupied(entry));
        }
    })?;
    Ok(total)
}

/// The sum of the lengths of all regular files below `directory`, in bytes, holes included: what hypeman calls a
/// snapshot's `size_bytes` (contract, section 3).
///
/// # Errors
/// When something below can't be read.
pub fn apparent_size(directory: &Path) -> io::Result<u64> {
    let mut total: u64 = 0;
    visit(directory, &mut |entry| {
        if entry.is_file() {
            total = total.saturating_add(entry.len());
        }
    })?;
    Ok(total)
}

/// What a sparse copy of `file` can take up at most, in bytes: what is allocated of a regular file, and all of a block
/// device, which does not tell what of it is in use. The position of `file` stays where it is.
///
/// # Errors
/// When it can't be looked at.
pub fn data_bytes(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let position = rustix::fs::tell(file)?;
        let size = rustix::fs::seek(file, SeekFrom::End(0))?;
        rustix::fs::seek(file, SeekFrom::Start(position))?;
        return Ok(size);
    }
    // What is allocated behind the end is not copied.
    let allocated = metadata.blocks().saturating_mul(STAT_BLOCK_BYTES);
    Ok(allocated.min(metadata.len().saturating_add(BLOCK_BYTES)))
}

/// Calls `each` for everything below `directory`.
fn visit(directory: &Path, each: &mut dyn FnMut(&Metadata)) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // Of a directory entry this is the entry's own metadata: a symlink is not followed.
        let metadata = entry.metadata()?;
        each(&metadata);
        if metadata.is_dir() {
            visit(&entry.path(), each)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_hole_has_a_length_and_occupies_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let empty = disk_usage(directory.path()).unwrap();
        let file = File::create(directory.path().join("disk")).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(apparent_size(directory.path()).unwrap(), 1 << 30);
        assert_eq!(disk_usage(directory.path()).unwrap(), empty);
    }

    #[test]
    fn a_copy_takes_up_what_is_data_and_not_what_is_reserved() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(data_bytes(&file).unwrap() < 1 << 20);
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 1 << 20], 1 << 30).unwrap();
        file.sync_all().unwrap();
        let bytes = data_bytes(&file).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        file.set_len(0).unwrap();
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 8 << 20).is_ok() {
            assert!(data_bytes(&file).unwrap() < 1 << 20);
        }
    }

    #[test]
    fn a_file_with_two_names_occupies_its_blocks_once() {
        let directory = tempfile::tempdir().unwrap();
        let one = directory.path().join("one");
        fs::write(&one, vec![7; 1 << 20]).unwrap();
        File::open(&one).unwrap().sync_all().unwrap();
        let before = disk_usage(directory.path()).unwrap();
        assert!(before >= 1 << 20);
        fs::hard_link(&one, directory.path().join("two")).unwrap();
        assert_eq!(disk_usage(directory.path()).unwrap(), before);
    }

    #[test]
    fn symlinks_are_not_followed() {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("big"), vec![7; 1 << 20]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), directory.path().join("link")).unwrap();
        symlink(elsewhere.path().join("big"), directory.path().join("file")).unwrap();
        assert_eq!(apparent_size(directory.path()).unwrap(), 0);
        assert!(disk_usage(directory.path()).unwrap() < 1 << 20);
    }

    #[test]
    fn free_space_is_known_for_a_directory_and_unknown_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(free_bytes(directory.path()).unwrap() > 0);
        let room = room(directory.path()).unwrap();
        assert!(room.free_bytes <= room.total_bytes, "{room:?}");
        assert!(free_bytes(&directory.path().join("missing")).is_err());
    }
}
