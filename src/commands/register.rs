//! `register`: tells the local engine of a VM that hypeman does not run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use crate::cli::RegisterArgs;
use crate::clock;
use crate::engine::registrar::{Declared, Registered, Registrar, RegistrationError, Request};
use crate::report::{Answer, Registration, RegistrationChange};

/// Declares the VM to the local engine, under its lock. The same values again change nothing.
///
/// # Errors
/// When the engine is another one, when a value is not valid or the id is taken, when another run holds the lock for
/// too long, and when it can't be written.
pub fn run(context: &Context<'_>, args: &RegisterArgs) -> anyhow::Result<Answer> {
    let registrar = registrar(context, "register")?;
    let declared = Declared {
        id: args.id.clone(),
        name: args.name.clone().unwrap_or_else(|| args.id.to_string()),
        hypervisor: args.hypervisor,
        socket: absolute(&args.socket)?,
        disks: all_absolute(&args.disk)?,
        disk_roots: all_absolute(&args.disk_root)?,
    };
    // A refused request leaves nothing behind, not even a lock file.
    declared.validate().map_err(refusal)?;
    let _lock = context
        .store
        .lock(&args.id, context.settings.lock_timeout)?;
    let request = Request {
        declared,
        is_forced: args.force,
    };
    let (registered, warnings) = registrar.register(request, clock::now()).map_err(refusal)?;
    for warning in warnings {
        log::warn!(instance = args.id.as_str(); "{warning}");
    }
    Ok(Answer::Registration(Registration {
        instance_id: args.id.clone(),
        change: match registered {
            Registered::Created => RegistrationChange::Created,
            Registered::Updated => RegistrationChange::Updated,
            Registered::Unchanged => RegistrationChange::None,
        },
    }))
}

/// Who keeps registrations.
///
/// # Errors
/// When `command` can't do anything because a hypeman server knows the instances.
pub fn registrar(context: &Context<'_>, command: &str) -> anyhow::Result<Arc<dyn Registrar>> {
    (context.ports)()?.registrar.ok_or_else(|| {
        Refused::Usage(format!(
            "`{command}` is for the local engine, but the engine is hypeman, whose server knows its own instances; \
             --engine local goes without the server"
        ))
        .into()
    })
}

/// The error with the meaning that it has for the exit code.
pub fn refusal(error: RegistrationError) -> anyhow::Error {
    match error {
        RegistrationError::Invalid(message) => Refused::Usage(message).into(),
        error @ RegistrationError::NotFound(_) => Refused::NotFound(error.to_string()).into(),
        RegistrationError::Engine(error) => error.into(),
    }
}

fn all_absolute(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// The path as others see it, who run in other directories.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("can't make the path {} absolute", path.display()))
}
