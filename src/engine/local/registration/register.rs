//! `register` and `unregister`: what they write, refuse, and leave alone.

use chrono::{DateTime, Utc};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Learnt, Old, Registration, adopt, find_old};
use crate::engine::EngineError;
use crate::engine::local::instances::Instances;
use crate::engine::local::learn::{self, Asked};
use crate::engine::registrar::{Declared, Registered, RegistrationError, Request};
use crate::error::in_words;
use crate::fs::durable;
use crate::instance::InstanceId;
use crate::vmm::Timeouts;

/// See [`Registrar::register`](crate::engine::registrar::Registrar::register).
pub(in crate::engine::local) fn register(
    instances: &Instances,
    request: Request,
    timeouts: Timeouts,
    now: DateTime<Utc>,
) -> Result<(Registered, Vec<String>), RegistrationError> {
    let Request {
        declared,
        is_forced,
    } = request;
    declared.validate()?;
    let data_dir = instances.data_dir.as_path();
    let before = before(instances, &declared.id)?;
    let registered = match &before {
        None => Registered::Created,
        Some(before) if before.declared == declared => Registered::Unchanged,
        Some(_) => Registered::Updated,
    };
    let mut learnt = kept(before.as_ref(), &declared);
    let mut warnings: Vec<String> = socket_warning(&declared.socket).into_iter().collect();
    match learn::ask(&declared, timeouts) {
        Asked::Answered { vmm, disks } => {
            learnt.vmm = vmm;
            match disks {
                Ok(disks) => learnt.disks = disks,
                Err(error) => warnings.push(format!(
                    "which disks the VM has can't be learnt: {}",
                    in_words(&error)
                )),
            }
        }
        Asked::Silent(error) => warnings.push(format!(
            "the VMM does not answer, so that nothing could be learnt of its disks: {}",
            in_words(&error)
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
        instances.registry.write(&registration)?;
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

/// What is to be said of the place of `socket`, if anything.
pub(in crate::engine::local) fn socket_warning(socket: &Path) -> Option<String> {
    hidden_from_units(socket).or_else(|| open_to_others(socket))
}

/// The warning that systemd units with a `/tmp` of their own, such as ours, don't see `socket`, where that is so.
fn hidden_from_units(socket: &Path) -> Option<String> {
    let place = ["/tmp", "/var/tmp"]
        .iter()
        .find(|place| socket.starts_with(place))?;
    Some(format!(
        "the socket {} is below {place}, where the systemd unit does not see it (PrivateTmp=yes): let the VMM listen below \
         /run",
        socket.display()
    ))
}

/// The warning that others than the VMM's user and root can put another socket in the place of `socket`, where that is so.
fn open_to_others(socket: &Path) -> Option<String> {
    let directory = socket.parent()?;
    let mode = directory.metadata().ok()?.mode();
    let is_open = mode & 0o022 != 0;
    is_open.then(|| {
        format!(
            "its socket's directory {} has mode {:04o}: whoever can write there can put a socket of his own in its place; \
             let the VMM listen in a directory that only its user and root can write to",
            directory.display(),
            mode & 0o7777
        )
    })
}

/// See [`Registrar::unregister`](crate::engine::registrar::Registrar::unregister).
pub(in crate::engine::local) fn unregister(
    instances: &Instances,
    id: &InstanceId,
    has_schedule: bool,
) -> Result<(), RegistrationError> {
    if !instances.registry.has(id)? && before(instances, id)?.is_none() {
        return Err(RegistrationError::NotFound(id.clone()));
    }
    Ok(instances.registry.remove(id, has_schedule)?)
}

/// Whether there is a registration of this id, also one that can't be read.
pub(in crate::engine::local) fn is_registered(
    instances: &Instances,
    id: &InstanceId,
) -> Result<bool, RegistrationError> {
    if instances.registry.has(id)? {
        return Ok(true);
    }
    match find_old(&instances.data_dir, id)? {
        Old::None => Ok(false),
        Old::Trusted(_) | Old::Distrusted(_) => Ok(true),
        Old::Foreign(why) => Err(RegistrationError::Invalid(why)),
    }
}

/// The registration of before. One of old is moved on the way; one that others could have written is as good as none.
fn before(
    instances: &Instances,
    id: &InstanceId,
) -> Result<Option<Registration>, RegistrationError> {
    let Instances {
        registry, data_dir, ..
    } = instances;
    match registry.read(id) {
        Ok(None) => {}
        Ok(found) => return Ok(found),
        // It is about to be replaced, which is the remedy.
        Err(error @ EngineError::Instance { .. }) => {
            log::warn!(instance = id.as_str(); "{}", in_words(&error));
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
