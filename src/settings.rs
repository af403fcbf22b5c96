//! What flags, environment, the host's settings file and default directories amount to: one validated value that
//! commands are given. A flag wins over its environment variable, and that over the file; what is empty counts as unset.

mod limits;
mod place;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use directories::ProjectDirs;

use crate::cli::{Command, EngineKind, Global};
use crate::monitoring::heartbeat::Target;

pub use limits::Limits;
pub use source::{HOST_FILE, Origin, Surroundings, host_file};

/// Where root keeps this tool's state.
const ROOT_STATE_DIR: &str = "/var/lib/hypeman-snap";
/// Where root's hypeman keeps its data (contract, section 1).
const ROOT_DATA_DIR: &str = "/var/lib/hypeman";
const ENGINE_VARIABLE: &str = "HYPEMAN_SNAP_ENGINE";
const DISK_ROOTS_VARIABLE: &str = "HYPEMAN_SNAP_DISK_ROOTS";
const METRICS_VARIABLE: &str = "HYPEMAN_SNAP_METRICS_FILE";
const HEARTBEAT_VARIABLE: &str = "HYPEMAN_SNAP_HEARTBEAT_URL";
/// The variables whose values `doctor` leaves to those whom they concern; two are secret.
const OTHERS: [&str; 8] = [
    "HYPEMAN_SNAP_CA_FILE",
    DISK_ROOTS_VARIABLE,
    limits::MISSING_GRACE_VARIABLE,
    limits::MIN_FREE_VARIABLE,
    METRICS_VARIABLE,
    HEARTBEAT_VARIABLE,
    "HYPEMAN_API_KEY",
    "HYPEMAN_API_KEY_FILE",
];
/// How long to wait for a lock where nothing else is said.
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Where values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// Of [`Settings::state_dir`].
    pub state_dir: Origin,
    /// Of [`Settings::data_dir`].
    pub data_dir: Origin,
    /// Of [`Settings::engine`].
    pub engine: Origin,
    /// Of [`Settings::base_url`].
    pub base_url: Origin,
    /// Of each other variable that is set.
    pub others: Vec<(&'static str, Origin)>,
}

