//! Whether a snapshot fits, beside those that are being taken at this moment: each says in its staging directory what it
//! needs, so that other processes know it too, and what it has written by now is not counted twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::store::STAGING;
use crate::engine::EngineError;
use crate::fs::{lock, space};
use crate::snapshot::storing::MinFree;

/// In a staging directory: what the snapshot needs in all, in bytes.
const NEEDS: &str = ".needs";
/// Free space that must be left beside a snapshot whatever is declared, in bytes.
const RESERVE_BYTES: u64 = 16 << 20;
/// How long to wait for others that reckon up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What decides whether there is room.
#[derive(Debug)]
pub(super) struct Room<'a> {
    /// The tool's own directory, for the lock of who reckons up.
    pub(super) state_dir: &'a Path,
    /// What stays free.
    pub(super) min_free: Option<MinFree>,
}

/// What there is of it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    free: u64,
    /// What the others are still going to write.
    reserved: u64,
    /// What has to stay.
    stays: u64,
}

impl Account {
    /// How much is missing for `needed` bytes; 0 when they fit.
    const fn missing(self, needed: u64) -> u64 {
        needed
            .saturating_add(self.reserved)
            .saturating_add(self.stays)
            .saturating_sub(self.free)
    }
}

impl Room<'_> {
    /// Keeps `needed` bytes for the snapshot that is staged in `staging`.
    ///
    /// # Errors
    /// [`EngineError::NoRoom`] when they aren't there; and when that can't be told.
    pub(super) fn reserve(&self, staging: &Path, needed: u64) -> Result<(), EngineError> {
        let path = self.state_dir.join("room").join("lock");
        // Who does not get the lock reckons all the same: at worst two fit by the same free space, and the later one fails.
        let _lock = lock::take(&path, PATIENCE).map_err(|error| {
            EngineError::caused(format!("can't lock {}", path.display()), error)
        })?;
        let store = staging.parent().unwrap_or(staging);
        self.require(store, Some(staging), needed)?;
        fs::write(staging.join(NEEDS), needed.to_string()).map_err(|error| {
            EngineError::caused(format!("can't write to {}", staging.display()), error)
        })
    }

    /// Looks whether `needed` bytes are there in `store`, besides what others than `staging` have reserved.
    ///
    /// # Errors
    /// [`EngineError::NoRoom`] when they aren't; and when that can't be told.
    pub(super) fn require(
        &self,
        store: &Path,
        staging: Option<&Path>,
        needed: u64,
    ) -> Result<(), EngineError> {
        if needed == 0 && self.min_free.is_none() {
            return Ok(());
        }
        let account = self.account(store, staging).map_err(|error| {
            let shown = store.display();
            EngineError::caused(format!("can't tell the free space of {shown}"), error)
        })?;
        match account.missing(needed) {
            0 => Ok(()),
            missing_bytes => Err(EngineError::NoRoom {
                message: self.shortage(store, account, needed),
                missing_bytes,
            }),
        }
    }

    fn account(&self, store: &Path, staging: Option<&Path>) -> io::Result<Account> {
        let room = space::room(existing(store))?;
        let min_free = self.min_free.map_or(0, |it| it.bytes_of(room.total_bytes));
        Ok(Account {
            free: room.free_bytes,
            reserved: reserved(store, staging)?,
            stays: min_free.max(RESERVE_BYTES),
        })
    }

    fn shortage(&self, store: &Path, account: Account, needed: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let others = match account.reserved {
            0 => String::new(),
            bytes => format!(", {} MiB of it for other snapshots under way", mib(bytes)),
        };
        let stays = self.min_free.map_or_else(String::new, |min_free| {
            format!(
                " and {} MiB stay free (--min-free {min_free})",
                mib(account.stays)
            )
        });
        format!(
            "not enough space for the snapshot: {} has {} MiB free{others}, {} MiB may be needed{stays}; lower \
             --max-count or --max-age of some schedules, or make room",
            store.display(),
            account.free >> 20,
            mib(needed),
        )
    }
}

