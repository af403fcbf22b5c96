//! Reads the files of a snapshot for their digests. Never writes.

use std::io;
use std::path::Path;

use super::digests::FileDigests;
use super::packed::Packed;
use super::payload;
use crate::fs::beneath::Beneath;
use crate::fs::digest::{self, Digester};
use crate::fs::frame;
use crate::interrupt::Watch;
use crate::progress::Step;

/// The digests of the file `path` below `guest`.
///
/// # Errors
/// When it can't be read, is missing or is no regular file.
pub(super) fn of_file(
    guest: &Beneath,
    path: &Path,
    watch: Watch,
    step: &Step,
) -> io::Result<FileDigests> {
    let file = guest.open_file(path)?;
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    let size_bytes = file.metadata()?.len();
    let progress = |bytes| step.advance(bytes);
    let pieces = digest::of_file(&file, &|| watch.is_over(), &progress)?;
    Ok(FileDigests::new(path.to_owned(), size_bytes, &pieces))
}

/// The digests of what the compressed memory `packed` holds, as those of its raw form. It is no longer than `longest`.
///
/// # Errors
/// As [`of_file`]; `InvalidData` when it is no whole frame.
pub(super) fn of_packed(
    guest: &Beneath,
    packed: &Packed,
    longest: Option<u64>,
    watch: Watch,
    step: &Step,
) -> io::Result<FileDigests> {
    let file = guest.open_file(&packed.form)?;
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    let mut digester = Digester::default();
    frame::unpack(
        &file,
        packed.format,
        longest,
        &|| watch.is_over(),
        &mut |content| {
            digester.take(content);
            step.advance(content.len() as u64);
            Ok(())
        },
    )?;
    let (size_bytes, pieces) = digester.finish();
    Ok(FileDigests::new(packed.raw.clone(), size_bytes, &pieces))
}

/// The digests of everything below `state_dir`, where memory and device state are.
///
/// # Errors
/// When something can't be read.
pub(super) fn of_state(
    guest: &Beneath,
    state_dir: &Path,
    watch: Watch,
    step: &Step,
) -> io::Result<Vec<FileDigests>> {
    let files = payload::list(guest)?;
    files
        .iter()
        .filter(|entry| entry.path.starts_with(state_dir))
        .map(|entry| of_file(guest, &entry.path, watch, step))
        .collect()
}
