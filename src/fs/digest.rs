//! BLAKE3 digests of what files hold, one for each piece, so that a difference can be told by its place. Where a file has
//! holes, nothing is read: a hole and zeros are the same content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::extents::{self, Next};

/// The length of a piece, in bytes; the last one of a file may be shorter.
pub const PIECE_BYTES: u64 = 4 << 20;

/// The digest of a piece; `None` where it holds nothing but zeros.
pub type Piece = Option<blake3::Hash>;

/// The digests of all pieces of `file`, a regular one. Its offset is moved. What is read of it is shown to `see`, with its
/// place.
///
/// # Errors
/// `Interrupted` when `is_cancelled` says so, asked before each piece; `UnexpectedEof` when the file is cut meanwhile; else
/// what reading it or `see` says.
pub fn of_file(
    file: &File,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
    see: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<Vec<Piece>> {
    let length = file.metadata()?.len();
    let mut pieces = Vec::new();
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < length {
        // Nothing is data before this.
        let data = match extents::next(file, at, length)? {
            Next::Data(start, _) => start,
            Next::Hole => length,
            Next::Untold => at,
        };
        while at < length && at.saturating_add(PIECE_BYTES) <= data {
            pieces.push(None);
            progress(PIECE_BYTES);
            at += PIECE_BYTES;
        }
        if at >= length {
            break;
        }
        if data >= length {
            pieces.push(None);
            break;
        }
        check(is_cancelled)?;
        let size = PIECE_BYTES.min(length - at);
        buffer.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut buffer, at)?;
        pieces.push(of_piece(&buffer));
        see(at, &buffer)?;
        progress(size);
        at += size;
    }
    Ok(pieces)
}

/// The digests of what is handed on bit by bit.
#[derive(Debug, Default)]
pub struct Digester {
    pieces: Vec<Piece>,
    piece: Vec<u8>,
    length: u64,
}

impl Digester {
    /// Takes what follows.
    pub fn take(&mut self, mut content: &[u8]) {
        let whole = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        self.length = self.length.saturating_add(content.len() as u64);
        while !content.is_empty() {
            let room = whole - self.piece.len();
            let (now, later) = content.split_at(room.min(content.len()));
            self.piece.extend_from_slice(now);
            content = later;
            if self.piece.len() == whole {
                self.end_piece();
            }
        }
    }

    /// How long all of it was, and its digests.
    pub fn finish(mut self) -> (u64, Vec<Piece>) {
        if !self.piece.is_empty() {
            self.end_piece();
        }
        (self.length, self.pieces)
    }

    fn end_piece(&mut self) {
        self.pieces.push(of_piece(&self.piece));
        self.piece.clear();
    }
}

fn of_piece(content: &[u8]) -> Piece {
    let is_zero = content.iter().all(|byte| *byte == 0);
    (!is_zero).then(|| blake3::hash(content))
}

fn check(is_cancelled: &dyn Fn() -> bool) -> io::Result<()> {
    if is_cancelled() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: usize = 4 << 20;

    fn of(content: &[u8], is_sparse: bool) -> Vec<Piece> {
        let file = tempfile::tempfile().unwrap();
        if is_sparse {
            file.set_len(content.len() as u64).unwrap();
            for (index, block) in content.chunks(4096).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    file.write_all_at(block, index as u64 * 4096).unwrap();
                }
            }
        } else {
            file.write_all_at(content, 0).unwrap();
        }
        of_file(&file, &|| false, &|_| {}, &mut |_, _| Ok(())).unwrap()
    }

    #[test]
    fn holes_are_zeros_and_zeros_have_none() {
        let mut content = vec![0; 3 * PIECE + 5];
        content[PIECE + 7] = 1;
        content[3 * PIECE + 4] = 2;
        let dense = of(&content, false);
        assert_eq!(dense, of(&content, true));
        let are_there: Vec<bool> = dense.iter().map(Option::is_some).collect();
        assert_eq!(are_there, [false, true, false, true]);
        assert_eq!(dense[3], Some(blake3::hash(&[0, 0, 0, 0, 2])));
        assert_eq!(of(&[], false), []);
        assert_eq!(of(&[0; 10], true), [None]);
    }

    #[test]
    fn what_comes_bit_by_bit_has_the_same_digests() {
        let mut content = vec![0; 2 * PIECE + 5];
        content[PIECE - 1] = 1;
        content[2 * PIECE + 1] = 2;
        for length in [0, 1, PIECE, PIECE + 1, content.len()] {
            for bit in [1 << 20, PIECE, 3 * PIECE - 7] {
                let mut digester = Digester::default();
                let content = &content[..length];
                content.chunks(bit).for_each(|bit| digester.take(bit));
                assert_eq!(digester.finish(), (length as u64, of(content, false)));
            }
        }
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"x", 0).unwrap();
        let error = of_file(&file, &|| true, &|_| {}, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever is where, a file with holes has the digests of one without.
        #[test]
        fn a_file_with_holes_is_the_same(
            blocks in proptest::collection::vec((0_usize..3 * PIECE, 1_u8..), 0..6),
            length in 1_usize..3 * PIECE,
        ) {
            let mut content = vec![0; length];
            for (at, byte) in blocks {
                if let Some(place) = content.get_mut(at) {
                    *place = byte;
                }
            }
            prop_assert_eq!(of(&content, true), of(&content, false));
        }
    }
}
