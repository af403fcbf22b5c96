//! `set`: declares an instance's whole schedule. The same values again change nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use log::warn;

use super::{Context, declared, target};
use crate::cli::SetArgs;
use crate::clock;
use crate::error::in_words;
use crate::report::{Answer, Declared};
use crate::run;
use crate::schedule::duration::format_human;
use crate::schedule::hooks::{Hooks, Stage};
use crate::schedule::{Declaration, Schedule, validate};

/// Checks the values, finds the instance, and writes its schedule under its lock if that changes anything.
///
/// # Errors
/// When a value breaks a rule, when there is no such instance or several, when another run holds the lock for too
/// long, and when the schedule can't be read or written. Then nothing is changed.
pub fn run(context: &Context<'_>, args: &SetArgs) -> anyhow::Result<Answer> {
    let declaration = validate::declaration(declared::input(&args.declaration))?;
    warn_of_short_age(&declaration);
    warn_of_missing_programs(&declaration.hooks);
    for (_, refusal) in run::refused_hooks(&declaration.hooks) {
        warn!("{refusal}");
    }
    let ports = (context.ports)()?;
    let instance = target::existing(ports.engine.as_ref(), &args.instance)?;
    match ports.diagnosis.second_scheduler(&instance.id) {
        Ok(second) => second.iter().for_each(|second| warn!("{second}")),
        // It is no reason not to declare a schedule.
        Err(error) => warn!("{}", in_words(&error)),
    }
    // A dry run writes nothing, not even a lock file; files are replaced whole, so reading needs no lock.
    let _lock = if args.dry_run {
        None
    } else {
        Some(
            context
                .store
                .lock(&instance.id, context.settings.lock_timeout)?,
        )
    };
    let now = clock::now();
    let (before, schedule, is_changed) = match context.store.load(&instance.id)? {
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
    if is_changed && !args.dry_run {
        context.store.save(&schedule)?;
    }
    Ok(Answer::Declared(Box::new(Declared {
        instance,
        before,
        schedule,
        is_changed,
        is_dry_run: args.dry_run,
    })))
}

/// Says that all snapshots but the newest go at once. Who wants one snapshot may have meant just that.
fn warn_of_short_age(declaration: &Declaration) {
    let interval = declaration.cadence.gap();
    if let Some(max_age) = declaration.retention.max_age.filter(|it| *it < interval) {
        warn!(
            "--max-age {} is below --interval {}: a snapshot is too old before the next one is taken, so that only the \
             newest stays",
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
