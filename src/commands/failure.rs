//! Which exit code an error means. The errors themselves stay where they are made.

use crate::exit::Exit;
use crate::instance::ResolveError;
use crate::schedule::validate::InvalidSetting;
use crate::settings::InvalidSettings;
use crate::snapshot::FindError;
use crate::store::LockError;

/// A request that a command turns down by itself.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// What was asked for can't be done like this.
    #[error("{0}")]
    Usage(String),
    /// The schedule or instance that was named is not there.
    #[error("{0}")]
    NotFound(String),
}

/// The exit code for an error that ended a command, by the first cause in its chain that has one of its own.
pub fn exit_for(error: &anyhow::Error) -> Exit {
    error.chain().find_map(own_exit).unwrap_or(Exit::Failed)
}

fn own_exit(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(refused) = cause.downcast_ref::<Refused>() {
        return Some(match refused {
            Refused::Usage(_) => Exit::Usage,
            Refused::NotFound(_) => Exit::NotFound,
        });
    }
    if let Some(unresolved) = cause.downcast_ref::<ResolveError>() {
        return Some(match unresolved {
            ResolveError::NotFound(_) => Exit::NotFound,
            ResolveError::Ambiguous { .. } => Exit::Usage,
        });
    }
    if let Some(not_found) = cause.downcast_ref::<FindError>() {
        return Some(match not_found {
            FindError::NotFound(_) => Exit::NotFound,
            FindError::Ambiguous { .. } => Exit::Usage,
        });
    }
    if let Some(LockError::Held { .. } | LockError::Deleting { .. }) =
        cause.downcast_ref::<LockError>()
    {
        return Some(Exit::Locked);
    }
    (cause.is::<InvalidSetting>() || cause.is::<InvalidSettings>()).then_some(Exit::Usage)
}
