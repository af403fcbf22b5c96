//! The port to whoever keeps the VMs that hypeman does not run: what the admin says of one, and the rules for it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::instance::{Hypervisor, InstanceId};

/// Longest name, in characters, as for everything that hypeman names.
const NAME_MAX: usize = 63;

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
    /// The directories in which the disks live that its VMM names; absolute. Anywhere if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_roots: Vec<PathBuf>,
}

/// What `register` is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// All values of the VM.
    pub declared: Declared,
    /// Whether a VM is registered of which no disk is known and whose socket nobody serves.
    pub is_forced: bool,
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

/// Who keeps registrations. The caller holds the instance's lock, except where nothing is written.
pub trait Registrar: Send + Sync {
    /// Whether `id` was registered.
    ///
    /// # Errors
    /// When that can't be told.
    fn is_registered(&self, id: &InstanceId) -> Result<bool, RegistrationError>;

    /// Registers a VM: declares all of its values, as `set` does for a schedule, and learns from its VMM which disks it
    /// has. Also returns what the user should know.
    ///
    /// # Errors
    /// When a value is not valid, when the id is taken by an instance of hypeman's, when nobody serves the socket of a VM
    /// of which no disk is known, unless that is forced, or when the state directory can't be written.
    fn register(
        &self,
        request: Request,
        now: DateTime<Utc>,
    ) -> Result<(Registered, Vec<String>), RegistrationError>;

    /// Forgets a VM; its snapshots stay. With `has_schedule`, its schedule will still be told that it is gone.
    ///
    /// # Errors
    /// When it was not registered, or when that can't be written.
    fn unregister(&self, id: &InstanceId, has_schedule: bool) -> Result<(), RegistrationError>;

    /// Where the registered VMs are; those that can't be read are left out.
    ///
    /// # Errors
    /// When they can't be listed.
    fn places(&self) -> Result<Vec<Places>, RegistrationError>;
}

/// Where a registered VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The VM.
    pub id: InstanceId,
    /// Its VMM's control socket.
    pub socket: PathBuf,
    /// Its disks, as far as they are known.
    pub disks: Vec<PathBuf>,
}

/// What to do about libvirt's own monitor.
pub const LIBVIRTS_REMEDY: &str = "give the domain a monitor beside it, and register it by `hypeman-snap register --libvirt DOMAIN`";

/// Whether a socket is the monitor that libvirt itself speaks with a domain's QEMU by: `domain-N-NAME/monitor.sock`. Another
/// client waits there for ever, or takes libvirt's place.
pub fn is_libvirts_own(socket: &Path) -> bool {
    let directory = socket.parent().and_then(Path::file_name);
    socket.file_name() == Some(OsStr::new("monitor.sock"))
        && directory.is_some_and(|it| it.as_encoded_bytes().starts_with(b"domain-"))
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
        let socket = utf8(&self.socket, "socket")?;
        if !self.socket.is_absolute() {
            return invalid(format!("socket {socket:?} must be an absolute path"));
        }
        if is_libvirts_own(&self.socket) {
            return invalid(format!(
                "socket {socket:?} is libvirt's own monitor, which serves libvirt alone: {LIBVIRTS_REMEDY}"
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
        for root in &self.disk_roots {
            let shown = utf8(root, "disk root")?;
            if !root.is_absolute() || !root.is_dir() {
                return invalid(format!(
                    "disk root {shown:?} must be the absolute path of a directory"
                ));
            }
        }
        Ok(())
    }
}

/// A path as text: paths stand in JSON files.
fn utf8<'a>(path: &'a Path, what: &str) -> Result<&'a str, RegistrationError> {
    path.to_str()
        .ok_or_else(|| RegistrationError::Invalid(format!("{what} {path:?} must be valid UTF-8")))
}
