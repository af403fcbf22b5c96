//! The commands about single snapshots.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use regex::Regex;

use crate::schedule::duration;

/// `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The instance: an id, a name, or a unique prefix of an id
    pub instance: String,

    /// The snapshot's name [default: manual-YYYYMMDD-HHMMSS]
    #[arg(long, allow_hyphen_values = true)]
    pub name: Option<String>,

    /// A tag for the snapshot; may be given several times
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub metadata: Vec<String>,
}

/// `protect`.
#[derive(Debug, Args)]
pub struct ProtectArgs {
    /// The snapshots: an id, a name, or a unique prefix of an id
    #[arg(required = true)]
    pub snapshot: Vec<String>,

    /// Why they stay; shown with them
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// When the protection ends, such as 2027-01-31, "2027-01-31 18:00" or 2027-01-31T18:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `unprotect`.
#[derive(Debug, Args)]
pub struct UnprotectArgs {
    /// The snapshots: an id, a name, or a unique prefix of an id
    #[arg(required = true)]
    pub snapshot: Vec<String>,
}

/// `delete-snapshot`.
#[derive(Debug, Args)]
pub struct DeleteSnapshotArgs {
    /// The snapshots: an id, a name, or a unique prefix of an id
    #[arg(required = true)]
    pub snapshot: Vec<String>,

    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The instance that the snapshot is of: an id, a name, or a unique prefix of an id
    pub instance: String,

    /// The snapshot: an id, a name, a unique prefix of an id, or latest
    pub snapshot: String,

    /// Make this directory with the snapshot's content instead, and leave the VM alone; it must not be there, or be empty
    #[arg(long, value_name = "DIRECTORY")]
    pub to: Option<PathBuf>,

    /// Leave the memory out, so that the guest boots anew from its disks
    #[arg(long)]
    pub disks_only: bool,

    /// Start the VM, and wait until its guest runs
    #[arg(long)]
    pub start: bool,

    /// Don't keep what was there before in a snapshot, once all has gone well
    #[arg(long, conflicts_with = "to")]
    pub no_save: bool,

    /// Go on although it may fail, or, with --to and --start, although the instance runs
    #[arg(long)]
    pub force: bool,

    /// Look at what could be in the way, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A snapshot, or an instance for all of its snapshots; all there are if none is given
    #[arg(value_name = "INSTANCE|SNAPSHOT")]
    pub what: Vec<String>,

    /// Read every byte, and compare it with what was written
    #[arg(long)]
    pub read: bool,

    /// How many snapshots to look at at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
}

#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// A snapshot, or an instance for its newest usable one; that of each instance if none is given
    #[arg(value_name = "INSTANCE|SNAPSHOT")]
    pub what: Vec<String>,

    /// How long each guest is watched at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub timeout: Duration,

    /// What a line of the guest's console must say, which ends the watch [default: what the schedule says, if it does]
    #[arg(long, value_name = "REGEX", value_parser = Regex::new)]
    pub expect: Option<Regex>,

    /// Leave out instances of which a snapshot was rehearsed within this time
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub newer_than: Option<Duration>,
}
