//! What commands answer: plain data that `output` turns into tables, lines or JSON. No formatting here.

pub mod run;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::exit::Exit;
use crate::finding::{self, Status};
use crate::instance::{InstanceId, InstanceRef};
use crate::monitoring::health::{Assessment, Level, Newest};
use crate::plan::Forecast;
use crate::report::run::Report;
use crate::retention::Decision;
use crate::schedule::{Declaration, Schedule};
use crate::snapshot::Protection;
use crate::snapshot::{Occupied, Rehearsed, Snapshot, SnapshotId, Verified};

/// What a command has to say.
#[derive(Debug)]
pub enum Answer {
    /// `set`: the schedule that was declared.
    Declared(Box<Declared>),
    /// `get`: one schedule.
    Schedule(Box<Schedule>),
    /// `list`: every schedule file.
    Schedules(Vec<ScheduleRow>),
    /// `delete`: what became of the schedule.
    Deleted(Deleted),
    /// `run-due`, `prune`: what was done.
    Run(Report),
    /// `snapshots`: what is in the store.
    Snapshots(Vec<SnapshotRow>),
    /// `plan`: what a schedule will do.
    Plan(Box<Planned>),
    /// `restore`: what was in the way, and what was done.
    Restored(Box<Restored>),
    /// `verify`: one for each snapshot that was looked at.
    Verified(Vec<VerifiedRow>),
    /// `rehearse`: one for each snapshot that was rehearsed.
    Rehearsed(Vec<RehearsedRow>),
    /// `snapshot`: the one that was taken.
    Taken(Taken),
    /// `protect`, `unprotect`: one for each snapshot that was named.
    Protections(Vec<ProtectionRow>),
    /// `delete-snapshot`: one for each snapshot that was named.
    DeletedSnapshots(Vec<DeletedSnapshot>),
    /// `check`: how well the instances are protected.
    Health(Health),
    /// `register`, `unregister`: what the local engine knows now.
    Registration(Registration),
    /// `doctor`: what was found out.
    Findings(Vec<finding::Finding>),
    /// Text that is printed as it is, whatever the format.
    Verbatim(String),
}

impl Answer {
    /// The exit code that goes with the answer.
    pub fn exit(&self) -> Exit {
        let has_failed = match self {
            Self::Schedules(rows) => rows.iter().any(|row| row.schedule.is_err()),
            Self::Run(report) => return run_exit(report),
            Self::Restored(restored) => restored.is_stopped,
            Self::Verified(rows) => rows.iter().any(VerifiedRow::has_failed),
            Self::Rehearsed(rows) => rows.iter().any(RehearsedRow::has_failed),
            Self::DeletedSnapshots(rows) => rows.iter().any(|row| row.error.is_some()),
            Self::Findings(findings) => findings.iter().any(|it| it.status == Status::Broken),
            Self::Health(health) => return health_exit(health.level()),
            Self::Declared(_)
            | Self::Schedule(_)
            | Self::Deleted(_)
            | Self::Snapshots(_)
            | Self::Plan(_)
            | Self::Taken(_)
            | Self::Protections(_)
            | Self::Registration(_)
            | Self::Verbatim(_) => false,
        };
        if has_failed { Exit::Failed } else { Exit::Done }
    }
}

/// A run that failed only because others held its locks says so: it can be tried again as it is.
fn run_exit(report: &Report) -> Exit {
    if !report.interrupted().is_empty() {
        return Exit::Failed;
    }
    if !report.has_failures() {
        return Exit::Done;
    }
    let is_only_locked = report.problems.is_empty()
        && report
            .results
            .iter()
            .filter(|result| result.error.is_some())
            .all(|result| result.is_locked);
    if is_only_locked {
        Exit::Locked
    } else {
        Exit::Failed
    }
}

/// A monitoring plugin's exit codes.
fn health_exit(level: Level) -> Exit {
    match level {
        Level::Ok => Exit::Done,
        Level::Warning => Exit::Warning,
        Level::Critical => Exit::Critical,
        Level::Unknown => Exit::Unknown,
    }
}

