//! `restore`: gives a snapshot back in place, or into a directory of its own, and starts the VM from that.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use super::Context;
use super::failure::Refused;
use crate::cli::RestoreArgs;
use crate::engine::Ports;
use crate::engine::restorer::{Destination, Launch, Restorer, Wanted};
use crate::error::in_words;
use crate::finding::{Finding, Status};
use crate::instance::{InstanceId, InstanceRef, Presence, State, resolve};
use crate::report::{Answer, ApiRequest, Restored};
use crate::snapshot::{self, Snapshot};
use crate::{clock, interrupt, run};

/// The newest usable snapshot.
const LATEST: &str = "latest";
/// What a restore keeps of the state before; nobody means it by `latest`.
const BEFORE_RESTORE: &str = "before-restore-";

/// Looks at everything that could be in the way, and carries it out if nothing is.
///
/// # Errors
/// When there is no such instance or snapshot, when the engine keeps no snapshots on this host, and when something fails
/// on the way; then nothing is left. What was in the way from the start is in the answer.
pub fn run(context: &Context<'_>, args: &RestoreArgs) -> anyhow::Result<Answer> {
    if args.force && args.to.is_some() && !args.start {
        let rule = "--force: with --to, it goes with --start: nothing else may fail there";
        return Err(Refused::Usage(rule.to_owned()).into());
    }
    interrupt::catch().context("can't catch signals")?;
    let ports = (context.ports)()?;
    let restorer = Arc::clone(&ports.restorer);
    if args.to.is_some() && !restorer.restores_beside() {
        let rule = "--to: the engine is hypeman, whose server restores in place only: leave it out";
        return Err(Refused::Usage(rule.to_owned()).into());
    }
    let listing = ports.engine.list()?.snapshots;
    let instance = source(&args.instance, &listing)?;
    let snapshot = find(&args.snapshot, &instance, &listing)?;
    let now = clock::now();
    let undo_name = undo_name(&instance, &listing, now);
    let to = match &args.to {
        Some(to) => Some(
            std::path::absolute(to)
                .with_context(|| format!("can't make the path {} absolute", to.display()))?,
        ),
        None => None,
    };
    let wanted = Wanted {
        snapshot,
        to: to
            .as_deref()
            .map_or(Destination::InPlace(&undo_name), Destination::Directory),
        disks_only: args.disks_only,
        starts: args.start,
        now,
    };
    let work = Work {
        ports: &ports,
        restorer: restorer.as_ref(),
        args,
        instance,
    };
    if to.is_some() {
        return work.carry_out(&wanted);
    }
    if matches!(ports.engine.find(&work.instance.id), Presence::Gone) {
        let way = if work.restorer.restores_beside() {
            "--to DIRECTORY restores it beside, and --start starts it from there"
        } else {
            "hypeman's own client makes an instance from a snapshot"
        };
        return Err(Refused::NotFound(format!(
            "instance {} is gone, so that there is no place to restore it in; {way}",
            work.instance
        ))
        .into());
    }
    if args.dry_run {
        return work.carry_out(&wanted);
    }
    let timeout = context.settings.lock_timeout;
    let id = work.instance.id.clone();
    run::with_lock(context.store, &ports, &id, timeout, || {
        work.carry_out(&wanted)
    })
}

/// One restore.
struct Work<'a> {
    ports: &'a Ports,
    restorer: &'a dyn Restorer,
    args: &'a RestoreArgs,
    instance: InstanceRef,
}