/// Why flags and environment don't amount to settings.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// A flag or variable has a value that can't be used.
    #[error("{origin} {value:?}: {rule}")]
    Value {
        /// The flag or the environment variable.
        origin: Origin,
        value: String,
        /// What it must be.
        rule: String,
    },
    /// A flag or variable has a value that can't be used and must not be shown.
    #[error("{origin} {rule}")]
    Secret {
        /// The flag or the environment variable.
        origin: Origin,
        /// What it must be.
        rule: &'static str,
    },
    /// The host's settings file can't be used.
    #[error("{}{}: {rule}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    HostFile {
        path: PathBuf,
        /// The line that is not valid, from 1.
        line: Option<usize>,
        /// What it must be.
        rule: String,
    },
    /// State and data are kept in one place, where schedules would be hypeman's own as well.
    #[error("{origin} {}: must not be the data directory, {}: hypeman keeps schedules of its own there, and both would carry them out; name another place with --state-dir", state_dir.display(), data_dir.display())]
    OneDirectory {
        /// Where the state directory comes from.
        origin: Origin,
        state_dir: PathBuf,
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

impl InvalidSettings {
    fn value(origin: Origin, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        Self::Value {
            origin,
            value: value.to_string(),
            rule: rule.into(),
        }
    }

    fn empty(origin: Origin) -> Self {
        Self::value(origin, "", "must not be empty")
    }
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
    let directory = |what, given: &Option<PathBuf>, flag, variable, default| {
        around
            .path(given.as_deref(), flag, variable)?
            .or(default)
            .ok_or(InvalidSettings::NoHome {
                what,
                flag,
                variable,
            })
    };
    let (state_dir_origin, state_dir) = directory(
        "schedules",
        &flags.state_dir,
        "--state-dir",
        "HYPEMAN_SNAP_STATE_DIR",
        default_dir(around, ROOT_STATE_DIR, "hypeman-snap", state_home),
    )?;
    let (data_dir_origin, data_dir) = directory(
        "snapshots",
        &flags.data_dir,
        "--data-dir",
        "HYPEMAN_SNAP_DATA_DIR",
        default_dir(around, ROOT_DATA_DIR, "hypeman", data_home),
    )?;
    if place::is_same(&state_dir, &data_dir) {
        return Err(InvalidSettings::OneDirectory {
            origin: state_dir_origin,
            state_dir,
            data_dir,
        });
    }
    let (base_url_origin, base_url) = match &flags.base_url {
        Some(url) if url.is_empty() => {
            return Err(InvalidSettings::empty(Origin::Flag("--base-url")));
        }
        Some(url) => (Origin::Flag("--base-url"), Some(url.clone())),
        None => match around.text("HYPEMAN_BASE_URL")? {
            Some((origin, url)) => (origin, Some(url)),
            None => (Origin::Default, None),
        },
    };
    let (engine_origin, engine) = match flags.engine {
        Some(engine) => (Origin::Flag("--engine"), engine),
        None => match engine_from_environment(around)? {
            Some(found) => found,
            None if base_url.is_some() => (base_url_origin, EngineKind::Hypeman),
            None => (Origin::Default, EngineKind::Local),
        },
    };
    let ca_file = around.path(
        flags.ca_file.as_deref(),
        "--ca-file",
        "HYPEMAN_SNAP_CA_FILE",
    )?;
    Ok(Settings {
        state_dir,
        data_dir,
        engine,
        base_url,
        ca_file: ca_file.map(|(_, path)| path),
        allows_insecure_http: flags.insecure_http,
        disk_roots: disk_roots(around)?,
        lock_timeout: flags.lock_timeout.unwrap_or(DEFAULT_LOCK_TIMEOUT),
        limits: limits::of(command, around)?,
        origins: Origins {
            state_dir: state_dir_origin,
            data_dir: data_dir_origin,
            engine: engine_origin,
            base_url: base_url_origin,
            others: OTHERS
                .iter()
                .filter_map(|name| around.find(name).map(|(origin, _)| (*name, origin)))
                .collect(),
        },
        monitoring: if let Command::RunDue(args) = command {
            let (file, url) = (args.metrics_file.as_deref(), args.heartbeat_url.as_deref());
            monitoring(file, url, around)?
        } else if matches!(command, Command::Doctor) {
            monitoring(None, None, around)?
        } else {
            Monitoring::default()
        },
    })
}

fn monitoring(
    metrics_file: Option<&Path>,
    heartbeat_url: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Monitoring, InvalidSettings> {
    let metrics_file = around.path(metrics_file, "--metrics-file", METRICS_VARIABLE)?;
    if let Some((origin, file)) = &metrics_file {
        if file.extension().is_none_or(|it| it != "prom") {
            return Err(InvalidSettings::value(
                *origin,
                file.display(),
                "must end in .prom: node-exporter reads no other files",
            ));
        }
    }
    let url = match heartbeat_url {
        Some(url) => Some((Origin::Flag("--heartbeat-url"), url.into())),
        None => around.find(HEARTBEAT_VARIABLE),
    };
    Ok(Monitoring {
        metrics_file: metrics_file.map(|(_, path)| path),
        heartbeat: url
            // What is no UTF-8 is no URL either.
            .map(|(origin, url)| {
                Target::parse(&url.to_string_lossy())
                    .map_err(|rule| InvalidSettings::Secret { origin, rule })
            })
            .transpose()?,
    })
}

/// The directories in which the disks of this host's VMs live: what the environment names, separated by colons; none means anywhere.
///
/// # Errors
/// When one is not an absolute path.
fn disk_roots(around: &Surroundings<'_>) -> Result<Vec<PathBuf>, InvalidSettings> {
    let Some((origin, value)) = around.text(DISK_ROOTS_VARIABLE)? else {
        return Ok(Vec::new());
    };
    let named = value.split(':').filter(|root| !root.is_empty());
    let roots: Vec<PathBuf> = named.map(PathBuf::from).collect();
    match roots.iter().find(|root| !root.is_absolute()) {
        Some(root) => Err(InvalidSettings::value(
            origin,
            root.display(),
            "must be an absolute path; several are separated by colons",
        )),
        None => Ok(roots),
    }
}

fn engine_from_environment(
    around: &Surroundings<'_>,
) -> Result<Option<(Origin, EngineKind)>, InvalidSettings> {
    around
        .text(ENGINE_VARIABLE)?
        .map(|(origin, value)| {
            <EngineKind as clap::ValueEnum>::from_str(&value, false)
                .map(|engine| (origin, engine))
                .map_err(|_| InvalidSettings::value(origin, value, "must be local or hypeman"))
        })
        .transpose()
}

fn default_dir(
    around: &Surroundings<'_>,
    for_root: &str,
    project: &str,
    pick: fn(&ProjectDirs) -> PathBuf,
) -> Option<(Origin, PathBuf)> {
    let directory = if around.is_root {
        PathBuf::from(for_root)
    } else {
        pick(&ProjectDirs::from("", "", project)?)
    };
    Some((Origin::Default, directory))
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
    use std::collections::BTreeMap;
    use std::ffi::OsString;

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
                host_file: BTreeMap::from([
                    ("HYPEMAN_SNAP_ENGINE".to_owned(), String::new()),
                    ("HYPEMAN_SNAP_CA_FILE".to_owned(), "/from-file".to_owned()),
                ]),
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
            state_dir: Origin::Flag("--state-dir"),
            data_dir: Origin::Variable("HYPEMAN_SNAP_DATA_DIR"),
            engine: Origin::Flag("--engine"),
            base_url: Origin::Flag("--base-url"),
            others: vec![(
                "HYPEMAN_SNAP_CA_FILE",
                Origin::HostFile("HYPEMAN_SNAP_CA_FILE"),
            )],
        };
        assert_eq!(settings.origins, origins);
        assert_eq!(settings.ca_file.as_deref(), Some(Path::new("/from-file")));
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
        let url = Origin::Variable("HYPEMAN_BASE_URL");
        assert_eq!(settings.origins.engine, url);
        assert_eq!(settings.origins.data_dir, Origin::Default);
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

    #[test]
    fn disk_roots_are_absolute_and_separated_by_colons() {
        let of = |value| {
            resolved(&Global::default(), &[(DISK_ROOTS_VARIABLE, value)])
                .map(|settings| settings.disk_roots)
                .map_err(|error| error.to_string())
        };
        assert_eq!(of(""), Ok(Vec::new()));
        let both = vec![PathBuf::from("/srv/vms"), PathBuf::from("/dev/vg0")];
        assert_eq!(of("/srv/vms:/dev/vg0:"), Ok(both));
        let error = of("/srv:vms").unwrap_err();
        assert!(
            error.contains(DISK_ROOTS_VARIABLE) && error.contains("\"vms\""),
            "{error}"
        );
    }
}
