//! What a stored snapshot holds, held.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use super::each::CONFIG;
use crate::engine::EngineError;
use crate::engine::local::packed::{self, Packed};
use crate::engine::local::store::SnapshotStore;
use crate::engine::local::{manifest, payload};
use crate::fs::beneath::Beneath;
use crate::fs::{bounded, frame, lock, shared};
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Occupied, SnapshotId};

/// The largest configuration that is read; 46 kB were seen for a guest with two disks.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// A snapshot that can't be deleted as long as this is there.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its content.
    pub(super) guest: Beneath,
    /// Where that is.
    pub(super) directory: PathBuf,
    /// Its manifest; `None` where there is none of its own.
    pub(super) manifest: Option<Manifest>,
    _reading: File,
}

impl Stored {
    /// Holds the snapshot `id`.
    ///
    /// # Errors
    /// When it is not there, or is being deleted.
    pub(super) fn hold(store: &SnapshotStore, id: &SnapshotId) -> Result<Self, EngineError> {
        let directory = store.snapshot_dir(id);
        let shown = directory.display();
        let failed =
            |error: io::Error| EngineError::caused(format!("can't open snapshot {shown}"), error);
        let reading = File::open(&directory).map_err(failed)?;
        if !lock::try_share(&reading).map_err(failed)? {
            return Err(EngineError::instance(format!(
                "snapshot {id} is being deleted"
            )));
        }
        let held = Beneath::open(&directory).map_err(failed)?;
        let guest = held.open_dir("guest").map_err(failed)?;
        let manifest = match manifest::read(&guest) {
            Ok(manifest) if manifest.is_of(id) => Some(manifest),
            Ok(_) | Err(_) => None,
        };
        Ok(Self {
            directory: directory.join("guest"),
            guest,
            manifest,
            _reading: reading,
        })
    }

    /// Its memory that is there in compressed form only.
    ///
    /// # Errors
    /// When its files can't be looked at.
    pub(super) fn packed(&self) -> io::Result<Vec<Packed>> {
        Ok(packed::among(&payload::list(&self.guest)?))
    }

    /// How long that memory is when it is unpacked; `None` where nothing says it.
    pub(super) fn unpacked_bytes(&self, packed: &Packed) -> Option<u64> {
        let listed = self
            .manifest
            .as_ref()
            .and_then(|it| it.size_of(&packed.raw));
        listed.or_else(|| {
            let file = self.guest.open_file(&packed.form).ok()??;
            frame::content_bytes(&file, packed.format).ok()?
        })
    }

    /// How much more than its files all that memory takes when it is unpacked, as far as that can be told.
    pub(super) fn grows_by(&self) -> u64 {
        let packed = self.packed().unwrap_or_default();
        let more = |it: &Packed| Some(self.unpacked_bytes(it)?.saturating_sub(it.size_bytes));
        packed.iter().filter_map(more).sum()
    }

    /// What of its files is whose.
    ///
    /// # Errors
    /// When one can't be looked at.
    pub(super) fn occupied(&self) -> io::Result<Occupied> {
        let mut shared_bytes = Some(0_u64);
        for entry in payload::list(&self.guest)? {
            let Some(file) = self.guest.open_file(&entry.path)? else {
                continue;
            };
            let of_file = shared::bytes(&file)?;
            shared_bytes = shared_bytes
                .zip(of_file)
                .map(|(sum, more)| sum.saturating_add(more));
        }
        let packed = self.packed()?;
        let sum = |bytes: &dyn Fn(&Packed) -> Option<u64>| {
            let all: Option<u64> = packed.iter().map(bytes).sum();
            all.filter(|_| !packed.is_empty())
        };
        Ok(Occupied {
            shared_bytes,
            compressed_bytes: sum(&|it| Some(it.size_bytes)),
            uncompressed_bytes: sum(&|it| self.unpacked_bytes(it)),
        })
    }

    /// The configuration that Cloud Hypervisor saved, as `manifest` says where that is; `None` where there is none that
    /// can be read.
    pub(super) fn configuration(&self, manifest: Option<&Manifest>) -> Option<Value> {
        let path = manifest?.state_dir()?.join(CONFIG);
        let file = self.guest.open_file(path).ok()??;
        let bytes = bounded::read(file, CONFIG_MAX_BYTES).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}
