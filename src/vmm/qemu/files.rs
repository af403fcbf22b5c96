//! The files of a capture: created for their owner alone, with room reserved before anybody depends on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::super::VmmError;

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
