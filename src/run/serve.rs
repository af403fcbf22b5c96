//! One instance's run, under its lock: observe, decide, carry out, record. The decision itself is [`plan::decide`]; a dry
//! run observes and decides likewise, without a lock, and reports the plan.

use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::cadence::Due;
use crate::clock;
use crate::instance::InstanceId;
use crate::interrupt;
use crate::plan::{self, Observed};
use crate::report::run::{InstanceResult, Outcome};
use crate::run::carry_out::{Carried, carry_out};
use crate::run::failure::Failure;
use crate::run::hooks::Hooks;
use crate::run::pick::Job;
use crate::run::record::record;
use crate::run::{Run, dry_run, result};
use crate::store::{Lock, LockError};

/// How long it takes at most to note that a lock was taken.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// Takes one instance through its run.
pub(super) fn serve(context: &Run<'_>, job: &Job) -> InstanceResult {
    let id = &job.id;
    if context.options.dry_run {
        if !job.is_due {
            return would_recover(id);
        }
        return due(context, id, Vec::new()).unwrap_or_else(|failure| result::failed(id, &failure));
    }
    if interrupt::requested() {
        return InstanceResult::interrupted(id, "not begun: interrupted by a signal");
    }
    with_lock(context, id, |_| {
        let recovered = match context.ports.recovery.recover(id) {
            Ok(done) => done,
            Err(error) => return unrecovered(id, &Failure::Unrecovered(error)),
        };
        if !job.is_due {
            return InstanceResult {
                notes: recovered,
                ..InstanceResult::new(id, Outcome::Skipped)
            };
        }
        due(context, id, recovered.clone()).unwrap_or_else(|failure| InstanceResult {
            notes: recovered,
            ..result::failed(id, &failure)
        })
    })
}

/// Only puts right what a run that died left behind.
pub(super) fn recover(context: &Run<'_>, id: &InstanceId) -> InstanceResult {
    if context.options.dry_run {
        return would_recover(id);
    }
    with_lock(context, id, |_| match context.ports.recovery.recover(id) {
        Ok(notes) => InstanceResult {
            notes,
            ..InstanceResult::new(id, Outcome::Skipped)
        },
        Err(error) => unrecovered(id, &Failure::Unrecovered(error)),
    })
}

fn would_recover(id: &InstanceId) -> InstanceResult {
    InstanceResult::new(id, Outcome::Skipped)
        .noting("would put right what an earlier run left behind")
}

fn unrecovered(id: &InstanceId, failure: &Failure) -> InstanceResult {
    if failure.is_interruption() {
        return InstanceResult::interrupted(
            id,
            "interrupted by a signal; the next run puts right what an earlier one left behind",
        );
    }
    result::failed(id, failure)
}

/// The run of an instance that was due when it was picked. `notes` are what the user should know by now.
fn due(
    context: &Run<'_>,
    id: &InstanceId,
    mut notes: Vec<String>,
) -> Result<InstanceResult, Failure> {
    let Some(mut schedule) = context.store.load_to_run(id)? else {
        return Ok(InstanceResult {
            notes,
            ..InstanceResult::new(id, Outcome::Skipped).noting("its schedule was deleted meanwhile")
        });
    };
    let now = clock::now();
    let mut due = schedule.times().due(id, now);
    if let Due::Misplaced { next_run_at } = due {
        notes.push(misplaced(id, schedule.record.next_run_at, next_run_at));
        schedule.record.next_run_at = next_run_at;
        schedule.record.updated_at = now;
        context.save(&schedule)?;
        due = schedule.times().due(id, now);
    }
    if due != Due::Now && !context.options.force {
        return Ok(InstanceResult {
            notes,
            ..InstanceResult::new(id, Outcome::Skipped)
        });
    }

    // The shared listing may have been read while the run that died was still alive.
    let listing = match schedule.record.attempt {
        Some(_) => context.list_anew(),
        None => context.listing(),
    };
    let presence = context.find(id);
    let observed = Observed {
        presence: &presence,
        snapshots: listing.as_ref().map(|it| it.snapshots.as_slice()),
    };
    let plan = plan::decide(&schedule, observed, now);
    if context.options.dry_run {
        return Ok(dry_run::result(context, &schedule, &plan, notes, now));
    }
    schedule.record = plan.begun.clone();
    context.save(&schedule)?;
    let began = Instant::now();
    let mut hooks = Hooks::new(&schedule, &plan.attempt);
    let Carried {
        end,
        notes: carried,
        removed,
    } = carry_out(context, &schedule, &plan, &mut hooks);
    notes.extend(carried);
    let mut result = record(
        context,
        schedule,
        &plan.attempt,
        end,
        hooks,
        notes,
        began.elapsed(),
    );
    if !removed.is_empty() {
        result = result.noting("there was no room for the snapshot until older ones were removed");
    }
    result.pruned.splice(0..0, removed);
    Ok(result)
}

/// That a next run has been put right, in one line for logs.
fn misplaced(id: &InstanceId, from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    format!(
        "the next run of {id} was set for {}, further away than its interval allows (did the clock jump?); it is now {}",
        from.format("%Y-%m-%dT%H:%M:%SZ"),
        to.format("%Y-%m-%dT%H:%M:%SZ")
    )
}

/// Runs `work` under the instance's lock and times it. Skips the instance if another process holds the lock; with
/// `--force`, which somebody waits for, that is a failure once `--lock-timeout` has passed.
fn with_lock(
    context: &Run<'_>,
    id: &InstanceId,
    work: impl FnOnce(&Lock) -> InstanceResult,
) -> InstanceResult {
    let _working = context.at_work.begin(id);
    let began = Instant::now();
    let lock = if context.options.force {
        let patience = context.options.lock_timeout;
        context.store.lock(id, patience).map(Some)
    } else {
        context.store.try_lock(id)
    };
    let mut result = match lock {
        Ok(Some(lock)) => work(&lock),
        Ok(None) => busy(context, id),
        Err(error) => without_lock(id, error),
    };
    result.duration = began.elapsed();
    result
}

/// Another run is at work on the instance. That is normal while it takes less time than there is between two runs; after
/// that, the instance gets no snapshots for a reason that somebody has to look at.
fn busy(context: &Run<'_>, id: &InstanceId) -> InstanceResult {
    let too_long = || {
        let interval = context.store.times(id).ok()??.gap();
        let since = context.store.held_since(id)?;
        let held = (clock::now() - since).to_std().unwrap_or_default();
        (held > interval).then_some((since, interval))
    };
    // Whoever has just taken the lock notes it a moment later.
    let too_long = too_long().and_then(|_| {
        thread::sleep(NOTED_WITHIN);
        too_long()
    });
    let Some((since, interval)) = too_long else {
        return InstanceResult {
            is_locked: true,
            ..InstanceResult::new(id, Outcome::Skipped).noting("busy: another run is working on it")
        };
    };
    let stuck = Failure::Stuck {
        process: context.store.holder(id).filter(|process| *process > 0),
        since,
        interval,
    };
    result::failed(id, &stuck)
}

/// What it means that a lock was waited for and not had.
pub(super) fn without_lock(id: &InstanceId, error: LockError) -> InstanceResult {
    if matches!(error, LockError::Interrupted) {
        return InstanceResult::interrupted(id, "not begun: interrupted by a signal");
    }
    result::failed(id, &Failure::Lock(error))
}
