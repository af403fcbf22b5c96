//! One run: pick what is due, take it through the steps, in parallel over instances, and report.
//!
//! Knows engines by their trait only, prints nothing, and lets no instance's failure stop the others.

mod at_work;
mod carry_out;
mod compress;
mod dry_run;
mod failure;
mod hooks;
mod manual;
mod pick;
mod prune;
mod record;
mod result;
mod retain;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock;
use crate::engine::{EngineError, Listing, Ports};
use crate::error;
use crate::instance::{Instance, InstanceId, Presence};
use crate::interrupt;
use crate::queue::{self, Queue};
use crate::report::run::{InstanceResult, Report};
use crate::schedule::Schedule;
use crate::store::Store;
use at_work::AtWork;
use failure::Failure;
pub use manual::{snapshot, with_lock};
use pick::Job;

pub use hooks::refused as refused_hooks;
pub use prune::prune;

/// An instance that takes longer does not count against `--jobs`; while there is one, a run looks as often for others that
/// have become due.
const LONG: Duration = Duration::from_secs(60);

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many instances are worked on at once; at least 1.
    pub jobs: usize,
    /// Whether to say what would be done and do nothing.
    pub dry_run: bool,
    /// Whether to take a snapshot although none is due; the cadence stays as it is.
    pub force: bool,
    /// The instances to look at; `None` means all that have a schedule.
    pub only: Option<BTreeSet<InstanceId>>,
    /// Whether retention may remove more of an instance's scheduled snapshots at once than [`plan::afterwards`] lets a run.
    pub is_uncapped: bool,
    /// Whether the snapshots that are taken are protected at once.
    pub protects: bool,
    /// How long an instance must have been gone before its schedule can be retired.
    pub missing_grace: Duration,
    /// How long `prune` waits for an instance's lock.
    pub lock_timeout: Duration,
}

impl Options {
    fn selects(&self, id: &InstanceId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(id))
    }
}

/// The store as it was when somebody looked.
type Observation = Result<Arc<Listing>, Arc<EngineError>>;

/// What the steps of all instances share in one run.
struct Run<'a> {
    store: &'a Store,
    ports: &'a Ports,
    options: &'a Options,
    /// The store's content, read by whoever needs it first: once for all that was picked together.
    listing: Mutex<Option<Observation>>,
    at_work: AtWork,
    /// What the user should know, each thing once, however many instances say it.
    warnings: Mutex<BTreeSet<String>>,
    /// What went wrong that is no instance's own.
    problems: Mutex<Vec<String>>,
    swept: Once,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, ports: &'a Ports, options: &'a Options) -> Self {
        Self {
            store,
            ports,
            options,
            listing: Mutex::default(),
            at_work: AtWork::default(),
            warnings: Mutex::default(),
            problems: Mutex::default(),
            swept: Once::new(),
        }
    }

    /// The snapshots as they were when somebody first looked.
    fn listing(&self) -> Observation {
        self.listing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| self.list_anew())
            .clone()
    }

    /// The snapshots as they are now.
    fn list_anew(&self) -> Observation {
        let listing = self.ports.engine.list().map_err(Arc::new)?;
        // What it met that is no snapshot.
        self.warn(listing.problems.clone());
        Ok(Arc::new(listing))
    }

    /// Whether the instance is there, and its state.
    fn find(&self, id: &InstanceId) -> Presence<Instance, Arc<EngineError>> {
        self.ports.engine.find(id).found().map_err(Arc::new).into()
    }

    /// Writes the schedule; a dry run writes nothing.
    fn save(&self, schedule: &Schedule) -> Result<(), Failure> {
        if self.options.dry_run {
            return Ok(());
        }
        Ok(self.store.save(schedule)?)
    }

    /// Whoever looks next looks anew.
    fn forget_listing(&self) {
        *self.listing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        if let Ok(mut all) = self.warnings.lock() {
            all.extend(warnings);
        }
    }

    fn fail(&self, problem: String) {
        if let Ok(mut all) = self.problems.lock() {
            all.push(problem);
        }
    }

    /// Removes what unfinished snapshots and deletions left, once in a run: it takes space that the next snapshot may
    /// need. What can't be removed keeps nobody from anything, and the run fails.
    fn sweep(&self) {
        self.swept.call_once(|| match self.ports.recovery.sweep() {
            Ok(lines) => self.warn(lines),
            Err(error) => self.fail(error::in_words(&error)),
        });
    }

    /// The report of a run that ends now.
    fn report(self, started_at: DateTime<Utc>, results: Vec<InstanceResult>) -> Report {
        let is_dry_run = self.options.dry_run;
        Report {
            started_at,
            finished_at: clock::now(),
            results: result::merged(results),
            problems: self.problems.into_inner().unwrap_or_default(),
            warnings: self
                .warnings
                .into_inner()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            is_dry_run,
        }
    }
}

