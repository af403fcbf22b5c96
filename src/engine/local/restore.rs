//! Giving a snapshot back, and starting a VM from that.

mod backing;
mod checks;
mod directory;
mod each;
mod format;
mod how;
mod in_place;
pub(super) mod rehearse;
mod running;
mod start;
mod stored;
mod targets;
mod undo;

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::Local;
use super::journal::{Operation, RestorePhase, Restoring, RestoringDisk};
use super::metadata::Metadata;
use super::store::SnapshotStore;
use crate::engine::EngineError;
use crate::engine::restorer::{Destination, Launch, Preflight, Restorer, Wanted, usable};
use crate::finding::Finding;
use crate::fs::durable;
use crate::instance::{InstanceId, State};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Consistency, Kind, Occupied, Snapshot, SnapshotId};

use directory::Content;
use how::Laid;
use in_place::{beside, memory_beside};
use stored::Stored;

/// Where it is kept what the VMs said that were started in place, in the state directory.
const LOGS: &str = "vm-logs";

/// What of a snapshot's files is whose.
///
/// # Errors
/// When they can't be looked at.
pub(super) fn occupied(store: &SnapshotStore, id: &SnapshotId) -> Result<Occupied, EngineError> {
    let failed = |error| EngineError::caused(format!("can't look at the extents of {id}"), error);
    Stored::hold(store, id)?.occupied().map_err(failed)
}

impl Restorer for Local {
    fn preflight(&self, wanted: &Wanted<'_>) -> Result<Preflight, EngineError> {
        let stored = self.stored(wanted)?;
        let snapshot = wanted.snapshot;
        let mut preflight = Preflight {
            findings: vec![usable(snapshot)],
            ..Preflight::default()
        };
        let laid = match wanted.to {
            Destination::Directory(to) => {
                preflight.findings.extend(checks::target(to));
                preflight.findings.push(checks::room(&stored, to));
                Some(Laid::beside(to, stored.manifest.as_ref()))
            }
            Destination::InPlace(_) => {
                let (laid, findings) = self.examine_place(wanted, &stored)?;
                preflight.findings.extend(findings);
                laid
            }
        };
        if let Some(manifest) = &stored.manifest {
            preflight.findings.extend(checks::others(manifest));
            if let Destination::Directory(to) = wanted.to {
                let relative = backing::relative(&stored, manifest, to, wanted.starts);
                preflight.findings.extend(relative);
            }
        }
        preflight.has_memory = snapshot.kind == Kind::Standby && !wanted.disks_only;
        if let Some(laid) = laid {
            self.examine_start(wanted, &stored, &laid, &mut preflight)?;
        }
        Ok(preflight)
    }

    fn lay_down(
        &self,
        wanted: &Wanted<'_>,
        preflight: &Preflight,
    ) -> Result<Option<Snapshot>, EngineError> {
        let stored = self.stored(wanted)?;
        let owner = preflight.launch.as_ref().and_then(|launch| launch.owner);
        let to = match wanted.to {
            Destination::Directory(to) => to,
            Destination::InPlace(undo_name) => {
                return self.give_back(wanted, &stored, preflight, undo_name);
            }
        };
        let state_dir = stored.manifest.as_ref().and_then(Manifest::state_dir);
        let name = &wanted.snapshot.source_instance_name;
        let step = (self.progress).begin(name, "copying", Some(wanted.snapshot.size_bytes));
        let content = Content {
            stored: &stored,
            skip: &|path| !preflight.has_memory && state_dir == Some(path),
            rewritten: preflight
                .launch
                .as_ref()
                .map_or(&[], |launch| &launch.rewritten),
            owner,
            watch: self.timeouts.watch,
            step: &step,
        };
        content.lay_down(to)?;
        Ok(None)
    }

    fn start(
        &self,
        wanted: &Wanted<'_>,
        launch: &Launch,
        has_memory: bool,
    ) -> Result<u32, EngineError> {
        let log_dir = launch.log.parent().unwrap_or(Path::new("/"));
        durable::create_dir(log_dir).map_err(|error| {
            EngineError::caused(format!("can't create {}", log_dir.display()), error)
        })?;
        let pid = running::start(launch, has_memory, self.timeouts)?;
        if matches!(wanted.to, Destination::InPlace(_)) {
            self.forget_memory(wanted)?;
        }
        Ok(pid)
    }
}

/// How a VM that was off is started, as another snapshot knows it.
struct Borrowed {
    manifest: Manifest,
    from: Snapshot,
    config: Option<Value>,
}

impl Local {
    fn stored(&self, wanted: &Wanted<'_>) -> Result<Stored, EngineError> {
        Stored::hold(&self.instances.store()?, &wanted.snapshot.id)
    }

