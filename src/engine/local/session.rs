//! A conversation with a VMM that must end well: whatever happens, the guest goes on and nothing of ours stays.
//!
//! Resuming is a guard: [`Session::abandon`] on an error, `Drop` on a panic, the journal when the process dies.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::EngineError;
use crate::engine::local::disks::DiskPlan;
use crate::engine::local::foresight::PauseLimit;
use crate::engine::local::journal::{Entry, Journal, Phase};
use crate::engine::local::turns::{Turn, Turns};
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::vmm::{self, Deadline, DisksSettle, SavePlan, Saved, Timeouts, Vmm, VmmError, VmmState};

/// How often an unwilling VMM is asked to resume its guest before that is left to the next run.
const RESUME_TRIES: u32 = 5;
/// The wait between two such requests.
const RESUME_WAIT: Duration = Duration::from_millis(200);

/// On what terms a guest is paused.
pub(super) struct Terms<'a> {
    /// Whose turn it is.
    pub(super) turns: &'a Turns,
    /// The file system that the snapshot goes to, by its device number.
    pub(super) target: u64,
    /// How long the pause may be foreseen to be.
    pub(super) limit: PauseLimit,
    /// How long it may be.
    pub(super) timeout: Duration,
}

/// A VMM connection with its journal.
pub(super) struct Session<'a> {
    vmm: Box<dyn Vmm>,
    journal: &'a Journal,
    entry: Entry,
    timeouts: Timeouts,
    /// Held as long as the guest is paused, or may be.
    turn: Option<Turn>,
    /// Whether the guest may be paused because of us.
    owns_pause: bool,
    /// When that was asked for.
    paused_at: Option<Instant>,
    /// How long it was paused.
    pause: Option<Duration>,
    is_open: bool,
}

impl<'a> Session<'a> {
    /// Starts a capture: from here on the journal says that this VMM may hold something of ours.
    pub(super) fn begin(
        vmm: Box<dyn Vmm>,
        journal: &'a Journal,
        entry: Entry,
        timeouts: Timeouts,
    ) -> Result<Self, EngineError> {
        journal.write(&entry)?;
        Ok(Self {
            vmm,
            journal,
            entry,
            timeouts,
            turn: None,
            owns_pause: false,
            paused_at: None,
            pause: None,
            is_open: true,
        })
    }

    /// Takes over the session of a process that died.
    pub(super) fn take_over(
        vmm: Box<dyn Vmm>,
        journal: &'a Journal,
        entry: Entry,
        timeouts: Timeouts,
        owns_pause: bool,
    ) -> Self {
        Self {
            vmm,
            journal,
            entry,
            timeouts,
            turn: None,
            owns_pause,
            paused_at: None,
            pause: None,
            is_open: true,
        }
    }

    /// From now on this is what ends every wait.
    pub(super) fn set_watch(&mut self, watch: Watch) {
        self.timeouts.watch = watch;
        self.vmm.set_watch(watch);
    }

    /// Saves memory, device state and disks of one instant. What happens while the guest is paused is in here, and
    /// nothing else; the journal is on disk before.
    pub(super) fn capture(
        &mut self,
        plan: &SavePlan,
        disks: &DiskPlan,
        terms: &Terms<'_>,
        step: &Step,
    ) -> Result<Saved, EngineError> {
        let watch = self.timeouts.watch;
        let settle = self.vmm.disks_settle();
        let mut prepared = self.vmm.prepare(plan)?;
        if let Some(outlook) = prepared.worse() {
            terms.limit.check(&outlook)?;
        }
        let mut targets = BTreeSet::from([terms.target]);
        targets.extend(prepared.other_target()?);
        self.turn = Some(terms.turns.wait(&targets, watch)?);
        prepared.write_out()?;
        disks.write_out()?;
        watch.check()?;

        self.entry.phase = Phase::Pausing;
        self.journal.write(&self.entry)?;
        self.owns_pause = true;
        self.paused_at = Some(Instant::now());
        let paused = match prepared.pause() {
            Ok(paused) => paused,
            Err(error) => {
                if matches!(error, VmmError::PausedByOthers) {
                    self.owns_pause = false;
                    self.paused_at = None;
                }
                return Err(error.into());
            }
        };
        // What a driver does before it stops the guest in there does not count.
        let deadline = Deadline::after(terms.timeout);
        let secured = match settle {
            DisksSettle::ByPause => {
                disks.copy(deadline, watch, step)?;
                paused.save(deadline)?
            }
            DisksSettle::BySave => {
                let secured = paused.save(deadline)?;
                disks.copy(deadline, watch, step)?;
                secured
            }
        };
        let resumed = secured.resume()?;
        self.owns_pause = false;
        self.pause = self.paused_at.take().map(|at| at.elapsed());
        self.turn = None;
        self.entry.phase = Phase::Saving;
        self.journal.write(&self.entry)?;
        Ok(resumed.finish()?)
    }

