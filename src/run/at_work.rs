//! Which instances a run has begun and not ended, and the end of a run that was told to stop and can't: something that
//! hangs holds nobody up for longer than ten seconds, and what pre-hooks did is undone all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::exit::Exit;
use crate::instance::InstanceId;
use crate::interrupt;

/// How long after a signal the work may end by itself before others undo what its pre-hooks did.
const UNDO_AFTER: Duration = Duration::from_millis(5500);
/// How long these have for it; the process ends within ten seconds of a signal.
const END_AFTER_UNDO: Duration = Duration::from_millis(3800);

/// What has to be done once whatever becomes of the work, such as a post-hook.
type Undo = Box<dyn FnOnce() + Send>;

/// What a run has begun and not ended. Clones are one.
#[derive(Clone, Default)]
pub(super) struct AtWork(Arc<Mutex<BTreeMap<InstanceId, Option<Undo>>>>);

impl AtWork {
    /// From here on, work that does not end after a signal is left behind.
    pub(super) fn watch(&self) {
        let at_work = self.clone();
        let watched = interrupt::when_overdue(UNDO_AFTER, move || {
            // Not waited for: standard error may be what holds everything up.
            thread::spawn(move || at_work.give_up());
            thread::sleep(END_AFTER_UNDO);
            std::process::exit(Exit::Failed.code().into());
        });
        if let Err(error) = watched {
            log::warn!("a signal may not end this run: {error}");
        }
    }

    /// Notes that the work on an instance begins; it ends when the value is dropped.
    pub(super) fn begin(&self, id: &InstanceId) -> Working<'_> {
        self.lock().insert(id.clone(), None);
        Working {
            at_work: self,
            id: id.clone(),
        }
    }

    /// Leaves `undo` to others, should the work not end in time.
    pub(super) fn arm(&self, id: &InstanceId, undo: Undo) {
        self.lock().insert(id.clone(), Some(undo));
    }

    /// Takes that back. Too late, when it is being done, this does not return: the process is about to end.
    pub(super) fn disarm(&self, id: &InstanceId) {
        let undo = self.lock().get_mut(id).and_then(Option::take);
        if undo.is_none() {
            loop {
                thread::park();
            }
        }
    }

    fn give_up(&self) {
        let (names, undos): (Vec<String>, Vec<Option<Undo>>) = std::mem::take(&mut *self.lock())
            .into_iter()
            .map(|(id, undo)| (id.to_string(), undo))
            .unzip();
        let undoing: Vec<_> = undos.into_iter().flatten().map(thread::spawn).collect();
        let what = if names.is_empty() {
            "something".to_owned()
        } else {
            names.join(", ")
        };
        log::error!(
            "interrupted by a signal, and {what} does not end: it is left as it is, and the next run puts it right"
        );
        for undo in undoing {
            // A panic has been told.
            let _ = undo.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Option<Undo>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work on an instance that goes on.
pub(super) struct Working<'a> {
    at_work: &'a AtWork,
    id: InstanceId,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.at_work.lock().remove(&self.id);
    }
}
