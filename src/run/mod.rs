//! One run: pick what is due, take it through the steps, in parallel over instances, and report.
//!
//! Knows engines by their trait only, prints nothing, and lets no instance's failure stop the others.

mod foresee;
mod hooks;
mod outcome;
mod parallel;
mod pick;
mod prune;
mod record;
pub mod report;
mod retain;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock;
use crate::engine::{Engine, EngineError, Listing, describe};
use crate::instance::InstanceId;
use crate::run::report::{InstanceResult, Report};
use crate::store::Store;

pub use prune::prune;

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

/// What the steps of all instances share in one run.
struct Context<'a> {
    store: &'a Store,
    engine: &'a dyn Engine,
    options: &'a Options,
    /// The store's content, read by whoever needs it first: once per run.
    listing: OnceLock<Result<Listing, String>>,
    /// What the user should know, each thing once, however many instances say it.
    warnings: Mutex<BTreeSet<String>>,
}

impl<'a> Context<'a> {
    fn new(store: &'a Store, engine: &'a dyn Engine, options: &'a Options) -> Self {
        Self {
            store,
            engine,
            options,
            listing: OnceLock::new(),
            warnings: Mutex::new(BTreeSet::new()),
        }
    }

    /// The snapshots as they were when this run first looked.
    fn listing(&self) -> Result<&Listing, String> {
        self.listing
            .get_or_init(|| self.engine.list().map_err(|error| describe(&error)))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn warn(&self, warnings: Vec<String>) {
        if let Ok(mut all) = self.warnings.lock() {
            all.extend(warnings);
        }
    }

    /// The report of a run that ends now.
    fn report(
        self,
        started_at: DateTime<Utc>,
        mut results: Vec<InstanceResult>,
        problems: Vec<String>,
    ) -> Report {
        results.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        let is_dry_run = self.options.dry_run;
        Report {
            started_at,
            finished_at: clock::now(),
            results,
            problems,
            warnings: self.warnings(),
            is_dry_run,
        }
    }

    /// All warnings, and what the listing met that is no snapshot, if anybody had to look.
    fn warnings(self) -> Vec<String> {
        let mut all: Vec<String> = match self.listing.into_inner() {
            Some(Ok(listing)) => listing.problems,
            Some(Err(_)) | None => Vec::new(),
        };
        all.extend(self.warnings.into_inner().unwrap_or_default());
        all
    }
}

/// Snapshots what is due and applies retention to it (design, section 5).
///
/// When nothing is due, it reads each schedule file once and does nothing else.
///
/// # Errors
/// Only when the schedules can't be listed at all or the engine can't be set up; everything else is in the report.
pub fn run_due(
    store: &Store,
    engine: &dyn Fn() -> Result<Box<dyn Engine>, EngineError>,
    options: &Options,
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let picked = pick::pick(store, options, started_at)?;
    let engine = engine()?;
    let (jobs, mut problems) = pick::with_unfinished(picked.jobs, engine.as_ref(), options);
    problems.extend(picked.strays);

    let context = Context::new(store, engine.as_ref(), options);
    let mut results = picked.unreadable;
    results.extend(parallel::each(
        options.jobs,
        &jobs,
        |job| {
            if options.dry_run {
                foresee::foresee(&context, job)
            } else {
                steps::serve(&context, job)
            }
        },
        |job| outcome::panicked(&job.id),
    ));
    Ok(context.report(started_at, results, problems))
}

/// Resumes guests that a run which died left paused, and removes what it left behind; takes no snapshot.
///
/// # Errors
/// When the engine can't be set up or its journals can't be listed.
pub fn recover(
    store: &Store,
    engine: &dyn Fn() -> Result<Box<dyn Engine>, EngineError>,
    options: &Options,
) -> anyhow::Result<Report> {
    let started_at = clock::now();
    let engine = engine()?;
    let jobs: Vec<InstanceId> = engine
        .unfinished()?
        .into_iter()
        .filter(|id| options.selects(id))
        .collect();
    let context = Context::new(store, engine.as_ref(), options);
    let results = parallel::each(
        options.jobs,
        &jobs,
        |id| steps::recover(&context, id),
        outcome::panicked,
    );
    Ok(context.report(started_at, results, Vec::new()))
}