impl Work<'_> {
    fn carry_out(&self, wanted: &Wanted<'_>) -> anyhow::Result<Answer> {
        let args = self.args;
        let mut preflight = self.restorer.preflight(wanted)?;
        if args.start && args.to.is_some() {
            let presence = self.ports.engine.find(&self.instance.id);
            preflight.findings.push(twin(&self.instance, &presence));
        }
        let is_stopped = preflight.findings.iter().any(|it| match it.status {
            Status::Ok => false,
            // What only may fail when the VM starts is no reason not to lay the files down in a directory of their own.
            Status::Warning => (args.start || args.to.is_none()) && !args.force,
            Status::Broken => true,
        });
        let launch = preflight.launch.as_ref();
        let mut restored = Restored {
            instance: self.instance.clone(),
            snapshot: wanted.snapshot.clone(),
            findings: std::mem::take(&mut preflight.findings),
            argv: launch.map(|launch| launch.argv.clone()),
            directory: launch.map(|launch| launch.directory.clone()),
            monitor: launch.map(|launch| launch.monitor.clone()),
            requests: launch.map(requests).unwrap_or_default(),
            to: match wanted.to {
                Destination::Directory(to) => Some(to.to_owned()),
                Destination::InPlace(_) => None,
            },
            has_memory: preflight.has_memory,
            is_stopped,
            is_dry_run: args.dry_run,
            before: None,
            is_started: false,
            pid: None,
            behind: None,
        };
        if is_stopped || args.dry_run {
            return Ok(Answer::Restored(Box::new(restored)));
        }
        restored.before = self.restorer.lay_down(wanted, &preflight)?;
        restored.is_started = args.start;
        restored.behind = (clock::now() - wanted.snapshot.created_at)
            .to_std()
            .ok()
            .filter(|_| args.start && preflight.has_memory)
            .filter(|_| !launch.is_some_and(|launch| launch.sets_clock));
        if let (true, Some(launch)) = (args.start, launch) {
            let started = self.restorer.start(wanted, launch, preflight.has_memory);
            let pid = started.map_err(|error| {
                anyhow::anyhow!(in_words(&error)).context(not_started(&restored))
            })?;
            restored.pid = Some(pid);
        }
        if let Some(before) = restored.before.take_if(|_| args.no_save) {
            self.ports.engine.delete(&before.id)?;
        }
        Ok(Answer::Restored(Box::new(restored)))
    }
}

/// What the VMM's API is asked.
fn requests(launch: &Launch) -> Vec<ApiRequest> {
    let all = launch.requests.iter().chain(&launch.resume);
    all.map(|request| ApiRequest {
        method: request.method.as_str(),
        path: request.path.clone(),
        body: request.body.clone(),
    })
    .collect()
}

/// What there is although the VM could not be started.
fn not_started(restored: &Restored) -> String {
    let place = match &restored.to {
        Some(to) => format!("the files are in {}", to.display()),
        None => format!("{} is restored", restored.instance),
    };
    let before = restored.before.as_ref().map(|before| {
        format!(
            ", what was there before is snapshot {} ({})",
            before.name, before.id
        )
    });
    format!(
        "{place}{}, and the VM was not started",
        before.unwrap_or_default()
    )
}

/// The name of the snapshot of what is there before; none of the instance's has it.
fn undo_name(instance: &InstanceRef, listing: &[Snapshot], now: DateTime<Utc>) -> String {
    let mut at = now;
    loop {
        let name = snapshot::scheduled_name(Some(BEFORE_RESTORE.trim_end_matches('-')), at);
        let is_taken = listing
            .iter()
            .any(|it| it.name == name && it.source_instance_id == instance.id.as_str());
        if !is_taken {
            return name;
        }
        at += chrono::TimeDelta::seconds(1);
    }
}

/// The instance by what its snapshots say: it need not be there any more.
///
/// # Errors
/// When none of them is of such an instance, or several are.
pub(super) fn source(reference: &str, listing: &[Snapshot]) -> anyhow::Result<InstanceRef> {
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

/// Whether a snapshot may be meant where none is named: it is usable, and not what was there before a restore.
pub(super) fn is_for_default(snapshot: &Snapshot) -> bool {
    snapshot.is_usable() && !snapshot.name.starts_with(BEFORE_RESTORE)
}

/// The newest usable snapshot of the instance with this id.
pub(super) fn newest_usable<'a>(id: &str, listing: &'a [Snapshot]) -> Option<&'a Snapshot> {
    let its = listing.iter().filter(|it| it.source_instance_id == id);
    its.filter(|it| is_for_default(it))
        .max_by_key(|it| (it.created_at, &it.id))
}

fn find<'a>(
    reference: &str,
    instance: &InstanceRef,
    listing: &'a [Snapshot],
) -> anyhow::Result<&'a Snapshot> {
    let is_its = |it: &&Snapshot| it.source_instance_id == instance.id.as_str();
    if reference == LATEST {
        return newest_usable(instance.id.as_str(), listing).ok_or_else(|| {
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
