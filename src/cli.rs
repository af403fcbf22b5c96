//! The command line: flags, arguments and their help. Definitions only: what a value means is decided by the types'
//! own parsers, and what flags and environment amount to by `settings`.

mod declaration;
mod register;
mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::schedule::duration;

const AFTER_HELP: &str = "\
Durations are written as 90m, 1h30m, 7d or 1.5h. INSTANCE is an id, a name, or a unique prefix of an id.

For root, variables that are not set are looked for in /etc/default/hypeman-snap.

The API key of a hypeman server comes from HYPEMAN_API_KEY, from the file that HYPEMAN_API_KEY_FILE names, from the \
systemd credential hypeman-api-key, or from ~/.config/hypeman/cli.yaml; never from the command line.

Exit codes: 0 done, 1 an instance failed or something unexpected happened, 2 invalid request, 3 schedule or instance \
not found, 4 another run held the lock for longer than --lock-timeout. `check` has those of monitoring plugins instead: \
0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.";

const CHECK_AFTER_HELP: &str = "\
The newest scheduled snapshot of an instance is OK up to the age of the RPO, a WARNING beyond it, and CRITICAL beyond \
twice the RPO. Without --rpo, the RPO is the schedule's interval, its jitter (at most 5m) and a slack: a tenth of the \
interval, at least 5m and at most 1h, and the time that the last run took. An instance whose first run is still to \
come is OK, and so is one that is gone. A schedule file that holds no schedule is CRITICAL. While old \
snapshots can't be removed, or a run has been at work on it for longer than the interval, an instance is at least a \
WARNING. Without any schedule the \
answer is UNKNOWN, because then nothing is protected, or the wrong place was looked at. When the engine can't be asked, \
ages are those that the schedules record.

The first line is the worst news and the performance data; a line for each instance follows, worst first (not with -q).

Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, also for an invalid command line. The worst one wins, in the order \
CRITICAL, WARNING, UNKNOWN, OK.";

/// Scheduled snapshots with retention for the VMs of this host.
///
/// There is no daemon: `set` gives a VM a schedule, and cron or a systemd timer starts `run-due` each minute.
#[derive(Debug, Parser)]
#[command(name = "hypeman-snap", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where schedules, locks and journals are kept [env: HYPEMAN_SNAP_STATE_DIR] [default for root: /var/lib/hypeman-snap]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// hypeman's data directory, for the local engine [env: HYPEMAN_SNAP_DATA_DIR] [default for root: /var/lib/hypeman]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Who takes the snapshots [env: HYPEMAN_SNAP_ENGINE] [default: hypeman if HYPEMAN_BASE_URL is set, else local]
    #[arg(long, global = true, value_enum)]
    pub engine: Option<EngineKind>,

    /// The hypeman server, for the hypeman engine [env: HYPEMAN_BASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub base_url: Option<String>,

    /// A file of PEM certificates to trust besides the built-in roots [env: HYPEMAN_SNAP_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Allow plain http to a server on another host; the API key then travels unencrypted
    #[arg(long, global = true)]
    pub insecure_http: bool,

    /// How results are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub output: OutputFormat,

    /// The same as --output json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,

    /// How long to wait for a schedule that another run holds [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration::parse)]
    pub lock_timeout: Option<Duration>,

    /// Say more on stderr: -v what is done, -vv also how
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Say errors only, and print nothing for runs that went well
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Global {
    /// How results are printed, by either of the flags for it.
    pub const fn format(&self) -> OutputFormat {
        if self.json {
            OutputFormat::Json
        } else {
            self.output
        }
    }
}

/// Who takes the snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// This tool, through the VMMs' control sockets and hypeman's data directory
    Local,
    /// A hypeman server, through its HTTP API
    Hypeman,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Table,
    /// The same with all columns, however narrow the terminal is
    Wide,
    /// For programs
    Json,
}

