//! Compressing the memory of a snapshot that is published (contract, section 5): a frame is made beside the raw file, read
//! back, and takes its place, so that at each moment one of the two is whole.
//!
//! Three locks keep others out. The marker (see [`marker`]) is held all along: nobody else compresses it or clears it up.
//! The snapshot's directory is shared while the frame is made, so that the snapshot can be read but not deleted; and ours
//! alone while the two files change places, so that nobody reads half of it.

pub(super) mod marker;
mod memory;
pub(super) mod state;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::digests::Digests;
use super::record::RECORD;
use super::room::Room;
use super::store::SnapshotStore;
use super::sweep::claim;
use crate::engine::{Compress, Compressed, EngineError};
use crate::fs::lock::{self, Lock};
use crate::fs::space;
use crate::interrupt::Over;
use crate::progress::Progress;

use marker::Markers;
use memory::{Made, Memory, Stop};
use state::State;

/// How long readers are waited for when all else is done.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What is needed to compress.
pub(super) struct Compressor<'a> {
    pub(super) store: &'a SnapshotStore,
    pub(super) markers: &'a Markers,
    pub(super) room: &'a Room<'a>,
    pub(super) progress: &'a Progress,
}

/// A snapshot that is being compressed.
struct Work<'a> {
    compressor: &'a Compressor<'a>,
    wanted: &'a Compress<'a>,
    directory: PathBuf,
    memory: Memory,
    marker: Lock,
}

impl Compressor<'_> {
    /// Compresses the memory of the wanted snapshot, if it has some that nothing speaks against.
    ///
    /// # Errors
    /// When a file can't be read or written; the snapshot is as it was, and says why.
    pub(super) fn compress(&self, wanted: &Compress<'_>) -> Result<Compressed, EngineError> {
        let directory = self.store.snapshot_dir(wanted.id);
        let id = wanted.id;
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't compress the memory of snapshot {id}"), error)
        };
        let in_use = || Compressed::Later(format!("snapshot {id} is in use"));
        let shared = match share(&directory).map_err(failed)? {
            Shared::Here(shared) => shared,
            Shared::Held => return Ok(in_use()),
            Shared::Gone => return Ok(Compressed::Nothing),
        };
        let Some(memory) = Memory::find(&directory, id).map_err(failed)? else {
            return Ok(Compressed::Nothing);
        };
        let record = std::fs::read(directory.join(RECORD)).map_err(failed)?;
        if memory.is_shared().map_err(failed)? || state::is_given_up(&record) {
            return Ok(Compressed::Nothing);
        }
        let Some(marker) = self.markers.take(id, &directory).map_err(failed)? else {
            return Ok(in_use());
        };
        let work = Work {
            compressor: self,
            wanted,
            directory,
            memory,
            marker,
        };
        work.carry_out(shared).map_err(failed)
    }
}

