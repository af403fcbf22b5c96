//! Where a file holds data, as its file system tells (lseek(2), `SEEK_DATA`). Only looks.

use std::fs::File;
use std::io;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What follows in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Data, from its start to its end.
    Data(u64, u64),
    /// Nothing but a hole.
    Hole,
    /// The file can't tell; it may be data to its end.
    Untold,
}

/// The next data of the first `length` bytes, at or behind `at`. A file that has grown since its length was asked for is
/// looked at no further. The offset of `file` is moved.
///
/// # Errors
/// `UnexpectedEof` when the file is cut meanwhile, and what the file system answers.
pub fn next(file: &File, at: u64, length: u64) -> io::Result<Next> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start < length => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(Next::Hole),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE | Errno::NOTTY) => {
            return Ok(Next::Untold);
        }
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Next::Data(start, end.min(length).max(start + 1))),
        Err(Errno::NXIO) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error.into()),
    }
}