pub use declaration::DeclarationArgs;
pub use register::{RegisterArgs, UnregisterArgs};
pub use snapshot::{
    DeleteSnapshotArgs, ProtectArgs, RehearseArgs, RestoreArgs, SnapshotArgs, UnprotectArgs,
    VerifyArgs,
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Give an instance a schedule, or change the one it has
    ///
    /// Declares the whole schedule: what is not given is not set. Declaring the same values again changes nothing.
    Set(Box<SetArgs>),

    /// Show one schedule
    Get(GetArgs),

    /// List every schedule
    #[command(visible_alias = "ls")]
    List,

    /// Remove a schedule; its snapshots stay
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),

    /// Snapshot what is due, then apply retention
    ///
    /// Meant to be started each minute by cron or a systemd timer. Prints nothing when nothing is due.
    RunDue(RunDueArgs),

    /// Apply retention now, and clean up what killed runs left behind
    Prune(PruneArgs),

    /// List snapshots, and say why each is kept
    Snapshots(SnapshotsArgs),

    /// Show what a schedule will do: its runs, and what becomes of each snapshot
    ///
    /// With flags that declare a schedule, as `set` has them, shows what that one would do.
    Plan(Box<PlanArgs>),

    /// Take a snapshot of an instance now, which no schedule owns
    Snapshot(SnapshotArgs),

    /// Give a snapshot back, in place or into a directory, and start the VM from it
    Restore(RestoreArgs),

    /// Say whether snapshots are what they were
    Verify(VerifyArgs),

    /// Start throw-away VMs from snapshots, and say whether their guests live
    Rehearse(RehearseArgs),

    /// Make snapshots stay, whatever retention says
    Protect(ProtectArgs),

    /// Take back the protection of snapshots
    Unprotect(UnprotectArgs),

    /// Delete snapshots by id or name, also those that no schedule made
    DeleteSnapshot(DeleteSnapshotArgs),

    /// Say whether every newest snapshot is young enough, as a monitoring plugin does
    ///
    /// Takes no lock and writes nothing, and tells a timer that does not fire from an instance whose snapshots fail.
    #[command(after_help = CHECK_AFTER_HELP)]
    Check(CheckArgs),

    /// Tell the local engine of a VM that hypeman does not run
    Register(RegisterArgs),

    /// Make the local engine forget a registered VM; its snapshots stay
    Unregister(UnregisterArgs),

    /// Say what would be used and whether it works; changes nothing
    ///
    /// Looks at directories, free space and reflinks, the engine and its server or each instance's VMM, journals left by
    /// runs that died, schedules that are overdue or can't be read, who starts `run-due`, and the clock. One line for
    /// each, with what to do. Exits 1 if something is broken; warnings alone exit 0. With --quiet only what is not ok
    /// is printed.
    Doctor,

    /// Print completions for a shell
    Completions(CompletionsArgs),
}

impl Command {
    /// Whether the command may write to the state and data directories.
    pub fn may_write(&self) -> bool {
        if let Self::Set(args) = self {
            return !args.dry_run;
        }
        matches!(
            self,
            Self::RunDue(RunDueArgs { dry_run: false, .. })
                | Self::Prune(PruneArgs { dry_run: false, .. })
                | Self::Delete(_)
                | Self::Register(_)
                | Self::Unregister(_)
                | Self::Snapshot(_)
                | Self::Protect(_)
                | Self::Unprotect(_)
                | Self::DeleteSnapshot(_)
        )
    }

    /// What `--missing-grace` says, for the commands that have it.
    pub const fn missing_grace(&self) -> Option<Duration> {
        if let Self::RunDue(RunDueArgs { grace, .. })
        | Self::Prune(PruneArgs { grace, .. })
        | Self::Snapshots(SnapshotsArgs { grace, .. }) = self
        {
            return grace.missing_grace;
        }
        None
    }
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// The instance: an id, a name, or a unique prefix of an id
    pub instance: String,

    #[command(flatten)]
    pub declaration: DeclarationArgs,

    /// When the first run is, now or so much later [default: after one interval, or by the calendar]
    ///
    /// It counts when the schedule is new, or gets another --interval, --calendar or --jitter.
    #[arg(long, value_name = "now|DURATION", allow_hyphen_values = true)]
    pub first: Option<String>,

    /// Change only what is given, in a schedule that is there; an empty hook or prefix is removed
    #[arg(long)]
    pub update: bool,

    /// Show what would change and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The instance, which need not exist any more: an id, a name, or a unique prefix of an id
    pub instance: String,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The instance, which need not exist any more: an id, a name, or a unique prefix of an id
    pub instance: String,

