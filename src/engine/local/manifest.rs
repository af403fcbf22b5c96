//! The manifest as a file of a snapshot.

use std::os::fd::AsFd;

use crate::engine::EngineError;
use crate::engine::local::json::{self, FILE_MAX_BYTES, ReadError};
use crate::fs::beneath::Beneath;
use crate::snapshot::manifest::{FILE_NAME, FILES_MAX, Manifest, Unfit};

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Reads the manifest in the open directory `guest/`. Its paths are plain ones below that directory.
///
/// # Errors
/// When there is none, it can't be read, or says what no manifest says.
pub(super) fn read(guest: impl AsFd) -> Result<Manifest, ManifestError> {
    let manifest: Manifest = json::read_at(guest, FILE_NAME)?;
    manifest.check()?;
    Ok(manifest)
}

/// Writes the manifest into the snapshot's `guest/`. Returns what is in the file.
///
/// # Errors
/// When it can't be written, or could not be read again.
pub(super) fn write(manifest: &Manifest, guest: &Beneath) -> Result<Vec<u8>, EngineError> {
    let path = guest.path().join(FILE_NAME);
    let bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|error| EngineError::caused(format!("can't make {}", path.display()), error))?;
    if manifest.files.len() > FILES_MAX || bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(EngineError::instance(format!(
            "the snapshot would have {} files, and {FILES_MAX} are allowed; remove from the instance's directory \
             what is not the instance's",
            manifest.files.len()
        )));
    }
    guest
        .write_new(FILE_NAME, &bytes)
        .map_err(|error| EngineError::caused(format!("can't write {}", path.display()), error))?;
    Ok(bytes)
}
