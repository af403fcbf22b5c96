//! `unregister`: makes the local engine forget a VM that was registered.

use super::Context;
use super::register::{refusal, require_local};
use super::report::{Answer, Registration, RegistrationChange};
use crate::cli::UnregisterArgs;
use crate::engine::local::data_dir::DataDir;
use crate::engine::local::registration::{self, RegistrationError};

/// Removes what `register` wrote, under the instance's lock; schedule and snapshots stay.
///
/// # Errors
/// When the engine is another one, when there is no such instance or it was not registered by this tool, when another
/// run holds the lock for too long, and when it can't be removed.
pub fn run(context: &Context<'_>, args: &UnregisterArgs) -> anyhow::Result<Answer> {
    require_local(context.settings, "unregister")?;
    let data_dir = DataDir::open(&context.settings.data_dir)?;
    if data_dir.find(&args.id).is_ok_and(|found| found.is_none()) {
        return Err(refusal(RegistrationError::NotFound(args.id.clone())));
    }
    let _lock = context
        .store
        .lock(&args.id, context.settings.lock_timeout)?;
    registration::unregister(&data_dir, &args.id).map_err(refusal)?;
    Ok(Answer::Registration(Registration {
        instance_id: args.id.clone(),
        change: RegistrationChange::Removed,
    }))
}