/// What a run works off.
#[derive(Debug, Clone)]
enum Work {
    /// An instance's run.
    Serve(Job),
    /// The compression behind it.
    Compress(InstanceId),
}

impl Work {
    const fn id(&self) -> &InstanceId {
        match self {
            Self::Serve(job) => &job.id,
            Self::Compress(id) => id,
        }
    }

    fn is_suspect(&self) -> bool {
        matches!(self, Self::Serve(job) if job.trouble > 0)
    }
}

/// A run waits for no compression of the same instance, which ends when it is due.
impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.id() == other.id()
    }
}

/// Snapshots what is due and applies retention to it.
///
/// When nothing is due, it reads each schedule file once and does nothing else. While an instance takes its time, it
/// serves those that become due meanwhile: a timer starts no second run beside it. `tell` hears of each result as it
/// comes, because a run may go on for long.
///
/// # Errors
/// Only when the schedules can't be listed at all or the engine can't be set up; everything else is in the report.
pub fn run_due(
    store: &Store,
    ports: &dyn Fn() -> Result<Ports, EngineError>,
    options: &Options,
    tell: &(dyn Fn(&InstanceResult) + Sync),
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let picked = pick::pick(store, options, started_at)?;
    let ports = ports()?;
    let (jobs, problems) = pick::with_unfinished(picked.jobs, ports.recovery.as_ref(), options);

    let context = Run::new(store, &ports, options);
    problems
        .into_iter()
        .chain(picked.strays)
        .for_each(|problem| context.fail(problem));
    if !jobs.is_empty() {
        context.at_work.watch();
    }
    let mut results = picked.unreadable;
    results.iter().for_each(tell);
    // What was asked for, or to be shown, is not added to.
    let is_open = !options.force && !options.dry_run;
    let more = || {
        if interrupt::requested() {
            return Vec::new();
        }
        context.forget_listing();
        // What can't be read has been reported.
        let picked = pick::pick(store, options, clock::now());
        let jobs = picked.map_or_else(|_| Vec::new(), |it| it.jobs);
        jobs.into_iter().map(Work::Serve).collect()
    };
    let queue = Queue {
        jobs: options.jobs,
        long: LONG,
        is_suspect: Work::is_suspect,
        is_same: PartialEq::eq,
        more: is_open.then_some(&more),
    };
    let work_off = |work: Vec<Work>| {
        queue.work_off(
            work,
            |work| {
                let result = match work {
                    Work::Serve(job) => serve::serve(&context, job),
                    Work::Compress(id) => compress::compress(&context, id),
                };
                tell(&result);
                result
            },
            |work| {
                let result = result::panicked(work.id());
                tell(&result);
                result
            },
        )
    };
    let mut served = work_off(jobs.into_iter().map(Work::Serve).collect());
    // While memory is compressed others may become due, and have memory to compress then.
    while !served.is_empty() {
        let wanted = compress::wanted(&context, &served);
        results.append(&mut served);
        if options.dry_run || wanted.is_empty() {
            break;
        }
        context.forget_listing();
        served = work_off(wanted.into_iter().map(Work::Compress).collect());
    }
    Ok(context.report(started_at, results))
}

/// Resumes guests that a run which died left paused, and removes what it left behind; takes no snapshot.
///
/// # Errors
/// When the engine can't be set up or its journals can't be listed.
pub fn recover(
    store: &Store,
    ports: &dyn Fn() -> Result<Ports, EngineError>,
    options: &Options,
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let ports = ports()?;
    let jobs: Vec<InstanceId> = ports
        .recovery
        .unfinished()?
        .into_iter()
        .filter(|id| options.selects(id))
        .collect();
    let context = Run::new(store, &ports, options);
    let is_idle = jobs.is_empty();
    if !is_idle {
        context.at_work.watch();
    }
    let results = queue::each(
        options.jobs,
        jobs,
        |id| serve::recover(&context, id),
        result::panicked,
    );
    if !is_idle && !options.dry_run {
        context.sweep();
    }
    Ok(context.report(started_at, results))
}