/// A directory that there is: a store is made by its first snapshot.
fn existing(directory: &Path) -> &Path {
    directory
        .ancestors()
        .find(|it| it.is_dir())
        .unwrap_or(directory)
}

/// What all snapshots that are staged in `store`, but the one in `own`, are still going to write.
fn reserved(store: &Path, own: Option<&Path>) -> io::Result<u64> {
    let entries = match fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut total: u64 = 0;
    for entry in entries {
        let path = entry?.path();
        if !is_staging(&path) || Some(path.as_path()) == own {
            continue;
        }
        total = total.saturating_add(still_needed(&path));
    }
    Ok(total)
}

fn is_staging(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(STAGING))
}

/// One that ends at this moment needs nothing any more.
fn still_needed(staging: &Path) -> u64 {
    let needs: Option<u64> = fs::read_to_string(staging.join(NEEDS))
        .ok()
        .and_then(|text| text.parse().ok());
    let Some(needs) = needs else {
        return 0;
    };
    let written = space::disk_usage(staging).unwrap_or(0);
    needs.saturating_sub(written)
}

/// Takes the note out of a staging directory that becomes a snapshot.
pub(super) fn release(staging: &Path) -> io::Result<()> {
    let path: PathBuf = staging.join(NEEDS);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staging(store: &Path, name: &str) -> PathBuf {
        let path = store.join(format!("{STAGING}{name}"));
        fs::create_dir(&path).unwrap();
        path
    }

    fn room(state_dir: &Path, min_free: MinFree) -> Room<'_> {
        Room {
            state_dir,
            min_free: Some(min_free),
        }
    }

    #[test]
    fn what_others_still_write_counts_and_what_they_have_written_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let [a, b] = ["a", "b"].map(|name| staging(&store, name));
        let room = room(dir.path(), MinFree::Bytes(0));
        room.reserve(&a, 8 << 20).unwrap();
        assert_eq!(reserved(&store, Some(&a)).unwrap(), 0);
        assert!(reserved(&store, Some(&b)).unwrap() > 7 << 20);
        fs::write(a.join("memory"), vec![1; 6 << 20]).unwrap();
        let left = reserved(&store, None).unwrap();
        assert!((1 << 20..=2 << 20).contains(&left), "{left}");
        fs::write(a.join("disk"), vec![1; 6 << 20]).unwrap();
        assert_eq!(reserved(&store, None).unwrap(), 0);
        release(&a).unwrap();
        release(&a).unwrap();
        assert!(!a.join(NEEDS).exists());
    }

    #[test]
    fn what_has_to_stay_free_stays_and_the_rest_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let free = space::free_bytes(dir.path()).unwrap();
        // Nothing is made by looking.
        let all_stays = room(dir.path(), MinFree::Bytes(free + (1 << 30)));
        let error = all_stays.require(&store, None, 0).unwrap_err();
        let EngineError::NoRoom {
            message,
            missing_bytes,
        } = error
        else {
            panic!("{error:?}");
        };
        assert!(missing_bytes > 1 << 29, "{missing_bytes}");
        assert!(message.contains("stay free (--min-free"), "{message}");
        assert!(!store.exists());

        fs::create_dir(&store).unwrap();
        let [a, b] = ["a", "b"].map(|name| staging(&store, name));
        let half_stays = room(dir.path(), MinFree::Bytes(free / 2));
        let needed = free / 4 + (1 << 30);
        half_stays.reserve(&a, needed).unwrap();
        let error = half_stays.reserve(&b, needed).unwrap_err();
        assert!(
            error.to_string().contains("for other snapshots under way"),
            "{error}"
        );
        assert!(!b.join(NEEDS).exists());
        release(&a).unwrap();
        half_stays.reserve(&b, needed).unwrap();
    }
}
