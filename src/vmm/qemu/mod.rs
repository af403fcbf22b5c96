//! QEMU over QMP.
//!
//! The guest is stopped for as long as it takes to start the copies of its disks and to protect its memory; everything is
//! written behind the running guest. Files go to QEMU as descriptors, never as names, and no shell is involved.
//! Whatever is made in QEMU carries [`PREFIX`], so that a later process finds it.

mod backup;
mod bitmap_image;
mod capabilities;
mod capture;
mod cleanup;
mod dirty_bitmap;
mod disks;
mod extents;
mod files;
mod foreign;
mod huge_pages;
mod inbox;
mod jobs;
mod memory;
mod migration;
mod outlook;
mod qcow2;
mod qmp;
mod shared;
mod socket;
mod wire;

use std::path::Path;
use std::time::Duration;

use log::{Level, debug, log};
use serde::Deserialize;
use serde_json::json;

use self::capabilities::Capabilities;
use self::capture::Save;
use self::migration::MigrationState;
use self::qmp::Qmp;
use self::shared::Untouched;
use self::wire::RunChange;
use super::peer::Peer;
use super::stages::{Prepared, Saved, Stages};
use super::{
    Deadline, Disk, DisksSettle, Outlook, Process, SavePlan, Timeouts, Tuning, Vmm, VmmError,
    VmmState,
};
use crate::interrupt::Watch;
use crate::snapshot::manifest::Devices;

/// What the names of everything begin with that is made in QEMU: nodes, jobs, fd sets, descriptors.
const PREFIX: &str = "hypeman-snap";
/// The name of the memory file's descriptor.
const MEMORY_FD: &str = "hypeman-snap-memory";
/// QEMU's word for a guest that stopped at a disk's error; it goes on with the same request.
const IO_ERROR: &str = "io-error";
/// How long a save may go on behind the guest without any progress.
const STALL: Duration = Duration::from_secs(60);
/// Longest wait between two looks at a guest that shall go on.
const LOOK: Duration = Duration::from_millis(1);

/// Whose pause it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// This process did not ask for any; an earlier one may have.
    Unknown,
    /// This process asked for it.
    Ours,
    /// Somebody else was first.
    Foreign,
    /// It was ours and the guest has gone on: what stops it now is somebody else.
    Over,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qemu {
    qmp: Qmp,
    process: Option<Process>,
    pause: Pause,
    /// What is put back after a capture; where it is not known, QEMU's defaults are.
    before: Option<Tuning>,
    /// Whether a save has got to its end, so that the guest may simply go on.
    is_saved: bool,
    stall: Duration,
}

impl Qemu {
    /// Connects to the QMP monitor behind `socket`. A monitor serves one client at a time.
    ///
    /// # Errors
    /// [`VmmError::Unreachable`] when nobody listens, [`VmmError::TimedOut`] when nobody greets.
    pub fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, VmmError> {
        Ok(Self::new(Qmp::connect(socket, timeouts)?))
    }

    fn new(qmp: Qmp) -> Self {
        Self {
            process: Peer::of(qmp.peer()).map(|peer| peer.process),
            qmp,
            pause: Pause::Unknown,
            before: None,
            is_saved: false,
            stall: STALL,
        }
    }

    /// Sees to it that no save stops the guest again once it goes on: one in the pause does that at its end, and so
    /// does a background save whose memory is not protected yet.
    fn settle_migration(&mut self) -> Result<(), VmmError> {
        let migration = migration::look(&mut self.qmp)?;
        if migration.phase != MigrationState::UnderWay {
            return Ok(());
        }
        let is_background = Capabilities::look(&mut self.qmp)?.background() == Some(true);
        if is_background {
            return migration::await_protection(&mut self.qmp);
        }
        migration::cancel(&mut self.qmp)
    }

    /// Makes the guest's memory huge pages again where that can be done; where it can't, the reason is logged.
    fn rebuild_huge_pages(&self, obstacle_level: Level) {
        let Some(process) = &self.process else {
            return;
        };
        let socket = self.qmp.socket().display();
        match huge_pages::rebuild(process, self.qmp.watch()) {
            Ok(rebuilt) => debug!("{socket}: {rebuilt}"),
            Err(obstacle) => log!(obstacle_level, "{socket}: {obstacle}"),
        }
    }

