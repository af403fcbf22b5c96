//! What flags, environment and default directories amount to: one validated value that commands are given.
//!
//! Reads no file and starts nothing; it only looks whether two directories are one. A flag wins over its environment variable; an empty variable counts as unset.

mod disks;
mod limits;
mod place;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use directories::ProjectDirs;

use crate::cli::{Command, EngineKind, Global, RunDueArgs};
use crate::monitoring::heartbeat::Target;

/// Where root keeps this tool's state.
const ROOT_STATE_DIR: &str = "/var/lib/hypeman-snap";
/// Where root's hypeman keeps its data (contract, section 1).
const ROOT_DATA_DIR: &str = "/var/lib/hypeman";
const ENGINE_VARIABLE: &str = "HYPEMAN_SNAP_ENGINE";
/// How long to wait for a lock where nothing else is said.
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Monitoring systems give a check a minute at most, and people who examine a host no more; its requests are repeated up to three times.
const CHECK_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// With one more worker than VMMs that hang, others are served beside them.
const MIN_DEFAULT_JOBS: usize = 2;
/// More instances than this at once would only pause their guests at the same time.
const MAX_DEFAULT_JOBS: usize = 4;

/// What every command works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Schedules, locks and journals; absolute.
    pub state_dir: PathBuf,
    /// hypeman's data directory; absolute.
    pub data_dir: PathBuf,
    /// Who takes the snapshots.
    pub engine: EngineKind,
    /// The hypeman server, where one was named.
    pub base_url: Option<String>,
    /// More certificates to trust; absolute.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http may leave this host.
    pub allows_insecure_http: bool,
    /// Where disks may be that the admin has not named; anywhere if there is none. Absolute.
    pub disk_roots: Vec<PathBuf>,
    /// How long to wait for an instance's lock.
    pub lock_timeout: Duration,
    /// How long what a run waits for may take, and how much it does at once.
    pub limits: Limits,
    /// Whom to tell of a run.
    pub monitoring: Monitoring,
    /// Where the values come from that decide what the tool works on.
    pub origins: Origins,
}

/// Whom `run-due` tells of a run, besides the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Monitoring {
    /// The file for node-exporter; absolute, its name ends in `.prom`.
    pub metrics_file: Option<PathBuf>,
    /// Where heartbeats go.
    pub heartbeat: Option<Target>,
}

/// Where values come from: a flag, a variable, or in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// Of [`Settings::state_dir`].
    pub state_dir: &'static str,
    /// Of [`Settings::data_dir`].
    pub data_dir: &'static str,
    /// Of [`Settings::engine`].
    pub engine: &'static str,
    /// Of [`Settings::base_url`].
    pub base_url: &'static str,
}

/// The origin of what nobody set.
const DEFAULT: &str = "default";

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
            request_timeout: None,
        }
    }
}

