//! The limits of a run: how long what it waits for may take, and how much it does at once.

use std::time::Duration;

use super::{CHECK_REQUEST_TIMEOUT, InvalidSettings, Limits, Surroundings, above_zero};
use crate::cli::Command;
use crate::schedule::duration;

pub(super) const MISSING_GRACE_VARIABLE: &str = "HYPEMAN_SNAP_MISSING_GRACE";

/// The limits that the command's flags and the environment make.
///
/// # Errors
/// When a value can't be used.
pub(super) fn of(command: &Command, around: &Surroundings<'_>) -> Result<Limits, InvalidSettings> {
    let default = Limits {
        missing_grace: missing_grace(command, around)?,
        ..Limits::default()
    };
    Ok(match command {
        Command::RunDue(args) => Limits {
            jobs: args.jobs.map_or(default.jobs, usize::from),
            pause_timeout: above_zero("--pause-timeout", args.pause_timeout)?
                .unwrap_or(default.pause_timeout),
            instance_timeout: above_zero("--instance-timeout", args.instance_timeout)?,
            create_timeout: above_zero("--create-timeout", args.create_timeout)?
                .unwrap_or(default.create_timeout),
            ..default
        },
        Command::Check(_) | Command::Doctor => Limits {
            request_timeout: Some(CHECK_REQUEST_TIMEOUT),
            ..default
        },
        Command::Set(_)
        | Command::Get(_)
        | Command::List
        | Command::Delete(_)
        | Command::Prune(_)
        | Command::Snapshots(_)
        | Command::Register(_)
        | Command::Unregister(_)
        | Command::Completions(_) => default,
    })
}

fn missing_grace(
    command: &Command,
    around: &Surroundings<'_>,
) -> Result<Duration, InvalidSettings> {
    if let Some(grace) = command.missing_grace() {
        return Ok(grace);
    }
    let Some((origin, value)) = around.text(MISSING_GRACE_VARIABLE)? else {
        return Ok(Limits::default().missing_grace);
    };
    duration::parse(&value)
        .map_err(|error| InvalidSettings::value(origin, &value, error.to_string()))
}
