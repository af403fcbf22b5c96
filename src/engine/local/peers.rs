//! Whether the process at a VM's socket is that VM's VMM: it runs as the user that was met there before, and serves no
//! other instance. Whoever can replace a socket could else have another VM's memory in a snapshot of his own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::learn;
use super::metadata::Metadata;
use super::processes;
use super::registration::{Registry, Seen};
use crate::engine::EngineError;
use crate::instance::InstanceId;
use crate::vmm::Vmm;

/// The processes that this run has met, and those that registered VMs had before.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the registrations say; nothing before somebody asks.
    recorded: Option<Vec<(InstanceId, Seen)>>,
    /// By process id and start time.
    served: HashMap<(i32, u64), InstanceId>,
}

impl Peers {
    /// Lets the VMM be captured as the one of `metadata`. Gives its process, where the kernel can tell.
    ///
    /// # Errors
    /// When it runs as another user than before, or serves another instance.
    pub(super) fn admit(
        &self,
        registry: &Registry,
        metadata: &Metadata,
        vmm: &dyn Vmm,
    ) -> Result<Option<Seen>, EngineError> {
        let seen = learn::seen(vmm);
        if let Some(why) = another_user(metadata, seen.as_ref()) {
            return Err(EngineError::instance(why));
        }
        let Some(seen) = seen else {
            return Ok(None);
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.recorded.is_none() {
            known.recorded = Some(recorded(registry)?);
        }
        let other = known.other(&metadata.id, &seen);
        if let Some(other) = other {
            return Err(EngineError::instance(format!(
                "{} at {} is the VMM of instance {other} too, and one process serves one instance: correct the socket of \
                 {} or of {other}, or unregister one of them",
                processes::in_words(seen.pid),
                metadata.socket.display(),
                metadata.id,
            )));
        }
        known
            .served
            .insert((seen.pid, seen.start_ticks), metadata.id.clone());
        Ok(Some(seen))
    }
}

impl Known {
    /// Another instance that this process serves.
    fn other(&self, id: &InstanceId, seen: &Seen) -> Option<&InstanceId> {
        let is_same = |it: &Seen| {
            (it.pid, it.start_ticks, &it.boot_id) == (seen.pid, seen.start_ticks, &seen.boot_id)
        };
        let recorded = self.recorded.iter().flatten();
        self.served
            .get(&(seen.pid, seen.start_ticks))
            .into_iter()
            .chain(recorded.filter(|(_, it)| is_same(it)).map(|(id, _)| id))
            .find(|it| *it != id)
    }
}

/// The processes of registered VMs. A registration that can't be read is its own instance's trouble.
fn recorded(registry: &Registry) -> Result<Vec<(InstanceId, Seen)>, EngineError> {
    let of = |id: InstanceId| {
        let registration = registry.read(&id).ok().flatten()?;
        Some((id, registration.learnt.vmm?))
    };
    Ok(registry.ids()?.into_iter().filter_map(of).collect())
}

/// Why it is not the user of before, if so.
fn another_user(metadata: &Metadata, seen: Option<&Seen>) -> Option<String> {
    let before = metadata.registration.as_ref()?.learnt.vmm.as_ref()?.uid;
    let now = match seen {
        Some(seen) if seen.uid == before => return None,
        Some(seen) => format!(
            "is served by {} of user {}",
            processes::in_words(seen.pid),
            seen.uid
        ),
        None => {
            "is served by a process that can't be seen from here (it has ended, or has no number in this PID namespace)"
                .to_owned()
        }
    };
    Some(format!(
        "the socket {} {now}, but was by user {before}: somebody else may have put it there; if it is the VM's, \
         `hypeman-snap register` {} again, here",
        metadata.socket.display(),
        metadata.id
    ))
}
