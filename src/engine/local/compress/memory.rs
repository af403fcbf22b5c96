//! The memory of one snapshot as files: the raw one, the frame in the making, and the frame.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::engine::EngineError;
use crate::engine::local::digests::FileDigests;
use crate::engine::local::manifest;
use crate::engine::local::packed::{MEMORY, form_of, unfinished_form_of};
use crate::engine::local::payload::STATE_DIR;
use crate::fs::beneath::Beneath;
use crate::fs::digest::Digester;
use crate::fs::frame::{self, Format, FrameError};
use crate::interrupt::{Over, Watch};
use crate::progress::Step;
use crate::snapshot::SnapshotId;
use crate::snapshot::storing::Method;

/// After so much more of a frame it is looked whether there is room for as much again.
const ROOM_BYTES: u64 = 16 << 20;
/// After so much more of a frame it is written out, so that it does not all wait for the end.
const SYNC_BYTES: u64 = 64 << 20;

/// Why a compression stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its time is over, or the process was asked to stop.
    Over(Over),
    /// Somebody reads the snapshot all the time.
    InUse,
    /// The frame does not fit now.
    NoRoom(String),
    /// It is of no use, now and later.
    Never(String),
    /// A file can't be read or written.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) {
            return Self::NoRoom("there is no room for the compressed memory".to_owned());
        }
        Self::Io(error)
    }
}

/// A snapshot's raw memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// The directory that it is in.
    state: Beneath,
    /// Its name in there.
    name: &'static str,
    /// Its path below `guest/`.
    path: PathBuf,
    file: File,
    metadata: std::fs::Metadata,
}

/// A frame that is made and has no name of its own yet.
#[derive(Debug)]
pub(super) struct Made {
    file: File,
    format: Format,
    /// How long it is.
    pub(super) size_bytes: u64,
    /// What the raw memory takes on disk.
    pub(super) took_bytes: u64,
    /// What is in both.
    pub(super) digests: FileDigests,
}

impl Memory {
    /// The memory of the snapshot `id` in `directory`; `None` when there is none in raw form, or no manifest of ours.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub(super) fn find(directory: &Path, id: &SnapshotId) -> io::Result<Option<Self>> {
        let guest = Beneath::open(directory)?.open_dir("guest")?;
        let Some(manifest) = manifest::read(&guest).ok().filter(|it| it.is_of(id)) else {
            return Ok(None);
        };
        let state_dir = manifest.state_dir().unwrap_or(Path::new(STATE_DIR));
        let state = match guest.open_dir(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        for name in MEMORY {
            let Some(file) = state.open_file(name)? else {
                continue;
            };
            let metadata = file.metadata()?;
            return Ok(Some(Self {
                path: state_dir.join(name),
                state,
                name,
                file,
                metadata,
            }));
        }
        Ok(None)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.metadata.len()
    }

