//! Guests that hypeman runs: what keeps this tool from capturing one through its VMM. Guests that were registered are
//! this tool's alone and free of all of it. Changes nothing.

use std::path::Path;

use super::metadata::Metadata;
use crate::engine::EngineError;
use crate::engine::hypeman::ServerPresence;
use crate::fs::absence::is_there;
use crate::vmm::Vmm;

/// What hypeman keeps of the last saved memory, to write only differences onto it the next time (contract, section 5).
const RETAINED_BASE: &str = "snapshots/snapshot-base";

/// What to do about a guest that this tool must leave to hypeman.
pub(super) const REMEDY: &str = "let hypeman take its snapshots: --engine hypeman";

/// Why a hypeman server must be left alone with the VMM of this instance, if so: it keeps QEMU's only monitor, locks the
/// instance within its own process, and may stop it at any moment.
///
/// # Errors
/// When it can't be told whether there is such a server.
pub(super) fn claim(
    metadata: &Metadata,
    server: &ServerPresence,
) -> Result<Option<String>, EngineError> {
    if metadata.is_registered() {
        return Ok(None);
    }
    Ok(server.answers_at()?.map(|address| {
        format!(
            "the hypeman server that answers at {address} runs this instance, and two programs at one VMM do harm: \
             {REMEDY}; if that is not hypeman's server, say where hypeman's is with --base-url"
        )
    }))
}

/// Why a capture through `vmm` would spoil what hypeman saves of this guest later; `None` when it would not.
///
/// hypeman's standby saves only the pages that were written since the last save, and any save by somebody else starts
/// that account anew. Nothing is sent to the VMM but a question.
///
/// # Errors
/// When it can't be told.
pub(super) fn harm(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    vmm: &mut dyn Vmm,
) -> Result<Option<String>, EngineError> {
    let Some(guest_dir) = guest_dir.filter(|_| !metadata.is_registered()) else {
        return Ok(None);
    };
    let base = guest_dir.join(RETAINED_BASE);
    let sign = if is_there(&base)
        .map_err(|error| EngineError::caused(format!("can't look for {}", base.display()), error))?
    {
        format!("{} is there", base.display())
    } else if vmm.tracks_writes()? {
        "its VMM tracks dirty pages".to_owned()
    } else {
        return Ok(None);
    };
    Ok(Some(format!(
        "hypeman saves only changes of this guest's memory ({sign}), and a snapshot by anybody else would make its next \
         standby miss some: the guest would be damaged"
    )))
}

/// Why the socket can't be the one of this guest of hypeman's, if so: hypeman has each guest's in the guest's directory
/// (contract, section 4), and whoever may write the metadata could name another VM's.
pub(super) fn socket_elsewhere(metadata: &Metadata, guest_dir: Option<&Path>) -> Option<String> {
    let guest_dir = guest_dir.filter(|_| !metadata.is_registered())?;
    let socket = &metadata.socket;
    let parent = socket.parent()?;
    let is_same = || {
        parent
            .canonicalize()
            .ok()
            .zip(guest_dir.canonicalize().ok())
            .is_some_and(|(parent, guest_dir)| parent == guest_dir)
    };
    if parent == guest_dir || is_same() {
        return None;
    }
    Some(format!(
        "metadata.json says that the VMM's socket is {}, which is not in the guest's directory {}, where hypeman has it; \
         correct SocketPath, or register the VM if it is not hypeman's",
        socket.display(),
        guest_dir.display()
    ))
}
