//! One capture: what is prepared, what happens in the pause, what goes on behind the running guest.
//!
//! Memory is saved by a background snapshot where QEMU can: then the guest may go on as soon as all RAM is protected.
//! Where it can't, memory is saved in the pause.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;
use serde_json::json;

use super::super::stages::Saved;
use super::super::{Deadline, Process, SavePlan, VmmError};
use super::backup::{self, Backup, Pace};
use super::capabilities::{self, Capabilities};
use super::memory::{Memory, NAME};
use super::migration::{self, Migration, MigrationState};
use super::qmp::Qmp;
use super::wire::RunChange;
use super::{IO_ERROR, MEMORY_FD, PREFIX, disks, jobs, status};

/// Longest wait between two looks in the pause.
const PAUSE_LOOK: Duration = Duration::from_micros(300);
/// Longest wait between two looks behind the running guest.
const LOOK: Duration = Duration::from_millis(20);

/// Within this time QEMU clears away what a failed save leaves; until then it refuses another ("duplicate yank
/// instance").
const CLEARED: Duration = Duration::from_secs(1);

/// Why a QEMU without background snapshots saves in the pause.
pub(super) const TOO_OLD: &str = "this QEMU is older than 6.0";

/// How memory is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SaveMode {
    /// Behind the running guest.
    Background,
    /// In the pause, for this reason.
    InPause(String),
    /// Not at all.
    Left,
}

/// A capture from its preparation on.
#[derive(Debug)]
pub(super) struct Save {
    /// `None` for disks alone.
    memory: Option<Memory>,
    method: SaveMode,
    /// Pages that an earlier save counted; QEMU forgets them when the next one starts, but not in all versions.
    stale_pages: u64,
    backups: Vec<Backup>,
    pace: Pace,
}

impl Save {
    /// Does what can be done while the guest runs.
    ///
    /// # Errors
    /// As [`super::super::Vmm::prepare`].
    pub fn prepare(
        qmp: &mut Qmp,
        plan: &SavePlan,
        process: Option<&Process>,
    ) -> Result<Self, VmmError> {
        let earlier = migration::look(qmp)?;
        if earlier.phase == MigrationState::UnderWay {
            return Err(VmmError::Unsupported(
                "the VMM is migrating or saving this guest already; try again when it has finished"
                    .to_owned(),
            ));
        }
        let (memory, method) = match &plan.state_dir {
            None => (None, SaveMode::Left),
            Some(_) if !earlier.blocked.is_empty() => {
                return Err(VmmError::Refused {
                    request: "to save this guest".to_owned(),
                    message: earlier.blocked.join("; "),
                });
            }
            Some(state_dir) => {
                let method = choose(qmp)?;
                (Some(Memory::prepare(qmp, state_dir, process)?), method)
            }
        };
        let mut save = Self {
            memory,
            method,
            stale_pages: earlier.pages,
            backups: Vec::new(),
            pace: Pace::OneByOne,
        };
        if !plan.disks.is_empty() {
            let drives = disks::drives(qmp)?;
            for (index, copy) in plan.disks.iter().enumerate() {
                let backup = Backup::prepare(qmp, index, copy, &drives)?;
                save.backups.push(backup);
            }
        }
        Ok(save)
    }

    /// Why memory is to be saved in the pause and not behind the running guest, if so.
    pub fn why_in_pause(&self) -> Option<&str> {
        match &self.method {
            SaveMode::InPause(why) => Some(why),
            SaveMode::Background | SaveMode::Left => None,
        }
    }

    /// Whether memory is to be saved behind the running guest.
    pub fn is_in_background(&self) -> bool {
        self.method == SaveMode::Background
    }

    /// Makes the pause that is to come shorter.
    ///
    /// # Errors
    /// [`VmmError::File`] when a disk fails.
    pub fn write_out(&self) -> Result<(), VmmError> {
        if let (Some(memory), SaveMode::InPause(_)) = (&self.memory, &self.method) {
            memory.write_out();
        }
        for backup in &self.backups {
            backup.write_out().map_err(|source| VmmError::File {
                what: format!("can't sync disk {}", backup.disk),
                source,
            })?;
        }
        Ok(())
    }

    /// Gets everything to the point from which the guest may go on.
    ///
    /// # Errors
    /// As [`Paused::save`](super::super::stages::Paused::save).
    pub fn save(&mut self, qmp: &mut Qmp, deadline: Deadline) -> Result<(), VmmError> {
        check_stands_still(qmp.changes())?;
        if let Some(memory) = &mut self.memory {
            memory.top_up()?;
        }
        if !self.backups.is_empty() {
            let urgent = matches!(self.method, SaveMode::InPause(_));
            self.pace = backup::start(qmp, &self.backups, urgent, deadline)?;
        }
        if self.method == SaveMode::Left {
            return Ok(());
        }
        if self.method == SaveMode::Background {
            match self.save_in_background(qmp, deadline)? {
                None => return Ok(()),
                Some(reason) => {
                    capabilities::set_background(qmp, false)?;
                    if let Some(memory) = &mut self.memory {
                        memory.pass_again(qmp)?;
                    }
                    self.method = SaveMode::InPause(reason);
                }
            }
        }
        self.save_in_pause(qmp, deadline)
    }

