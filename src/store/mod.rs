//! Schedule files: where they are, how they are written and locked. Decides nothing about schedules.
//!
//! One file per instance, `<state-dir>/snapshot-schedules/<id>.json`, and one lock, `<state-dir>/locks/<id>.lock`.
//! Whoever changes a schedule holds its lock; reading needs none, because files are replaced as a whole.

mod file;
mod format;
mod lock;
mod protection;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

pub use self::lock::{Lock, LockError};
use crate::cadence::Times;
use crate::fs::durable;
use crate::instance::InstanceId;
use crate::schedule::Schedule;
use crate::schedule::validate::InvalidSchedule;

/// What a file's name ends with.
const SUFFIX: &str = ".json";
/// The permission bits of a new file. An existing one keeps its own.
const NEW_FILE_MODE: u32 = 0o600;

/// What went wrong with a schedule file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something else than a regular file stands there. It was not read.
    #[error("{} is {found} and no regular file; remove it, then set the schedule again", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// It can't be a schedule. It was not read.
    #[error("{} has {size_bytes} bytes, but a schedule has at most {}; remove it, then set the schedule again", path.display(), file::MAX_BYTES)]
    TooLarge {
        /// Where.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// It is no JSON, or lacks what a schedule needs.
    #[error("{} is not a schedule; correct it, or remove it and set the schedule again", path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It is a schedule that nobody can carry out.
    #[error("{}: {rule}; correct it, or remove it and set the schedule again", path.display())]
    Invalid {
        /// Where.
        path: PathBuf,
        /// Which rule it breaks.
        rule: InvalidSchedule,
    },
    /// It has hooks, and others than root and the user could have written them.
    #[error("{} {rule}; its hooks are not run: check them, then `chown` it to root and `chmod go-w` it", path.display())]
    Untrusted {
        /// Where.
        path: PathBuf,
        /// Who could have written it.
        rule: String,
    },
}

/// A file among the schedules whose name names no instance. It is never touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with its name.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, rule } = self;
        write!(
            f,
            "{} is no schedule: {rule}; rename or remove it",
            path.display()
        )
    }
}

/// The schedules of a state directory.
#[derive(Debug, Clone)]
pub struct Store {
    schedules: PathBuf,
    locks: PathBuf,
    protected: PathBuf,
}

impl Store {
    /// The store in `state_dir`, which need not exist: only what writes creates it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the store keeps what becomes of it"
    )]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            schedules: state_dir.join("snapshot-schedules"),
            locks: state_dir.join("locks"),
            protected: state_dir.join("protected"),
        }
    }

    /// The file of `id`'s schedule.
    pub fn path(&self, id: &InstanceId) -> PathBuf {
        self.schedules.join(format!("{id}{SUFFIX}"))
    }

    /// The instances that have a schedule file, by id, and the files whose names can't be ids. Hidden files (temporary
    /// ones are) and those that don't end in `.json` are passed over; a missing directory holds none.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory can't be read.
    pub fn ids(&self) -> Result<(Vec<InstanceId>, Vec<Problem>), StoreError> {
        let failed = |source| StoreError::Io {
            action: "list",
            path: self.schedules.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.schedules) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Vec::new(), Vec::new()));
            }
            Err(error) => return Err(failed(error)),
        };
        let (mut ids, mut problems) = (Vec::new(), Vec::new());
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(b".") || !bytes.ends_with(SUFFIX.as_bytes()) {
                continue;
            }
            let id = name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .ok_or_else(|| "its name is not UTF-8".to_owned())
                .and_then(|id| id.parse::<InstanceId>().map_err(|error| error.to_string()));
            match id {
                Ok(id) => ids.push(id),
                Err(rule) => problems.push(Problem {
                    path: self.schedules.join(&name),
                    rule,
                }),
            }
        }
        ids.sort_unstable();
        problems.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok((ids, problems))
    }

    /// When a schedule was last written or removed by this tool, whose writes replace files; `None` when that can't be
    /// told, as when there never was one. hypeman overwrites its files in place, which does not show here.
    pub fn changed_at(&self) -> Option<DateTime<Utc>> {
        let modified = std::fs::metadata(&self.schedules).ok()?.modified().ok()?;
        Some(modified.into())
    }

    /// What tells whether `id`'s schedule is due; `None` when there is no file.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn times(&self, id: &InstanceId) -> Result<Option<Times>, StoreError> {
        file::read(&self.path(id), |bytes| format::times(bytes, id))
    }

    /// `id`'s schedule, every rule checked; `None` when there is no file.
    ///
    /// # Errors
    /// When the file can't be read, or is no valid schedule of this instance.
    pub fn load(&self, id: &InstanceId) -> Result<Option<Schedule>, StoreError> {
        file::read(&self.path(id), |bytes| format::decode(bytes, id))
    }

    /// As [`Store::load`], for whoever is going to run what the schedule says.
    ///
    /// # Errors
    /// As [`Store::load`], and [`StoreError::Untrusted`] when it has hooks that others can have written.
    pub fn load_to_run(&self, id: &InstanceId) -> Result<Option<Schedule>, StoreError> {
        let path = self.path(id);
        let Some((schedule, file)) =
            file::read_with_file(&path, |bytes| format::decode(bytes, id))?
        else {
            return Ok(None);
        };
        if schedule.declaration.hooks.is_empty() {
            return Ok(Some(schedule));
        }
        match file::distrust(&file) {
            Ok(None) => Ok(Some(schedule)),
            Ok(Some(rule)) => Err(StoreError::Untrusted { path, rule }),
            Err(source) => Err(StoreError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// Writes the schedule durably. An existing file keeps its permission bits and, where this process may set it, its
    /// owner, so that a hypeman server that runs as another user still reads it. The caller holds the lock.
    ///
    /// # Errors
    /// [`StoreError::Io`] when any step fails; then the file is as it was.
    pub fn save(&self, schedule: &Schedule) -> Result<(), StoreError> {
        let path = self.path(&schedule.instance_id);
        format::encode(schedule)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                durable::create_dir(&self.schedules)?;
                durable::replace(&path, &bytes, NEW_FILE_MODE)
            })
            .map_err(|source| StoreError::Io {
                action: "write",
                path,
                source,
            })
    }

    /// Removes `id`'s schedule durably and says whether there was one. The caller holds the lock.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it is there and can't be removed.
    pub fn remove(&self, id: &InstanceId) -> Result<bool, StoreError> {
        let path = self.path(id);
        durable::remove(&path).map_err(|source| StoreError::Io {
            action: "remove",
            path,
            source,
        })
    }

    /// The directory of the locks, for [`lock`].
    fn locks(&self) -> &Path {
        &self.locks
    }
}

#[cfg(test)]
mod tests;
