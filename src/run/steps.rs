//! The steps of a run for one instance, under its lock (design, section 5).

use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use log::debug;

use crate::cadence::Due;
use crate::clock;
use crate::engine::{CreateRequest, EngineError, Presence, describe};
use crate::instance::{Instance, InstanceId, State};
use crate::interrupt;
use crate::run::hooks::Hooks;
use crate::run::outcome::{self, add_error};
use crate::run::pick::Job;
use crate::run::record::{End, record};
use crate::run::report::{InstanceResult, Outcome};
use crate::run::{Context, Options};
use crate::schedule::hooks::Stage;
use crate::schedule::{Attempt, Schedule, duration};
use crate::snapshot::{self, Kind};
use crate::store::{Lock, LockError};

/// How long it takes at most to note that a lock was taken.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// Takes one instance through its run.
pub(super) fn serve(context: &Context<'_>, job: &Job) -> InstanceResult {
    if interrupt::requested() {
        return outcome::interrupted(&job.id, "not begun: interrupted by a signal");
    }
    with_lock(context, &job.id, |lock| {
        let notes = match context.ports.recovery.recover(&job.id) {
            Ok(notes) => notes,
            Err(error) => return unrecovered(&job.id, &error),
        };
        let mut result = if job.is_due {
            due_under_lock(context, &job.id, lock)
                .unwrap_or_else(|error| outcome::failed(&job.id, error))
        } else {
            outcome::plain(&job.id, Outcome::Skipped)
        };
        result.notes.splice(0..0, notes);
        result
    })
}

/// Only puts right what a run that died left behind.
pub(super) fn recover(context: &Context<'_>, id: &InstanceId) -> InstanceResult {
    if context.options.dry_run {
        return outcome::skipped(id, "would put right what an earlier run left behind");
    }
    with_lock(context, id, |_| match context.ports.recovery.recover(id) {
        Ok(notes) => InstanceResult {
            notes,
            ..outcome::plain(id, Outcome::Skipped)
        },
        Err(error) => unrecovered(id, &error),
    })
}

fn unrecovered(id: &InstanceId, error: &EngineError) -> InstanceResult {
    if outcome::is_interruption(error) {
        return outcome::interrupted(
            id,
            "interrupted by a signal; the next run puts right what an earlier one left behind",
        );
    }
    let error = describe(error);
    outcome::failed(
        id,
        format!("could not put right what an earlier run left behind: {error}"),
    )
}

/// Runs `work` under the instance's lock and times it. Skips the instance if another process holds the lock; with
/// `--force`, which somebody waits for, that is a failure once `--lock-timeout` has passed.
fn with_lock(
    context: &Context<'_>,
    id: &InstanceId,
    work: impl FnOnce(&Lock) -> InstanceResult,
) -> InstanceResult {
    let _working = context.at_work.begin(id);
    let began = Instant::now();
    let Options {
        force,
        lock_timeout,
        ..
    } = *context.options;
    let lock = if force {
        context.store.lock(id, lock_timeout).map(Some)
    } else {
        context.store.try_lock(id)
    };
    let mut result = match lock {
        Ok(Some(lock)) => work(&lock),
        Ok(None) => busy(context, id),
        Err(error) => without_lock(id, &error),
    };
    result.duration = began.elapsed();
    result
}

/// Another run is at work on the instance. That is normal while it takes less time than there is between two runs; after
/// that, the instance gets no snapshots for a reason that somebody has to look at.
fn busy(context: &Context<'_>, id: &InstanceId) -> InstanceResult {
    let too_long = || {
        let interval = context.store.times(id).ok()??.cadence.gap();
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
            ..outcome::skipped(id, "busy: another run is working on it")
        };
    };
    let process = match context.store.holder(id) {
        Some(process) if process > 0 => format!("process {process}"),
        Some(_) | None => "another run".to_owned(),
    };
    outcome::failed(
        id,
        format!(
            "{process} has kept it since {}, longer than its interval of {}, so that it gets no snapshots: see what that \
             process waits for (a VMM, a hook, a disk), and end it with SIGTERM if nothing moves",
            since.format("%Y-%m-%dT%H:%M:%SZ"),
            duration::format_human(interval)
        ),
    )
}

