//! Giving a snapshot back in place: its disks are laid down beside those of the instance, exchanged with them, and what was
//! there becomes a snapshot. The journal knows each step before it is taken, so that whoever comes after a kill undoes it
//! before the first exchange and finishes it behind that.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::directory;
use super::stored::Stored;
use super::targets::{Target, dress};
use super::undo;
use crate::engine::EngineError;
use crate::engine::local::instances::Instances;
use crate::engine::local::journal::{Journal, RestorePhase, Restoring, RestoringDisk};
use crate::engine::local::metadata::Metadata;
use crate::engine::local::registration::{LearntDisk, RestoredMemory};
use crate::engine::local::resting::RestingFile;
use crate::engine::local::store::SnapshotStore;
use crate::fs::absence::is_there;
use crate::fs::open_files::FileId;
use crate::fs::{copy, remove};
use crate::interrupt::Watch;
use crate::progress::{Progress, Step};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Snapshot, SnapshotId};

/// How the names begin that lie beside a disk.
const BESIDE: &str = ".hypeman-snap-";

/// Where restores in place work.
pub(super) struct Place<'a> {
    pub(super) journal: &'a Journal,
    pub(super) instances: &'a Instances,
    pub(super) store: SnapshotStore,
    pub(super) progress: &'a Progress,
    pub(super) watch: Watch,
    /// What speaks against taking the instance for off at this moment.
    pub(super) objection: &'a dyn Fn() -> Result<Option<String>, EngineError>,
}

/// What is given back.
pub(super) struct Content<'a> {
    pub(super) stored: &'a Stored,
    pub(super) manifest: &'a Manifest,
    pub(super) targets: &'a [Target],
    /// Who gets the memory, and disks that were not there.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) size_bytes: u64,
}

/// How far the disks of a restore have come.
enum Exchanged {
    None,
    Some,
    All,
}

