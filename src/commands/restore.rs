//! `restore`: gives a snapshot back into a directory of its own, and starts a VM from that.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use crate::cli::RestoreArgs;
use crate::engine::restorer::{Destination, Wanted};
use crate::error::in_words;
use crate::finding::{Finding, Status};
use crate::instance::{InstanceId, InstanceRef, Presence, State, resolve};
use crate::report::{Answer, Restored};
use crate::snapshot::{self, Snapshot};
use crate::{clock, interrupt};

/// The newest usable snapshot.
const LATEST: &str = "latest";
/// What somebody else's restore keeps of the state before; nobody means it by `latest`.
const BEFORE_RESTORE: &str = "before-restore-";

/// Looks at everything that could be in the way, and carries it out if nothing is.
///
/// # Errors
/// When there is no such instance or snapshot, when the engine keeps no snapshots on this host, and when something fails
/// on the way; then nothing is left. What was in the way from the start is in the answer.
pub fn run(context: &Context<'_>, args: &RestoreArgs) -> anyhow::Result<Answer> {
    interrupt::catch().context("can't catch signals")?;
    let ports = (context.ports)()?;
    let restorer = ports.restorer.ok_or_else(|| {
        Refused::Usage(
            "`restore --to` is for the local engine, but the engine is hypeman, whose server keeps the snapshots; its own \
             client restores them"
                .to_owned(),
        )
    })?;
    let to = std::path::absolute(&args.to)
        .with_context(|| format!("can't make the path {} absolute", args.to.display()))?;
    let listing = ports.engine.list()?.snapshots;
    let instance = source(&args.instance, &listing)?;
    let snapshot = find(&args.snapshot, &instance, &listing)?;
    let wanted = Wanted {
        snapshot,
        to: Destination::Directory(&to),
        disks_only: args.disks_only,
        starts: args.start,
    };
    let mut preflight = restorer.preflight(&wanted)?;
    if args.start {
        let presence = ports.engine.find(&instance.id);
        preflight.findings.push(twin(&instance, &presence));
    }
    let is_stopped = preflight.findings.iter().any(|it| match it.status {
        Status::Ok => false,
        // What only may fail when the VM starts is no reason not to lay the files down.
        Status::Warning => args.start && !args.force,
        Status::Broken => true,
    });
    let mut restored = Restored {
        instance,
        snapshot: snapshot.clone(),
        findings: std::mem::take(&mut preflight.findings),
        argv: preflight.launch.as_ref().map(|launch| launch.argv.clone()),
        directory: preflight
            .launch
            .as_ref()
            .map(|launch| launch.directory.clone()),
        monitor: preflight
            .launch
            .as_ref()
            .map(|launch| launch.monitor.clone()),
        to: to.clone(),
        has_memory: preflight.has_memory,
        is_stopped,
        is_dry_run: args.dry_run,
        pid: None,
        behind: None,
    };
    if is_stopped || args.dry_run {
        return Ok(Answer::Restored(Box::new(restored)));
    }
    restorer.lay_down(&wanted, &preflight)?;
    if let (true, Some(launch)) = (args.start, &preflight.launch) {
        let pid = restorer
            .start(launch, preflight.has_memory)
            .map_err(|error| {
                anyhow::anyhow!(in_words(&error)).context(format!(
                    "the files are in {}, and the VM was not started",
                    to.display()
                ))
            })?;
        restored.pid = Some(pid);
        restored.behind = (clock::now() - snapshot.created_at)
            .to_std()
            .ok()
            .filter(|_| preflight.has_memory);
    }
    Ok(Answer::Restored(Box::new(restored)))
}

/// The instance by what its snapshots say: it need not be there any more.
fn source(reference: &str, listing: &[Snapshot]) -> anyhow::Result<InstanceRef> {
    let mut names: BTreeMap<InstanceId, String> = BTreeMap::new();
    let mut newest_last: Vec<&Snapshot> = listing.iter().collect();
    newest_last.sort_by_key(|snapshot| snapshot.created_at);
    for snapshot in newest_last {
        if let Ok(id) = snapshot.source_instance_id.parse() {
            names.insert(id, snapshot.source_instance_name.clone());
        }
    }
    let candidates: Vec<InstanceRef> = names
        .into_iter()
        .map(|(id, name)| InstanceRef { id, name })
        .collect();
    Ok(resolve(reference, &candidates)
        .context("there is no snapshot of such an instance")?
        .clone())
}

fn find<'a>(
    reference: &str,
    instance: &InstanceRef,
    listing: &'a [Snapshot],
) -> anyhow::Result<&'a Snapshot> {
    let is_its = |it: &&Snapshot| it.source_instance_id == instance.id.as_str();
    if reference == LATEST {
        return listing
            .iter()
            .filter(is_its)
            .filter(|it| it.is_usable() && !it.name.starts_with(BEFORE_RESTORE))
            .max_by_key(|it| (it.created_at, it.id.clone()))
            .ok_or_else(|| {
                Refused::NotFound(format!("instance {instance} has no usable snapshot")).into()
            });
    }
    let own: Vec<Snapshot> = listing.iter().filter(is_its).cloned().collect();
    match snapshot::find(reference, &own) {
        Ok(found) => {
            let id = found.id.clone();
            // The same one in the whole list.
            let found = listing.iter().find(|it| it.id == id);
            found.ok_or_else(|| Refused::NotFound(format!("snapshot {id} has just gone")).into())
        }
        Err(error) => match snapshot::find(reference, listing) {
            Ok(others) => Err(Refused::Usage(format!(
                "snapshot {} is of instance {:?} ({}), not of {instance}",
                others.id, others.source_instance_name, others.source_instance_id
            ))
            .into()),
            Err(_) => Err(error.into()),
        },
    }
}

/// Whether the VM that the snapshot is of runs: two of them have the same addresses.
fn twin(
    instance: &InstanceRef,
    presence: &Presence<crate::instance::Instance, crate::engine::EngineError>,
) -> Finding {
    const CHECK: &str = "instance";
    match presence {
        Presence::Gone => Finding::ok(CHECK, instance, "is gone"),
        Presence::Here(it) if matches!(it.state, State::Stopped | State::Standby) => {
            Finding::ok(CHECK, instance, format!("is {}", it.state))
        }
        Presence::Here(it) => Finding::warning(
            CHECK,
            instance,
            format!(
                "is {}: a second one has the same addresses, taps and sockets",
                it.state
            ),
            "stop it first, or start the copy with --force where that is meant",
        ),
        Presence::Unknown(error) => Finding::warning(
            CHECK,
            instance,
            format!("it can't be told whether it runs: {}", in_words(error)),
            "see that it does not, then use --force",
        ),
    }
}