    /// Whether another name leads to it, as that of a fork: it would go on taking its room.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub(super) fn is_shared(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 1)
    }

    /// Removes every frame beside it, finished or not; none if it is not there itself any more.
    ///
    /// # Errors
    /// When one can't be removed.
    pub(super) fn clear(&self) -> io::Result<()> {
        let named = self.state.open_file(self.name)?;
        let Some(named) = named.map(|it| it.metadata()).transpose()? else {
            return Ok(());
        };
        if (named.dev(), named.ino()) != (self.metadata.dev(), self.metadata.ino()) {
            return Ok(());
        }
        let name = Path::new(self.name);
        let mut is_changed = false;
        for format in Format::ALL {
            for form in [form_of(name, format), unfinished_form_of(name, format)] {
                match rustix::fs::unlinkat(&self.state, &form, AtFlags::empty()) {
                    Ok(()) => is_changed = true,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if is_changed { self.sync() } else { Ok(()) }
    }

    /// Makes a frame of it beside it, durably. Asks `has_room` for each piece of it before that is written.
    pub(super) fn pack(
        &self,
        method: Method,
        watch: Watch,
        step: &Step,
        has_room: &mut dyn FnMut(u64) -> Result<(), EngineError>,
    ) -> Result<Made, Stop> {
        let format = match method {
            Method::Zstd(_) => Format::Zstd,
            Method::Lz4(_) => Format::Lz4,
        };
        let target = unfinished_form_of(Path::new(self.name), format);
        let target = self.state.create_file(target)?;
        let mut digester = Digester::default();
        let (mut room_until, mut synced_until) = (0, 0);
        let mut shortage = None;
        let packed = frame::pack(
            &self.file,
            &target,
            format,
            method.level(),
            &|| watch.is_over(),
            &mut |piece| {
                digester.take(piece);
                step.advance(piece.len() as u64);
                let written = target.metadata()?.len();
                if written >= room_until {
                    if let Err(error) = has_room(ROOM_BYTES) {
                        shortage = Some(error);
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    room_until = written + ROOM_BYTES;
                }
                if written >= synced_until + SYNC_BYTES {
                    target.sync_data()?;
                    synced_until = written;
                }
                Ok(())
            },
        );
        if let Some(shortage) = shortage {
            return Err(Stop::NoRoom(crate::error::in_words(&shortage)));
        }
        packed.map_err(|error| stop(error, watch))?;
        target.sync_all()?;
        let (length, pieces) = digester.finish();
        Ok(Made {
            size_bytes: target.metadata()?.len(),
            file: target,
            format,
            took_bytes: self.metadata.blocks().saturating_mul(512),
            digests: FileDigests::new(self.path.clone(), length, &pieces),
        })
    }

    /// Unpacks the frame, which must hold what the memory held when it was packed.
    pub(super) fn read_back(&self, made: &Made, watch: Watch, step: &Step) -> Result<(), Stop> {
        let mut digester = Digester::default();
        (&made.file).rewind()?;
        let unpacked = frame::unpack(
            &made.file,
            made.format,
            Some(self.size_bytes()),
            &|| watch.is_over(),
            &mut |content| {
                digester.take(content);
                step.advance(content.len() as u64);
                Ok(())
            },
        );
        unpacked.map_err(|error| stop(error, watch))?;
        let (length, pieces) = digester.finish();
        let back = FileDigests::new(self.path.clone(), length, &pieces);
        if back == made.digests {
            return Ok(());
        }
        Err(Stop::Io(io::Error::other(
            "what was read back of the compressed memory is not what was written",
        )))
    }

    /// # Errors
    /// When it is not what it was when it was found.
    pub(super) fn require_unchanged(&self) -> io::Result<()> {
        let key = |it: &std::fs::Metadata| {
            let changed = (it.mtime(), it.mtime_nsec(), it.nlink());
            (it.dev(), it.ino(), it.len(), changed)
        };
        let named = self.state.open_file(self.name)?;
        let named = named.ok_or(io::ErrorKind::NotFound)?.metadata()?;
        if key(&named) == key(&self.metadata) {
            return Ok(());
        }
        Err(io::Error::other(
            "the memory was changed while it was compressed",
        ))
    }

    /// Gives the frame that was made its name, durably.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub(super) fn give_name(&self, method: Method) -> io::Result<()> {
        let format = match method {
            Method::Zstd(_) => Format::Zstd,
            Method::Lz4(_) => Format::Lz4,
        };
        let name = Path::new(self.name);
        let (from, to) = (unfinished_form_of(name, format), form_of(name, format));
        rustix::fs::renameat(&self.state, from, &self.state, to)?;
        self.sync()
    }

    /// Removes the raw file.
    ///
    /// # Errors
    /// When it is there and can't be removed.
    pub(super) fn remove_raw(&self) -> io::Result<()> {
        rustix::fs::unlinkat(&self.state, self.name, AtFlags::empty())?;
        // One that comes back after a loss of power does no harm: there is what it says.
        let _ = self.sync();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.state)?)
    }
}

fn stop(error: FrameError, watch: Watch) -> Stop {
    match (error, watch.check()) {
        (FrameError::Cancelled, Err(over)) => Stop::Over(over),
        (error, _) => io::Error::from(error).into(),
    }
}
