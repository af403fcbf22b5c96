//! Instances that hypeman does not run: `register` writes the metadata that hypeman would, with two keys of our own, and
//! `unregister` removes what `register` made. Never touches a guest directory that it did not make.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::data_dir::DataDir;
use super::metadata::Metadata;
use crate::engine::EngineError;
use crate::fs::durable;
use crate::instance::{Hypervisor, InstanceId};

/// Longest name, in characters, as for everything that hypeman names.
const NAME_MAX: usize = 63;
const METADATA: &str = "metadata.json";
/// What [`durable::write`] leaves of it when it is killed.
const METADATA_TEMPORARY: &str = ".metadata.json.tmp";
/// A unix socket's path must be shorter than this, in bytes (unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// What the user tells of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The id to give it.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// Its VMM's control socket; absolute, need not exist.
    pub socket: PathBuf,
    /// Its disks; absolute.
    pub disks: Vec<PathBuf>,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The instance is new.
    Created,
    /// The instance was registered with other values.
    Updated,
    /// Nothing was written.
    Unchanged,
}

/// Why an instance was not registered or unregistered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// A value is not valid.
    #[error("{0}")]
    Invalid(String),
    /// There is no such instance.
    #[error("no instance has the id {0}")]
    NotFound(InstanceId),
    /// The data directory can't be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Registration {
    /// Checks the values against each other and against the host.
    ///
    /// # Errors
    /// [`RegistrationError::Invalid`] with the first rule that is broken.
    pub fn validate(&self) -> Result<(), RegistrationError> {
        let invalid = |message: String| Err(RegistrationError::Invalid(message));
        let is_letter = |c: char| c.is_ascii_alphanumeric();
        if !self.name.starts_with(is_letter)
            || !self.name.chars().all(|c| is_letter(c) || "-_.".contains(c))
            || self.name.len() > NAME_MAX
        {
            return invalid(format!(
                "name {:?} must be 1 to {NAME_MAX} letters, digits, dashes, dots and underscores, beginning with a \
                 letter or digit",
                self.name
            ));
        }
        if self.hypervisor == Hypervisor::Vz {
            return invalid("hypervisor vz runs on macOS only".to_owned());
        }
        let socket = utf8(&self.socket, "socket")?;
        if !self.socket.is_absolute() {
            return invalid(format!("socket {socket:?} must be an absolute path"));
        }
        if socket.len() >= SOCKET_PATH_BYTES {
            return invalid(format!(
                "socket {socket:?} must be shorter than {SOCKET_PATH_BYTES} bytes, or nobody can connect to it"
            ));
        }
        let mut seen = BTreeSet::new();
        for disk in &self.disks {
            let shown = utf8(disk, "disk")?;
            if !disk.is_absolute() {
                return invalid(format!("disk {shown:?} must be an absolute path"));
            }
            match std::fs::metadata(disk) {
                Ok(it) if it.is_file() || it.file_type().is_block_device() => {}
                Ok(_) => {
                    return invalid(format!(
                        "disk {shown:?} must be a regular file or a block device"
                    ));
                }
                Err(error) => return invalid(format!("disk {shown:?} can't be used: {error}")),
            }
            if !seen.insert(disk) {
                return invalid(format!("disk {shown:?} is given twice"));
            }
        }
        Ok(())
    }

    /// Puts the values into `metadata`; everything else in it stays.
    fn apply(&self, metadata: &mut Map<String, Value>) -> Result<(), RegistrationError> {
        let disks: Vec<&str> = self
            .disks
            .iter()
            .map(|disk| utf8(disk, "disk"))
            .collect::<Result<_, _>>()?;
        for (key, value) in [
            ("Id", json!(self.id)),
            ("Name", json!(self.name)),
            ("HypervisorType", json!(self.hypervisor.as_str())),
            ("SocketPath", json!(utf8(&self.socket, "socket")?)),
            // There are no boot markers to wait for.
            ("SkipGuestAgent", json!(true)),
            ("HypemanSnapRegistered", json!(true)),
            ("HypemanSnapDisks", json!(disks)),
        ] {
            metadata.insert(key.to_owned(), value);
        }
        Ok(())
    }
}

/// Registers a VM: declares all of its values, as `set` does for a schedule. The data directory is created if it is
/// missing. The caller holds the instance's lock.
///
/// # Errors
/// When a value is not valid, when the id is taken by an instance that `register` did not make, or when the data
/// directory can't be written.
pub fn register(
    data_dir: &Path,
    registration: &Registration,
    now: DateTime<Utc>,
) -> Result<Registered, RegistrationError> {
    registration.validate()?;
    let data_dir = DataDir::create(data_dir)?;
    let directory = data_dir.guest_dir(&registration.id);
    let before = registered(&directory, &registration.id)?;
    let mut metadata = match &before {
        Some(before) => before.whole().clone(),
        None => new_metadata(&directory, now)?,
    };
    registration.apply(&mut metadata)?;
    if before.as_ref().is_some_and(|it| *it.whole() == metadata) {
        return Ok(Registered::Unchanged);
    }
    let path = directory.join(METADATA);
    let failed =
        |error: io::Error| EngineError::caused(format!("can't write {}", path.display()), error);
    let mut bytes = serde_json::to_vec_pretty(&metadata).map_err(|error| failed(error.into()))?;
    bytes.push(b'\n');
    durable::create_dir(&directory).map_err(failed)?;
    durable::write(&path, &bytes, 0o600).map_err(failed)?;
    Ok(if before.is_some() {
        Registered::Updated
    } else {
        Registered::Created
    })
}

