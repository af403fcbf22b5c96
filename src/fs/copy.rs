//! Copies of single files: reflinks where the file system can, else sparse copies of the data alone. Never dense, and
//! never by path: whoever opens the files decides what is followed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::extents::{self, Next};
use crate::syscalls;

use super::beneath::Beneath;

/// How much is copied between two looks at the interrupt flag. Bounds both the time until a cancelled copy ends and the
/// memory that a copy takes.
const CHUNK_BYTES: u64 = 8 << 20;
/// The piece that is looked at when zeros have to be found by reading: the block size of common file systems.
pub(super) const BLOCK_BYTES: usize = 4096;
/// How much is read at once where the kernel can't copy by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// Makes `target` share all blocks of `source`, by `FICLONE`; its former content is replaced.
///
/// # Errors
/// When the file system can't: see [`is_unsupported`].
pub fn reflink(source: &File, target: &File) -> io::Result<()> {
    rustix::fs::ioctl_ficlone(target, source).map_err(io::Error::from)
}

/// Whether `error` says that a reflink is not possible between these two files, rather than that it failed.
pub fn is_unsupported(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| {
        [
            Errno::OPNOTSUPP,
            Errno::XDEV,
            Errno::INVAL,
            Errno::NOTTY,
            Errno::NOSYS,
        ]
        .contains(&errno)
    })
}