/// What it means that a lock was waited for and not had.
pub(super) fn without_lock(id: &InstanceId, error: &LockError) -> InstanceResult {
    match error {
        LockError::Held { .. } => InstanceResult {
            is_locked: true,
            ..outcome::failed(id, describe(error))
        },
        LockError::Interrupted => outcome::interrupted(id, "not begun: interrupted by a signal"),
        LockError::Io { .. } => outcome::failed(id, describe(error)),
    }
}

/// The run of an instance that was due when it was picked.
fn due_under_lock(
    context: &Context<'_>,
    id: &InstanceId,
    _lock: &Lock,
) -> Result<InstanceResult, String> {
    let Some(mut schedule) = load(context, id)? else {
        return Ok(outcome::skipped(id, "its schedule was deleted meanwhile"));
    };
    let now = clock::now();
    let mut notes = Vec::new();
    if let Some(note) = heal(&mut schedule, now) {
        save(context, &schedule)?;
        notes.push(note);
    }
    if !is_due(context, &schedule, now) {
        return Ok(InstanceResult {
            notes,
            ..outcome::plain(id, Outcome::Skipped)
        });
    }

    let died = schedule.record.attempt.clone();
    let attempt = schedule.begin(now, |name| is_name_taken(context, id, name));
    save(context, &schedule)?;
    let began = Instant::now();
    let mut hooks = Hooks::new(&schedule, &attempt);
    let mut end = match died {
        Some(_) => take_up(context, &schedule, &attempt, &mut hooks, &mut notes),
        None => take(context, &schedule, &attempt, &mut hooks),
    };
    if let End::Failed {
        is_found: false,
        is_open,
        ..
    } = &mut end
    {
        // While nothing can be found out, an end that was open stays so.
        *is_open = died.is_some();
    }
    if let End::Failed { error, .. } = &end {
        hooks.know_failure(error);
    }
    let mut result = record(context, &mut schedule, &attempt, end, began.elapsed());
    if let Some(error) = &result.error {
        hooks.know_error(error);
    }
    if result.outcome != Outcome::Interrupted {
        // What it hears of is on disk by now.
        hooks.failure();
    }
    result.hooks = hooks.ran();
    add_hook_errors(&mut result);
    result.notes.splice(0..0, notes);
    Ok(result)
}

/// A post-hook that fails may leave its pre-hook's work undone, so that somebody has to look; the snapshot stays good.
/// The pre-hook's error is the run's own, and when the failure-hook runs, something worse has been said.
fn add_hook_errors(result: &mut InstanceResult) {
    for hook in result.hooks.clone() {
        match (hook.stage, hook.error) {
            (Stage::Post, error) => add_error(result, error),
            (Stage::Failure, error) => result.notes.extend(error),
            (Stage::Pre, _) => {}
        }
    }
}

/// Goes on where a run died: its snapshot may be there already.
fn take_up(
    context: &Context<'_>,
    schedule: &Schedule,
    attempt: &Attempt,
    hooks: &mut Hooks,
    notes: &mut Vec<String>,
) -> End {
    // The shared listing may have been read while that run was still alive.
    let listing = match context.ports.engine.list() {
        Ok(listing) => listing,
        Err(error) => return not_found_out(&error),
    };
    let found = listing.snapshots.into_iter().find(|snapshot| {
        // One that lost something in the crash is taken anew.
        snapshot.is_usable()
            && snapshot.is_scheduled_for(&schedule.instance_id)
            && snapshot.name == attempt.snapshot_name
    });
    if let Some(snapshot) = found {
        notes.push("an earlier run had taken this snapshot and did not see it finished".to_owned());
        // That run may not have come to its post-hook.
        hooks.know(&snapshot.source_instance_name, Some(snapshot.kind));
        hooks.taken(&snapshot);
        return End::Found(snapshot);
    }
    notes.push("an earlier run did not finish its snapshot; this one takes it".to_owned());
    match context.ports.recovery.sweep() {
        Ok(lines) => notes.extend(lines),
        Err(error) => notes.push(describe(&error)),
    }
    take(context, schedule, attempt, hooks)
}

