//! Giving a snapshot back, and starting a VM from that.

mod checks;
mod directory;
mod running;
mod start;
mod stored;

use std::fs::File;

use super::{Local, manifest};
use crate::engine::EngineError;
use crate::engine::restorer::{Destination, Launch, Preflight, Restorer, Wanted};
use crate::finding::Finding;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Kind, Snapshot};

use directory::Content;
use start::Laid;
use stored::Stored;

impl Restorer for Local {
    fn preflight(&self, wanted: &Wanted<'_>) -> Result<Preflight, EngineError> {
        let Destination::Directory(to) = wanted.to;
        let stored = self.stored(wanted)?;
        let mut preflight = Preflight::default();
        let snapshot = wanted.snapshot;
        preflight.findings.push(match &snapshot.unusable {
            None => Finding::ok(
                "snapshot",
                &snapshot.id,
                format!("{} is usable", snapshot.name),
            ),
            Some(flaw) => Finding::broken(
                "snapshot",
                &snapshot.id,
                format!("nothing can be restored from it: {flaw}"),
                "take another one: hypeman-snap snapshots",
            ),
        });
        preflight.findings.extend(checks::target(to));
        preflight.findings.push(checks::room(&stored.directory, to));
        if let Some(manifest) = &stored.manifest {
            preflight.findings.extend(checks::others(manifest));
        }
        preflight.has_memory = snapshot.kind == Kind::Standby && !wanted.disks_only;
        // Memory fits only the very devices that it was saved with.
        let borrowed = if preflight.has_memory {
            None
        } else {
            self.with_known_process(snapshot, stored.manifest.as_ref())?
        };
        let manifest = match &borrowed {
            Some((manifest, from)) => {
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
        let laid = Laid::beside(to, manifest);
        let hypervisor = &snapshot.source_hypervisor;
        match start::launch(
            manifest,
            &stored.directory,
            &laid,
            hypervisor,
            preflight.has_memory,
        ) {
            Ok((launch, findings)) => {
                preflight.findings.extend(findings);
                preflight.launch = Some(launch);
            }
            Err(why) => preflight.findings.push(if wanted.starts {
                Finding::broken(
                    "start",
                    &snapshot.source_instance_name,
                    why.to_string(),
                    "leave --start out",
                )
            } else {
                Finding::ok(
                    "start",
                    &snapshot.source_instance_name,
                    format!("by hand, from the files: {why}"),
                )
            }),
        }
        Ok(preflight)
    }

    fn lay_down(&self, wanted: &Wanted<'_>, preflight: &Preflight) -> Result<(), EngineError> {
        let Destination::Directory(to) = wanted.to;
        let stored = self.stored(wanted)?;
        let state_dir = stored.manifest.as_ref().and_then(Manifest::state_dir);
        let name = &wanted.snapshot.source_instance_name;
        let step = (self.progress).begin(name, "copying", Some(wanted.snapshot.size_bytes));
        let content = Content {
            stored: &stored,
            skip: &|path| !preflight.has_memory && state_dir == Some(path),
            owner: preflight.launch.as_ref().and_then(|launch| launch.owner),
            watch: self.timeouts.watch,
            step: &step,
        };
        content.lay_down(to)
    }

    fn start(&self, launch: &Launch, has_memory: bool) -> Result<u32, EngineError> {
        running::start(launch, has_memory, self.timeouts)
    }
}

impl Local {
    fn stored(&self, wanted: &Wanted<'_>) -> Result<Stored, EngineError> {
        Stored::hold(&self.instances.store()?, &wanted.snapshot.id)
    }

    /// The manifest of a snapshot at rest with the process of the newest one of the same disks that was taken while the
    /// VM ran, and that one.
    fn with_known_process(
        &self,
        snapshot: &Snapshot,
        manifest: Option<&Manifest>,
    ) -> Result<Option<(Manifest, Snapshot)>, EngineError> {
        let Some(manifest) = manifest.filter(|it| it.vmm().is_none() && !it.disks.is_empty())
        else {
            return Ok(None);
        };
        let store = self.instances.store()?;
        let mut others = store.list()?.snapshots;
        others.retain(|it| {
            it.kind == Kind::Standby && it.source_instance_id == snapshot.source_instance_id
        });
        others.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        for other in others {
            let guest = store.snapshot_dir(&other.id).join("guest");
            let Some(known) = File::open(guest)
                .ok()
                .and_then(|it| manifest::read(it).ok())
            else {
                continue;
            };
            if let Some(with) = manifest.with_process_of(&known) {
                return Ok(Some((with, other)));
            }
        }
        Ok(None)
    }
}
