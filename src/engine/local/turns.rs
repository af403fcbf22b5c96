//! Whose turn it is to pause a guest: one at a time for each file system that its snapshot goes to. Two that save to one
//! disk at once would both be paused for as long as both saves take. Only the pause is kept apart, not the copying behind
//! the running guest; and it is kept apart from other processes as well, by locks in the state directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::EngineError;
use crate::fs::lock::{self, Lock, Waited};
use crate::interrupt::Watch;

/// How long to wait between two looks at what else may end the wait.
const LOOK: Duration = Duration::from_millis(500);

/// The locks, one for each file system.
#[derive(Debug)]
pub(super) struct Turns {
    directory: PathBuf,
}

/// It is ours until this is dropped.
#[derive(Debug)]
#[must_use = "it is the next one's turn when this is dropped"]
pub(super) struct Turn {
    _locks: Vec<Lock>,
}

impl Turns {
    /// The locks under `state_dir`; nothing is created yet.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("pauses"),
        }
    }

    /// Waits for the turn on the file systems with these device numbers, until `watch` is over.
    ///
    /// # Errors
    /// When it is over, or there can be no lock.
    pub(super) fn wait(&self, devices: &BTreeSet<u64>, watch: Watch) -> Result<Turn, EngineError> {
        let mut locks = Vec::new();
        // All take them in the same order, so that no two wait for each other.
        for device in devices {
            locks.push(self.wait_for(*device, watch)?);
        }
        Ok(Turn { _locks: locks })
    }

    fn wait_for(&self, device: u64, watch: Watch) -> Result<Lock, EngineError> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = self.directory.join(format!("{major}-{minor}.lock"));
        let mut is_told = false;
        loop {
            let waited = lock::take(&path, if is_told { LOOK } else { Duration::ZERO });
            match waited {
                Ok(Waited::Locked(lock)) => return Ok(lock),
                Ok(Waited::Held) if !is_told => {
                    let path = path.display();
                    log::debug!(
                        "another guest is paused for the same file system: waits for {path}"
                    );
                    is_told = true;
                }
                Ok(Waited::Held | Waited::Interrupted) => {}
                Err(error) => {
                    let path = path.display();
                    return Err(EngineError::caused(format!("can't lock {path}"), error));
                }
            }
            watch.check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_one_has_its_turn_on_a_file_system_and_another_one_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let turns = Turns::new(dir.path());
        let both = BTreeSet::from([0x801, 0x802]);
        let turn = turns.wait(&both, Watch::unlimited()).unwrap();
        let shortly = || Watch::begin(Some(Duration::from_millis(20)));
        for device in both {
            let error = turns.wait(&BTreeSet::from([device]), shortly());
            assert!(error.unwrap_err().to_string().contains("given up"));
        }
        let elsewhere = turns.wait(&BTreeSet::from([0x803]), shortly());
        assert!(elsewhere.is_ok());
        drop(turn);
        assert!(turns.wait(&BTreeSet::from([0x802]), shortly()).is_ok());
        assert!(dir.path().join("pauses/8-1.lock").is_file());
    }

    #[test]
    fn wait_for_a_turn_ends_with_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let turns = Turns::new(dir.path());
        let devices = BTreeSet::from([1]);
        let _turn = turns.wait(&devices, Watch::unlimited()).unwrap();
        let told = Watch::unlimited().with_signal(|| Some(Instant::now()));
        let error = turns.wait(&devices, told).unwrap_err();
        assert!(matches!(error, EngineError::Interrupted), "{error}");
    }
}