    fn resume_now(&mut self) -> Result<(), VmmError> {
        self.qmp.listen(Duration::ZERO)?;
        let mut unsettled = None;
        if self.is_saved {
            if capture::has_resumed(self.qmp.changes()) {
                return Ok(());
            }
        } else {
            // A save that can't be ended must not keep the guest from going on.
            unsettled = self.settle_migration().err();
            if status(&mut self.qmp)? == "running" {
                return unsettled.map_or(Ok(()), Err);
            }
        }
        self.qmp.execute("cont", &json!({}))?;
        let deadline = Deadline::after(self.qmp.limit());
        while !capture::has_resumed(self.qmp.changes()) && status(&mut self.qmp)? != "running" {
            if deadline.has_passed() {
                return Err(self
                    .qmp
                    .timed_out("cont with a running guest", deadline.limit()));
            }
            self.qmp.listen(LOOK)?;
        }
        unsettled.map_or(Ok(()), Err)
    }
}

impl Vmm for Qemu {
    fn set_watch(&mut self, watch: Watch) {
        self.qmp.set_watch(watch);
    }

    fn state(&mut self) -> Result<VmmState, VmmError> {
        Ok(state(status(&mut self.qmp)?))
    }

    fn version(&mut self) -> Result<String, VmmError> {
        let version = self.qmp.version();
        Ok(format!(
            "{}.{}.{}",
            version.major, version.minor, version.micro
        ))
    }

    fn process(&self) -> Option<Process> {
        self.process.clone()
    }

    fn disks(&mut self) -> Result<Vec<Disk>, VmmError> {
        foreign::refuse(&mut self.qmp)?;
        let drives = disks::drives(&mut self.qmp)?;
        disks::list(&drives)
    }

    fn devices(&mut self, argv: &[String]) -> Result<Devices, VmmError> {
        Ok(Devices::of_qemu_argv(argv))
    }

    fn settings(&mut self) -> Result<Tuning, VmmError> {
        let settings = cleanup::settings(&mut self.qmp)?;
        self.before = Some(settings.clone());
        Ok(settings)
    }

    fn know_settings(&mut self, settings: Tuning) {
        self.before = Some(settings);
    }

    fn foreseen(&mut self) -> Result<Vec<String>, VmmError> {
        let untouched = Untouched::look(&mut self.qmp, self.process.as_ref())?;
        Ok(untouched.iter().map(Untouched::warning).collect())
    }

    fn outlook(&mut self) -> Result<Outlook, VmmError> {
        outlook::look(&mut self.qmp, self.process.as_ref())
    }

    fn memory_bytes(&mut self) -> Result<u64, VmmError> {
        memory::most_bytes(&mut self.qmp, self.process.as_ref())
    }

    fn copies_disks(&self) -> bool {
        true
    }

    fn disks_settle(&self) -> DisksSettle {
        // `stop` has drained the requests; a guest that QEMU resumed itself at the end of a save writes again.
        DisksSettle::ByPause
    }

    fn prepare<'v>(&'v mut self, plan: &SavePlan) -> Result<Prepared<'v>, VmmError> {
        self.is_saved = false;
        if plan.state_dir.is_some() {
            if let Some(untouched) = Untouched::look(&mut self.qmp, self.process.as_ref())? {
                untouched.check_room()?;
            }
        }
        if self.before.is_none() {
            self.settings()?;
        }
        let save = Save::prepare(&mut self.qmp, plan, self.process.as_ref())?;
        if save.is_in_background() {
            self.rebuild_huge_pages(Level::Info);
        }
        Ok(Prepared::new(Capture { qemu: self, save }))
    }

    fn load(&mut self) -> Result<(), VmmError> {
        self.qmp
            .execute("migrate-incoming", &json!({"uri": "fd:0"}))
    }

    fn mishaps(&mut self) -> Result<Vec<String>, VmmError> {
        self.qmp.mishaps()
    }

    fn processors(&mut self) -> Result<Option<Vec<i32>>, VmmError> {
        let all: Vec<Processor> = self.qmp.query("query-cpus-fast", &json!({}))?;
        Ok(Some(all.iter().map(|it| it.thread).collect()))
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        if matches!(self.pause, Pause::Foreign | Pause::Over) {
            return Ok(());
        }
        self.qmp.ignore_interrupts();
        let result = self.resume_now();
        self.qmp.heed_interrupts();
        if result.is_ok() {
            self.pause = Pause::Over;
        }
        result
    }

    fn discard(&mut self, save_may_have_begun: bool) -> Result<(), VmmError> {
        self.qmp.ignore_interrupts();
        let ends_save = save_may_have_begun.then_some(self.stall);
        let before = self.before.clone().unwrap_or_default();
        let result = cleanup::remove_all(&mut self.qmp, ends_save, &before);
        self.qmp.heed_interrupts();
        result
    }
}

