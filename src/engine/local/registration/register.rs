//! `register` and `unregister`: what they write, refuse, and leave alone.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Declared, Learnt, Old, Registration, Registry, adopt, find_old};
use crate::engine::local::learn::{self, Asked};
use crate::engine::{EngineError, describe};
use crate::fs::durable;
use crate::instance::InstanceId;
use crate::interrupt::Watch;
use crate::vmm::Timeouts;

/// What `register` is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// All values of the VM.
    pub declared: Declared,
    /// Whether a VM is registered of which no disk is known and whose socket nobody serves.
    pub is_forced: bool,
    /// How long its VMM may take to answer.
    pub vmm_timeout: Duration,
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

/// Registers a VM: declares all of its values, as `set` does for a schedule, and learns from its VMM which disks it has.
/// The caller holds the instance's lock. Also returns what the user should know.
///
/// # Errors
/// When a value is not valid, when the id is taken by an instance of hypeman's, when nobody serves the socket of a VM of
/// which no disk is known, unless that is forced, or when the state directory can't be written.
pub fn register(
    state_dir: &Path,
    data_dir: &Path,
    request: Request,
    now: DateTime<Utc>,
) -> Result<(Registered, Vec<String>), RegistrationError> {
    let Request {
        declared,
        is_forced,
        vmm_timeout,
    } = request;
    declared.validate()?;
    let registry = Registry::new(state_dir);
    let before = before(&registry, data_dir, &declared.id)?;
    let registered = match &before {
        None => Registered::Created,
        Some(before) if before.declared == declared => Registered::Unchanged,
        Some(_) => Registered::Updated,
    };
    let mut learnt = kept(before.as_ref(), &declared);
    let mut warnings: Vec<String> = hidden_from_units(&declared.socket).into_iter().collect();
    let timeouts = Timeouts {
        request: vmm_timeout,
        watch: Watch::unlimited(),
    };
    match learn::ask(&declared, timeouts) {
        Asked::Answered { vmm, disks } => {
            learnt.vmm = vmm;
            match disks {
                Ok(disks) => learnt.disks = disks,
                Err(error) => warnings.push(format!(
                    "which disks the VM has can't be learnt: {}",
                    describe(&error)
                )),
            }
        }
        Asked::Silent(error) => warnings.push(format!(
            "the VMM does not answer, so that nothing could be learnt of its disks: {}",
            describe(&error)
        )),
        // That a VM is off which was registered just so before is no news.
        Asked::Nobody(_) if registered == Registered::Unchanged => {}
        Asked::Nobody(error) => {
            let socket = declared.socket.display();
            let nobody = format!("nobody serves the socket {socket} ({error})");
            if declared.disks.is_empty() && learnt.disks.is_empty() && !is_forced {
                return Err(RegistrationError::Invalid(format!(
                    "{nobody}, so that the VM's disks can't be learnt: start it first, name them with --disk, or register it \
                     all the same with --force"
                )));
            }
            warnings.push(nobody);
        }
    }
    let registration = Registration {
        declared,
        registered_at: before.as_ref().map_or(now, |it| it.registered_at),
        learnt,
    };
    // The systemd unit may write to it, but can't make it.
    durable::create_dir(data_dir).map_err(|error| {
        EngineError::caused(
            format!("can't create {}; check --data-dir", data_dir.display()),
            error,
        )
    })?;
    if before.as_ref() != Some(&registration) {
        registry.write(&registration)?;
    }
    Ok((registered, warnings))
}

/// What was learnt before and still counts: of another VMM than before, nothing of it does.
fn kept(before: Option<&Registration>, declared: &Declared) -> Learnt {
    let Some(before) = before else {
        return Learnt::default();
    };
    let it = &before.declared;
    if (it.hypervisor, &it.socket) == (declared.hypervisor, &declared.socket) {
        return before.learnt.clone();
    }
    Learnt {
        snapshots_in: before.learnt.snapshots_in.clone(),
        ..Learnt::default()
    }
}

/// The warning that systemd units with a `/tmp` of their own, such as ours, don't see `socket`, where that is so.
pub(in crate::engine::local) fn hidden_from_units(socket: &Path) -> Option<String> {
    let place = ["/tmp", "/var/tmp"]
        .iter()
        .find(|place| socket.starts_with(place))?;
    Some(format!(
        "the socket {} is below {place}, where the systemd unit does not see it (PrivateTmp=yes): let the VMM listen below \
         /run",
        socket.display()
    ))
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
        Old::Trusted(registration) => Ok(Some(adopt(registry, data_dir, *registration)?)),
        Old::Distrusted(why) => {
            log::warn!(instance = id.as_str(); "{why}; it is not believed");
            Ok(None)
        }
        Old::Foreign(why) => Err(RegistrationError::Invalid(why)),
    }
}
