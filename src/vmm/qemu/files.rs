//! The files of a capture: given to QEMU, and their room reserved before anybody depends on it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::Value;

use super::super::VmmError;
use super::qmp::Qmp;

/// The answer to `add-fd`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Added {
    fdset_id: u64,
}

/// Gives QEMU a descriptor of `file` and returns the number of the set that it is in; `opaque` names it as ours.
///
/// # Errors
/// What QEMU refuses.
pub(super) fn add(qmp: &mut Qmp, opaque: &Value, file: &File) -> Result<u64, VmmError> {
    let added: Added = qmp.query_with_fd("add-fd", opaque, file.as_fd())?;
    Ok(added.fdset_id)
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