/// What `set` did.
#[derive(Debug)]
pub struct Declared {
    pub instance: InstanceRef,
    /// What was declared before; `None` when there was no schedule.
    pub before: Option<Declaration>,
    /// The schedule as it is now, or in a dry run as it would be.
    pub schedule: Schedule,
    /// Its next runs.
    pub next_runs: Vec<DateTime<Utc>>,
    /// Whether anything was changed, or in a dry run would be.
    pub is_changed: bool,
    /// Whether nothing was written.
    pub is_dry_run: bool,
}

/// One schedule file.
#[derive(Debug)]
pub struct ScheduleRow {
    /// The file's name without `.json`; text, because foreign files may be called anything.
    pub instance_id: String,
    /// The instance's name; `None` when it has none or the engine does not know it.
    pub name: Option<String>,
    /// The schedule, or why it can't be read.
    pub schedule: Result<Schedule, String>,
    /// The newest usable scheduled snapshot.
    pub newest: Newest,
    /// Why nothing can be restored from the newest one, if so.
    pub flaw: Option<String>,
}

/// What `delete` did.
#[derive(Debug)]
pub struct Deleted {
    /// The instance's id, or what was asked for if that means no schedule.
    pub instance_id: String,
    /// Whether there was a schedule.
    pub is_changed: bool,
    /// How many snapshots it left; `None` when the engine could not be asked.
    pub snapshots: Option<usize>,
}

/// One snapshot and why it is there.
#[derive(Debug)]
pub struct SnapshotRow {
    pub snapshot: Snapshot,
    /// What of its files is whose; `None` where nobody asked.
    pub occupied: Option<Occupied>,
    /// What becomes of it.
    pub keeping: Keeping,
    /// That the user has protected it.
    pub protection: Option<Protection>,
}

/// What a schedule will do.
#[derive(Debug)]
pub struct Planned {
    pub instance: InstanceRef,
    /// The schedule that is looked at.
    pub schedule: Schedule,
    /// Whether it is not the one that is there.
    pub is_proposed: bool,
    /// What it will do.
    pub forecast: Forecast,
}

/// What the API of a VMM is asked.
#[derive(Debug)]
pub struct ApiRequest {
    pub method: &'static str,
    pub path: String,
    /// In JSON.
    pub body: Option<serde_json::Value>,
}

/// A snapshot that was given back, or what kept it from being.
#[derive(Debug)]
pub struct Restored {
    pub instance: InstanceRef,
    pub snapshot: Snapshot,
    /// What was looked at before.
    pub findings: Vec<finding::Finding>,
    /// The directory with its content; `None` in place.
    pub to: Option<PathBuf>,
    /// What starts the VM; `None` where nothing is known of that.
    pub argv: Option<Vec<String>>,
    /// The directory to start it in.
    pub directory: Option<PathBuf>,
    /// The socket of its monitor, once it runs.
    pub monitor: Option<PathBuf>,
    /// What that is asked, in this order, so that its guest runs; empty where the monitor has no API.
    pub requests: Vec<ApiRequest>,
    /// Whether it goes on from its memory, and then waits to be told so.
    pub has_memory: bool,
    /// Whether something was in the way, so that nothing was done.
    pub is_stopped: bool,
    /// Whether nothing was to be done.
    pub is_dry_run: bool,
    /// The snapshot of what was there before, in place.
    pub before: Option<Snapshot>,
    /// Whether it was started, and its guest runs.
    pub is_started: bool,
    /// Its process, if that is known.
    pub pid: Option<u32>,
    /// How far the guest's clock is behind, if it goes on from its memory.
    pub behind: Option<Duration>,
}

/// A snapshot that was looked at.
#[derive(Debug)]
pub struct VerifiedRow {
    pub snapshot: Snapshot,
    /// What came of it; else why it could not be looked at.
    pub verified: Result<Verified, String>,
}

impl VerifiedRow {
    fn has_failed(&self) -> bool {
        !matches!(self.verified, Ok(Verified::Sound { .. } | Verified::Gone))
    }
}

