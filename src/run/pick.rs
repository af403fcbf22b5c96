//! Which instances a run has to look at: one cheap read per schedule file, no lock.

use chrono::{DateTime, Utc};

use crate::cadence::Due;
use crate::engine::Recovery;
use crate::error;
use crate::instance::InstanceId;
use crate::report::run::InstanceResult;
use crate::run::{Options, result};
use crate::store::Store;

/// An instance to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// The instance.
    pub(super) id: InstanceId,
    /// Whether its schedule wanted attention when it was picked; else only its journal does.
    pub(super) is_due: bool,
    /// How often in a row its runs have failed or died (see [`cadence::Times::trouble`]).
    pub(super) trouble: u32,
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

/// Reads each selected schedule once and picks those that want attention at `now`: first those whose last run went well,
/// so that VMMs that hang can't keep others from being served, and among them first those that have waited longest.
pub(super) fn pick(store: &Store, options: &Options, now: DateTime<Utc>) -> anyhow::Result<Picked> {
    let mut picked = Picked::default();
    let (ids, strays) = store.ids()?;
    picked.strays = strays.iter().map(ToString::to_string).collect();
    let mut jobs = Vec::new();
    for id in ids {
        if !options.selects(&id) {
            continue;
        }
        let times = match store.times(&id) {
            // Deleted since it was listed.
            Ok(None) => continue,
            Ok(Some(times)) => times,
            Err(error) => {
                picked.unreadable.push(result::failed(&id, &error.into()));
                continue;
            }
        };
        if options.force || times.due(&id, now) != Due::No {
            let job = Job {
                id,
                is_due: true,
                trouble: times.trouble(),
            };
            jobs.push((times.wanted_at(), job));
        }
    }
    jobs.sort_by_key(|(wanted_at, job)| (job.trouble, *wanted_at));
    picked.jobs = jobs.into_iter().map(|(_, job)| job).collect();
    Ok(picked)
}

/// Adds the instances that an earlier run left in mid-snapshot, in front and whether they are due or not: their guests
/// may be paused, and what the others take is long. Returns the jobs, and what went wrong in finding them.
pub(super) fn with_unfinished(
    mut jobs: Vec<Job>,
    recovery: &dyn Recovery,
    options: &Options,
) -> (Vec<Job>, Vec<String>) {
    match recovery.unfinished() {
        Ok(unfinished) => {
            let left_behind = unfinished
                .into_iter()
                .filter(|id| options.selects(id))
                .map(|id| Job {
                    id,
                    is_due: false,
                    trouble: 1,
                });
            jobs.splice(0..0, left_behind);
            (jobs, Vec::new())
        }
        Err(error) => (jobs, vec![error::in_words(&error)]),
    }
}