    /// The instance that the snapshot is of.
    fn owner_of(&self, wanted: &Wanted<'_>) -> Result<Metadata, EngineError> {
        let id = &wanted.snapshot.source_instance_id;
        let gone = || EngineError::instance(format!("instance {id} is gone"));
        let id: InstanceId = id.parse().map_err(|_| gone())?;
        self.instances.find(&id)?.ok_or_else(gone)
    }

    /// What speaks against taking the instance for off at this moment. Memory that a restore laid down does not, and neither
    /// do disks that are gone.
    fn objection(&self, metadata: &Metadata) -> Result<Option<String>, EngineError> {
        let derived = self.derive_since(&metadata.what_is_left(), Some(Instant::now()))?;
        Ok(match derived.state {
            State::Stopped | State::Standby => None,
            other @ (State::Created
            | State::Initializing
            | State::Running
            | State::Paused
            | State::Shutdown
            | State::Unknown) => Some(derived.note.unwrap_or_else(|| format!("it is {other}"))),
        })
    }

    /// What could be in the way of a restore in place; nowhere to lay it down if that is certain.
    fn examine_place(
        &self,
        wanted: &Wanted<'_>,
        stored: &Stored,
    ) -> Result<(Option<Laid>, Vec<Finding>), EngineError> {
        let metadata = self.owner_of(wanted)?;
        let name = &metadata.name;
        if !metadata.is_registered() {
            let finding = Finding::broken(
                "instance",
                name,
                "is one of hypeman's: only its server gives it back in place",
                "use --engine hypeman, or restore beside it: --to",
            );
            return Ok((None, vec![finding]));
        }
        let mut findings = vec![checks::off(name, self.objection(&metadata))];
        let Some(manifest) = &stored.manifest else {
            findings.push(Finding::broken(
                "manifest",
                &wanted.snapshot.id,
                "has none: which file is which disk is not known",
                "restore beside it: --to",
            ));
            return Ok((None, findings));
        };
        let (targets, of_disks) = checks::places(manifest, &metadata);
        findings.extend(of_disks);
        let Some(targets) = targets else {
            return Ok((None, findings));
        };
        let has_memory = wanted.snapshot.kind == Kind::Standby && !wanted.disks_only;
        let store = self.instances.store()?;
        findings.extend(checks::room_in_place(
            stored,
            manifest,
            &targets,
            has_memory,
            store.directory(),
        ));
        let laid = targets.first().map(|first| Laid {
            directory: memory_beside(&metadata, first),
            disks: targets.iter().map(|it| it.path.clone()).collect(),
            monitor: Some(metadata.socket.clone()),
            throw_away: None,
            log: self
                .state_dir
                .join(LOGS)
                .join(format!("{}.log", metadata.id)),
        });
        Ok((laid, findings))
    }

    /// How the VM is started from what is laid down, and what could be in the way of that.
    fn examine_start(
        &self,
        wanted: &Wanted<'_>,
        stored: &Stored,
        laid: &Laid,
        preflight: &mut Preflight,
    ) -> Result<(), EngineError> {
        let snapshot = wanted.snapshot;
        // Memory fits only the very devices that it was saved with.
        let borrowed = if preflight.has_memory {
            None
        } else {
            self.with_known_process(snapshot, stored.manifest.as_ref())?
        };
        let own_config = stored.configuration(stored.manifest.as_ref());
        let mut config = own_config.as_ref();
        let manifest = match &borrowed {
            Some(Borrowed {
                manifest,
                from,
                config: known,
            }) => {
                config = known.as_ref();
                preflight.findings.push(Finding::ok(
                    "command line",
                    &from.id,
                    format!(
                        "it did not run; how it is started is known from {}",
                        from.name
                    ),
                ));
                Some(manifest)
            }
            None => stored.manifest.as_ref(),
        };
        let hypervisor = &snapshot.source_hypervisor;
        let has_memory = preflight.has_memory;
        let launch = start::launch(
            manifest,
            &stored.directory,
            config,
            laid,
            hypervisor,
            has_memory,
        );
        let why = match launch {
            Ok((launch, findings, _)) => {
                preflight.findings.extend(findings);
                preflight.launch = Some(launch);
                return Ok(());
            }
            Err(why) => why,
        };
        let name = &snapshot.source_instance_name;
        let is_in_place = matches!(wanted.to, Destination::InPlace(_));
        preflight.findings.push(if wanted.starts {
            Finding::broken("start", name, why.to_string(), "leave --start out")
        } else if is_in_place && has_memory {
            // Nobody could make use of it there.
            preflight.has_memory = false;
            Finding::warning(
                "memory",
                name,
                format!("is left out, and the guest boots anew: {why}"),
                "say that this is meant by --disks-only, or get the memory too, beside it: --to",
            )
        } else {
            let from = if is_in_place {
                "as ever"
            } else {
                "from the files"
            };
            Finding::ok("start", name, format!("by hand, {from}: {why}"))
        });
        Ok(())
    }