impl Place<'_> {
    /// Gives `content` back to the instance. Returns the snapshot of what was there, if anything was.
    ///
    /// # Errors
    /// When the instance is not off, or something can't be written. Before the first exchange nothing has changed then;
    /// behind it the next run finishes.
    pub(super) fn give_back(
        &self,
        metadata: &Metadata,
        content: &Content<'_>,
        mut restoring: Restoring,
    ) -> Result<Option<Snapshot>, EngineError> {
        self.require_off()?;
        self.journal.write_restore(&restoring)?;
        let laid = self
            .lay_beside(metadata, content, &mut restoring)
            .and_then(|()| self.require_off())
            .and_then(|()| {
                restoring.phase = RestorePhase::Exchanging;
                self.journal.write_restore(&restoring)
            });
        if let Err(error) = laid {
            self.take_back(&restoring)?;
            return Err(error);
        }
        self.finish(metadata, restoring)
    }

    /// Puts right what a restore that died left. Says what was done.
    ///
    /// # Errors
    /// When it can't be put right now; then nothing has changed.
    pub(super) fn recover(&self, restoring: Restoring) -> Result<Vec<String>, EngineError> {
        let id = &restoring.instance_id;
        let exchanged = match restoring.phase {
            RestorePhase::Laying => Exchanged::None,
            RestorePhase::Exchanging => exchanged(&restoring)?,
            RestorePhase::Keeping => Exchanged::All,
        };
        if matches!(exchanged, Exchanged::None) {
            self.take_back(&restoring)?;
            return Ok(vec![format!(
                "an earlier restore of {} died before it changed anything; what it had laid beside the disks was removed",
                restoring.snapshot_id
            )]);
        }
        let metadata = self.instances.find(id)?.ok_or_else(|| {
            EngineError::instance(format!(
                "a restore of {} died half way, and {id} is not registered any more: register it again to have it finished",
                restoring.snapshot_id
            ))
        })?;
        let line = format!(
            "an earlier restore of {} died half way, and was finished",
            restoring.snapshot_id
        );
        let undo = self.finish(&metadata, restoring)?;
        let undo = undo.map(|undo| {
            format!(
                "what was there before is snapshot {} ({})",
                undo.name, undo.id
            )
        });
        Ok(std::iter::once(line).chain(undo).collect())
    }

    fn require_off(&self) -> Result<(), EngineError> {
        match (self.objection)()? {
            None => Ok(()),
            Some(why) => Err(EngineError::instance(format!(
                "it is not off: {why}; shut it down first"
            ))),
        }
    }

    fn lay_beside(
        &self,
        metadata: &Metadata,
        content: &Content<'_>,
        restoring: &mut Restoring,
    ) -> Result<(), EngineError> {
        let total = Some(content.size_bytes);
        let step = self.progress.begin(&metadata.name, "copying", total);
        let pairs = content.manifest.disks.iter().zip(content.targets);
        for ((entry, target), disk) in pairs.zip(&mut restoring.disks) {
            self.lay_disk(content, &entry.file, target, disk, &step)?;
        }
        if let (Some(memory), Some(state)) = (&restoring.memory, content.manifest.state_dir()) {
            let is_other = |path: &Path| !state.starts_with(path) && !path.starts_with(state);
            directory::Content {
                stored: content.stored,
                skip: &is_other,
                rewritten: &[],
                owner: content.owner,
                watch: self.watch,
                step: &step,
            }
            .make(memory)?;
        }
        Ok(())
    }

    fn lay_disk(
        &self,
        content: &Content<'_>,
        file: &Path,
        target: &Target,
        disk: &mut RestoringDisk,
        step: &Step,
    ) -> Result<(), EngineError> {
        let failed = |error: io::Error| {
            let directory = target.directory().display();
            EngineError::caused(
                format!("can't lay {} down in {directory}", file.display()),
                error,
            )
        };
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let stored = &content.stored.guest;
        let source = stored.open_file(file).map_err(failed)?;
        let source = source.ok_or_else(|| failed(missing()))?;
        let new = target.create_beside(&disk.beside).map_err(failed)?;
        let copied = copy::file(&source, &new, &|| self.watch.is_over(), &|bytes| {
            step.advance(bytes);
        });
        if let Err(error) = copied {
            self.watch.check()?;
            return Err(failed(error));
        }
        match (&target.now, content.owner) {
            (Some(old), _) => dress(&new, old).map_err(failed)?,
            (None, Some((user, group))) => {
                std::os::unix::fs::fchown(&new, Some(user), Some(group)).map_err(failed)?;
            }
            (None, None) => {}
        }
        new.sync_all().map_err(failed)?;
        let as_laid = new.metadata().map_err(failed)?;
        disk.new = Some(FileId::of(&new).map_err(failed)?);
        disk.modified = Some((as_laid.mtime(), as_laid.mtime_nsec()));
        Ok(())
    }

    /// Removes what lies beside the disks, which are as they were.
    fn take_back(&self, restoring: &Restoring) -> Result<(), EngineError> {
        remove_beside(restoring)?;
        if let Some(memory) = &restoring.memory {
            remove_directory(memory)?;
        }
        self.journal.remove(&restoring.instance_id)
    }

    /// Exchanges what is left to exchange, and makes a snapshot of what was there.
    fn finish(
        &self,
        metadata: &Metadata,
        mut restoring: Restoring,
    ) -> Result<Option<Snapshot>, EngineError> {
        let stays = |error: EngineError| {
            if matches!(error, EngineError::Interrupted) {
                return error;
            }
            EngineError::caused(
                format!(
                    "the restore of {} is not finished, and nothing is lost: `hypeman-snap run-due --recover-only --instance \
                     {}` finishes it",
                    restoring.snapshot_id, restoring.instance_id
                ),
                error,
            )
        };
        if restoring.phase == RestorePhase::Exchanging {
            let is_first = matches!(exchanged(&restoring)?, Exchanged::None);
            if let Err(error) = self.exchange(&restoring) {
                if is_first && matches!(exchanged(&restoring)?, Exchanged::None) {
                    self.take_back(&restoring)?;
                    return Err(error);
                }
                return Err(stays(error));
            }
            self.learn(&restoring).map_err(stays)?;
            restoring.phase = RestorePhase::Keeping;
            self.journal.write_restore(&restoring)?;
        }
        let name = &metadata.name;
        let step = self.progress.begin(name, "keeping what was there", None);
        let kept = undo::keep(&self.store, metadata, &restoring, self.watch, &step);
        let undo = kept.map_err(stays)?;
        remove_beside(&restoring).map_err(stays)?;
        if let Some(memory) = &restoring.old_memory {
            remove_directory(&memory.directory).map_err(stays)?;
        }
        self.journal.remove(&restoring.instance_id)?;
        Ok(undo)
    }

    fn exchange(&self, restoring: &Restoring) -> Result<(), EngineError> {
        for disk in &restoring.disks {
            let failed = |error: io::Error| {
                let path = disk.path.display();
                EngineError::caused(format!("can't exchange {path}"), error)
            };
            let target = at(&disk.path)?;
            if is_exchanged(&target, disk).map_err(failed)? {
                continue;
            }
            // Nobody starts to write to a disk unseen for longer than this takes.
            self.require_off()?;
            target.exchange(&disk.beside).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes down which files the disks are now, and with which ones the memory goes.
    fn learn(&self, restoring: &Restoring) -> Result<(), EngineError> {
        let is_as_laid = |disk: &RestoringDisk| {
            let now = disk.path.metadata().ok()?;
            Some(disk.modified == Some((now.mtime(), now.mtime_nsec())))
        };
        let files: Result<Vec<RestingFile>, io::Error> = restoring
            .disks
            .iter()
            .map(|disk| RestingFile::at(&disk.path))
            .collect();
        // A VM that was started between a kill and now has written to them.
        let is_fresh = restoring
            .disks
            .iter()
            .all(|it| is_as_laid(it) == Some(true));
        let memory = restoring.memory.as_ref().filter(|_| is_fresh);
        let restored = memory
            .zip(files.ok())
            .map(|(memory, disks)| RestoredMemory {
                directory: memory.clone(),
                snapshot_id: restoring.snapshot_id.clone(),
                disks,
                manifest: restoring.manifest.clone(),
            });
        if let (Some(memory), None) = (&restoring.memory, &restored) {
            log::warn!(
                instance = restoring.instance_id.as_str();
                "the VM was started before the restore was finished: its memory is of no use any more, and was removed"
            );
            remove_directory(memory)?;
        }
        self.instances.learn(&restoring.instance_id, |learnt| {
            learnt.restored = restored;
            for disk in &restoring.disks {
                let Some(file) = disk.new else { continue };
                match learnt.disks.iter_mut().find(|it| it.path == disk.path) {
                    Some(known) => known.file = file,
                    None => learnt.disks.push(LearntDisk {
                        path: disk.path.clone(),
                        file,
                    }),
                }
            }
        })
    }
}

/// What the new content of a disk is called beside it.
pub(super) fn beside(undo_id: &SnapshotId, index: usize) -> String {
    format!("{BESIDE}{undo_id}-{index}")
}

/// Where the memory is laid: beside the first disk, where whoever runs the VM can reach it, under a name that nothing has
/// and that no memory of an earlier restore had.
pub(super) fn memory_beside(metadata: &Metadata, target: &Target) -> PathBuf {
    let old = metadata.restored_memory().map(|it| it.directory.as_path());
    let name = |number: u32| {
        let name = format!("{BESIDE}{}-memory-{number}", metadata.id);
        target.directory().join(name)
    };
    let is_free =
        |path: &PathBuf| matches!(is_there(path), Ok(false)) && old != Some(path.as_path());
    (1..u32::MAX).map(name).find(is_free).unwrap_or_default()
}

fn at(path: &Path) -> Result<Target, EngineError> {
    Target::at(path)
        .map_err(|error| EngineError::caused(format!("can't get at {}", path.display()), error))
}

fn is_exchanged(target: &Target, disk: &RestoringDisk) -> io::Result<bool> {
    let is_new = |id: Option<FileId>| {
        id.zip(disk.new)
            .is_some_and(|(id, new)| id.is_same_inode(new))
    };
    if is_new(target.id()?) {
        return Ok(true);
    }
    if is_new(target.id_beside(&disk.beside)?) {
        return Ok(false);
    }
    Err(io::Error::other(format!(
        "{} was replaced or removed by somebody else",
        disk.beside
    )))
}

fn exchanged(restoring: &Restoring) -> Result<Exchanged, EngineError> {
    let mut count = 0;
    for disk in &restoring.disks {
        let target = at(&disk.path)?;
        let is_done = is_exchanged(&target, disk).map_err(|error| {
            EngineError::caused(
                format!("can't tell what became of {}", disk.path.display()),
                error,
            )
        })?;
        count += usize::from(is_done);
    }
    Ok(match count {
        0 => Exchanged::None,
        count if count == restoring.disks.len() => Exchanged::All,
        _ => Exchanged::Some,
    })
}

fn remove_beside(restoring: &Restoring) -> Result<(), EngineError> {
    for disk in &restoring.disks {
        at(&disk.path)?
            .remove_beside(&disk.beside)
            .map_err(|error| {
                EngineError::caused(
                    format!(
                        "can't remove {} beside {}",
                        disk.beside,
                        disk.path.display()
                    ),
                    error,
                )
            })?;
    }
    Ok(())
}

/// Removes a directory with memory.
pub(super) fn remove_directory(directory: &Path) -> Result<(), EngineError> {
    remove::tree(directory).map(drop).map_err(|error| {
        EngineError::caused(format!("can't remove {}", directory.display()), error)
    })
}