/// A capture under way.
#[derive(Debug)]
struct Capture<'v> {
    qemu: &'v mut Qemu,
    save: Save,
}

impl Stages for Capture<'_> {
    fn worse(&self) -> Option<Outlook> {
        let why = self.save.why_in_pause()?;
        Some(outlook::in_pause(self.qemu.process.as_ref(), why))
    }

    fn write_out(&mut self) -> Result<(), VmmError> {
        self.save.write_out()
    }

    fn pause(&mut self) -> Result<(), VmmError> {
        let Qemu { qmp, pause, .. } = &mut *self.qemu;
        qmp.forget_changes()?;
        *pause = Pause::Ours;
        qmp.execute("stop", &json!({}))?;
        // QEMU reports a stop before it answers, and reports none for a guest that was paused already.
        if qmp.changes().iter().any(|change| !change.runs) {
            return Ok(());
        }
        *pause = Pause::Foreign;
        Err(VmmError::PausedByOthers)
    }

    fn save(&mut self, deadline: Deadline) -> Result<(), VmmError> {
        self.qemu.qmp.listen(Duration::ZERO)?;
        self.save.save(&mut self.qemu.qmp, deadline)?;
        self.qemu.is_saved = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        self.qemu.resume()
    }

    fn finish(&mut self) -> Result<Saved, VmmError> {
        let Qemu {
            qmp, before, stall, ..
        } = &mut *self.qemu;
        let pause = measure(qmp.changes()).unwrap_or_default();
        self.save.complete(qmp, *stall)?;
        let settings = before.clone().unwrap_or_default();
        cleanup::remove_all(qmp, None, &settings)?;
        *before = None;
        let saved = self.save.conclude(pause)?;
        if self.save.is_in_background() {
            self.qemu.rebuild_huge_pages(Level::Debug);
        }
        Ok(saved)
    }
}

/// The answer to `query-status`.
#[derive(Deserialize)]
struct Status {
    status: String,
}

/// One of the answers to `query-cpus-fast`.
#[derive(Deserialize)]
struct Processor {
    #[serde(rename = "thread-id")]
    thread: i32,
}

/// QEMU's word for what the guest does.
///
/// # Errors
/// When QEMU can't be asked.
fn status(qmp: &mut Qmp) -> Result<String, VmmError> {
    let status: Status = qmp.query("query-status", &json!({}))?;
    Ok(status.status)
}

/// What QEMU's word for the run state means here (`RunState` in QEMU's QAPI).
fn state(status: String) -> VmmState {
    match status.as_str() {
        "running" => VmmState::Running,
        // The latter two: a save in the pause goes on or has ended.
        "paused" | "finish-migrate" | "postmigrate" => VmmState::Paused,
        "prelaunch" => VmmState::Created,
        "shutdown" => VmmState::Shutdown,
        _ => VmmState::Other(status),
    }
}

/// From the first stop to the first resume after it, by QEMU's clock.
fn measure(changes: &[RunChange]) -> Option<Duration> {
    let mut changes = changes.iter().skip_while(|change| change.runs);
    let stopped_at = changes.next()?.at?;
    let resumed_at = changes.find(|change| change.runs)?.at?;
    Some(resumed_at.saturating_sub(stopped_at))
}

#[cfg(test)]
mod tests;
