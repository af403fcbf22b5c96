//! Holes in place of zeros: what a file holds stays as it is, and takes less room.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::copy::{BLOCK_BYTES, is_zero};
use super::extents::{self, Next};

/// Shorter runs of zeros stay: a file in very many pieces is slow to copy and to remove, and would gain little.
const SHORTEST_BYTES: u64 = 16 << 10;

/// Makes holes in one file.
#[derive(Debug)]
pub struct Puncher<'a> {
    file: &'a File,
    is_possible: bool,
    freed_bytes: u64,
}

impl<'a> Puncher<'a> {
    /// One for `file`, which is open for writing.
    pub const fn new(file: &'a File) -> Self {
        Self {
            file,
            is_possible: true,
            freed_bytes: 0,
        }
    }

    /// Makes holes where `content`, which the file holds at `at`, a multiple of 4 KiB, is zeros. What is a hole already is
    /// left, and so is everything where the file system knows no holes.
    ///
    /// # Errors
    /// When the file system fails; what the file holds is the same all the same.
    pub fn punch(&mut self, at: u64, content: &[u8]) -> io::Result<()> {
        let mut run: Option<u64> = None;
        let mut place = at;
        for block in content.chunks(BLOCK_BYTES) {
            let is_hole = block.len() == BLOCK_BYTES && is_zero(block);
            match run {
                Some(start) if !is_hole => {
                    self.free(start, place)?;
                    run = None;
                }
                None if is_hole => run = Some(place),
                Some(_) | None => {}
            }
            place += block.len() as u64;
        }
        match run {
            Some(start) => self.free(start, place),
            None => Ok(()),
        }
    }

    /// How much of the file were zeros that are holes by now.
    pub const fn freed_bytes(&self) -> u64 {
        self.freed_bytes
    }

    fn free(&mut self, start: u64, end: u64) -> io::Result<()> {
        if !self.is_possible || end - start < SHORTEST_BYTES {
            return Ok(());
        }
        if extents::next(self.file, start, end)? == Next::Hole {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.file, flags, start, end - start) {
            Ok(()) => self.freed_bytes += end - start,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.is_possible = false,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn zeros_become_holes_and_what_the_file_holds_stays() {
        const MIB: usize = 1 << 20;
        let mut content = vec![7; 4 * MIB + 100];
        content[MIB..2 * MIB].fill(0);
        // Too short, not on a block's border, and the end.
        content[3 * MIB..3 * MIB + BLOCK_BYTES].fill(0);
        content[3 * MIB + 100_000..3 * MIB + 110_000].fill(0);
        content[4 * MIB - 64 * 1024..].fill(0);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let mut puncher = Puncher::new(&file);
        for (index, piece) in content.chunks(MIB).enumerate() {
            puncher.punch((index * MIB) as u64, piece).unwrap();
        }
        let freed = puncher.freed_bytes();
        if freed == 0 {
            support::skip::skipped("holes: the file system of temporary files has none");
            return;
        }
        assert_eq!(freed, (MIB + 64 * 1024) as u64);
        let mut after = vec![1; content.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after == content);
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64);
        let blocks = file.metadata().unwrap().blocks();
        assert!(
            blocks * 512 + freed <= before * 512 + 8192,
            "{before} → {blocks}"
        );
        // What is a hole is left.
        let mut again = Puncher::new(&file);
        again.punch(MIB as u64, &content[MIB..2 * MIB]).unwrap();
        assert_eq!(again.freed_bytes(), 0);
    }
}
