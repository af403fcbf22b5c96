//! The data directory as a whole: is it there, which instances are in it. Never writes.
//!
//! "The instance is gone" is said only on positive knowledge: a data directory that is missing, unreadable or empty is
//! most likely not mounted, and says nothing about any instance.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::json::ReadError;
use super::metadata::{Metadata, MetadataError};
use crate::engine::EngineError;
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
                    "data directory {shown} does not exist; mount it, name the right one with --data-dir, or \
                     register a VM"
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

    /// The data directory `root`, whether it is there or not.
    ///
    /// # Errors
    /// When it is no path.
    pub fn at(root: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            root: absolute(root)?,
        })
    }

    /// Whether there is any instance in it, readable or not.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when that can't be told.
    pub fn has_guests(&self) -> Result<bool, EngineError> {
        match File::open(self.guests_dir()) {
            Ok(guests) => Ok(self.ids(&guests)?.next().transpose()?.is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unavailable(
                format!(
                    "can't read {}; check its permissions",
                    self.guests_dir().display()
                ),
                error,
            )),
        }
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
        for id in self.ids(&guests)? {
            let id = id?;
            let name = match read(&guests, &id) {
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
        match read(&guests, id) {
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

    /// The instances that `guests/` may have: its directories with names that can be ids.
    fn ids(
        &self,
        guests: &File,
    ) -> Result<impl Iterator<Item = Result<InstanceId, EngineError>>, EngineError> {
        let path = self.guests_dir();
        let failed = move |error: Errno| {
            unavailable(
                format!("can't list {}; check its permissions", path.display()),
                io::Error::from(error),
            )
        };
        let entries = Dir::read_from(guests).map_err(&failed)?;
        Ok(entries.filter_map(move |entry| match entry {
            Ok(entry) => as_id(guests, &entry).map(Ok),
            Err(error) => Some(Err(failed(error))),
        }))
    }

    fn require_instances(&self, guests: &File) -> Result<(), EngineError> {
        if self.ids(guests)?.next().transpose()?.is_some() {
            return Ok(());
        }
        Err(EngineError::unavailable(format!(
            "{} is empty: most likely the data directory is not mounted; mount it, name the right one with --data-dir, \
             or register a VM",
            self.guests_dir().display()
        )))
    }
}

/// The metadata of the instance `id`, read through descriptors: whoever can write to its directory can put symlinks
/// there.
fn read(guests: &File, id: &InstanceId) -> Result<Metadata, MetadataError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let guest = rustix::fs::openat(guests, id.as_str(), flags, Mode::empty())
        .map_err(|error| ReadError::File(error.into()))?;
    Metadata::read(guest.as_fd(), id)
}

/// The instance that an entry of `guests/` stands for, if any.
fn as_id(guests: &File, entry: &DirEntry) -> Option<InstanceId> {
    let name = entry.file_name().to_str().ok()?;
    let mut kind = entry.file_type();
    if kind == FileType::Unknown {
        // Not every file system tells the type along with the name.
        let stat = rustix::fs::statat(guests, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        kind = FileType::from_raw_mode(stat.st_mode);
    }
    if !kind.is_dir() || name == LOST_AND_FOUND {
        return None;
    }
    name.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    fn data_dir(ids: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("guests")).unwrap();
        for id in ids {
            write_guest(
                root.path(),
                id,
                &format!(r#"{{"Id":"{id}","Name":"name-{id}"}}"#),
            );
        }
        root
    }

    fn write_guest(root: &Path, id: &str, metadata: &str) {
        let directory = root.join("guests").join(id);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("metadata.json"), metadata).unwrap();
    }

    fn id(id: &str) -> InstanceId {
        id.parse().unwrap()
    }

    fn is_unavailable<T>(result: Result<T, EngineError>, says: &str) {
        match result {
            Err(error @ EngineError::Unavailable { .. }) => {
                assert!(error.to_string().contains(says), "{error}");
            }
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("no error, although {says:?} was expected"),
        }
    }

    #[test]
    fn a_data_directory_that_proves_nothing_is_unavailable() {
        let root = tempfile::tempdir().unwrap();
        is_unavailable(
            DataDir::open(&root.path().join("missing")),
            "does not exist",
        );
        fs::write(root.path().join("file"), "").unwrap();
        is_unavailable(DataDir::open(&root.path().join("file")), "not a directory");
        is_unavailable(DataDir::open(root.path()), "not mounted");
        fs::create_dir(root.path().join("guests")).unwrap();
        is_unavailable(DataDir::open(root.path()), "is empty");
    }

    #[test]
    fn what_mkfs_and_others_leave_in_guests_proves_nothing() {
        let root = data_dir(&[]);
        fs::create_dir(root.path().join("guests/lost+found")).unwrap();
        fs::create_dir(root.path().join("guests/.hidden")).unwrap();
        fs::write(root.path().join("guests/README"), "").unwrap();
        is_unavailable(DataDir::open(root.path()), "is empty");
    }

    #[test]
    fn an_unreadable_data_directory_is_unavailable() {
        if rustix::process::geteuid().is_root() {
            let _ = writeln!(io::stderr(), "SKIPPED: root can read everything");
            return;
        }
        let root = data_dir(&["a"]);
        let guests = root.path().join("guests");
        fs::set_permissions(&guests, fs::Permissions::from_mode(0o000)).unwrap();
        is_unavailable(DataDir::open(root.path()), "permissions");
        fs::set_permissions(&guests, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn instances_are_listed_by_id_and_broken_ones_without_a_name() {
        let root = data_dir(&["b", "a"]);
        write_guest(root.path(), "broken", "{");
        write_guest(root.path(), "other", r#"{"Id":"a","Name":"liar"}"#);
        fs::create_dir(root.path().join("guests/no-metadata")).unwrap();
        fs::create_dir(root.path().join("guests/-flag")).unwrap();
        fs::write(root.path().join("guests/stray"), "").unwrap();
        let found: Vec<(String, String)> = DataDir::open(root.path())
            .unwrap()
            .instances()
            .unwrap()
            .into_iter()
            .map(|it| (it.id.to_string(), it.name))
            .collect();
        let expected = [
            ("a", "name-a"),
            ("b", "name-b"),
            ("broken", ""),
            ("other", ""),
        ];
        assert_eq!(
            found,
            expected.map(|(id, name)| (id.to_owned(), name.to_owned()))
        );
    }

    #[test]
    fn only_a_missing_entry_beside_others_means_that_an_instance_is_gone() {
        let root = data_dir(&["a"]);
        let data = DataDir::open(root.path()).unwrap();
        assert_eq!(data.find(&id("a")).unwrap().unwrap().name, "name-a");
        assert!(data.find(&id("gone")).unwrap().is_none());
    }

    #[test]
    fn whatever_else_stands_in_the_place_of_an_instance_is_an_error() {
        let root = data_dir(&["a"]);
        let guests = root.path().join("guests");
        fs::create_dir(guests.join("no-metadata")).unwrap();
        fs::write(guests.join("file"), "").unwrap();
        symlink(root.path().join("nowhere"), guests.join("link")).unwrap();
        write_guest(root.path(), "broken", "{");
        write_guest(root.path(), "other", r#"{"Id":"a"}"#);
        let data = DataDir::open(root.path()).unwrap();
        for bad in ["no-metadata", "file", "link", "broken", "other"] {
            match data.find(&id(bad)) {
                Err(EngineError::Instance { message, .. }) => {
                    assert!(message.contains(bad), "{message}");
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_data_directory_that_disappears_later_makes_no_instance_gone() {
        let root = data_dir(&["a"]);
        let data = DataDir::open(root.path()).unwrap();
        fs::remove_dir_all(root.path().join("guests/a")).unwrap();
        is_unavailable(data.find(&id("a")), "is empty");
        is_unavailable(data.instances(), "is empty");
        fs::remove_dir(root.path().join("guests")).unwrap();
        is_unavailable(data.find(&id("a")), "does not exist");
    }
}
