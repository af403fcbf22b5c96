//! The limits of a run: how long what it waits for may take, and how much it does at once.

use std::time::Duration;

use super::{InvalidSettings, Origin, Surroundings};
use crate::cli::Command;
use crate::schedule::duration;
use crate::snapshot::storing::{InvalidMinFree, MinFree};

pub(super) const MISSING_GRACE_VARIABLE: &str = "HYPEMAN_SNAP_MISSING_GRACE";
pub(super) const MIN_FREE_VARIABLE: &str = "HYPEMAN_SNAP_MIN_FREE";

/// Monitoring systems give a check a minute at most, and people who examine a host no more; its requests are repeated up to three times.
const CHECK_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// With one more worker than VMMs that hang, others are served beside them.
const MIN_DEFAULT_JOBS: usize = 2;
/// More instances than this at once would only pause their guests at the same time.
const MAX_DEFAULT_JOBS: usize = 4;

/// The limits of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Instances that are worked on at once; at least 1.
    pub jobs: usize,
    /// How long a guest may be paused for a snapshot; above zero.
    pub pause_timeout: Duration,
    /// How long the local engine may work on one instance; above zero, `None` for what its size accounts for.
    pub instance_timeout: Option<Duration>,
    /// How long a server may take to create a snapshot; above zero.
    pub create_timeout: Duration,
    /// How long an instance must be gone before its schedule is retired.
    pub missing_grace: Duration,
    /// What stays free where snapshots are, unless a schedule says otherwise.
    pub min_free: Option<MinFree>,
    /// How long a server may take for anything but a snapshot; `None` where the engine's own limit will do.
    pub request_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            jobs: processors.clamp(MIN_DEFAULT_JOBS, MAX_DEFAULT_JOBS),
            pause_timeout: Duration::from_secs(30),
            instance_timeout: None,
            create_timeout: Duration::from_secs(10 * 60),
            missing_grace: Duration::from_secs(24 * 60 * 60),
            min_free: None,
            request_timeout: None,
        }
    }
}

/// The limits that the command's flags and the environment make.
///
/// # Errors
/// When a value can't be used.
pub(super) fn of(command: &Command, around: &Surroundings<'_>) -> Result<Limits, InvalidSettings> {
    let is_look = matches!(command, Command::Check(_) | Command::Doctor);
    let default = Limits {
        missing_grace: missing_grace(command, around)?,
        min_free: min_free(around)?,
        request_timeout: is_look.then_some(CHECK_REQUEST_TIMEOUT),
        ..Limits::default()
    };
    let Command::RunDue(args) = command else {
        return Ok(default);
    };
    Ok(Limits {
        jobs: args.jobs.map_or(default.jobs, usize::from),
        pause_timeout: above_zero("--pause-timeout", args.pause_timeout)?
            .unwrap_or(default.pause_timeout),
        instance_timeout: above_zero("--instance-timeout", args.instance_timeout)?,
        create_timeout: above_zero("--create-timeout", args.create_timeout)?
            .unwrap_or(default.create_timeout),
        ..default
    })
}

fn above_zero(
    flag: &'static str,
    value: Option<Duration>,
) -> Result<Option<Duration>, InvalidSettings> {
    if value == Some(Duration::ZERO) {
        return Err(InvalidSettings::value(
            Origin::Flag(flag),
            "0s",
            "must be above zero",
        ));
    }
    Ok(value)
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

fn min_free(around: &Surroundings<'_>) -> Result<Option<MinFree>, InvalidSettings> {
    let Some((origin, value)) = around.text(MIN_FREE_VARIABLE)? else {
        return Ok(None);
    };
    let parsed = value.parse();
    parsed
        .map(Some)
        .map_err(|rule: InvalidMinFree| InvalidSettings::value(origin, &value, rule.to_string()))
}