/// Unregisters an instance that `register` made. Its snapshots stay. The caller holds the instance's lock.
///
/// # Errors
/// When there is no such instance, when it is one that `register` did not make, or when its directory holds anything
/// else.
pub fn unregister(data_dir: &DataDir, id: &InstanceId) -> Result<(), RegistrationError> {
    let directory = data_dir.guest_dir(id);
    let Some(names) = names(&directory)? else {
        // This fails unless the instance is positively not there.
        data_dir.find(id)?;
        return Err(RegistrationError::NotFound(id.clone()));
    };
    registered(&directory, id)?;
    if let Some(other) = names.iter().find(|name| *name != METADATA) {
        return Err(RegistrationError::Invalid(format!(
            "{} holds more than `hypeman-snap register` put there, such as {:?}; remove that first",
            directory.display(),
            other
        )));
    }
    let failed = |error: io::Error| {
        EngineError::caused(format!("can't remove {}", directory.display()), error)
    };
    durable::remove(&directory.join(METADATA_TEMPORARY)).map_err(failed)?;
    durable::remove(&directory.join(METADATA)).map_err(failed)?;
    std::fs::remove_dir(&directory).map_err(failed)?;
    durable::sync_dir(&data_dir.guests_dir()).map_err(failed)?;
    Ok(())
}

/// The metadata in `directory`, if `register` made it; `None` if there is nothing in it, or no such directory.
fn registered(directory: &Path, id: &InstanceId) -> Result<Option<Metadata>, RegistrationError> {
    if names(directory)?.is_none_or(|names| names.is_empty()) {
        return Ok(None);
    }
    let foreign = |why: String| {
        RegistrationError::Invalid(format!(
            "{} was not made by `hypeman-snap register` ({why}); it is left alone",
            directory.display()
        ))
    };
    let metadata = Metadata::read(directory, id).map_err(|error| foreign(error.to_string()))?;
    if metadata.registered_disks.is_none() {
        return Err(foreign("it has no key HypemanSnapRegistered".to_owned()));
    }
    Ok(Some(metadata))
}

/// What is in `directory`, except for what a killed `register` left; `None` if there is no such directory.
fn names(directory: &Path) -> Result<Option<Vec<OsString>>, EngineError> {
    let names = match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .filter(|name| {
                name.as_ref()
                    .map_or(true, |name| name != METADATA_TEMPORARY)
            })
            .collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    names
        .map(Some)
        .map_err(|error| EngineError::caused(format!("can't read {}", directory.display()), error))
}

/// A path as text: paths stand in JSON files.
fn utf8<'a>(path: &'a Path, what: &str) -> Result<&'a str, RegistrationError> {
    path.to_str()
        .ok_or_else(|| RegistrationError::Invalid(format!("{what} {path:?} must be valid UTF-8")))
}

/// The metadata of an instance that nothing is known of, with every key that hypeman's server expects.
fn new_metadata(
    directory: &Path,
    now: DateTime<Utc>,
) -> Result<Map<String, Value>, RegistrationError> {
    let directory = utf8(directory, "data directory")?;
    let value = json!({
        "Id": "",
        "Name": "",
        "Image": "",
        "ResolvedImage": "",
        "Size": 0,
        "HotplugSize": 0,
        "OverlaySize": 0,
        "Vcpus": 0,
        "Env": null,
        "Tags": null,
        "NetworkEnabled": false,
        "IP": "",
        "MAC": "",
        "Volumes": null,
        "CreatedAt": now.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        "ExpiresAt": null,
        "StartedAt": null,
        "StoppedAt": null,
        "ProgramStartedAt": now.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        "GuestAgentReadyAt": now.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        "KernelVersion": "",
        "HypervisorType": "",
        "HypervisorVersion": "",
        "HypervisorPID": null,
        "FirecrackerSnapshotCacheKey": "",
        "FirecrackerUFFDSessionID": "",
        "SocketPath": "",
        "DataDir": directory,
        "VsockCID": 0,
        "VsockSocket": "",
        "Devices": null,
        "GPUProfile": "",
        "GPUMdevUUID": "",
        "SkipGuestAgent": true,
        "PendingStandbyCompression": null,
    });
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Ok(Map::new())
        }
    }
}

#[cfg(test)]
mod tests;
