//! `unregister`: makes the local engine forget a VM that was registered.

use super::Context;
use super::register::{refusal, registrar};
use crate::cli::UnregisterArgs;
use crate::engine::registrar::RegistrationError;
use crate::report::{Answer, Registration, RegistrationChange};

/// Removes what `register` wrote, under the instance's lock; schedule and snapshots stay.
///
/// # Errors
/// When the engine is another one, when there is no such instance or it was not registered by this tool, when another
/// run holds the lock for too long, and when it can't be removed.
pub fn run(context: &Context<'_>, args: &UnregisterArgs) -> anyhow::Result<Answer> {
    let registrar = registrar(context, "unregister")?;
    // Who is not there leaves nothing behind, not even a lock file.
    if !registrar.is_registered(&args.id).map_err(refusal)? {
        return Err(refusal(RegistrationError::NotFound(args.id.clone())));
    }
    let lock_timeout = context.settings.lock_timeout;
    let _lock = context.store.lock(&args.id, lock_timeout)?;
    // Its schedule must learn that it is gone. One that can't be read has it so too.
    let has_schedule = !matches!(context.store.load(&args.id), Ok(None));
    registrar
        .unregister(&args.id, has_schedule)
        .map_err(refusal)?;
    Ok(Answer::Registration(Registration {
        instance_id: args.id.clone(),
        change: RegistrationChange::Removed,
    }))
}
