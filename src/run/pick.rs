//! Which instances a run has to look at: one cheap read per schedule file, no lock.

use chrono::{DateTime, Utc};

use crate::engine::{Engine, describe};
use crate::instance::InstanceId;
use crate::run::report::InstanceResult;
use crate::run::{Options, outcome};
use crate::schedule::cadence::{self, Due};
use crate::store::Store;

/// An instance to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// The instance.
    pub(super) id: InstanceId,
    /// Whether its schedule wanted attention when it was picked; else only its journal does.
    pub(super) is_due: bool,
}

/// What was picked.
#[derive(Debug, Default)]
pub(super) struct Picked {
    /// The instances to work on.
    pub(super) jobs: Vec<Job>,
    /// A failed result for each schedule file that can't be read.
    pub(super) unreadable: Vec<InstanceResult>,
    /// Files among the schedules that can't be schedules.
    pub(super) strays: Vec<String>,
}

/// Reads each selected schedule once and picks those that want attention at `now`.
pub(super) fn pick(store: &Store, options: &Options, now: DateTime<Utc>) -> anyhow::Result<Picked> {
    let mut picked = Picked::default();
    let (ids, strays) = store.ids()?;
    picked.strays = strays.iter().map(ToString::to_string).collect();
    for id in ids {
        if !options.selects(&id) {
            continue;
        }
        let is_due = options.force
            || match store.peek(&id) {
                // Deleted since it was listed.
                Ok(None) => continue,
                Ok(Some(times)) => !matches!(cadence::due(&times, &id, now), Due::No { .. }),
                Err(error) => {
                    picked
                        .unreadable
                        .push(outcome::failed(&id, describe(&error)));
                    continue;
                }
            };
        if is_due {
            picked.jobs.push(Job { id, is_due });
        }
    }
    Ok(picked)
}

/// Adds the instances that an earlier run left in mid-snapshot. Returns the jobs, and what went wrong in finding them.
pub(super) fn with_unfinished(
    mut jobs: Vec<Job>,
    engine: &dyn Engine,
    options: &Options,
) -> (Vec<Job>, Vec<String>) {
    match engine.unfinished() {
        Ok(unfinished) => {
            for id in unfinished {
                if options.selects(&id) && !jobs.iter().any(|job| job.id == id) {
                    jobs.push(Job { id, is_due: false });
                }
            }
            (jobs, Vec::new())
        }
        Err(error) => (jobs, vec![describe(&error)]),
    }
}
