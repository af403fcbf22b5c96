//! `delete`: removes one schedule, also one that can't be read. Snapshots stay.

use super::Context;
use super::failure::{Refused, exit_for};
use super::target::Targets;
use crate::cli::DeleteArgs;
use crate::exit::Exit;
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
        instance_id: found.id.to_string(),
        is_changed,
    }))
}
