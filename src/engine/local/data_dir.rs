//! The data directory as a whole: is it there, which instances are in it. Never writes, except for [`DataDir::create`].
//!
//! "The instance is gone" is said only on positive knowledge: a data directory that is missing, unreadable or empty is
//! most likely not mounted, and says nothing about any instance.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::metadata::Metadata;
use crate::engine::EngineError;
use crate::fs::durable;
use crate::instance::{InstanceId, InstanceRef};

/// What `mkfs` puts into a new file system: no instance, and no proof that there are any.
const LOST_AND_FOUND: &str = "lost+found";

/// hypeman's data directory (contract, section 4).
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Opens the data directory `root`.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when it is missing or unreadable, or has no instance at all.
    pub fn open(root: &Path) -> Result<Self, EngineError> {
        let data_dir = Self {
            root: absolute(root)?,
        };
        let shown = root.display();
        match std::fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(EngineError::unavailable(format!(
                    "data directory {shown} is not a directory; name the right one with --data-dir"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(EngineError::unavailable(format!(
                    "data directory {shown} does not exist; mount it, name the right one with --data-dir, or let \
                     `hypeman-snap register` create it"
                )));
            }
            Err(error) => {
                return Err(unavailable(
                    format!("can't look at data directory {shown}; check its permissions"),
                    error,
                ));
            }
        }
        let guests = data_dir.open_guests()?;
        data_dir.require_instances(&guests)?;
        Ok(data_dir)
    }

    /// The data directory `root`, created 0700 with its `guests/` as far as it is missing, instances or none.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when it can't be created.
    pub fn create(root: &Path) -> Result<Self, EngineError> {
        let data_dir = Self {
            root: absolute(root)?,
        };
        let guests = data_dir.guests_dir();
        durable::create_dir(&guests).map_err(|error| {
            unavailable(
                format!("can't create {}; check --data-dir", guests.display()),
                error,
            )
        })?;
        Ok(data_dir)
    }

    /// Its absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the instances are.
    pub fn guests_dir(&self) -> PathBuf {
        self.root.join("guests")
    }

    /// One instance's directory, whether it is there or not.
    pub fn guest_dir(&self, id: &InstanceId) -> PathBuf {
        self.guests_dir().join(id.as_str())
    }

    /// Where the snapshots are, whether it is there or not.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Every instance by id and name. One whose metadata can't be read is listed without a name, so that a reference
    /// by id leads to the error that [`DataDir::find`] gives; a directory without metadata is no instance, as hypeman
    /// has it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the directory can't be read, or is empty.
    pub fn instances(&self) -> Result<Vec<InstanceRef>, EngineError> {
        let guests = self.open_guests()?;
        self.require_instances(&guests)?;
        let mut instances = Vec::new();
        for name in self.guest_names(&guests)? {
            let Some(id) = as_id(&name?) else { continue };
            let name = match Metadata::read(&self.guest_dir(&id), &id) {
                Ok(metadata) => metadata.name,
                Err(error) if error.is_not_found() => continue,
                Err(_) => String::new(),
            };
            instances.push(InstanceRef { id, name });
        }
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(instances)
    }

    /// One instance's metadata; `None` only when `guests/` can be read, has instances and has none of this id.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when `guests/` can't tell; [`EngineError::Instance`] when the instance's directory
    /// is there and its metadata can't be read.
    pub fn find(&self, id: &InstanceId) -> Result<Option<Metadata>, EngineError> {
        // All answers come from the same open directory: a file system that is mounted or unmounted over it meanwhile
        // can't make an instance look gone.
        let guests = self.open_guests()?;
        let directory = self.guest_dir(id);
        let shown = directory.display();
        match rustix::fs::statat(&guests, id.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            Ok(_) => {
                return Err(EngineError::instance(format!(
                    "{shown} is not a directory, so it is no instance"
                )));
            }
            Err(Errno::NOENT) => {
                self.require_instances(&guests)?;
                return Ok(None);
            }
            Err(error) => {
                return Err(EngineError::caused(
                    format!("can't look at {shown}"),
                    io::Error::from(error),
                ));
            }
        }
        match Metadata::read(&directory, id) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.is_not_found() => Err(EngineError::instance(format!(
                "{shown} has no metadata.json, so it can't be told whether instance {id} is gone; remove the directory \
                 if it is"
            ))),
            Err(error) => Err(EngineError::caused(
                format!("can't read {}", directory.join("metadata.json").display()),
                error,
            )),
        }
    }

    fn open_guests(&self) -> Result<File, EngineError> {
        let guests = self.guests_dir();
        File::open(&guests).map_err(|error| {
            let shown = guests.display();
            if error.kind() == io::ErrorKind::NotFound {
                EngineError::unavailable(format!(
                    "{shown} does not exist: the data directory is not mounted, or --data-dir names the wrong one"
                ))
            } else {
                unavailable(format!("can't read {shown}; check its permissions"), error)
            }
        })
    }

    /// The names in `guests/`.
    fn guest_names(
        &self,
        guests: &File,
    ) -> Result<impl Iterator<Item = Result<Vec<u8>, EngineError>>, EngineError> {
        let failed = |error: Errno, guests: PathBuf| {
            unavailable(
                format!("can't list {}", guests.display()),
                io::Error::from(error),
            )
        };
        let path = self.guests_dir();
        let entries = Dir::read_from(guests).map_err(|error| failed(error, path.clone()))?;
        Ok(entries.map(move |entry| {
            entry
                .map(|entry| entry.file_name().to_bytes().to_vec())
                .map_err(|error| failed(error, path.clone()))
        }))
    }

    fn require_instances(&self, guests: &File) -> Result<(), EngineError> {
        for name in self.guest_names(guests)? {
            if as_id(&name?).is_some() {
                return Ok(());
            }
        }
        Err(EngineError::unavailable(format!(
            "{} is empty: most likely the data directory is not mounted; mount it, name the right one with --data-dir, \
             or register a VM",
            self.guests_dir().display()
        )))
    }
}

/// The instance that a name in `guests/` stands for, if any.
fn as_id(name: &[u8]) -> Option<InstanceId> {
    OsStr::from_bytes(name)
        .to_str()
        .filter(|name| *name != LOST_AND_FOUND)?
        .parse()
        .ok()
}

fn absolute(path: &Path) -> Result<PathBuf, EngineError> {
    std::path::absolute(path).map_err(|error| {
        unavailable(
            format!("data directory {path:?} is no path; check --data-dir"),
            error,
        )
    })
}

fn unavailable(message: String, source: io::Error) -> EngineError {
    EngineError::Unavailable {
        message,
        source: Some(source.into()),
    }
}
