//! `get`: shows one schedule, also when its instance is gone or the engine can't be reached.

use super::Context;
use super::failure::Refused;
use super::target::Targets;
use crate::cli::GetArgs;
use crate::report::Answer;

/// Finds the schedule and reads it.
///
/// # Errors
/// When there is no such schedule or several, and when it can't be read.
pub fn run(context: &Context<'_>, args: &GetArgs) -> anyhow::Result<Answer> {
    let found = Targets::read(context)?.find(&args.instance)?;
    let schedule = context
        .store
        .load(&found.id)?
        .ok_or_else(|| Refused::NotFound(format!("the schedule of {} has just gone", found.id)))?;
    Ok(Answer::Schedule(Box::new(schedule)))
}