/// Finds the instance and takes the snapshot that its state asks for.
fn take(context: &Context<'_>, schedule: &Schedule, attempt: &Attempt, hooks: &mut Hooks) -> End {
    let id = &schedule.instance_id;
    let instance = match context.ports.engine.find(id) {
        Presence::Here(instance) => instance,
        Presence::Gone => return End::Gone,
        Presence::Unknown(error) => return not_found_out(&error),
    };
    let failed = |kind, error, is_open| End::Failed {
        pause: None,
        kind,
        is_found: true,
        is_open,
        error,
    };
    if interrupt::requested() {
        // Its VMM may not have been waited for, so that its state says nothing.
        return End::Interrupted { kind: None };
    }
    hooks.know(&instance.name, Kind::for_state(instance.state));
    let kind = match kind_for(&instance) {
        Ok(kind) => kind,
        Err(error) => return failed(None, error, false),
    };
    match context.ports.diagnosis.second_scheduler(id) {
        Ok(second) => context.warn(second.into_iter().collect()),
        // Whatever is wrong, the snapshot itself will meet it.
        Err(error) => debug!("instance {id}: {}", describe(&error)),
    }
    let tags = snapshot::scheduled_tags(&schedule.declaration.metadata, id);
    let request = CreateRequest {
        instance: &instance,
        kind,
        name: &attempt.snapshot_name,
        tags: &tags,
        // Not the run time: a run that died may be taken up much later.
        now: clock::now(),
    };
    match hooks.around(&context.at_work, || context.ports.engine.create(&request)) {
        Ok(created) => End::Taken(kind, created),
        Err(EngineError::Interrupted) => End::Interrupted { kind: Some(kind) },
        Err(error) => End::Failed {
            kind: Some(kind),
            is_found: true,
            is_open: matches!(error, EngineError::Unclear { .. }),
            pause: error.pause(),
            error: describe(&error),
        },
    }
}

/// The engine could not even tell whether the instance is there.
fn not_found_out(error: &EngineError) -> End {
    if outcome::is_interruption(error) {
        return End::Interrupted { kind: None };
    }
    End::Failed {
        pause: None,
        kind: None,
        is_found: false,
        is_open: false,
        error: describe(error),
    }
}

/// The kind of snapshot that an instance's state allows (contract, section 3).
pub(super) fn kind_for(instance: &Instance) -> Result<Kind, String> {
    Kind::for_state(instance.state).ok_or_else(|| {
        let state = instance.state;
        match &instance.state_note {
            // The note says what to do.
            Some(note) if state == State::Unknown => {
                format!("can't snapshot an instance in state {state}: {note}")
            }
            Some(note) => format!(
                "can't snapshot an instance in state {state}: {note}; it must be Running, Standby or Stopped"
            ),
            None => format!(
                "can't snapshot an instance in state {state}; it must be Running, Standby or Stopped"
            ),
        }
    })
}

/// Brings a next run that lies impossibly far ahead back onto the grid, and says so.
pub(super) fn heal(schedule: &mut Schedule, now: DateTime<Utc>) -> Option<String> {
    let id = &schedule.instance_id;
    match schedule.times().due(id, now) {
        Due::Misplaced { next_run_at } => {
            let note = misplaced(id, schedule.record.next_run_at, next_run_at);
            schedule.record.next_run_at = next_run_at;
            schedule.record.updated_at = now;
            Some(note)
        }
        Due::No | Due::Now => None,
    }
}

/// The name of the schedule's instance and the time it runs next, in one line for logs.
fn misplaced(id: &InstanceId, from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    format!(
        "the next run of {id} was set for {}, further away than its interval allows (did the clock jump?); it is now {}",
        from.format("%Y-%m-%dT%H:%M:%SZ"),
        to.format("%Y-%m-%dT%H:%M:%SZ")
    )
}

pub(super) fn is_due(context: &Context<'_>, schedule: &Schedule, now: DateTime<Utc>) -> bool {
    context.options.force || matches!(schedule.times().due(&schedule.instance_id, now), Due::Now)
}

/// Whether a snapshot of the instance has this name; names are unique per source (contract, section 3).
pub(super) fn is_name_taken(context: &Context<'_>, id: &InstanceId, name: &str) -> bool {
    context.listing().is_ok_and(|listing| {
        listing
            .snapshots
            .iter()
            .any(|snapshot| snapshot.source_instance_id == id.as_str() && snapshot.name == name)
    })
}

pub(super) fn load(context: &Context<'_>, id: &InstanceId) -> Result<Option<Schedule>, String> {
    context
        .store
        .load_to_run(id)
        .map_err(|error| describe(&error))
}

pub(super) fn save(context: &Context<'_>, schedule: &Schedule) -> Result<(), String> {
    context
        .store
        .save(schedule)
        .map_err(|error| describe(&error))
}