    fn give_back(
        &self,
        wanted: &Wanted<'_>,
        stored: &Stored,
        preflight: &Preflight,
        undo_name: &str,
    ) -> Result<Option<Snapshot>, EngineError> {
        let metadata = self.owner_of(wanted)?;
        let changed =
            || EngineError::instance("something has just changed; see what with --dry-run");
        let manifest = stored.manifest.as_ref().ok_or_else(changed)?;
        let (targets, _) = checks::places(manifest, &metadata);
        let targets = targets.ok_or_else(changed)?;
        let undo_id = SnapshotStore::new_id()?;
        let memory = targets
            .first()
            .filter(|_| preflight.has_memory)
            .map(|first| memory_beside(&metadata, first));
        let disks = targets.iter().enumerate().map(|(index, target)| {
            Ok(RestoringDisk {
                path: target.path.clone(),
                beside: beside(&undo_id, index),
                new: None,
                modified: None,
                old: target.id()?,
            })
        });
        let disks: std::io::Result<Vec<RestoringDisk>> = disks.collect();
        let restoring = Restoring {
            operation: Operation::Restore,
            instance_id: metadata.id.clone(),
            snapshot_id: wanted.snapshot.id.clone(),
            undo_id,
            undo_name: undo_name.to_owned(),
            phase: RestorePhase::Laying,
            disks: disks.map_err(|error| EngineError::caused("can't look at the disks", error))?,
            memory,
            old_memory: metadata.restored_memory().cloned(),
            is_old_memory_fresh: self.derive(&metadata)?.state == State::Standby,
            manifest: manifest.clone(),
            began_at: wanted.now,
        };
        let content = in_place::Content {
            stored,
            manifest,
            targets: &targets,
            owner: (preflight.launch.as_ref()).and_then(|launch| launch.owner),
            size_bytes: wanted.snapshot.size_bytes,
        };
        let objection = || self.objection(&metadata);
        self.place(&objection)?
            .give_back(&metadata, &content, restoring)
    }

    fn place<'a>(
        &'a self,
        objection: &'a dyn Fn() -> Result<Option<String>, EngineError>,
    ) -> Result<in_place::Place<'a>, EngineError> {
        Ok(in_place::Place {
            journal: &self.journal,
            instances: &self.instances,
            store: self.instances.store()?,
            progress: &self.progress,
            watch: self.timeouts.watch,
            objection,
        })
    }

    /// Puts right what a restore in place that died left.
    pub(super) fn recover_restore(&self, restoring: Restoring) -> Result<Vec<String>, EngineError> {
        let id = restoring.instance_id.clone();
        let objection = || match self.instances.find(&id)? {
            Some(metadata) => self.objection(&metadata),
            None => Ok(None),
        };
        self.place(&objection)?.recover(restoring)
    }

    /// Removes the memory that the VM was started from.
    fn forget_memory(&self, wanted: &Wanted<'_>) -> Result<(), EngineError> {
        let metadata = self.owner_of(wanted)?;
        if let Some(used) = metadata.restored_memory() {
            in_place::remove_directory(&used.directory)?;
        }
        self.instances
            .learn(&metadata.id, |learnt| learnt.restored = None)
    }

    /// The manifest of a snapshot at rest with the process of the newest one of the same disks that was taken while the
    /// VM ran, and that one.
    fn with_known_process(
        &self,
        snapshot: &Snapshot,
        manifest: Option<&Manifest>,
    ) -> Result<Option<Borrowed>, EngineError> {
        let Some(manifest) = manifest.filter(|it| it.vmm().is_none() && !it.disks.is_empty())
        else {
            return Ok(None);
        };
        let store = self.instances.store()?;
        let mut others = store.list()?.snapshots;
        others.retain(|it| {
            it.consistency != Consistency::Stopped
                && it.source_instance_id == snapshot.source_instance_id
        });
        others.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        for other in others {
            let Ok(known) = Stored::hold(&store, &other.id) else {
                continue;
            };
            let of_process = known.manifest.as_ref();
            if let Some(with) = of_process.and_then(|known| manifest.with_process_of(known)) {
                return Ok(Some(Borrowed {
                    manifest: with,
                    config: known.configuration(of_process),
                    from: other,
                }));
            }
        }
        Ok(None)
    }
}
