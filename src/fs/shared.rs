//! How much of a file other files have as well.

use std::fs::File;
use std::io;

use rustix::io::Errno;

use crate::syscalls;

/// How many bytes of a file's blocks are shared, as by a reflink; `None` where the file system does not tell.
///
/// # Errors
/// When it can't be asked.
pub fn bytes(file: &File) -> io::Result<Option<u64>> {
    let (mut shared, mut at) = (0_u64, 0_u64);
    loop {
        let extents = match syscalls::extents(file, at) {
            Ok(extents) => extents,
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(last) = extents.last() else {
            return Ok(Some(shared));
        };
        let end = last.start.saturating_add(last.length);
        let of_these = extents.iter().filter(|extent| extent.is_shared());
        shared = of_these.fold(shared, |sum, extent| sum.saturating_add(extent.length));
        if end <= at {
            // A file system that goes back would keep us here.
            return Ok(None);
        }
        at = end;
    }
}