/// Why flags and environment don't amount to settings.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// A flag or variable has a value that can't be used.
    #[error("{origin} {value:?}: {rule}")]
    Value {
        /// The flag or the environment variable.
        origin: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// A flag or variable has a value that can't be used and must not be shown.
    #[error("{origin} {rule}")]
    Secret {
        /// The flag or the environment variable.
        origin: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// State and data are kept in one place, where schedules would be hypeman's own as well.
    #[error("{origin} {}: must not be the data directory, {}: hypeman keeps schedules of its own there, and both would carry them out; name another place with --state-dir", state_dir.display(), data_dir.display())]
    OneDirectory {
        /// Where the state directory comes from.
        origin: &'static str,
        /// The state directory.
        state_dir: PathBuf,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// There is no default directory for a user without a home directory.
    #[error("there is no home directory to keep {what} in; give {flag} or {variable}")]
    NoHome {
        /// What is kept there.
        what: &'static str,
        /// The flag that names it.
        flag: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },
}

/// What the settings are made from besides the flags, so that tests can say what they are.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the user is root.
    pub is_root: bool,
}

/// Merges the flags with what surrounds the process.
///
/// # Errors
/// When a value can't be used, naming the flag or variable that it came from.
pub fn resolve(
    flags: &Global,
    command: &Command,
    around: &Surroundings<'_>,
) -> Result<Settings, InvalidSettings> {
    let (state_dir, state_dir_origin) = directory(
        flags.state_dir.as_deref(),
        "--state-dir",
        "HYPEMAN_SNAP_STATE_DIR",
        around,
        |root| default_dir(root, ROOT_STATE_DIR, "hypeman-snap", state_home),
        "schedules",
    )?;
    let (data_dir, data_dir_origin) = directory(
        flags.data_dir.as_deref(),
        "--data-dir",
        "HYPEMAN_SNAP_DATA_DIR",
        around,
        |root| default_dir(root, ROOT_DATA_DIR, "hypeman", data_home),
        "snapshots",
    )?;
    if place::is_same(&state_dir, &data_dir) {
        return Err(InvalidSettings::OneDirectory {
            origin: state_dir_origin,
            state_dir,
            data_dir,
        });
    }
    let (base_url, base_url_origin) = match &flags.base_url {
        Some(url) if url.is_empty() => return Err(empty("--base-url")),
        Some(url) => (Some(url.clone()), "--base-url"),
        None => match text("HYPEMAN_BASE_URL", around)? {
            Some(url) => (Some(url), "HYPEMAN_BASE_URL"),
            None => (None, DEFAULT),
        },
    };
    let (engine, engine_origin) = match flags.engine {
        Some(engine) => (engine, "--engine"),
        None => match engine_from_environment(around)? {
            Some(engine) => (engine, ENGINE_VARIABLE),
            None if base_url.is_some() => (EngineKind::Hypeman, base_url_origin),
            None => (EngineKind::Local, DEFAULT),
        },
    };
    Ok(Settings {
        state_dir,
        data_dir,
        engine,
        base_url,
        ca_file: path(
            flags.ca_file.as_deref(),
            "--ca-file",
            "HYPEMAN_SNAP_CA_FILE",
            around,
        )?,
        allows_insecure_http: flags.insecure_http,
        disk_roots: disks::roots(around)?,
        lock_timeout: flags.lock_timeout.unwrap_or(DEFAULT_LOCK_TIMEOUT),
        limits: limits::of(command, around)?,
        origins: Origins {
            state_dir: state_dir_origin,
            data_dir: data_dir_origin,
            engine: engine_origin,
            base_url: base_url_origin,
        },
        monitoring: if let Command::RunDue(args) = command {
            monitoring(args, around)?
        } else {
            Monitoring::default()
        },
    })
}

fn monitoring(args: &RunDueArgs, around: &Surroundings<'_>) -> Result<Monitoring, InvalidSettings> {
    const FILE: &str = "HYPEMAN_SNAP_METRICS_FILE";
    const URL: &str = "HYPEMAN_SNAP_HEARTBEAT_URL";
    let metrics_file = path(args.metrics_file.as_deref(), "--metrics-file", FILE, around)?;
    if let Some(file) = &metrics_file {
        if file.extension().is_none_or(|it| it != "prom") {
            return Err(InvalidSettings::Value {
                origin: args
                    .metrics_file
                    .as_ref()
                    .map_or(FILE, |_| "--metrics-file"),
                value: file.display().to_string(),
                rule: "must end in .prom: node-exporter reads no other files".to_owned(),
            });
        }
    }
    let (origin, url) = match &args.heartbeat_url {
        Some(url) => ("--heartbeat-url", Some(url.clone())),
        None => {
            let url = non_empty(URL, around);
            // What is no UTF-8 is no URL either.
            (URL, url.map(|url| url.to_string_lossy().into_owned()))
        }
    };
    Ok(Monitoring {
        metrics_file,
        heartbeat: url
            .map(|url| Target::parse(&url))
            .transpose()
            .map_err(|rule| InvalidSettings::Secret { origin, rule })?,
    })
}

fn above_zero(
    origin: &'static str,
    value: Option<Duration>,
) -> Result<Option<Duration>, InvalidSettings> {
    if value == Some(Duration::ZERO) {
        return Err(InvalidSettings::Value {
            origin,
            value: "0s".to_owned(),
            rule: "must be above zero".to_owned(),
        });
    }
    Ok(value)
}

fn engine_from_environment(
    around: &Surroundings<'_>,
) -> Result<Option<EngineKind>, InvalidSettings> {
    text(ENGINE_VARIABLE, around)?
        .map(|value| {
            <EngineKind as clap::ValueEnum>::from_str(&value, false).map_err(|_| {
                InvalidSettings::Value {
                    origin: ENGINE_VARIABLE,
                    value,
                    rule: "must be local or hypeman".to_owned(),
                }
            })
        })
        .transpose()
}

fn directory(
    flag_value: Option<&Path>,
    flag: &'static str,
    variable: &'static str,
    around: &Surroundings<'_>,
    default: impl FnOnce(bool) -> Option<PathBuf>,
    what: &'static str,
) -> Result<(PathBuf, &'static str), InvalidSettings> {
    match path(flag_value, flag, variable, around)? {
        Some(path) if flag_value.is_some() => Ok((path, flag)),
        Some(path) => Ok((path, variable)),
        None => {
            default(around.is_root)
                .map(|path| (path, DEFAULT))
                .ok_or(InvalidSettings::NoHome {
                    what,
                    flag,
                    variable,
                })
        }
    }
}

/// A path from a flag or a variable, made absolute: it ends up in files that others read from other directories.
fn path(
    flag_value: Option<&Path>,
    flag: &'static str,
    variable: &'static str,
    around: &Surroundings<'_>,
) -> Result<Option<PathBuf>, InvalidSettings> {
    let (origin, value) = match flag_value {
        Some(path) if path.as_os_str().is_empty() => return Err(empty(flag)),
        Some(path) => (flag, path.to_owned()),
        None => match non_empty(variable, around) {
            Some(value) => (variable, PathBuf::from(value)),
            None => return Ok(None),
        },
    };
    std::path::absolute(&value)
        .map(Some)
        .map_err(|error| InvalidSettings::Value {
            origin,
            value: value.display().to_string(),
            rule: format!("can't be made absolute: {error}"),
        })
}

fn text(
    variable: &'static str,
    around: &Surroundings<'_>,
) -> Result<Option<String>, InvalidSettings> {
    non_empty(variable, around)
        .map(|value| {
            value.into_string().map_err(|value| InvalidSettings::Value {
                origin: variable,
                value: value.to_string_lossy().into_owned(),
                rule: "must be UTF-8".to_owned(),
            })
        })
        .transpose()
}

fn non_empty(variable: &str, around: &Surroundings<'_>) -> Option<OsString> {
    (around.variable)(variable).filter(|value| !value.is_empty())
}

fn empty(origin: &'static str) -> InvalidSettings {
    InvalidSettings::Value {
        origin,
        value: String::new(),
        rule: "must not be empty".to_owned(),
    }
}

fn default_dir(
    is_root: bool,
    for_root: &str,
    project: &str,
    pick: fn(&ProjectDirs) -> PathBuf,
) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from(for_root));
    }
    ProjectDirs::from("", "", project).map(|directories| pick(&directories))
}

