//! `prune`: applies retention now, and sweeps what killed runs left behind.

use anyhow::Context as _;

use super::target::Targets;
use super::{Context, run_due};
use crate::cli::PruneArgs;
use crate::report::Answer;
use crate::{interrupt, run};

/// Prunes for all schedules, or for those that were named.
///
/// # Errors
/// When the run as a whole can't go on. What fails for single instances is in the answer.
pub fn run(context: &Context<'_>, args: &PruneArgs) -> anyhow::Result<Answer> {
    interrupt::catch().context("can't catch signals")?;
    let only = Targets::read(context)?.only(&args.instance)?;
    let options = run::Options {
        is_uncapped: args.force,
        ..run_due::options(context, only, args.dry_run, false)
    };
    let report = run::prune(context.store, context.ports, &options)?;
    run_due::log(&report);
    Ok(Answer::Run(report))
}
