//! Where a disk's file holds data, in the pieces in which QEMU copies disks. Only looks.

use std::fs::File;
use std::io;

use crate::fs::extents::{self, Next};

/// QEMU copies disks in pieces of this size, in bytes.
pub(super) const CLUSTER: u64 = 64 << 10;

/// The clusters of a file that hold data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extents {
    /// The length that was looked at, in bytes.
    length: u64,
    /// Start and end in bytes: in order, apart from each other, on cluster boundaries but for the file's own end.
    ranges: Vec<(u64, u64)>,
}

impl Extents {
    /// The extents of the first `length` bytes of `file` now. A file that can't tell where its holes are has none.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn of(file: &File, length: u64) -> io::Result<Self> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while at < length {
            let (start, end) = match extents::next(file, at, length)? {
                Next::Data(start, end) => (start, end),
                Next::Hole => break,
                Next::Untold => (at, length),
            };
            let start = (start / CLUSTER * CLUSTER).max(at);
            let end = end.next_multiple_of(CLUSTER).min(length);
            if end <= start {
                break;
            }
            match ranges.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => ranges.push((start, end)),
            }
            at = end;
        }
        Ok(Self { length, ranges })
    }

    /// Start and end of each, in bytes.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// How much they hold together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The length that was looked at, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn extents(length: u64, data: &[u64]) -> Extents {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for at in data {
            file.write_all_at(&[1; 512], *at).unwrap();
        }
        Extents::of(&file, length).unwrap()
    }

    #[test]
    fn data_is_widened_to_whole_clusters_and_cut_at_the_end() {
        let length = (64 << 20) + 512;
        let found = extents(
            length,
            &[3 << 20, (3 << 20) + CLUSTER, 40 << 20, length - 512],
        );
        let expected = [
            (3 << 20, (3 << 20) + 2 * CLUSTER),
            (40 << 20, (40 << 20) + CLUSTER),
            (64 << 20, length),
        ];
        assert_eq!(found.ranges(), expected);
        assert_eq!(found.bytes(), 3 * CLUSTER + 512);
    }

    #[test]
    fn a_file_without_data_is_one_hole_and_one_full_of_data_has_none() {
        assert_eq!(extents(1 << 20, &[]).ranges(), []);
        let starts: Vec<u64> = (0..16).map(|cluster| cluster * CLUSTER).collect();
        let full = extents(1 << 20, &starts);
        assert_eq!(full.ranges(), [(0, 1 << 20)]);
    }

    #[test]
    fn what_knows_no_holes_has_none() {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(socket));
        let found = Extents::of(&socket, 1 << 20).unwrap();
        assert_eq!(found.ranges(), [(0, 1 << 20)]);
    }
}
