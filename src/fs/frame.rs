//! Files as one compressed frame, zstd (RFC 8878) or lz4 (the LZ4 frame format), as the tools of these names make them.
//! Whether a frame is whole is known when its end was read: what is cut, has more behind it, or does not fit its own
//! checksum is told from what can't be read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::FileExt;

use zstd::zstd_safe;

use super::copy::{BLOCK_BYTES, is_zero};
use super::extents::{self, Next};

/// How much is handed on at once, and so how long it takes at most until a cancelled work ends.
const CHUNK_BYTES: usize = 1 << 20;
/// What is read of a frame to find its content's length: more than the longest header of either format.
const HEADER_BYTES: usize = 19;
/// What an lz4 frame begins with.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// What a zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The format of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// zstd.
    Zstd,
    /// lz4.
    Lz4,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is no whole frame.
    #[error("{0}")]
    Damaged(String),
    /// Whoever wanted it does not want it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// A file can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Damaged(what) => Self::new(io::ErrorKind::InvalidData, what),
            FrameError::Cancelled => io::ErrorKind::Interrupted.into(),
            FrameError::Io(error) => error,
        }
    }
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Lz4];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// What the name of a file in it ends with, behind a dot.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
        }
    }
}

/// The length of what is in a frame, where its header says it.
///
/// # Errors
/// [`FrameError::Damaged`] when it does not begin as a frame does; when it can't be read.
pub fn content_bytes(frame: &File, format: Format) -> Result<Option<u64>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let mut read = 0;
    while let Some(rest) = header.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match frame.read_at(rest, read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let header = header.get(..read).unwrap_or_default();
    let magic = match format {
        Format::Zstd => ZSTD_MAGIC,
        Format::Lz4 => LZ4_MAGIC,
    };
    if !header.starts_with(&magic) {
        let name = format.name();
        return Err(FrameError::Damaged(format!(
            "it does not begin as a frame of {name} does"
        )));
    }
    Ok(match format {
        Format::Zstd => zstd_safe::get_frame_content_size(header).ok().flatten(),
        Format::Lz4 => lz4_content_bytes(header),
    })
}

/// The content's length in the header of an lz4 frame: behind two bytes of flags, one of which says that it is there.
fn lz4_content_bytes(header: &[u8]) -> Option<u64> {
    const HAS_CONTENT_SIZE: u8 = 1 << 3;
    let flags = *header.get(4)?;
    if flags & HAS_CONTENT_SIZE == 0 {
        return None;
    }
    let bytes = header.get(6..14)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Hands the content of `frame`, which is at its begin, to `take`, a piece of at most 1 MiB after the other; all but the
/// last one are of that length. Returns how long it is.
///
/// # Errors
/// [`FrameError::Damaged`] when it is no whole frame, has something behind it, or holds more than `longest`;
/// `Cancelled` when `is_cancelled` says so, asked before each piece; what reading or `take` says. Part of the content was
/// handed on by then.
pub fn unpack(
    frame: &File,
    format: Format,
    longest: Option<u64>,
    is_cancelled: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<u64, FrameError> {
    let mut content = Content {
        longest: longest.unwrap_or(u64::MAX),
        is_cancelled,
        take,
    };
    let told = content_bytes(frame, format)?;
    let length = match format {
        Format::Zstd => {
            let source = BufReader::with_capacity(CHUNK_BYTES, frame);
            let decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            let mut decoder = decoder.single_frame();
            let length = content.hand_on(&mut decoder)?;
            let mut rest = decoder.finish();
            require_end(rest.fill_buf()?)?;
            length
        }
        Format::Lz4 => {
            let source = BufReader::with_capacity(CHUNK_BYTES, frame);
            let mut decoder = lz4::Decoder::new(source)?;
            let length = content.hand_on(&mut decoder)?;
            // It takes the end of the file for the end of the content, and only here says that this is not so.
            let (mut rest, end) = decoder.finish();
            if end.is_err() {
                return Err(FrameError::Damaged("the frame is cut".to_owned()));
            }
            require_end(rest.fill_buf()?)?;
            length
        }
    };
    match told {
        Some(told) if told != length => Err(FrameError::Damaged(format!(
            "its header tells of {told} bytes, and {length} are in it"
        ))),
        Some(_) | None => Ok(length),
    }
}

fn require_end(rest: &[u8]) -> Result<(), FrameError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(FrameError::Damaged(
        "something stands behind the end of the frame".to_owned(),
    ))
}

/// What is done with the content of a frame.
struct Content<'a> {
    longest: u64,
    is_cancelled: &'a dyn Fn() -> bool,
    take: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
}

