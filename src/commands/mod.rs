//! One file per command: settings and arguments in, an [`Answer`] out. Commands print nothing to stdout; what the user
//! should know besides the answer goes through the log to stderr.

pub mod check;
pub mod completions;
mod declared;
mod delete;
mod delete_snapshot;
mod doctor;
pub mod failure;
mod get;
mod known;
mod list;
mod monitoring;
mod plan;
mod protect;
mod prune;
mod register;
mod rehearse;
mod restore;
mod run_due;
mod set;
mod snapshot;
mod snapshots;
mod target;
mod unregister;
mod verify;

use crate::cli::{Command, OutputFormat};
use crate::engine::{EngineError, Ports};
use crate::report::Answer;
use crate::settings::Settings;
use crate::store::Store;

/// What every command is given.
pub struct Context<'a> {
    /// Flags and environment, validated.
    pub settings: &'a Settings,
    /// How results are printed: what only one form shows is not looked at for the others.
    pub format: OutputFormat,
    /// The schedule files.
    pub store: &'a Store,
    /// Opens the engine. Called at most once per command, and not at all by commands that can do without: opening
    /// may look at the data directory or need a server.
    pub ports: &'a dyn Fn() -> Result<Ports, EngineError>,
}

/// Carries out one command.
///
/// # Errors
/// When the command as a whole could not be carried out; [`failure::exit_for`] says what that means for the shell.
/// What failed for single instances is in the answer.
pub fn run(command: &Command, context: &Context<'_>) -> anyhow::Result<Answer> {
    match command {
        Command::Set(args) => set::run(context, args),
        Command::Get(args) => get::run(context, args),
        Command::List => list::run(context),
        Command::Delete(args) => delete::run(context, args),
        Command::RunDue(args) => run_due::run(context, args),
        Command::Prune(args) => prune::run(context, args),
        Command::Snapshots(args) => snapshots::run(context, args),
        Command::Plan(args) => plan::run(context, args),
        Command::Snapshot(args) => snapshot::run(context, args),
        Command::Restore(args) => restore::run(context, args),
        Command::Verify(args) => verify::run(context, args),
        Command::Rehearse(args) => rehearse::run(context, args),
        Command::Protect(args) => protect::protect(context, args),
        Command::Unprotect(args) => protect::unprotect(context, args),
        Command::DeleteSnapshot(args) => delete_snapshot::run(context, args),
        Command::Check(args) => Ok(check::run(context, args)),
        Command::Register(args) => register::run(context, args),
        Command::Unregister(args) => unregister::run(context, args),
        Command::Doctor => Ok(doctor::run(context)),
        Command::Completions(args) => completions::run(args),
    }
}
