//! `set`: declares an instance's whole schedule. The same values again change nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use log::warn;

use super::failure::Refused;
use super::target::Targets;
use super::{Context, declared, target};
use crate::cadence::When;
use crate::cli::SetArgs;
use crate::clock;
use crate::engine::Ports;
use crate::error::in_words;
use crate::instance::InstanceRef;
use crate::report::{Answer, Declared};
use crate::run;
use crate::schedule::duration::format_human;
use crate::schedule::hooks::{Hooks, Stage};
use crate::schedule::validate::{self, Input};
use crate::schedule::{Declaration, Schedule};
use crate::snapshot::storing::Saving;
use crate::store::{Lock, LockError};

/// How many of the next runs are told.
const NEXT_RUNS: usize = 3;

/// Checks the values, finds the instance, and writes its schedule under its lock if that changes anything.
///
/// # Errors
/// When a value breaks a rule, when there is no such instance or several, when another run holds the lock for too
/// long, and when the schedule can't be read or written. Then nothing is changed.
pub fn run(context: &Context<'_>, args: &SetArgs) -> anyhow::Result<Answer> {
    let input = declared::input(&args.declaration);
    if args.update {
        return update(context, args, input);
    }
    let declaration = validate::declaration(input)?;
    warn_of(&declaration);
    let ports = (context.ports)()?;
    refuse_what_engine_lacks(&ports, &declaration)?;
    let instance = target::existing(ports.engine.as_ref(), &args.instance)?;
    match ports.diagnosis.second_scheduler(&instance.id) {
        Ok(second) => second.iter().for_each(|second| warn!("{second}")),
        // It is no reason not to declare a schedule.
        Err(error) => warn!("{}", in_words(&error)),
    }
    let _lock = lock(context, args, &instance)?;
    let present = context.store.load(&instance.id)?;
    declare(context, args, instance, present, declaration)
}

/// Changes what was given of a schedule that is there.
fn update(context: &Context<'_>, args: &SetArgs, input: Input) -> anyhow::Result<Answer> {
    let instance = Targets::read(context)?.find(&args.instance)?;
    let _lock = lock(context, args, &instance)?;
    let present = context.store.load(&instance.id)?.ok_or_else(|| {
        Refused::NotFound(format!("the schedule of {} has just gone", instance.id))
    })?;
    let declaration = validate::declaration(input.over(&present.declaration))?;
    let before = &present.declaration;
    let of_engine = |it: &Declaration| (it.storing.clone(), it.max_pause, it.expect.clone());
    if of_engine(&declaration) != of_engine(before) {
        refuse_what_engine_lacks(&(context.ports)()?, &declaration)?;
    }
    warn_of(&declaration);
    declare(context, args, instance, Some(present), declaration)
}

/// # Errors
/// When the engine can't do what is declared.
fn refuse_what_engine_lacks(ports: &Ports, declaration: &Declaration) -> Result<(), Refused> {
    if declaration.storing.min_free.is_some() && !ports.engine.stores_on_this_host() {
        return Err(Refused::Usage(
            "--min-free: the room of a hypeman server is its own matter; leave it out, or use --engine local"
                .to_owned(),
        ));
    }
    if declaration.storing.saving.is_some() && !ports.engine.stores_on_this_host() {
        return Err(Refused::Usage(
            "--method: a hypeman server saves memory as it does; leave it out, or use --engine local".to_owned(),
        ));
    }
    if declaration.storing.no_memory && !ports.engine.stores_on_this_host() {
        return Err(Refused::Usage(
            "--no-memory: a hypeman server takes no disks of a guest that runs; leave it out, or use --engine local"
                .to_owned(),
        ));
    }
    if declaration.expect.is_some() && ports.rehearser.is_none() {
        return Err(Refused::Usage(
            "--expect: snapshots that a hypeman server keeps are not rehearsed; leave it out, or use --engine local"
                .to_owned(),
        ));
    }
    match declaration.max_pause {
        Some(limit) if ports.registrar.is_none() => Err(Refused::Usage(format!(
            "--max-pause {:?}: how long a hypeman server would pause a guest can't be foreseen; leave it out, or use \
             --engine local",
            format_human(limit)
        ))),
        Some(_) | None => Ok(()),
    }
}

