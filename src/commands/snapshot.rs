//! `snapshot`: takes one now, which no schedule owns and no retention removes.

use anyhow::Context as _;

use super::failure::Refused;
use super::{Context, target};
use crate::cli::SnapshotArgs;
use crate::report::{Answer, Taken};
use crate::schedule::validate;
use crate::snapshot;
use crate::{clock, interrupt, run};

/// What the name of a snapshot begins with that was given none.
const PREFIX: &str = "manual";

/// Takes the snapshot under the instance's lock.
///
/// # Errors
/// When a value breaks a rule, when there is no such instance or several, when it has a snapshot of that name, when
/// another run holds the lock for too long, and when no whole snapshot could be taken.
pub fn run(context: &Context<'_>, args: &SnapshotArgs) -> anyhow::Result<Answer> {
    let tags = validate::metadata(&args.metadata)?;
    if let Some(name) = args.name.as_ref().filter(|name| !snapshot::is_name(name)) {
        return Err(Refused::Usage(format!("--name {name:?}: {}", snapshot::NAME_RULE)).into());
    }
    interrupt::catch().context("can't catch signals")?;
    let ports = (context.ports)()?;
    let instance = target::existing(ports.engine.as_ref(), &args.instance)?;
    let listing = ports.engine.list()?;
    let is_taken = |name: &str| {
        listing.snapshots.iter().any(|snapshot| {
            snapshot.name == name && snapshot.source_instance_id == instance.id.as_str()
        })
    };
    let name = match &args.name {
        Some(name) if is_taken(name) => {
            let has = format!("--name {name:?}: instance {instance} has a snapshot of that name");
            return Err(Refused::Usage(has).into());
        }
        Some(name) => name.clone(),
        None => {
            let mut at = clock::now();
            loop {
                let name = snapshot::scheduled_name(Some(PREFIX), at);
                if !is_taken(&name) {
                    break name;
                }
                // As scheduled ones do.
                at += chrono::TimeDelta::seconds(1);
            }
        }
    };
    let timeout = context.settings.lock_timeout;
    let created = run::snapshot(context.store, &ports, &instance.id, &name, &tags, timeout)?;
    for warning in &created.warnings {
        log::warn!(instance = instance.id.as_str(); "{warning}");
    }
    Ok(Answer::Taken(Taken {
        snapshot: created.snapshot,
        pause: created.pause,
        notes: created.warnings,
    }))
}
