//! Laying a snapshot's content down in a directory of its own: whole and durable, or not at all.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::stored::Stored;
use crate::engine::EngineError;
use crate::engine::local::packed::{self, Packed};
use crate::fs::beneath::Beneath;
use crate::fs::{durable, frame, remove, seal, tree};
use crate::interrupt::Watch;
use crate::progress::Step;

/// What is laid down.
pub(super) struct Content<'a> {
    /// The snapshot.
    pub(super) stored: &'a Stored,
    /// What of it is left out, by its path below `guest/`.
    pub(super) skip: &'a dyn Fn(&Path) -> bool,
    /// Files that get other content than the snapshot's.
    pub(super) rewritten: &'a [(PathBuf, Vec<u8>)],
    /// The user and the group that get it; `None` for this process's own.
    pub(super) owner: Option<(u32, u32)>,
    /// How long it may take.
    pub(super) watch: Watch,
    /// Where it is shown how far it is.
    pub(super) step: &'a Step,
}

impl Content<'_> {
    /// Makes the directory `to`, which is not there, or empty.
    ///
    /// # Errors
    /// When something is there, or it can't be written; then nothing is left.
    pub(super) fn lay_down(&self, to: &Path) -> Result<(), EngineError> {
        let parent = to.parent().unwrap_or(Path::new("/"));
        let name = to.file_name().unwrap_or(OsStr::new("restored"));
        let mut hidden = OsStr::new(".").to_owned();
        hidden.push(name);
        hidden.push(format!(".restoring-{}", std::process::id()));
        let hidden = parent.join(hidden);
        self.make(&hidden)?;
        // An empty directory of that name is replaced, anything else is an error.
        let named = std::fs::rename(&hidden, to).and_then(|()| durable::sync_dir(parent));
        if named.is_err() {
            // What could not be written may not be removable either; the error says enough.
            let _ = remove::tree(&hidden);
        }
        named.map_err(|error| EngineError::caused(format!("can't make {}", to.display()), error))
    }

    /// Makes the directory `directory`, which is not there, under its name at once: for who knows what to do with a part
    /// of it.
    ///
    /// # Errors
    /// When something is there, or it can't be written; then nothing is left.
    pub(super) fn make(&self, directory: &Path) -> Result<(), EngineError> {
        let mut made = std::fs::DirBuilder::new();
        made.mode(0o700).create(directory).map_err(|error| {
            EngineError::caused(format!("can't make {}", directory.display()), error)
        })?;
        let filled = self.fill(directory);
        if filled.is_err() {
            let _ = remove::tree(directory);
        }
        filled
    }

    fn unpack(&self, target: &Beneath) -> Result<(), EngineError> {
        let failed =
            |error: io::Error| EngineError::caused("can't look for compressed memory", error);
        for it in self.stored.packed().map_err(failed)? {
            if it.form.ancestors().any(|path| (self.skip)(path)) {
                continue;
            }
            self.unpack_one(&it, target).map_err(|error| {
                let shown = it.form.display();
                EngineError::caused(
                    format!("can't unpack the snapshot's {shown}; `hypeman-snap verify --read` tells more"),
                    error,
                )
            })?;
        }
        Ok(())
    }

    fn unpack_one(&self, packed: &Packed, target: &Beneath) -> io::Result<()> {
        let frame = self.stored.guest.open_file(&packed.form)?;
        let frame = frame.ok_or(io::ErrorKind::NotFound)?;
        let target = target.create_file(&packed.raw)?;
        let size_bytes = self.stored.unpacked_bytes(packed);
        let length = frame::unpack_into(
            &frame,
            packed.format,
            size_bytes,
            &target,
            &|| self.watch.is_over(),
            &|bytes| self.step.advance(bytes),
        )?;
        match size_bytes {
            Some(then) if then != length => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it holds {length} bytes, and memory had {then}"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn fill(&self, into: &Path) -> Result<(), EngineError> {
        let failed = |error| EngineError::caused(format!("can't open {}", into.display()), error);
        let target = Beneath::open(into).map_err(failed)?;
        require_own(&target).map_err(failed)?;
        let is_over = || self.watch.is_over();
        let progress = |bytes| self.step.advance(bytes);
        // Compressed memory is not copied but unpacked; beside a raw file it is of no account.
        let is_packed = |path: &Path| packed::raw_of(path).is_some() || packed::is_unfinished(path);
        let skip = |path: &Path| (self.skip)(path) || is_packed(path);
        let copied = tree::copy(&self.stored.guest, &target, &skip, &is_over, &progress)
            .map_err(|error| EngineError::caused("can't copy the snapshot", error))
            .and_then(|()| self.unpack(&target));
        if let Err(error) = copied {
            self.watch.check()?;
            return Err(error);
        }
        for (path, content) in self.rewritten {
            rewrite(&target, path, content).map_err(|error| {
                EngineError::caused(format!("can't write {}", path.display()), error)
            })?;
        }
        seal::seal_for(&target, self.owner)
            .map_err(|error| EngineError::caused("can't finish the copy", error))?;
        Ok(())
    }
}

/// Gives a file of the copy other content.
fn rewrite(target: &Beneath, path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default();
    let directory = target.open_dir(directory)?;
    rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty())?;
    directory.write_new(name, content)
}

/// Refuses a directory that somebody put in the place of the one that was made, as who owns the one above it could.
fn require_own(made: &Beneath) -> io::Result<()> {
    let stat = rustix::fs::fstat(made)?;
    let is_private =
        stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    let is_empty = std::fs::read_dir(made.path())?.next().is_none();
    if is_private && is_empty {
        return Ok(());
    }
    Err(io::Error::other(
        "it is not the directory that was made a moment ago",
    ))
}
