//! The room of a capture's files, which is reserved before anybody depends on it.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

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
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        reserve(&file, 0, 32 << 20).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 32 << 20);
        release(&file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 4096);
        assert!(metadata.blocks() * 512 <= 1 << 20);
    }
}
