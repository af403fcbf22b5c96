//! Laying a snapshot's content down in a directory of its own: whole and durable, or not at all.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::stored::Stored;
use crate::engine::EngineError;
use crate::fs::beneath::Beneath;
use crate::fs::{durable, remove, seal, tree};
use crate::interrupt::Watch;
use crate::progress::Step;

/// What is laid down.
pub(super) struct Content<'a> {
    /// The snapshot.
    pub(super) stored: &'a Stored,
    /// What of it is left out, by its path below `guest/`.
    pub(super) skip: &'a dyn Fn(&Path) -> bool,
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
        let failed = |what: &str, error: io::Error| {
            EngineError::caused(format!("can't {what} {}", to.display()), error)
        };
        let parent = to.parent().unwrap_or(Path::new("/"));
        let name = to.file_name().unwrap_or(OsStr::new("restored"));
        let mut hidden = OsStr::new(".").to_owned();
        hidden.push(name);
        hidden.push(format!(".restoring-{}", std::process::id()));
        let hidden = parent.join(hidden);
        let mut made = std::fs::DirBuilder::new();
        made.mode(0o700)
            .create(&hidden)
            .map_err(|error| failed("make a directory beside", error))?;
        let laid = self.fill(&hidden).and_then(|()| {
            // An empty directory of that name is replaced, anything else is an error.
            std::fs::rename(&hidden, to).map_err(|error| failed("make", error))?;
            durable::sync_dir(parent).map_err(|error| failed("make", error))
        });
        if laid.is_err() {
            // What could not be written may not be removable either; the error says enough.
            let _ = remove::tree(&hidden);
        }
        laid
    }

    fn fill(&self, into: &Path) -> Result<(), EngineError> {
        let target = Beneath::open(into).map_err(|error| {
            EngineError::caused(format!("can't open {}", into.display()), error)
        })?;
        let is_over = || self.watch.is_over();
        let progress = |bytes| self.step.advance(bytes);
        if let Err(error) = tree::copy(&self.stored.guest, &target, self.skip, &is_over, &progress)
        {
            self.watch.check()?;
            return Err(EngineError::caused("can't copy the snapshot", error));
        }
        seal::seal(into).map_err(|error| EngineError::caused("can't make it durable", error))?;
        if let Some(owner) = self.owner {
            give(into, owner)
                .map_err(|error| EngineError::caused("can't give it to the VM's user", error))?;
        }
        Ok(())
    }
}

/// Gives everything below `directory`, and itself, to its user. Nobody else has had a hand in it yet.
fn give(directory: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), (user, group))?;
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(user), Some(group))?;
        }
    }
    std::os::unix::fs::lchown(directory, Some(user), Some(group))
}