    fn resumed(&mut self) {
        self.owns_pause = false;
        self.pause = self.paused_at.take().map(|at| at.elapsed());
    }

    /// Ends a session that left nothing behind.
    pub(super) fn close(mut self) -> Result<(), EngineError> {
        self.is_open = false;
        self.journal.remove(&self.entry.instance_id)
    }

    /// Ends a session that failed: the guest goes on, and nothing of ours stays in the VMM. The journal goes only when
    /// that is certain. Returns how long the guest was paused, if it was.
    pub(super) fn abandon(mut self) -> Result<Option<Duration>, EngineError> {
        self.is_open = false;
        self.undo()?;
        Ok(self.pause)
    }

    fn undo(&mut self) -> Result<(), EngineError> {
        let is_gone = self.owns_pause && self.resume_stubbornly()?;
        if !is_gone {
            let save_may_have_begun = !self.entry.no_memory && self.entry.phase != Phase::Preparing;
            match self.vmm.discard(save_may_have_begun) {
                Ok(()) => {}
                // What a process held is gone with it.
                Err(VmmError::Closed { .. }) if self.is_gone() => {}
                Err(error) => {
                    return Err(EngineError::caused(
                        "could not remove everything that the snapshot left in the VMM; the next run tries again",
                        error,
                    ));
                }
            }
        }
        self.journal.remove(&self.entry.instance_id)
    }

    /// Resumes the guest, over a new connection if need be. Returns whether the VMM is gone, and its guest with it.
    fn resume_stubbornly(&mut self) -> Result<bool, EngineError> {
        let mut tries = 1;
        loop {
            let error = match self.vmm.resume() {
                Ok(()) => {
                    self.resumed();
                    return Ok(false);
                }
                Err(error) => error,
            };
            log::warn!(instance = self.entry.instance_id.as_str(); "could not resume the guest (try {tries}): {error}");
            if tries == RESUME_TRIES || self.timeouts.watch.check_cleanup().is_err() {
                return Err(EngineError::caused(
                    "the guest may still be paused; the next run resumes it, or the VMM's own resume command",
                    error,
                ));
            }
            tries += 1;
            thread::sleep(RESUME_WAIT);
            if self.reconnect().is_err_and(|error| is_gone_error(&error)) {
                self.owns_pause = false;
                return Ok(true);
            }
        }
    }

    /// Whether the VMM has died. One that is about to still takes connections for a moment, and closes them at once.
    fn is_gone(&mut self) -> bool {
        for _ in 0..RESUME_TRIES {
            match self.reconnect() {
                Err(error) if is_gone_error(&error) => return true,
                Err(VmmError::Closed { .. }) => thread::sleep(RESUME_WAIT),
                Ok(()) | Err(_) => return false,
            }
        }
        false
    }

    fn reconnect(&mut self) -> Result<(), VmmError> {
        self.vmm = vmm::open(self.entry.hypervisor, &self.entry.socket, self.timeouts)?;
        if let Some(settings) = self.entry.settings.clone() {
            self.vmm.know_settings(settings);
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.is_open {
            if let Err(error) = self.undo() {
                log::error!(instance = self.entry.instance_id.as_str(); "{error}");
            }
        }
    }
}

/// Puts right what the capture of `entry` left in its VMM. Returns a line for each thing that the user should know.
pub(super) fn recover(
    journal: &Journal,
    entry: Entry,
    timeouts: Timeouts,
) -> Result<Vec<String>, EngineError> {
    let id = entry.instance_id.clone();
    let mut vmm = match vmm::open(entry.hypervisor, &entry.socket, timeouts) {
        Ok(vmm) => vmm,
        Err(error) if is_gone_error(&error) => {
            journal.remove(&id)?;
            return Ok(vec![
                "an earlier run died in mid-snapshot; its VMM is gone, so nothing is paused"
                    .to_owned(),
            ]);
        }
        Err(error) => return Err(error.into()),
    };
    if entry.process.is_some() && vmm.process() != entry.process {
        journal.remove(&id)?;
        return Ok(vec![
            "an earlier run died in mid-snapshot; the VMM was restarted since, so nothing is paused by it"
                .to_owned(),
        ]);
    }
    if let Some(settings) = entry.settings.clone() {
        vmm.know_settings(settings);
    }
    let is_paused = matches!(vmm.state()?, VmmState::Paused);
    let owns_pause = is_paused && entry.phase == Phase::Pausing;
    let mut lines =
        vec!["an earlier run died in mid-snapshot; what it left in the VMM was removed".to_owned()];
    if owns_pause {
        lines.push("the guest was still paused by that run and has been resumed".to_owned());
    } else if is_paused {
        lines.push("the guest is paused, but not by this tool: it stays paused".to_owned());
    }
    Session::take_over(vmm, journal, entry, timeouts, owns_pause).abandon()?;
    Ok(lines)
}

/// Whether an error says for certain that no VMM is there any more: no socket, or nobody listening on it.
fn is_gone_error(error: &VmmError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, VmmError::Unreachable { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
}
