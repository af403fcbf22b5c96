//! Registrations of versions before 0.2, which stand in the data directory as hypeman's own `metadata.json` with two keys
//! more. They are believed, and moved to the state directory, only where nobody but root or this user could have written
//! them: whoever can write there could name any file of the host as a disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::{Declared, Learnt, Registration, Registry};
use crate::engine::EngineError;
use crate::engine::local::json;
use crate::instance::{Hypervisor, InstanceId};

const METADATA: &str = "metadata.json";
/// What a killed `register` of then left of it.
const METADATA_TEMPORARY: &str = ".metadata.json.tmp";

/// What stands in the data directory under the id of a VM.
#[derive(Debug)]
pub(in crate::engine::local) enum Old {
    /// Nothing.
    None,
    /// A registration that can be believed.
    Trusted(Box<Registration>),
    /// A registration that others could have written, in words.
    Distrusted(String),
    /// An instance that `register` did not make, in words.
    Foreign(String),
}

/// The keys of an old registration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    id: InstanceId,
    name: String,
    hypervisor_type: Hypervisor,
    socket_path: PathBuf,
    #[serde(default)]
    created_at: Option<DateTime<Utc>>,
    #[serde(default)]
    hypeman_snap_registered: bool,
    #[serde(default)]
    hypeman_snap_disks: Option<Vec<PathBuf>>,
}

/// What stands under `id` in `data_dir`.
///
/// # Errors
/// When it can't be looked at.
pub(in crate::engine::local) fn find(data_dir: &Path, id: &InstanceId) -> Result<Old, EngineError> {
    let directory = data_dir.join("guests").join(id.as_str());
    let shown = directory.display();
    let failed = |error: Errno| {
        EngineError::caused(format!("can't look at {shown}"), io::Error::from(error))
    };
    let foreign = |why: &str| {
        Old::Foreign(format!(
            "{shown} was not made by `hypeman-snap register` ({why}); it is left alone"
        ))
    };
    let place = match Place::open(data_dir, id) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(Old::None),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(foreign("it is not a directory")),
        Err(error) => return Err(failed(error)),
    };
    match place.names() {
        Ok(names) if names.is_empty() => return Ok(Old::None),
        Ok(_) => {}
        Err(error) => return Err(failed(error)),
    }
    let wire = match json::read_in::<serde_json::Value>(place.guest.as_fd(), METADATA) {
        Ok(whole) if whole.get("HypemanSnapRegistered") != Some(&true.into()) => {
            return Ok(foreign("it has no key HypemanSnapRegistered"));
        }
        Ok(whole) => Wire::deserialize(whole),
        Err(error) => {
            return Ok(foreign(&format!(
                "its metadata.json can't be read: {error}"
            )));
        }
    };
    let wire = match wire {
        Ok(wire) if wire.id == *id && wire.hypeman_snap_registered => wire,
        Ok(_) => return Ok(foreign("its Id is not the name of its directory")),
        Err(error) => return Ok(foreign(&error.to_string())),
    };
    if let Some(why) = place.distrust(data_dir).map_err(failed)? {
        return Ok(Old::Distrusted(format!(
            "{shown} holds the registration of {id} by an older version, but {why}, so that others could have written \
             it; register {id} again"
        )));
    }
    Ok(Old::Trusted(Box::new(Registration {
        declared: Declared {
            id: wire.id,
            name: wire.name,
            hypervisor: wire.hypervisor_type,
            socket: wire.socket_path,
            disks: wire.hypeman_snap_disks.unwrap_or_default(),
            disk_roots: Vec::new(),
        },
        registered_at: wire.created_at.unwrap_or_default(),
        learnt: Learnt {
            snapshots_in: Some(data_dir.to_owned()).filter(|it| it.join("snapshots").is_dir()),
            ..Learnt::default()
        },
    })))
}

/// Moves an old registration to the state directory; of its guest directory goes what `register` had made.
///
/// # Errors
/// When it can't be written. Then it stays where it is.
pub(in crate::engine::local) fn adopt(
    registry: &Registry,
    data_dir: &Path,
    registration: Registration,
) -> Result<Registration, EngineError> {
    let id = registration.declared.id.clone();
    registry.add(&registration)?;
    if let Err(error) = clear(data_dir, &id) {
        // What is left there is not looked at any more.
        log::warn!(
            instance = id.as_str();
            "its registration now stands in {}, but what an older version had put into {} can't be removed: {error}",
            registry.path(&id).display(),
            data_dir.join("guests").join(id.as_str()).display()
        );
    }
    Ok(registration)
}

fn clear(data_dir: &Path, id: &InstanceId) -> io::Result<()> {
    let place = Place::open(data_dir, id)?;
    for name in [METADATA_TEMPORARY, METADATA] {
        match rustix::fs::unlinkat(&place.guest, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::unlinkat(&place.guests, id.as_str(), AtFlags::REMOVEDIR) {
        // Somebody keeps files of his own there.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    File::from(place.guests).sync_all()
}

/// The way to a guest directory.
struct Place {
    guests: OwnedFd,
    guest: OwnedFd,
}

impl Place {
    fn open(data_dir: &Path, id: &InstanceId) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let guests = rustix::fs::open(data_dir.join("guests"), flags, Mode::empty())?;
        let guest = rustix::fs::openat(
            &guests,
            id.as_str(),
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        Ok(Self { guests, guest })
    }

    /// What is in the guest directory, but for what a killed `register` left.
    fn names(&self) -> Result<Vec<std::ffi::CString>, Errno> {
        Dir::read_from(&self.guest)?
            .map(|entry| Ok(entry?.file_name().to_owned()))
            .filter(|name| {
                !name.as_ref().is_ok_and(|name| {
                    [".", "..", METADATA_TEMPORARY]
                        .iter()
                        .any(|it| name.as_bytes() == it.as_bytes())
                })
            })
            .collect()
    }

    /// Why somebody other than root and this user could have written the metadata, if so.
    fn distrust(&self, data_dir: &Path) -> Result<Option<String>, Errno> {
        let own = rustix::process::geteuid().as_raw();
        let looks = [
            (data_dir.to_owned(), rustix::fs::stat(data_dir)?),
            (data_dir.join("guests"), rustix::fs::fstat(&self.guests)?),
            (
                PathBuf::from("the directory"),
                rustix::fs::fstat(&self.guest)?,
            ),
            (
                PathBuf::from(METADATA),
                rustix::fs::statat(&self.guest, METADATA, AtFlags::SYMLINK_NOFOLLOW)?,
            ),
        ];
        Ok(looks.iter().find_map(|(what, stat)| {
            let what = what.display();
            if stat.st_uid != 0 && stat.st_uid != own {
                Some(format!("{what} belongs to user {}", stat.st_uid))
            } else if stat.st_mode & 0o022 != 0 {
                Some(format!("{what} has mode {:04o}", stat.st_mode & 0o7777))
            } else {
                None
            }
        }))
    }
}
