//! The directory of the registrations, `instances/` of the state directory: one file for each registered VM, and an
//! empty one below `unregistered/` for each that was and still has a schedule, so that it is known to be gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Registration;
use crate::engine::EngineError;
use crate::engine::local::json;
use crate::fs::absence::is_there;
use crate::fs::durable;
use crate::instance::InstanceId;

/// The version of the files' format.
const VERSION: u32 = 1;
/// Where it is remembered who was unregistered.
const UNREGISTERED: &str = "unregistered";

/// The registrations of one host.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

/// A registration as it stands in its file.
#[derive(Debug, Serialize, Deserialize)]
struct Wire<R> {
    version: u32,
    #[serde(flatten)]
    registration: R,
}

/// What tells whether the rest can be read.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

impl Registry {
    /// The registrations under `state_dir`; nothing is created yet.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("instances"),
        }
    }

    /// The file of one registration, whether it is there or not.
    pub fn path(&self, id: &InstanceId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn gone_path(&self, id: &InstanceId) -> PathBuf {
        self.directory.join(UNREGISTERED).join(id.as_str())
    }

    /// The registration of `id`, if there is one.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the directory can't be looked at, which says nothing about any instance;
    /// [`EngineError::Instance`] when the file is there and can't be read.
    pub fn read(&self, id: &InstanceId) -> Result<Option<Registration>, EngineError> {
        if !self.has(id)? {
            return Ok(None);
        }
        let path = self.path(id);
        let shown = path.display();
        let read = || -> Result<Registration, json::ReadError> {
            let whole: serde_json::Value = json::read(&path)?;
            let version = Version::deserialize(&whole)?.version;
            if version > VERSION {
                return Err(io::Error::other(format!(
                    "it has version {version}, which is newer than this program"
                ))
                .into());
            }
            Ok(Wire::<Registration>::deserialize(whole)?.registration)
        };
        match read() {
            Ok(registration) if registration.declared.id == *id => Ok(Some(registration)),
            Ok(registration) => Err(EngineError::instance(format!(
                "{shown} is the registration of another instance, {}; `hypeman-snap register` {id} again",
                registration.declared.id
            ))),
            // Unregistered since we looked.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(EngineError::caused(
                format!("can't read {shown}; `hypeman-snap register` {id} again"),
                error,
            )),
        }
    }

    /// Whether there is a registration of `id`, readable or not.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn has(&self, id: &InstanceId) -> Result<bool, EngineError> {
        is_there(&self.path(id)).map_err(|error| self.unavailable(error))
    }

    /// Whether `id` was registered once, and is not any more.
    ///
    /// # Errors
    /// When that can't be told.
    pub fn was_unregistered(&self, id: &InstanceId) -> Result<bool, EngineError> {
        is_there(&self.gone_path(id)).map_err(|error| self.unavailable(error))
    }

    /// The ids that are registered, in no order.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn ids(&self) -> Result<Vec<InstanceId>, EngineError> {
        Ok(self
            .names()?
            .iter()
            .filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse().ok())
            .collect())
    }

    /// Whether this host has registered VMs, or had some whose schedules are left.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn is_in_use(&self) -> Result<bool, EngineError> {
        Ok(!self.names()?.is_empty())
    }

    /// Makes `registration` the one of its instance, durably. The caller holds the instance's lock.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, registration: &Registration) -> Result<(), EngineError> {
        let id = &registration.declared.id;
        let path = self.path(id);
        let written = durable::create_dir(&self.directory)
            .and_then(|()| durable::write(&path, &render(registration)?, 0o600))
            .and_then(|()| durable::remove(&self.gone_path(id)));
        written
            .map(|_| ())
            .map_err(|error| cant_write(&path, error))
    }

    /// Makes `registration` the one of its instance unless there is one: for those who don't hold the instance's lock.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn add(&self, registration: &Registration) -> Result<(), EngineError> {
        let path = self.path(&registration.declared.id);
        let add = || -> io::Result<()> {
            durable::create_dir(&self.directory)?;
            let mut file = tempfile::Builder::new()
                .prefix(".adopted-")
                .tempfile_in(&self.directory)?;
            io::Write::write_all(&mut file, &render(registration)?)?;
            file.as_file().sync_all()?;
            match file.persist_noclobber(&path) {
                Ok(_) => durable::sync_dir(&self.directory),
                // Another run was faster.
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error.error),
            }
        };
        add().map_err(|error| cant_write(&path, error))
    }

    /// Removes the registration of `id`. That it was there is remembered if `is_remembered`: an instance with a schedule
    /// must be known to be gone.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, id: &InstanceId, is_remembered: bool) -> Result<(), EngineError> {
        let path = self.path(id);
        let remove = || -> io::Result<()> {
            if is_remembered {
                durable::create_dir(&self.directory.join(UNREGISTERED))?;
                durable::write(&self.gone_path(id), b"", 0o600)?;
            }
            durable::remove(&path).map(|_| ())
        };
        remove()
            .map_err(|error| EngineError::caused(format!("can't remove {}", path.display()), error))
    }

    fn names(&self) -> Result<Vec<std::ffi::OsString>, EngineError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.unavailable(error)),
        };
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(|error| self.unavailable(error))
    }

    fn unavailable(&self, error: io::Error) -> EngineError {
        EngineError::Unavailable {
            message: format!(
                "can't read the registrations in {}; check its permissions",
                self.directory.display()
            ),
            source: Some(error.into()),
        }
    }
}

fn render(registration: &Registration) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(&Wire {
        version: VERSION,
        registration,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn cant_write(path: &Path, error: io::Error) -> EngineError {
    EngineError::caused(
        format!("can't write the registration {}", path.display()),
        error,
    )
}
