//! Takes what a VMM wrote out of its hands before it is published: a VMM that keeps a descriptor could go on writing to
//! a snapshot that counts as whole. Each file becomes one that no VMM ever had open, by reflink where the file system
//! can; else it is seen that nobody has it open any more, and one that somebody keeps open is copied.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::AtFlags;

use crate::engine::EngineError;
use crate::fs::beneath::Beneath;
use crate::fs::copy;
use crate::fs::open_files::{FileId, Survey};
use crate::interrupt::{Deadline, Watch};

/// The name of a file in the making, beside the one that it replaces.
const FRESH: &str = ".hypeman-snap-fresh";
/// How long a VMM may take to close what it has written.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Takes everything away from the VMM that it wrote for a snapshot whose `guest/` is `guest`: all files of `state_dir`, if there is one,
/// and the copies of disks in `disks`, relative to `guest`. Returns what the user should know.
///
/// # Errors
/// As [`detach`].
pub(super) fn all(
    guest: &Beneath,
    state_dir: Option<&Beneath>,
    disks: &[&Path],
    watch: Watch,
) -> Result<Vec<String>, EngineError> {
    let mut warnings = match state_dir {
        Some(state_dir) => detach(state_dir, &files_in(state_dir)?, watch)?,
        None => Vec::new(),
    };
    for disk in disks {
        let (Some(parent), Some(name)) = (disk.parent(), disk.file_name().and_then(OsStr::to_str))
        else {
            continue;
        };
        let within = guest
            .open_dir(parent)
            .map_err(|error| failed(guest, parent, error))?;
        warnings.extend(detach(&within, &[name.to_owned()], watch)?);
    }
    Ok(warnings)
}

fn files_in(directory: &Beneath) -> Result<Vec<String>, EngineError> {
    let listed = std::fs::read_dir(directory.path()).and_then(|entries| {
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    });
    listed.map_err(|error| failed(directory, Path::new(""), error))
}

/// Takes the files `names` of `directory` away from whoever else has them open. Returns what the user should know.
///
/// # Errors
/// When a file can't be replaced, as for want of room: it is then no part of a snapshot.
fn detach(directory: &Beneath, names: &[String], watch: Watch) -> Result<Vec<String>, EngineError> {
    let mut shared = Vec::new();
    for name in names {
        let failed = |error| failed(directory, Path::new(name), error);
        let file = directory.open_file(name).map_err(failed)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        match replace(directory, name, |fresh| copy::reflink(&file, fresh)) {
            Ok(()) => {}
            Err(error) if copy::is_unsupported(&error) => shared.push((name, file)),
            Err(error) => return Err(failed(error)),
        }
    }
    let mut warnings = Vec::new();
    for (name, file) in still_open(shared, watch)? {
        watch.check()?;
        let copied = replace(directory, name, |fresh| {
            copy::file(&file, fresh, &|| watch.is_over(), &|_| {}).map(drop)
        });
        if let Err(error) = copied {
            watch.check()?;
            return Err(failed(directory, Path::new(name), error));
        }
        warnings.push(format!(
            "the VMM, or whoever has it from there, keeps {name} open for writing after the save: a copy was kept \
             instead, which nobody else has"
        ));
    }
    Ok(warnings)
}

/// Those of `files` that another process has open for writing, after a while in which it could close them.
fn still_open(
    mut files: Vec<(&String, File)>,
    watch: Watch,
) -> Result<Vec<(&String, File)>, EngineError> {
    let deadline = Deadline::after(CLOSES_WITHIN);
    while !files.is_empty() {
        let survey = Survey::take()
            .map_err(|error| EngineError::caused("can't see which files are open", error))?;
        // What can't be looked at counts as open.
        files
            .retain(|(_, file)| FileId::of(file).map_or(true, |id| !survey.writers(id).is_empty()));
        if files.is_empty() || deadline.has_passed() {
            break;
        }
        watch.check()?;
        thread::sleep(LOOK);
    }
    Ok(files)
}

/// Puts a new file in the place of `name`, with what `fill` writes into it.
fn replace(
    directory: &Beneath,
    name: &str,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = directory.create_file(FRESH)?;
    let replaced = fill(&fresh).and_then(|()| {
        rustix::fs::renameat(directory, FRESH, directory, name).map_err(io::Error::from)
    });
    if replaced.is_err() {
        // The first error is the one to tell; staging goes as a whole.
        let _ = rustix::fs::unlinkat(directory, FRESH, AtFlags::empty());
    }
    replaced
}

fn failed(directory: &Beneath, name: &Path, error: io::Error) -> EngineError {
    let path = directory.path().join(name);
    EngineError::caused(
        format!("can't take {} out of the VMM's hands", path.display()),
        error,
    )
}