    /// Succeed when there is no such schedule
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub struct RunDueArgs {
    /// Look at this instance's schedule only; may be given several times
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Vec<String>,

    /// How many instances to work on at once, those apart that take over a minute [default: the number of processors, at least 2 and at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,

    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Run now, due or not; the schedule's times stay as they are
    ///
    /// An instance on which another run is at work is waited for, up to --lock-timeout.
    #[arg(long)]
    pub force: bool,

    /// Protect the snapshots that this run takes, so that retention leaves them alone; goes with --force
    #[arg(long, requires = "force")]
    pub protect: bool,

    /// Only resume guests that a killed run left paused, and clean up after it
    #[arg(long, conflicts_with = "force")]
    pub recover_only: bool,

    /// How long a guest may be paused before its snapshot is given up [default: 30s]
    ///
    /// Firecracker and Cloud Hypervisor can't break off a save that has begun: their guests go on when it is done, however
    /// long that takes. How long it was is in the result.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub pause_timeout: Option<Duration>,

    /// How long the local engine may work on one instance [default: 5m, and 1m for each GiB to save]
    ///
    /// When that is over, what is under way is given up, and the guest goes on. Putting its VMM right may take 15s more;
    /// what is still left then is the next run's. The time begins anew for what an earlier run left behind.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub instance_timeout: Option<Duration>,

    #[command(flatten)]
    pub grace: GraceArgs,

    /// How long the hypeman server may take for one snapshot [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub create_timeout: Option<Duration>,

    /// Write metrics for node-exporter's textfile collector to this file [env: HYPEMAN_SNAP_METRICS_FILE]
    ///
    /// The name must end in .prom. Written after each run as a whole and readable by everyone; what concerns schedules
    /// and snapshots is looked up anew when a run did something, a schedule was changed, or 15 minutes have passed. Not
    /// written by --dry-run and --recover-only.
    #[arg(long, value_name = "PATH")]
    pub metrics_file: Option<PathBuf>,

    /// Request this URL after each run: a dead man's switch [env: HYPEMAN_SNAP_HEARTBEAT_URL]
    ///
    /// While this run, any schedule's last run or its retention has failed, /fail is put behind the URL's path and what fails is
    /// posted, as healthchecks.io expects it; for Uptime Kuma (a path that ends in /api/push/TOKEN), status=up or
    /// status=down and msg= are set instead. At most three attempts of 5s; one that fails is only a warning. The URL is
    /// secret, so prefer the variable. Not requested by --dry-run and --recover-only.
    #[arg(long, value_name = "URL")]
    pub heartbeat_url: Option<String>,
}

/// For commands that apply retention or foresee it.
#[derive(Debug, Args)]
pub struct GraceArgs {
    /// How long an instance must be gone before its last snapshots may go and its schedule is retired [default: 24h]
    /// [env: HYPEMAN_SNAP_MISSING_GRACE]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub missing_grace: Option<Duration>,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The instance: an id, a name, or a unique prefix of an id
    pub instance: String,

    /// How far to look ahead [default: 30d]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub r#for: Option<String>,

    #[command(flatten)]
    pub declaration: DeclarationArgs,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// The instances whose schedules to apply [default: all]
    pub instance: Vec<String>,

    /// Show what would be removed and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Remove all that goes, also more than half of an instance's scheduled snapshots at once
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub grace: GraceArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// List only this instance's, which need not exist any more [default: all]
    pub instance: Option<String>,

    #[command(flatten)]
    pub grace: GraceArgs,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The instances to look at, which need not exist any more [default: all that have a schedule]
    pub instance: Vec<String>,

    /// How old the newest snapshot may be [default: the interval, its jitter and a slack]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub rpo: Option<Duration>,

    /// Warn when no snapshot of the instance was read and found whole (`verify --read`) for longer than this
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub verified_within: Option<Duration>,

    /// Warn when no guest of a snapshot of the instance lived in a rehearsal (`rehearse`) for longer than this, or the
    /// last one did not live
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub rehearsed_within: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    mod man;

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_and_argument_has_a_help_text() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            for subcommand in command.get_subcommands() {
                assert!(
                    subcommand.get_about().is_some(),
                    "{}",
                    subcommand.get_name()
                );
                check(subcommand);
            }
        }
        check(&Cli::command());
    }
}
