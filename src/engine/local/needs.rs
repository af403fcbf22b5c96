//! What a snapshot would need, as far as that shows without making one. Changes nothing.

use std::fs::File;
use std::path::Path;

use super::metadata::Metadata;
use super::registration::DiskAtRest;
use crate::engine::{CreateRequest, EngineError};
use crate::fs::{copy, space};
use crate::instance::State;
use crate::snapshot::Kind;
use crate::vmm::{self, Timeouts};

/// What the snapshot takes in `store`, in bytes.
///
/// # Errors
/// When the VMM can't be asked.
pub(super) fn bytes(
    request: &CreateRequest<'_>,
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    store: &Path,
    timeouts: Timeouts,
) -> Result<u64, EngineError> {
    let disks = disks(metadata, guest_dir, store);
    if request.kind != Kind::Standby || request.instance.state != State::Running {
        return Ok(disks);
    }
    Ok(disks.saturating_add(memory(metadata, timeouts)?))
}

/// What copies of the instance's files take in `store`, in bytes. What can't be looked at counts nothing: the snapshot
/// itself will meet it.
fn disks(metadata: &Metadata, guest_dir: Option<&Path>, store: &Path) -> u64 {
    let is_shared = |directory: &Path| copy::can_reflink(directory, store).unwrap_or(false);
    let in_guest_dir = guest_dir
        .filter(|it| !is_shared(it))
        .and_then(|it| space::disk_usage(it).ok());
    let disks = metadata.disks_at_rest();
    let paths = disks.iter().map(DiskAtRest::path);
    let elsewhere = paths.filter(|path| {
        let is_inside = guest_dir.is_some_and(|dir| path.starts_with(dir));
        !is_inside && !path.parent().is_some_and(is_shared)
    });
    let sizes = elsewhere.filter_map(|path| space::data_bytes(&File::open(path).ok()?).ok());
    sizes.fold(in_guest_dir.unwrap_or(0), u64::saturating_add)
}

/// What the memory of the guest takes, in bytes.
///
/// # Errors
/// When its VMM can't be asked.
fn memory(metadata: &Metadata, timeouts: Timeouts) -> Result<u64, EngineError> {
    let hypervisor = metadata
        .hypervisor()
        .map_err(|error| EngineError::instance(error.to_string()))?;
    let mut vmm = vmm::open(hypervisor, &metadata.socket, timeouts)?;
    Ok(vmm.memory_bytes()?)
}