    /// Starts the save and waits until all RAM is protected; or returns why this guest can't be saved that way.
    fn save_in_background(
        &mut self,
        qmp: &mut Qmp,
        deadline: Deadline,
    ) -> Result<Option<String>, VmmError> {
        match migrate(qmp, deadline) {
            Err(VmmError::Refused { message, .. }) => return Ok(Some(message)),
            other => other?,
        }
        loop {
            let migration = migration::look_by(qmp, deadline)?;
            if stops_again(qmp.changes()) && status(qmp)? != IO_ERROR {
                return Err(interfered());
            }
            match migration.phase {
                MigrationState::Completed => return Ok(None),
                MigrationState::UnderWay if self.is_protected(&migration) => return Ok(None),
                MigrationState::UnderWay => {}
                // A guest that QEMU let go on had been protected: then it was the writing that failed.
                MigrationState::Failed(reason) if !has_resumed(qmp.changes()) => {
                    return Ok(Some(reason.unwrap_or_else(|| {
                        "QEMU could not protect the guest's memory".to_owned()
                    })));
                }
                end @ (MigrationState::None
                | MigrationState::Failed(_)
                | MigrationState::Cancelled) => {
                    return Err(self.not_saved(end));
                }
            }
            if deadline.has_passed() {
                return Err(VmmError::PauseTooLong {
                    limit: deadline.limit(),
                    goes_on: false,
                });
            }
            qmp.listen(PAUSE_LOOK)?;
        }
    }

    /// Whether pages of this save have been written: see [`Migration::pages`]. A number that an earlier save left
    /// proves nothing.
    fn is_protected(&self, migration: &Migration) -> bool {
        migration.pages > 0 && migration.pages != self.stale_pages
    }

    /// Saves memory and waits for its end. QEMU can't do that while a job still writes, so the disks come first.
    fn save_in_pause(&mut self, qmp: &mut Qmp, deadline: Deadline) -> Result<(), VmmError> {
        let too_long = || VmmError::PauseTooLong {
            limit: deadline.limit(),
            goes_on: false,
        };
        // Nobody needs QEMU's main loop now, and an urgent job is unlimited already: what crawls shall be, too.
        backup::speed_up(qmp, &self.backups, Pace::OneByOne)?;
        for backup in &self.backups {
            if !jobs::conclude(qmp, &backup.job, &backup.purpose(), deadline)? {
                return Err(too_long());
            }
        }
        jobs::remove(qmp, PREFIX)?;
        migration::lift_bandwidth(qmp)?;
        migrate_again(qmp, deadline)?;
        loop {
            let migration = migration::look_by(qmp, deadline)?;
            check_stands_still(qmp.changes())?;
            match migration.phase {
                MigrationState::Completed => return Ok(()),
                MigrationState::UnderWay if deadline.has_passed() => return Err(too_long()),
                MigrationState::UnderWay => qmp.listen(PAUSE_LOOK)?,
                end @ (MigrationState::None
                | MigrationState::Failed(_)
                | MigrationState::Cancelled) => {
                    return Err(self.not_saved(end));
                }
            }
        }
    }

    /// Waits for the end of what goes on behind the running guest. Fails when nothing moves for `stall`.
    ///
    /// # Errors
    /// As [`Resumed::finish`](super::super::stages::Resumed::finish).
    pub fn complete(&self, qmp: &mut Qmp, stall: Duration) -> Result<(), VmmError> {
        let in_background = !matches!(self.method, SaveMode::InPause(_));
        if in_background {
            backup::speed_up(qmp, &self.backups, self.pace)?;
        }
        let mut last = Vec::new();
        let mut moved_at = Instant::now();
        loop {
            let migration = (self.method != SaveMode::Left)
                .then(|| migration::look(qmp))
                .transpose()?;
            let jobs = if in_background {
                jobs::list(qmp, PREFIX)?
            } else {
                Vec::new()
            };
            let mut progress: Vec<u64> = migration.iter().flat_map(Migration::progress).collect();
            progress.extend(jobs.iter().map(|job| job.current_progress));
            let mut is_complete = match migration.map(|it| it.phase) {
                None | Some(MigrationState::Completed) => true,
                Some(MigrationState::UnderWay) => false,
                Some(
                    end @ (MigrationState::None
                    | MigrationState::Failed(_)
                    | MigrationState::Cancelled),
                ) => {
                    return Err(self.not_saved(end));
                }
            };
            for backup in self.backups.iter().filter(|_| in_background) {
                let job = jobs.iter().find(|job| job.id == backup.job);
                match job {
                    Some(job) if job.is_concluded() && job.error.is_none() => {}
                    Some(job) if !job.is_concluded() => is_complete = false,
                    other => return Err(jobs::failed(&backup.purpose(), other.cloned())),
                }
            }
            if is_complete {
                return Ok(());
            }
            if progress != last {
                last = progress;
                moved_at = Instant::now();
            } else if moved_at.elapsed() > stall {
                return Err(qmp.timed_out("with any progress of the save", stall));
            }
            qmp.listen(LOOK)?;
        }
    }

