//! `delete`: removes one schedule, also one that can't be read. Snapshots stay.

use super::Context;
use super::failure::{Refused, exit_for};
use super::target::Targets;
use crate::cli::DeleteArgs;
use crate::error::in_words;
use crate::exit::Exit;
use crate::instance::InstanceId;
use crate::report::{Answer, Deleted};

/// Finds the schedule and removes its file under its lock.
///
/// # Errors
/// When there is no such schedule (unless that is to be ignored) or several, when another run holds the lock for too
/// long, and when the file can't be removed.
pub fn run(context: &Context<'_>, args: &DeleteArgs) -> anyhow::Result<Answer> {
    let found = match Targets::read(context)?.find(&args.instance) {
        Ok(found) => found,
        Err(error) if args.ignore_not_found && exit_for(&error) == Exit::NotFound => {
            return Ok(Answer::Deleted(Deleted {
                instance_id: args.instance.clone(),
                is_changed: false,
                snapshots: None,
            }));
        }
        Err(error) => return Err(error),
    };
    let _lock = context
        .store
        .lock(&found.id, context.settings.lock_timeout)?;
    let is_changed = context.store.remove(&found.id)?;
    if !is_changed && !args.ignore_not_found {
        return Err(
            Refused::NotFound(format!("the schedule of {} has just gone", found.id)).into(),
        );
    }
    Ok(Answer::Deleted(Deleted {
        is_changed,
        snapshots: left_behind(context, &found.id),
        instance_id: found.id.into(),
    }))
}

/// How many snapshots the schedules of an instance have made that are still there. That this can't be told is no reason
/// not to delete.
fn left_behind(context: &Context<'_>, id: &InstanceId) -> Option<usize> {
    match (context.ports)().and_then(|ports| ports.engine.list()) {
        Ok(listing) => Some(
            listing
                .snapshots
                .iter()
                .filter(|it| it.is_scheduled() && it.source_instance_id == id.as_str())
                .count(),
        ),
        Err(error) => {
            log::debug!("the snapshots can't be counted: {}", in_words(&error));
            None
        }
    }
}
