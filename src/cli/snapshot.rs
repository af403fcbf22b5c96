//! The commands about single snapshots.

use clap::Args;

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