impl Content<'_> {
    fn hand_on(&mut self, decoder: &mut dyn Read) -> Result<u64, FrameError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut length = 0_u64;
        loop {
            if (self.is_cancelled)() {
                return Err(FrameError::Cancelled);
            }
            let filled = fill(decoder, &mut buffer)?;
            let content = buffer.get(..filled).unwrap_or_default();
            length = length.saturating_add(filled as u64);
            if length > self.longest {
                let longest = self.longest;
                return Err(FrameError::Damaged(format!(
                    "there are more than the {longest} bytes in it that there should be"
                )));
            }
            if !content.is_empty() {
                (self.take)(content)?;
            }
            if filled < CHUNK_BYTES {
                return Ok(length);
            }
        }
    }
}

/// Reads until `buffer` is full or the content ends.
fn fill(decoder: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, FrameError> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match decoder.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What the kernel says is about the file, what has no number is the decoder's own.
            Err(error) if error.raw_os_error().is_some() => return Err(error.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(FrameError::Damaged("the frame is cut".to_owned()));
            }
            Err(error) => {
                return Err(FrameError::Damaged(format!(
                    "it can't be unpacked: {error}"
                )));
            }
        }
    }
    Ok(filled)
}

/// Writes the content of `frame` to `target`, an empty file, with holes where it is zeros. Returns how long it is.
///
/// # Errors
/// As [`unpack`]; `target` then holds a part of it.
pub fn unpack_into(
    frame: &File,
    format: Format,
    longest: Option<u64>,
    target: &File,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> Result<u64, FrameError> {
    let mut at = 0;
    let length = unpack(frame, format, longest, is_cancelled, &mut |content| {
        for block in content.chunks(BLOCK_BYTES) {
            if !is_zero(block) {
                target.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
        progress(content.len() as u64);
        Ok(())
    })?;
    target.set_len(length)?;
    Ok(length)
}

/// Makes `target`, an empty file, a frame of what is in `source`, a regular file, and shows each piece of that to `see`:
/// at most 1 MiB, in their order. Returns how long `source` is. Its offset is moved; nothing is synced.
///
/// # Errors
/// `Cancelled` when `is_cancelled` says so, asked before each piece; what reading, writing or `see` says. `target` then
/// holds a part of a frame.
pub fn pack(
    source: &File,
    target: &File,
    format: Format,
    level: u8,
    is_cancelled: &dyn Fn() -> bool,
    see: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<u64, FrameError> {
    let length = source.metadata()?.len();
    let target = BufWriter::with_capacity(CHUNK_BYTES, target);
    match format {
        Format::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(target, i32::from(level))?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(length))?;
            feed(source, length, &mut encoder, is_cancelled, see)?;
            encoder.finish()?.flush()?;
        }
        Format::Lz4 => {
            let mut encoder = lz4::EncoderBuilder::new()
                .level(u32::from(level))
                .block_size(lz4::BlockSize::Max4MB)
                .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                .content_size(length)
                .build(target)?;
            feed(source, length, &mut encoder, is_cancelled, see)?;
            let (mut target, end) = encoder.finish();
            end?;
            target.flush()?;
        }
    }
    Ok(length)
}

/// Writes the first `length` bytes of `source` to `encoder`. Where the file has holes, nothing is read.
fn feed(
    source: &File,
    length: u64,
    encoder: &mut dyn io::Write,
    is_cancelled: &dyn Fn() -> bool,
    see: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), FrameError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    // Nothing is data from `at` to here.
    let mut data_from = 0;
    let mut is_zeroed = true;
    while at < length {
        if is_cancelled() {
            return Err(FrameError::Cancelled);
        }
        if at >= data_from {
            data_from = match extents::next(source, at, length)? {
                Next::Data(start, _) => start,
                Next::Hole => length,
                Next::Untold => at,
            };
        }
        let size = usize::try_from(length - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let piece = buffer.get_mut(..size).unwrap_or_default();
        if at + size as u64 <= data_from {
            if !is_zeroed {
                piece.fill(0);
            }
            // The last piece of a file may be shorter than the next buffer would be, and there is none behind it.
            is_zeroed = true;
        } else {
            source.read_exact_at(piece, at)?;
            is_zeroed = false;
        }
        see(piece)?;
        encoder.write_all(piece)?;
        at += size as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
