//! VMs that hypeman does not run: what the admin said of one, and what was learnt of it since. Pure but for
//! [`Declared::validate`], which looks at disks.

mod old;
mod registry;

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::{EngineError, describe};
use crate::instance::{Hypervisor, InstanceId};

pub(super) use old::{Old, adopt, find as find_old};
pub use registry::Registry;

/// Longest name, in characters, as for everything that hypeman names.
const NAME_MAX: usize = 63;
/// A unix socket's path must be shorter than this, in bytes (unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// A registered VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// What the admin said.
    #[serde(flatten)]
    pub declared: Declared,
    /// When it was first registered.
    pub registered_at: DateTime<Utc>,
    /// What was learnt from the VM itself.
    #[serde(default)]
    pub learnt: Learnt,
}

/// What the admin says of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The id to give it.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// Its VMM's control socket; absolute, need not exist.
    pub socket: PathBuf,
    /// Its disks; absolute.
    #[serde(default)]
    pub disks: Vec<PathBuf>,
}

/// What was learnt from the VM itself. None of it is the admin's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learnt {
    /// The data directory that a snapshot of this VM was last written to: when its store is not there any more, it is not
    /// mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_in: Option<PathBuf>,
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
    /// The state or the data directory can't be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Declared {
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
}

impl Registration {
    /// The VM as hypeman's `metadata.json` would describe it, with every key that its server expects in a snapshot's
    /// record. `guest_dir` is where hypeman would keep it.
    pub fn as_metadata(&self, guest_dir: &Path) -> Map<String, Value> {
        let registered_at = self
            .registered_at
            .to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let Declared {
            id,
            name,
            hypervisor,
            socket,
            ..
        } = &self.declared;
        let value = json!({
            "Id": id,
            "Name": name,
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
            "CreatedAt": registered_at,
            "ExpiresAt": null,
            "StartedAt": null,
            "StoppedAt": null,
            "ProgramStartedAt": registered_at,
            "GuestAgentReadyAt": registered_at,
            "KernelVersion": "",
            "HypervisorType": hypervisor.as_str(),
            "HypervisorVersion": "",
            "HypervisorPID": null,
            "FirecrackerSnapshotCacheKey": "",
            "FirecrackerUFFDSessionID": "",
            // Both are valid UTF-8 wherever they could be registered.
            "SocketPath": socket.to_string_lossy(),
            "DataDir": guest_dir.to_string_lossy(),
            "VsockCID": 0,
            "VsockSocket": "",
            "Devices": null,
            "GPUProfile": "",
            "GPUMdevUUID": "",
            // There are no boot markers to wait for.
            "SkipGuestAgent": true,
            "PendingStandbyCompression": null,
        });
        match value {
            Value::Object(map) => map,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        }
    }
}

/// Registers a VM: declares all of its values, as `set` does for a schedule. What was learnt stays as long as it is the
/// same VM. The caller holds the instance's lock.
///
/// # Errors
/// When a value is not valid, when the id is taken by an instance of hypeman's, or when the state directory can't be
/// written.
pub fn register(
    state_dir: &Path,
    data_dir: &Path,
    declared: Declared,
    now: DateTime<Utc>,
) -> Result<Registered, RegistrationError> {
    declared.validate()?;
    let registry = Registry::new(state_dir);
    let before = before(&registry, data_dir, &declared.id)?;
    let registration = match before {
        Some(before) if before.declared == declared => return Ok(Registered::Unchanged),
        Some(before) => Registration { declared, ..before },
        None => {
            registry.write(&Registration {
                declared,
                registered_at: now,
                learnt: Learnt::default(),
            })?;
            return Ok(Registered::Created);
        }
    };
    registry.write(&registration)?;
    Ok(Registered::Updated)
}

/// Unregisters a VM. Its snapshots stay, and so does the knowledge that it is gone, if `is_remembered`. The caller holds
/// the instance's lock.
///
/// # Errors
/// When there is no such instance, or it is one of hypeman's.
pub fn unregister(
    state_dir: &Path,
    data_dir: &Path,
    id: &InstanceId,
    is_remembered: bool,
) -> Result<(), RegistrationError> {
    let registry = Registry::new(state_dir);
    if !registry.has(id)? && before(&registry, data_dir, id)?.is_none() {
        return Err(RegistrationError::NotFound(id.clone()));
    }
    Ok(registry.remove(id, is_remembered)?)
}

/// Whether there is a registration of this id, also one that can't be read.
///
/// # Errors
/// When the directory can't be looked at.
pub fn is_registered(
    state_dir: &Path,
    data_dir: &Path,
    id: &InstanceId,
) -> Result<bool, RegistrationError> {
    if Registry::new(state_dir).has(id)? {
        return Ok(true);
    }
    match find_old(data_dir, id)? {
        Old::None => Ok(false),
        Old::Trusted(_) | Old::Distrusted(_) => Ok(true),
        Old::Foreign(why) => Err(RegistrationError::Invalid(why)),
    }
}

/// The registration of before. One of old is moved on the way; one that others could have written is as good as none.
fn before(
    registry: &Registry,
    data_dir: &Path,
    id: &InstanceId,
) -> Result<Option<Registration>, RegistrationError> {
    match registry.read(id) {
        Ok(None) => {}
        Ok(found) => return Ok(found),
        // It is about to be replaced, which is the remedy.
        Err(error @ EngineError::Instance { .. }) => {
            log::warn!(instance = id.as_str(); "{}", describe(&error));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    match find_old(data_dir, id)? {
        Old::None => Ok(None),
        Old::Trusted(registration) => Ok(Some(adopt(registry, data_dir, registration)?)),
        Old::Distrusted(why) => {
            log::warn!(instance = id.as_str(); "{why}; it is not believed");
            Ok(None)
        }
        Old::Foreign(why) => Err(RegistrationError::Invalid(why)),
    }
}

/// A path as text: paths stand in JSON files.
fn utf8<'a>(path: &'a Path, what: &str) -> Result<&'a str, RegistrationError> {
    path.to_str()
        .ok_or_else(|| RegistrationError::Invalid(format!("{what} {path:?} must be valid UTF-8")))
}

#[cfg(test)]
mod tests;
