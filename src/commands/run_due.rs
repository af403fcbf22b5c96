//! `run-due`: snapshots what is due, then applies retention.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::target::Targets;
use super::{Context, monitoring};
use crate::cli::RunDueArgs;
use crate::instance::InstanceId;
use crate::report::Answer;
use crate::report::run::{InstanceResult, Outcome, Report};
use crate::run::{self, Options};
use crate::{clock, interrupt};

/// Runs what is due, or what was named; or only puts right what a run that died left behind.
///
/// # Errors
/// When the run as a whole can't go on. What fails for single instances is in the answer.
pub fn run(context: &Context<'_>, args: &RunDueArgs) -> anyhow::Result<Answer> {
    let started_at = clock::now();
    let done = carry_out(context, args);
    // A run that a signal ended has nothing to tell yet, and no time for it.
    let is_told = !args.dry_run && !args.recover_only && !interrupt::requested();
    if is_told {
        monitoring::tell(context, started_at, done.as_ref());
    }
    done.map(Answer::Run)
}

fn carry_out(context: &Context<'_>, args: &RunDueArgs) -> anyhow::Result<Report> {
    interrupt::catch().context("can't catch signals")?;
    // Which schedules there are is read only when somebody names one: an idle minute must stay cheap.
    let only = if args.instance.is_empty() {
        None
    } else {
        Targets::read(context)?.only(&args.instance)?
    };
    let options = Options {
        protects: args.protect,
        ..options(context, only, args.dry_run, args.force)
    };
    let report = if args.recover_only {
        run::recover(context.store, context.ports, &options)?
    } else {
        let tell = |result: &InstanceResult| log_result(result, options.dry_run);
        let report = run::run_due(context.store, context.ports, &options, &tell)?;
        log_whole(&report);
        return Ok(report);
    };
    log(&report);
    Ok(report)
}

/// What a run is told, from the settings and the command's own flags.
pub fn options(
    context: &Context<'_>,
    only: Option<BTreeSet<InstanceId>>,
    dry_run: bool,
    force: bool,
) -> Options {
    let limits = &context.settings.limits;
    Options {
        jobs: limits.jobs,
        dry_run,
        force,
        only,
        is_uncapped: false,
        protects: false,
        missing_grace: limits.missing_grace,
        lock_timeout: context.settings.lock_timeout,
    }
}

/// Says on stderr what failed and what the user should know.
pub fn log(report: &Report) {
    for result in &report.results {
        log_result(result, report.is_dry_run);
    }
    log_whole(report);
}

/// The same of one instance.
fn log_result(result: &InstanceResult, is_dry_run: bool) {
    let instance = result.instance_id.as_str();
    for note in &result.notes {
        // That another run has it is no news, and what a dry run foresees is its answer.
        let is_foreseen = is_dry_run && result.outcome == Outcome::Skipped;
        // Which instances a signal left undone is said at the end, in one line.
        if result.is_locked || is_foreseen || result.outcome == Outcome::Interrupted {
            log::info!(instance; "{note}");
        } else {
            log::warn!(instance; "{note}");
        }
    }
    if let Some(error) = &result.error {
        log::error!(instance; "{error}");
    }
}

/// The same of what concerns no single instance.
fn log_whole(report: &Report) {
    if let [first, others @ ..] = report.interrupted().as_slice() {
        let more = match others.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        log::error!("interrupted by a signal: {first}{more} left to the next run");
    }
    for warning in &report.warnings {
        log::warn!("{warning}");
    }
    for problem in &report.problems {
        log::error!("{problem}");
    }
}
