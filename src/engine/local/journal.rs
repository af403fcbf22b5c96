//! The journal: what a later run must know of a capture or a restore that died. One small file per instance.
//!
//! It is on disk before anything is changed in a VMM or beside a disk and stays until nothing of that is left, so that
//! SIGKILL, OOM or power loss of this tool can't leave a guest paused, or half restored, for longer than until the next
//! run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::EngineError;
use crate::engine::local::json::{self, ReadError};
use crate::engine::local::registration::RestoredMemory;
use crate::fs::durable;
use crate::fs::open_files::FileId;
use crate::instance::{Hypervisor, InstanceId};
use crate::snapshot::SnapshotId;
use crate::snapshot::manifest::Manifest;
use crate::vmm::{Process, Tuning};

/// How far a capture had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// The VMM may hold nodes, descriptors and settings of ours; the guest runs and no save has begun.
    Preparing,
    /// The guest may be paused because of us, and a save may have begun.
    Pausing,
    /// The guest runs again; the VMM may still be saving for us.
    Saving,
}

/// What is under way. A journal without it is a capture's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Operation {
    /// A snapshot is being taken.
    #[default]
    Capture,
    /// One is being given back in place.
    Restore,
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Journaled {
    /// A capture is under way or died.
    Capture(Box<Entry>),
    /// A restore in place is under way or died.
    Restore(Box<Restoring>),
}

/// One restore in place under way. Disks that are exchanged can be told by their inodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Restoring {
    /// [`Operation::Restore`].
    pub(super) operation: Operation,
    /// The instance.
    pub(super) instance_id: InstanceId,
    /// The snapshot that is given back.
    pub(super) snapshot_id: SnapshotId,
    /// The snapshot that what was there becomes.
    pub(super) undo_id: SnapshotId,
    /// Its name.
    pub(super) undo_name: String,
    /// How far it has come.
    pub(super) phase: RestorePhase,
    /// The disks.
    pub(super) disks: Vec<RestoringDisk>,
    /// The new directory with the guest's memory, if that comes back too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<PathBuf>,
    /// The memory that an earlier restore laid down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) old_memory: Option<RestoredMemory>,
    /// Whether that went with the disks that were there.
    #[serde(default)]
    pub(super) is_old_memory_fresh: bool,
    /// The snapshot's manifest.
    pub(super) manifest: Manifest,
    /// When it began.
    pub(super) began_at: DateTime<Utc>,
}

/// How far a restore had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RestorePhase {
    /// Files of ours may lie beside the disks; nothing else has changed.
    Laying,
    /// Some of the disks may have been exchanged with those.
    Exchanging,
    /// All are exchanged; what was there may not be a snapshot yet.
    Keeping,
}

/// One disk of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RestoringDisk {
    /// Where it is, without symlinks.
    pub(super) path: PathBuf,
    /// The name beside it: of its new content before the exchange, of its old one behind it.
    pub(super) beside: String,
    /// The new file; absent before the exchanges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) new: Option<FileId>,
    /// When the new file was last written, in seconds and nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modified: Option<(i64, i64)>,
    /// The file that was there; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) old: Option<FileId>,
}

/// One capture under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What is under way.
    #[serde(default)]
    pub(super) operation: Operation,
    /// The instance.
    pub(super) instance_id: InstanceId,
    /// The snapshot that is being taken; names its staging directory.
    pub(super) snapshot_id: SnapshotId,
    /// The VMM.
    pub(super) hypervisor: Hypervisor,
    /// Its control socket.
    pub(super) socket: PathBuf,
    /// The process behind it, where the kernel could tell: a restarted VMM holds nothing of ours.
    pub(super) process: Option<Process>,
    /// How the VMM was set before; journals of older versions don't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settings: Option<Tuning>,
    /// Whether it leaves the guest's memory out, so that a save in the VMM is somebody else's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) no_memory: bool,
    /// How far the capture has come.
    pub(super) phase: Phase,
    /// When the capture began.
    pub(super) began_at: DateTime<Utc>,
}

