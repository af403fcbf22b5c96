//! Reads the files of a snapshot for their digests. Writes nothing but holes, into memory that was just saved.

use std::io;
use std::path::Path;

use super::digests::FileDigests;
use super::packed::{self, Packed};
use super::payload;
use crate::fs::beneath::Beneath;
use crate::fs::digest::{self, Digester};
use crate::fs::frame;
use crate::fs::punch::Puncher;
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
    let pieces = digest::of_file(&file, &|| watch.is_over(), &progress, &mut |_, _| Ok(()))?;
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

/// The digests of everything below `state_dir`, where memory and device state are. Zeros in memory become holes on the
/// way, as it is read anyway: what it holds is the same.
///
/// # Errors
/// When something can't be read, or the file system fails.
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
        .map(|entry| match packed::is_memory(&entry.path) {
            true => of_memory(guest, &entry.path, watch, step),
            false => of_file(guest, &entry.path, watch, step),
        })
        .collect()
}

fn of_memory(guest: &Beneath, path: &Path, watch: Watch, step: &Step) -> io::Result<FileDigests> {
    let file = match guest.open_to_write(path) {
        // Another user's VMM wrote it, and this one may only read it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return of_file(guest, path, watch, step);
        }
        opened => opened?.ok_or(io::ErrorKind::NotFound)?,
    };
    let size_bytes = file.metadata()?.len();
    let mut puncher = Puncher::new(&file);
    let pieces = digest::of_file(
        &file,
        &|| watch.is_over(),
        &|bytes| step.advance(bytes),
        &mut |at, content| puncher.punch(at, content),
    )?;
    log::debug!(
        "{} of the {size_bytes} bytes of {} were zeros, and are holes now",
        puncher.freed_bytes(),
        path.display()
    );
    Ok(FileDigests::new(path.to_owned(), size_bytes, &pieces))
}