    /// What can be told once all is removed from QEMU.
    ///
    /// # Errors
    /// [`VmmError::File`] when a file can't be brought to its final size.
    pub fn conclude(&self, pause: Duration) -> Result<Saved, VmmError> {
        if let Some(memory) = &self.memory {
            memory.release()?;
        }
        for backup in &self.backups {
            backup.release().map_err(|source| VmmError::File {
                what: format!(
                    "can't give back unused room of the copy of disk {}",
                    backup.disk
                ),
                source,
            })?;
        }
        let mut warnings: Vec<String> = self.backups.iter().filter_map(Backup::lacks).collect();
        if let SaveMode::InPause(reason) = &self.method {
            warnings.push(slow(pause, !self.backups.is_empty(), reason));
        }
        Ok(Saved { pause, warnings })
    }

    fn not_saved(&self, phase: MigrationState) -> VmmError {
        let message = match phase {
            MigrationState::Failed(Some(reason)) => reason,
            MigrationState::Cancelled => "it was cancelled".to_owned(),
            MigrationState::None
            | MigrationState::UnderWay
            | MigrationState::Completed
            | MigrationState::Failed(None) => {
                let path = self.memory.as_ref().map_or(Path::new(NAME), Memory::path);
                format!("it gave no reason; is there room for {}?", path.display())
            }
        };
        VmmError::Refused {
            request: "to save the guest's memory".to_owned(),
            message,
        }
    }
}

/// How memory can be saved, with QEMU set accordingly.
fn choose(qmp: &mut Qmp) -> Result<SaveMode, VmmError> {
    let capabilities = Capabilities::look(qmp)?;
    capabilities::switch_off_foreign(qmp, &capabilities)?;
    match capabilities.background() {
        None => Ok(SaveMode::InPause(TOO_OLD.to_owned())),
        Some(true) => Ok(SaveMode::Background),
        Some(false) => match capabilities::set_background(qmp, true) {
            Ok(()) => Ok(SaveMode::Background),
            Err(VmmError::Refused { message, .. }) => Ok(SaveMode::InPause(message)),
            Err(error) => Err(error),
        },
    }
}

fn migrate(qmp: &mut Qmp, deadline: Deadline) -> Result<(), VmmError> {
    let uri = json!({"uri": format!("fd:{MEMORY_FD}")});
    qmp.query_by::<IgnoredAny>("migrate", &uri, deadline)
        .map(drop)
}

/// As [`migrate`], perhaps after an attempt that has failed and whose remains QEMU is about to clear away.
fn migrate_again(qmp: &mut Qmp, deadline: Deadline) -> Result<(), VmmError> {
    let cleared = Deadline::after(CLEARED);
    loop {
        match migrate(qmp, deadline) {
            Err(VmmError::Refused { message, .. })
                if message.contains("yank") && !cleared.has_passed() =>
            {
                qmp.listen(PAUSE_LOOK)?;
            }
            other => return other,
        }
    }
}

/// Whether the guest went on since the pause began.
pub(super) fn has_resumed(changes: &[RunChange]) -> bool {
    changes.iter().any(|change| change.runs)
}

/// The guest must not have moved since the pause began: disks and memory would be of different instants.
fn check_stands_still(changes: &[RunChange]) -> Result<(), VmmError> {
    if has_resumed(changes) {
        return Err(interfered());
    }
    Ok(())
}

/// QEMU lets the guest go on by itself once it is protected, and never stops it again. If it stops once more, somebody
/// had resumed it earlier, unless it met an I/O error (that of a copy shows in the end).
fn stops_again(changes: &[RunChange]) -> bool {
    changes
        .iter()
        .skip_while(|change| !change.runs)
        .any(|change| !change.runs)
}

fn interfered() -> VmmError {
    VmmError::Unsupported(
        "somebody else resumed or stopped the guest while it was being saved; the snapshot is given up".to_owned(),
    )
}

/// The warning of a save in the pause, with what would help.
fn slow(pause: Duration, with_disks: bool, reason: &str) -> String {
    let what = if with_disks {
        "its memory and disks were"
    } else {
        "its memory was"
    };
    format!(
        "the guest was paused for {:.1} s because {what} saved in the pause: {reason}; {} would make that milliseconds",
        pause.as_secs_f64(),
        remedy(reason)
    )
}

/// What would let memory be saved behind the running guest.
pub(super) fn remedy(reason: &str) -> &'static str {
    if reason.contains("host kernel") {
        "a kernel from 5.7 on, and for a QEMU that is not root vm.unprivileged_userfaultfd=1,"
    } else if reason.contains("memory configuration") {
        "private memory for the guest (no shared memory, no file or huge pages behind it)"
    } else {
        "a QEMU from 6.0 on"
    }
}