fn state_home(directories: &ProjectDirs) -> PathBuf {
    directories
        .state_dir()
        .unwrap_or_else(|| directories.data_dir())
        .to_owned()
}

fn data_home(directories: &ProjectDirs) -> PathBuf {
    directories.data_dir().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(flags: &Global, variables: &[(&str, &str)]) -> Result<Settings, InvalidSettings> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        resolve(
            flags,
            &Command::List,
            &Surroundings {
                variable: &variable,
                is_root: true,
            },
        )
    }

    #[test]
    fn root_keeps_state_and_data_under_var_lib() {
        let settings = resolved(&Global::default(), &[]).unwrap();
        assert_eq!(settings.state_dir, Path::new("/var/lib/hypeman-snap"));
        assert_eq!(settings.data_dir, Path::new("/var/lib/hypeman"));
        assert_eq!(settings.engine, EngineKind::Local);
    }

    #[test]
    fn flag_wins_over_environment_and_environment_over_default() {
        let variables = [
            ("HYPEMAN_SNAP_STATE_DIR", "/from-env"),
            ("HYPEMAN_SNAP_DATA_DIR", "/data-from-env"),
            ("HYPEMAN_SNAP_ENGINE", "hypeman"),
            ("HYPEMAN_BASE_URL", "https://env"),
        ];
        let flags = Global {
            state_dir: Some("/from-flag".into()),
            engine: Some(EngineKind::Local),
            base_url: Some("https://flag".into()),
            ..Global::default()
        };
        let settings = resolved(&flags, &variables).unwrap();
        assert_eq!(settings.state_dir, Path::new("/from-flag"));
        assert_eq!(settings.data_dir, Path::new("/data-from-env"));
        assert_eq!(settings.engine, EngineKind::Local);
        assert_eq!(settings.base_url.as_deref(), Some("https://flag"));
        let origins = Origins {
            state_dir: "--state-dir",
            data_dir: "HYPEMAN_SNAP_DATA_DIR",
            engine: "--engine",
            base_url: "--base-url",
        };
        assert_eq!(settings.origins, origins);
        let settings = resolved(&Global::default(), &variables).unwrap();
        assert_eq!(settings.state_dir, Path::new("/from-env"));
        assert_eq!(settings.engine, EngineKind::Hypeman);
        assert_eq!(settings.base_url.as_deref(), Some("https://env"));
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let settings = resolved(
            &Global::default(),
            &[
                ("HYPEMAN_SNAP_STATE_DIR", ""),
                ("HYPEMAN_SNAP_DATA_DIR", ""),
                ("HYPEMAN_SNAP_ENGINE", ""),
                ("HYPEMAN_BASE_URL", ""),
                ("HYPEMAN_SNAP_CA_FILE", ""),
            ],
        )
        .unwrap();
        assert_eq!(settings, resolved(&Global::default(), &[]).unwrap());
    }

    #[test]
    fn base_url_chooses_the_hypeman_engine() {
        let with_url = [("HYPEMAN_BASE_URL", "http://localhost:8080")];
        let settings = resolved(&Global::default(), &with_url).unwrap();
        assert_eq!(settings.engine, EngineKind::Hypeman);
        assert_eq!(settings.origins.engine, "HYPEMAN_BASE_URL");
        assert_eq!(settings.origins.data_dir, "default");
        let flags = Global {
            base_url: Some("http://localhost:8080".into()),
            ..Global::default()
        };
        assert_eq!(resolved(&flags, &[]).unwrap().engine, EngineKind::Hypeman);
    }

    #[test]
    fn errors_name_where_the_value_came_from() {
        let error = resolved(&Global::default(), &[("HYPEMAN_SNAP_ENGINE", "docker")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HYPEMAN_SNAP_ENGINE \"docker\": must be local or hypeman"
        );
        let flags = Global {
            state_dir: Some(PathBuf::new()),
            ..Global::default()
        };
        let error = resolved(&flags, &[]).unwrap_err();
        assert_eq!(error.to_string(), "--state-dir \"\": must not be empty");
    }

    #[test]
    fn relative_directories_become_absolute() {
        let flags = Global {
            state_dir: Some("here".into()),
            ..Global::default()
        };
        let settings = resolved(&flags, &[]).unwrap();
        assert_eq!(
            settings.state_dir,
            std::env::current_dir().unwrap().join("here")
        );
    }
}