/// A snapshot that was rehearsed.
#[derive(Debug)]
pub struct RehearsedRow {
    pub snapshot: Snapshot,
    /// What came of it; else what went wrong with the rehearsal.
    pub rehearsed: Result<Rehearsed, String>,
    /// Whether it was asked for by name, so that an obstacle is a failure.
    pub is_named: bool,
}

impl RehearsedRow {
    fn has_failed(&self) -> bool {
        match &self.rehearsed {
            Ok(Rehearsed::Alive) => false,
            Ok(Rehearsed::Impossible(_)) => self.is_named,
            Ok(Rehearsed::Dead(_)) | Err(_) => true,
        }
    }
}

/// A snapshot that was taken by hand.
#[derive(Debug)]
pub struct Taken {
    pub snapshot: Snapshot,
    /// How long the guest was paused; `None` where it did not run, or where the engine can't tell.
    pub pause: Option<Duration>,
    /// What the user should know besides.
    pub notes: Vec<String>,
}

/// A snapshot that was protected, or is not any more.
#[derive(Debug)]
pub struct ProtectionRow {
    pub snapshot_id: SnapshotId,
    /// Empty where it has none, or is not listed.
    pub name: String,
    /// Whether that is different from before.
    pub is_changed: bool,
    /// As it is now.
    pub protection: Option<Protection>,
}

/// A snapshot that was to be deleted.
#[derive(Debug)]
pub struct DeletedSnapshot {
    pub snapshot: Snapshot,
    /// Why it may still be there.
    pub error: Option<String>,
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeping {
    /// No schedule made it, so none removes it.
    Manual,
    /// A schedule made it that is there no more.
    Unscheduled,
    /// A schedule made it that can't be read, so it stays for now.
    Unreadable,
    /// Its schedule's retention has decided.
    Judged(Decision),
}

/// What `check` found.
#[derive(Debug, Default)]
pub struct Health {
    /// One for each schedule that was looked at, worst first.
    pub rows: Vec<HealthRow>,
    /// Why the engine could not be asked; the rows are then judged by what the schedules record.
    pub engine_error: Option<String>,
    /// Why there are no rows.
    pub reason: Option<String>,
}

impl Health {
    /// The worst level of all; unknown where nothing was looked at, because then nothing is protected or the wrong
    /// place was looked at.
    pub fn level(&self) -> Level {
        self.rows
            .iter()
            .map(HealthRow::level)
            .max()
            .unwrap_or(Level::Unknown)
    }
}

/// One schedule as `check` sees it.
#[derive(Debug)]
pub struct HealthRow {
    /// The instance's id, or what was asked for or found if that is none.
    pub instance_id: String,
    /// The instance's name; `None` when it has none or the engine does not know it.
    pub name: Option<String>,
    /// What was found.
    pub judgement: Judgement,
}

impl HealthRow {
    /// How bad it is.
    pub fn level(&self) -> Level {
        match &self.judgement {
            Judgement::Judged { verdict, .. } => verdict.level,
            Judgement::Unjudged { level, .. } => *level,
        }
    }
}

/// What `check` found of one schedule.
#[derive(Debug)]
pub enum Judgement {
    /// The schedule and what is to be said of it.
    Judged {
        schedule: Box<Schedule>,
        verdict: Assessment,
    },
    /// There is no schedule that could be judged.
    Unjudged {
        /// How bad that is.
        level: Level,
        /// Whether there is a file; else nothing has the name that was asked for.
        is_found: bool,
        /// Why.
        message: String,
    },
}

/// What `register` or `unregister` did.
#[derive(Debug)]
pub struct Registration {
    pub instance_id: InstanceId,
    /// What is different now.
    pub change: RegistrationChange,
}

/// What a registration changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationChange {
    /// The instance is new.
    Created,
    /// It was registered with other values.
    Updated,
    /// It was registered with the same values.
    None,
    /// It is registered no more.
    Removed,
}