/// How long a reflink of `source` into `target_dir` takes, found out by making one; `None` where reflinks are not
/// possible. The file that it is tried on has no name, so that nothing is left whatever is killed.
///
/// The time grows with the number of pieces that the source is in, not with its length: 1 ms for a hundred, seconds for
/// a hundred thousand. Writes to the source wait for as long.
///
/// # Errors
/// When the trial fails for another reason than that reflinks are not possible, such as a full disk.
pub fn try_reflink(source: &File, target_dir: &Beneath) -> io::Result<Option<Duration>> {
    let target = target_dir.nameless()?;
    let start = Instant::now();
    match reflink(source, &target) {
        Ok(()) => Ok(Some(start.elapsed())),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `source` can be reflinked into `target_dir`, found out with its first piece: that takes no longer for a file in
/// many pieces. Nothing is left whatever is killed.
///
/// # Errors
/// As [`try_reflink`].
pub fn can_share(source: &File, target_dir: &Beneath) -> io::Result<bool> {
    // Every file system's blocks fit into it a whole number of times.
    const PIECE_BYTES: u64 = 64 << 10;
    if source.metadata()?.len() < PIECE_BYTES {
        return Ok(try_reflink(source, target_dir)?.is_some());
    }
    let target = target_dir.nameless()?;
    match syscalls::clone_beginning(source, &target, PIECE_BYTES).map_err(io::Error::from) {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether files in `source_dir` can be reflinked into `target_dir`, found out by trying it on two files without names:
/// nothing is left whatever is killed, and the directories are not changed.
///
/// # Errors
/// When it can't be tried: no right to write, no room, or a file system that has no files without names (`Unsupported`).
pub fn can_reflink(source_dir: &Path, target_dir: &Path) -> io::Result<bool> {
    let source = nameless(source_dir)?;
    let target = nameless(target_dir)?;
    // A file system may take the reflink of nothing for done.
    source.write_all_at(&[1; BLOCK_BYTES], 0)?;
    match reflink(&source, &target) {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A new file that never has a name. (`tempfile` falls back to one with a name.)
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // Kernels and file systems without the flag see an attempt to write to a directory (open(2), `O_TMPFILE`).
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => Err(io::ErrorKind::Unsupported.into()),
        Err(error) => Err(error.into()),
    }
}

/// Copies `source` over `target`: a reflink if the file system can, else [`sparse`]. Returns the bytes it wrote: none for
/// a reflink.
///
/// # Errors
/// As [`sparse`]; `target` then holds something unusable.
pub fn file(
    source: &File,
    target: &File,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> io::Result<u64> {
    match reflink(source, target) {
        Ok(()) => Ok(0),
        Err(error) if is_unsupported(&error) => sparse(source, target, is_cancelled, progress),
        Err(error) => Err(error),
    }
}

/// Copies the data of `source`, a regular file or a block device, over the regular file `target`, which gets the same
/// length and holes where the source has holes. Where the source can't say where its holes are, blocks of zeros
/// become holes. Calls `progress` with the bytes it went through since the last call; returns the bytes it wrote. The
/// offset of `source` is moved.
///
/// # Errors
/// `Interrupted` when `is_cancelled` says so, asked at least every 8 MiB; `UnexpectedEof` when the source shrinks
/// meanwhile; else what the files answer. `target` then holds something unusable.
pub fn sparse(
    source: &File,
    target: &File,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> io::Result<u64> {
    let length = rustix::fs::seek(source, SeekFrom::End(0))?;
    target.set_len(0)?;
    target.set_len(length)?;
    let mut copy = Copy {
        source,
        target,
        buffer: Vec::new(),
        by_kernel: true,
        skips_zeros: false,
        is_cancelled,
        progress,
        data_bytes: 0,
    };
    let mut at = 0;
    while at < length {
        copy.check_cancelled()?;
        let (start, end) = match extents::next(source, at, length)? {
            Next::Data(start, end) => (start, end),
            Next::Hole => break,
            Next::Untold => {
                copy.skips_zeros = true;
                (at, length)
            }
        };
        if start == 0 && end == length && hides_holes(source, length)? {
            copy.skips_zeros = true;
        }
        copy.extent(start, end)?;
        at = end;
    }
    Ok(copy.data_bytes)
}

/// Whether a file that claims to be one stretch of data occupies less than its length: then its file system knows no
/// better answer (lseek(2)), or packs zeros.
fn hides_holes(source: &File, length: u64) -> io::Result<bool> {
    Ok(source.metadata()?.blocks().saturating_mul(512) < length)
}

/// A sparse copy under way.
struct Copy<'a> {
    source: &'a File,
    target: &'a File,
    /// Empty until it is needed.
    buffer: Vec<u8>,
    /// Whether `copy_file_range` has not failed yet.
    by_kernel: bool,
    /// Whether zeros are looked for, because the source does not tell its holes.
    skips_zeros: bool,
    is_cancelled: &'a dyn Fn() -> bool,
    progress: &'a dyn Fn(u64),
    data_bytes: u64,
}

impl Copy<'_> {
    fn check_cancelled(&self) -> io::Result<()> {
        if (self.is_cancelled)() {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "the copy was cancelled",
            ));
        }
        Ok(())
    }

    /// Copies `start..end`.
    fn extent(&mut self, start: u64, end: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            self.check_cancelled()?;
            let wanted = (end - at).min(CHUNK_BYTES);
            let (read, written) = if self.by_kernel && !self.skips_zeros {
                self.chunk_by_kernel(at, wanted)?
            } else {
                self.chunk_by_hand(at, wanted)?
            };
            at += read;
            self.data_bytes += written;
            (self.progress)(read);
        }
        Ok(())
    }

    /// Copies up to `wanted` bytes at `at`; returns how many were read and how many of them written.
    fn chunk_by_kernel(&mut self, at: u64, wanted: u64) -> io::Result<(u64, u64)> {
        let (mut from, mut to) = (at, at);
        let length = usize::try_from(wanted).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(
            self.source,
            Some(&mut from),
            self.target,
            Some(&mut to),
            length,
        ) {
            // Some file systems say 0 instead of an error (copy_file_range(2), BUGS). Reading tells which it is.
            Ok(0) => {}
            Ok(copied) => {
                let copied = copied as u64;
                return Ok((copied, copied));
            }
            Err(Errno::INTR) => return Ok((0, 0)),
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::PERM
                | Errno::TXTBSY
                | Errno::NOTTY,
            ) => {}
            Err(error) => return Err(error.into()),
        }
        self.by_kernel = false;
        self.chunk_by_hand(at, wanted)
    }

    fn chunk_by_hand(&mut self, at: u64, wanted: u64) -> io::Result<(u64, u64)> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let wanted = usize::try_from(wanted).map_or(BUFFER_BYTES, |bytes| bytes.min(BUFFER_BYTES));
        let read = match self.source.read_at(&mut self.buffer[..wanted], at) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the source became shorter than {at} bytes while it was copied"),
                ));
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok((0, 0)),
            Err(error) => return Err(error),
        };
        let data = &self.buffer[..read];
        if !self.skips_zeros {
            self.target.write_all_at(data, at)?;
            return Ok((read as u64, read as u64));
        }
        // Runs of blocks with data are written in one piece; the target is a hole where nothing is written.
        let mut written = 0;
        let mut blocks = data.chunks(BLOCK_BYTES).enumerate().peekable();
        while let Some((first, block)) = blocks.next() {
            if is_zero(block) {
                continue;
            }
            let mut length = block.len();
            while let Some((_, next)) = blocks.next_if(|(_, next)| !is_zero(next)) {
                length += next.len();
            }
            let start = first * BLOCK_BYTES;
            self.target
                .write_all_at(&data[start..start + length], at + start as u64)?;
            written += length as u64;
        }
        Ok((read as u64, written))
    }
}

/// Whether `block`, of at most [`BLOCK_BYTES`], holds nothing but zeros.
pub(super) fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    // A comparison of slices is one `memcmp`; a loop that ends at the first other byte is many times slower.
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

#[cfg(test)]
mod tests;