/// The directory of the journals.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journals under `state_dir`; nothing is created yet.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("journal"),
        }
    }

    fn path(&self, id: &InstanceId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Makes `entry` the instance's journal, durably.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), EngineError> {
        self.write_one(&entry.instance_id, entry)
    }

    /// Makes `restoring` the instance's journal, durably.
    pub(super) fn write_restore(&self, restoring: &Restoring) -> Result<(), EngineError> {
        self.write_one(&restoring.instance_id, restoring)
    }

    fn write_one(&self, id: &InstanceId, entry: &impl Serialize) -> Result<(), EngineError> {
        let path = self.path(id);
        let written = durable::create_dir(&self.directory).and_then(|()| {
            let bytes = serde_json::to_vec_pretty(entry)?;
            durable::write(&path, &bytes, 0o600)
        });
        written.map_err(|error| {
            EngineError::caused(format!("can't write the journal {}", path.display()), error)
        })
    }

    /// The instance's journal, if something is under way or died.
    pub(super) fn read(&self, id: &InstanceId) -> Result<Option<Journaled>, EngineError> {
        let path = self.path(id);
        let read = json::read_once::<Value>(&path).and_then(|value| {
            let operation = match value.get("operation") {
                None => Operation::default(),
                Some(known) => match Operation::deserialize(known) {
                    Ok(operation) => operation,
                    Err(_) => return Ok(Err(known.clone())),
                },
            };
            Ok(Ok(match operation {
                Operation::Capture => Journaled::Capture(Box::new(Entry::deserialize(value)?)),
                Operation::Restore => Journaled::Restore(Box::new(Restoring::deserialize(value)?)),
            }))
        });
        match read {
            Ok(Ok(entry)) => Ok(Some(entry)),
            // A newer version's: what it left can be put right by that alone, and removing the file would lose it.
            Ok(Err(operation)) => Err(EngineError::instance(format!(
                "the journal {} is of the operation {operation}, which this version does not know: let the version that \
                 began it finish it",
                path.display()
            ))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(ReadError::File(error)) => Err(EngineError::caused(
                format!("can't read the journal {}", path.display()),
                error,
            )),
            Err(error) => Err(EngineError::caused(
                format!(
                    "the journal {} makes no sense; check that the guest runs, then remove the file",
                    path.display()
                ),
                error,
            )),
        }
    }

    /// Removes the instance's journal: nothing of what was under way is left anywhere.
    pub(super) fn remove(&self, id: &InstanceId) -> Result<(), EngineError> {
        let path = self.path(id);
        durable::remove(&path).map(|_| ()).map_err(|error| {
            EngineError::caused(
                format!("can't remove the journal {}", path.display()),
                error,
            )
        })
    }

    /// The instances that have a journal.
    pub(super) fn ids(&self) -> Result<Vec<InstanceId>, EngineError> {
        let failed = |error| EngineError::Unavailable {
            message: format!("can't list the journals in {}", self.directory.display()),
            source: Some(Box::new(error)),
        };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            // Anything else is a temporary file of a writer that was killed; the next writer takes it over.
            if let Some(Ok(id)) = id.map(str::parse) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(phase: Phase) -> Entry {
        Entry {
            operation: Operation::Capture,
            instance_id: "vm".parse().unwrap(),
            snapshot_id: "snap".parse().unwrap(),
            hypervisor: Hypervisor::Qemu,
            socket: PathBuf::from("/run/vm.sock"),
            process: Some(Process {
                pid: 7,
                start_ticks: 8,
            }),
            settings: None,
            no_memory: false,
            phase,
            began_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_entry_is_listed_and_read_until_it_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::new(state.path());
        let id = entry(Phase::Preparing).instance_id;
        assert_eq!(journal.ids().unwrap(), []);
        assert_eq!(journal.read(&id).unwrap(), None);
        for phase in [Phase::Preparing, Phase::Pausing, Phase::Saving] {
            journal.write(&entry(phase)).unwrap();
            let read = journal.read(&id).unwrap();
            assert_eq!(read, Some(Journaled::Capture(Box::new(entry(phase)))));
            assert_eq!(journal.ids().unwrap(), std::slice::from_ref(&id));
        }
        journal.remove(&id).unwrap();
        assert_eq!(journal.read(&id).unwrap(), None);
        journal.remove(&id).unwrap();
    }

    #[test]
    fn a_journal_that_makes_no_sense_is_an_error_and_not_nothing() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::new(state.path());
        journal.write(&entry(Phase::Pausing)).unwrap();
        let path = state.path().join("journal/vm.json");
        let endless = " ".repeat(2 << 20);
        for content in ["{", &endless] {
            fs::write(&path, content).unwrap();
            let error = journal.read(&"vm".parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains("vm.json"), "{error}");
        }
    }

    #[test]
    fn a_journal_of_an_older_version_is_a_captures_and_one_of_an_unknown_operation_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::new(state.path());
        let id = "vm".parse().unwrap();
        journal.write(&entry(Phase::Pausing)).unwrap();
        let path = state.path().join("journal/vm.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["operation"], "capture");
        value.as_object_mut().unwrap().remove("operation");
        fs::write(&path, value.to_string()).unwrap();
        let read = journal.read(&id).unwrap();
        assert_eq!(
            read,
            Some(Journaled::Capture(Box::new(entry(Phase::Pausing))))
        );

        fs::write(&path, r#"{"operation": "migrate", "targets": []}"#).unwrap();
        let error = journal.read(&id).unwrap_err().to_string();
        assert!(error.contains("operation \"migrate\""), "{error}");
        assert!(!error.contains("remove"), "{error}");
        assert!(path.exists());
    }
}