impl Work<'_> {
    fn carry_out(self, shared: File) -> io::Result<Compressed> {
        let made = self.make(&shared);
        let stopped = match made {
            Ok(made) => {
                drop(shared);
                match self.alone()? {
                    Alone::Held(alone) => match self.exchange(&made) {
                        Ok(compressed) => {
                            drop(alone);
                            return self.end(compressed);
                        }
                        Err(error) => Stop::Io(error),
                    },
                    Alone::InUse => Stop::InUse,
                    Alone::Over(over) => Stop::Over(over),
                    // What was made went with it.
                    Alone::Gone => return self.end(Compressed::Nothing),
                }
            }
            Err(stop) => {
                drop(shared);
                stop
            }
        };
        self.give_up(stopped)
    }

    /// Makes the frame beside the memory and reads it back.
    fn make(&self, shared: &File) -> Result<Made, Stop> {
        self.memory.clear()?;
        let method = self.wanted.method;
        self.note(&State::Compressing(method))?;
        let id = self.wanted.id;
        let size_bytes = self.memory.size_bytes();
        let step = (self.compressor.progress).begin(id.as_str(), "compressing", Some(size_bytes));
        let made = self
            .memory
            .pack(method, self.wanted.watch, &step, &mut |more| {
                let store = self.compressor.store.directory();
                self.compressor.room.require(store, None, more)
            })?;
        drop(step);
        if let Some(then) = Digests::read(shared, id)
            .ok()
            .and_then(|digests| digests.of(self.memory.path()).cloned())
        {
            if let Some(difference) = then.difference(&made.digests) {
                return Err(Stop::Never(format!(
                    "{difference}: see `hypeman-snap verify --read {id}`"
                )));
            }
        }
        if made.size_bytes >= made.took_bytes {
            return Err(Stop::Never("it would not take less room".to_owned()));
        }
        let step = (self.compressor.progress).begin(id.as_str(), "reading back", Some(size_bytes));
        self.memory.read_back(&made, self.wanted.watch, &step)?;
        Ok(made)
    }

    /// Waits until nobody else has the snapshot.
    fn alone(&self) -> io::Result<Alone> {
        let began = Instant::now();
        loop {
            match claim(&self.directory) {
                Ok(Some(held)) => return Ok(Alone::Held(held)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Alone::Gone),
                Err(error) => return Err(error),
            }
            let is_late = match self.wanted.watch.check() {
                Err(over @ Over::Signal) => return Ok(Alone::Over(over)),
                Err(Over::Time { .. }) => true,
                Ok(()) => began.elapsed() > PATIENCE,
            };
            if is_late {
                return Ok(Alone::InUse);
            }
            std::thread::sleep(AGAIN_AFTER);
        }
    }

    /// Puts the frame in the place of the memory, which goes last: killed anywhere, one of them is whole.
    fn exchange(&self, made: &Made) -> io::Result<Compressed> {
        self.memory.require_unchanged()?;
        let raw_bytes = self.memory.size_bytes();
        self.memory.give_name(self.wanted.method)?;
        let size_bytes = space::apparent_size(&self.directory.join("guest"))?;
        self.note(&State::Compressed {
            method: self.wanted.method,
            packed_bytes: made.size_bytes,
            raw_bytes,
            size_bytes: size_bytes.saturating_sub(raw_bytes),
        })?;
        self.memory.remove_raw()?;
        Ok(Compressed::Done {
            raw_bytes,
            packed_bytes: made.size_bytes,
        })
    }

    /// Leaves the memory as it was, and says in the record why, where that is for good.
    fn give_up(self, why: Stop) -> io::Result<Compressed> {
        let id = self.wanted.id;
        let (state, compressed) = match why {
            Stop::Over(Over::Signal) => (State::None, Ok(Compressed::Interrupted)),
            Stop::InUse => {
                let why = format!("snapshot {id} is in use");
                (State::None, Ok(Compressed::Later(why)))
            }
            Stop::NoRoom(why) => (State::None, Ok(Compressed::Later(why))),
            Stop::Over(Over::Time { .. }) => {
                let why = "it was not done when the next run was due".to_owned();
                (State::Failed(why.clone()), Ok(Compressed::Never(why)))
            }
            Stop::Never(why) => (State::Failed(why.clone()), Ok(Compressed::Never(why))),
            Stop::Io(error) => (State::Failed(error.to_string()), Err(error)),
        };
        // Whoever has it now deletes it, or it is gone: the marker stays for whoever sweeps.
        let Shared::Here(_shared) = share(&self.directory)? else {
            return compressed;
        };
        self.memory.clear()?;
        self.note(&state)?;
        self.end(compressed?)
    }

    fn note(&self, state: &State) -> io::Result<()> {
        state::note(&self.directory.join(RECORD), state)
    }

    fn end(self, compressed: Compressed) -> io::Result<Compressed> {
        self.compressor
            .markers
            .remove(self.wanted.id, self.marker)?;
        Ok(compressed)
    }
}

/// What came of the wish to have a snapshot for oneself.
enum Alone {
    Held(File),
    InUse,
    Over(Over),
    Gone,
}

/// What came of the wish to read a snapshot.
enum Shared {
    Here(File),
    Held,
    Gone,
}

fn share(directory: &Path) -> io::Result<Shared> {
    let opened = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Shared::Gone),
        opened => opened?,
    };
    Ok(if lock::try_share(&opened)? {
        Shared::Here(opened)
    } else {
        Shared::Held
    })
}

/// Clears up behind those that died over a snapshot of `store`: the raw memory counts. Returns a line for each.
///
/// # Errors
/// When something can't be looked at or removed; the others are.
pub(super) fn clear_up(store: &SnapshotStore, markers: &Markers) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    let mut failed = None;
    for (id, directory) in markers.list()? {
        if directory != store.snapshot_dir(&id) {
            continue;
        }
        // Who holds it is at work.
        let Some(marker) = markers.take(&id, &directory)? else {
            continue;
        };
        let cleared = || -> io::Result<Option<String>> {
            let _shared = match share(&directory)? {
                Shared::Here(shared) => Some(shared),
                Shared::Held => return Ok(None),
                Shared::Gone => None,
            };
            let memory = match Memory::find(&directory, &id) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                found => found?,
            };
            let mut line = String::new();
            if let Some(memory) = memory {
                memory.clear()?;
                state::note(&directory.join(RECORD), &State::None)?;
                line =
                    format!("the memory of snapshot {id} was being compressed, and is as it was");
            }
            Ok(Some(line))
        };
        match cleared() {
            Ok(Some(line)) => {
                markers.remove(&id, marker)?;
                done.extend(Some(line).filter(|line| !line.is_empty()));
            }
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(done), Err)
}

/// Where the markers are, below the state directory.
pub(super) fn markers(state_dir: &Path) -> Markers {
    Markers::new(state_dir.join("compressing"))
}

#[cfg(test)]
mod tests;