/// A dry run writes nothing, not even a lock file; files are replaced whole, so that reading needs no lock.
fn lock(
    context: &Context<'_>,
    args: &SetArgs,
    instance: &InstanceRef,
) -> Result<Option<Lock>, LockError> {
    if args.dry_run {
        return Ok(None);
    }
    let timeout = context.settings.lock_timeout;
    context.store.lock(&instance.id, timeout).map(Some)
}

fn declare(
    context: &Context<'_>,
    args: &SetArgs,
    instance: InstanceRef,
    present: Option<Schedule>,
    declaration: Declaration,
) -> anyhow::Result<Answer> {
    let now = clock::now();
    let cadence = declaration.cadence.clone();
    let (before, mut schedule, is_changed) = match present {
        None => (
            None,
            Schedule::new(instance.id.clone(), declaration, now),
            true,
        ),
        Some(mut schedule) => {
            let before = schedule.declaration.clone();
            let is_changed = schedule.declare(declaration, now);
            (Some(before), schedule, is_changed)
        }
    };
    if let Some(first) = &args.first {
        let first = validate::first_run(first, &schedule, now)?;
        if before.as_ref().is_none_or(|it| it.cadence != cadence) {
            schedule.record.next_run_at = first;
        }
    }
    if is_changed && !args.dry_run {
        context.store.save(&schedule)?;
    }
    let mut next_runs = vec![schedule.record.next_run_at];
    while let (Some(&last), true) = (next_runs.last(), next_runs.len() < NEXT_RUNS) {
        next_runs.push(cadence.next(&instance.id, last, last));
    }
    Ok(Answer::Declared(Box::new(Declared {
        instance,
        before,
        schedule,
        next_runs,
        is_changed,
        is_dry_run: args.dry_run,
    })))
}

/// Says what may not be meant, or will not work.
fn warn_of(declaration: &Declaration) {
    warn_of_short_age(declaration);
    warn_of_missing_programs(&declaration.hooks);
    match declaration.storing.saving {
        Some(Saving::Difference) => warn!(
            "--method diff: nobody else may have this VM's Firecracker save a snapshot, or the next difference lacks what was \
             written before that"
        ),
        Some(Saving::Migration) => warn!(
            "--method migrate: Cloud Hypervisor gives up the locks on its disks with the first snapshot, so that a second VM \
             could open them"
        ),
        None => {}
    }
    for (_, refusal) in run::refused_hooks(&declaration.hooks) {
        warn!("{refusal}");
    }
}

/// Says that all snapshots but the newest go at once. Who wants one snapshot may have meant just that.
fn warn_of_short_age(declaration: &Declaration) {
    let interval = declaration.cadence.nominal_gap(clock::now());
    let name = match declaration.cadence.when {
        When::Every(_) => "--interval",
        When::Calendar(_) => "the time between two runs,",
    };
    if let Some(max_age) = declaration.retention.max_age.filter(|it| *it < interval) {
        warn!(
            "--max-age {} is below {name} {}: a snapshot is too old before the next one is taken, so that only the newest \
             stays",
            format_human(max_age),
            format_human(interval)
        );
    }
}

/// Says which hooks could not be started now. They may be installed later, so that this is no reason to refuse them.
fn warn_of_missing_programs(hooks: &Hooks) {
    for stage in Stage::ALL {
        let Some(program) = hooks.command(stage).first() else {
            continue;
        };
        let path = Path::new(program);
        let is_found = if program.starts_with('/') {
            if path.is_file() && !is_executable(path) {
                warn!(
                    "{} {program:?}: the file can't be executed; runs fail until it can: `chmod +x` it",
                    stage.flag()
                );
                continue;
            }
            is_executable(path)
        } else {
            std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|dir| is_executable(&dir.join(program)))
            })
        };
        if !is_found {
            warn!(
                "{} {program:?}: there is no such program yet; runs fail until there is",
                stage.flag()
            );
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}
