//! Copies of single files: reflinks where the file system can, else sparse copies of the data alone. Never dense, and
//! never by path: whoever opens the files decides what is followed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// How much is copied between two looks at the interrupt flag. Bounds both the time until a cancelled copy ends and the
/// memory that a copy takes.
const CHUNK_BYTES: u64 = 8 << 20;
/// The piece that is looked at when zeros have to be found by reading: the block size of common file systems.
const BLOCK_BYTES: usize = 4096;
/// How much is read at once where the kernel can't copy by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// How a file was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The copy shares its blocks with the source.
    Reflinked,
    /// So many bytes of data were read and written; holes are not among them.
    Sparsely {
        /// Bytes of data.
        data_bytes: u64,
    },
}

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

/// Whether a reflink of `source` into `target_dir` works, found out by making one. The file that it is tried on has no
/// name, so that nothing is left whatever is killed.
///
/// # Errors
/// When the trial fails for another reason than that reflinks are not possible, such as a full disk.
pub fn can_reflink(source: &File, target_dir: &Path) -> io::Result<bool> {
    match reflink(source, &tempfile::tempfile_in(target_dir)?) {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies `source` over `target`: a reflink if the file system can, else [`sparse`].
///
/// # Errors
/// As [`sparse`]; `target` then holds something unusable.
pub fn file(
    source: &File,
    target: &File,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> io::Result<Copied> {
    match reflink(source, target) {
        Ok(()) => Ok(Copied::Reflinked),
        Err(error) if is_unsupported(&error) => {
            let data_bytes = sparse(source, target, is_cancelled, progress)?;
            Ok(Copied::Sparsely { data_bytes })
        }
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
        let (start, end) = match data_after(source, at, length) {
            Ok(Some(extent)) => extent,
            Ok(None) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTTY) => {
                copy.skips_zeros = true;
                (at, length)
            }
            Err(error) => return Err(error.into()),
        };
        if start == 0 && end == length && hides_holes(source, length)? {
            copy.skips_zeros = true;
        }
        copy.extent(start, end)?;
        at = end;
    }
    Ok(copy.data_bytes)
}

/// The first stretch of data at or behind `at`, as start and end; `None` when only a hole follows.
fn data_after(source: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        // The source may have grown since its length was asked for; what is new is not part of the copy.
        Ok(start) if start < length => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(length);
    Ok(Some((start, end.max(start + 1))))
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
fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    // A comparison of slices is one `memcmp`; a loop that ends at the first other byte is many times slower.
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    fn never() -> bool {
        false
    }

    /// A new file in `directory` that can be read and written.
    fn new_file(directory: &Path, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.join(name))
            .unwrap()
    }

    /// A file of 64 MiB with data at its begin, in its middle and at a crooked end, and holes between.
    fn holey(directory: &Path) -> File {
        let file = new_file(directory, "holey");
        file.set_len(64 << 20).unwrap();
        for at in [0, 10 << 20, (10 << 20) + 4096, (64 << 20) - 1] {
            file.write_all_at(b"data", at).unwrap();
        }
        // Without this the file system may not have decided yet where the holes are.
        file.sync_all().unwrap();
        file
    }

    fn blocks_bytes(file: &File) -> u64 {
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    }

    fn assert_same(source: &File, target: &File) {
        let length = source.metadata().unwrap().len();
        assert_eq!(length, target.metadata().unwrap().len());
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        while at < length {
            let read = source.read_at(&mut left, at).unwrap();
            target.read_exact_at(&mut right[..read], at).unwrap();
            assert!(left[..read] == right[..read], "difference behind byte {at}");
            at += read as u64;
        }
    }

    #[test]
    fn a_sparse_copy_has_the_same_content_length_and_holes() {
        let directory = tempfile::tempdir().unwrap();
        let source = holey(directory.path());
        let target = new_file(directory.path(), "copy");
        // What the target held before is in the way of its holes.
        (&target).write_all(&vec![7; 1 << 20]).unwrap();
        let data_bytes = sparse(&source, &target, &never, &|_| {}).unwrap();
        assert_same(&source, &target);
        assert!(data_bytes <= 1 << 20, "{data_bytes} bytes were written");
        assert!(blocks_bytes(&target) <= 1 << 20);
    }

    #[test]
    fn an_empty_file_and_a_single_hole_are_copied_without_any_data() {
        let directory = tempfile::tempdir().unwrap();
        for length in [0, 1, 5 << 20] {
            let source = new_file(directory.path(), &format!("source-{length}"));
            source.set_len(length).unwrap();
            let target = new_file(directory.path(), &format!("target-{length}"));
            assert_eq!(sparse(&source, &target, &never, &|_| {}).unwrap(), 0);
            assert_same(&source, &target);
        }
    }

    #[test]
    fn zeros_become_holes_where_the_source_does_not_tell_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let source = new_file(directory.path(), "dense");
        let mut content = vec![0_u8; (3 << 20) + 777];
        content[4096 * 5] = 1;
        content[4096 * 300..4096 * 303].fill(2);
        let last = content.len() - 1;
        content[last] = 3;
        source.write_all_at(&content, 0).unwrap();
        assert!(blocks_bytes(&source) >= 3 << 20);
        let target = new_file(directory.path(), "copy");
        target.set_len(content.len() as u64).unwrap();
        let mut copy = Copy {
            source: &source,
            target: &target,
            buffer: Vec::new(),
            by_kernel: true,
            skips_zeros: true,
            is_cancelled: &never,
            progress: &|_| {},
            data_bytes: 0,
        };
        copy.extent(0, content.len() as u64).unwrap();
        assert_eq!(copy.data_bytes, 4096 + 3 * 4096 + 777);
        assert_same(&source, &target);
        assert!(blocks_bytes(&target) <= 64 << 10);
    }

    #[test]
    fn a_copy_by_hand_is_the_same_as_one_by_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let source = holey(directory.path());
        let target = new_file(directory.path(), "copy");
        target.set_len(64 << 20).unwrap();
        let mut copy = Copy {
            source: &source,
            target: &target,
            buffer: Vec::new(),
            by_kernel: false,
            skips_zeros: false,
            is_cancelled: &never,
            progress: &|_| {},
            data_bytes: 0,
        };
        copy.extent(0, 11 << 20).unwrap();
        copy.extent((64 << 20) - 5, (64 << 20) + 3).unwrap();
        assert_same(&source, &target);
    }

    #[test]
    fn a_cancelled_copy_ends_within_its_next_chunk() {
        let directory = tempfile::tempdir().unwrap();
        let source = new_file(directory.path(), "source");
        source.write_all_at(&vec![7; 40 << 20], 0).unwrap();
        let target = new_file(directory.path(), "copy");
        let asked = Cell::new(0);
        let second_time = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        let error = sparse(&source, &target, &second_time, &|_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(blocks_bytes(&target) <= 3 * CHUNK_BYTES);
    }

    #[test]
    fn a_source_that_shrinks_is_an_error_and_no_endless_loop() {
        let directory = tempfile::tempdir().unwrap();
        let source = new_file(directory.path(), "source");
        source.write_all_at(&vec![7; 20 << 20], 0).unwrap();
        let target = new_file(directory.path(), "copy");
        let asked = Cell::new(0);
        let shrink_on_the_way = || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                source.set_len(9 << 20).unwrap();
            }
            false
        };
        let error = sparse(&source, &target, &shrink_on_the_way, &|_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }

    #[test]
    fn a_file_is_copied_whether_the_file_system_knows_reflinks_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let source = holey(directory.path());
        let target = new_file(directory.path(), "copy");
        let can = can_reflink(&source, directory.path()).unwrap();
        let copied = file(&source, &target, &never, &|_| {}).unwrap();
        assert_eq!(copied == Copied::Reflinked, can);
        assert_same(&source, &target);
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 2, "the trial left something behind");
    }

    #[test]
    fn between_two_file_systems_there_are_no_reflinks_but_copies() {
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
            println!("skipped: /dev/shm is no second file system here");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let source = holey(directory.path());
        assert!(!can_reflink(&source, memory.path()).unwrap());
        let target = new_file(memory.path(), "copy");
        let copied = file(&source, &target, &never, &|_| {}).unwrap();
        assert!(matches!(copied, Copied::Sparsely { data_bytes } if data_bytes <= 1 << 20));
        assert_same(&source, &target);
        assert!(blocks_bytes(&target) <= 1 << 20);
    }

    #[test]
    fn a_trial_in_a_directory_that_is_missing_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let source = holey(directory.path());
        assert!(can_reflink(&source, &directory.path().join("missing")).is_err());
    }
}
