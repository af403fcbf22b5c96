//! The flags that declare a schedule.

use clap::Args;

/// A schedule as it is typed. The rules for the values are in `schedule::validate`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct DeclarationArgs {
    /// Time between two snapshots, at least 1m
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub interval: Option<String>,

    /// When snapshots are taken: five fields as in crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub calendar: Option<String>,

    /// How much later than its time a run may be, by the instance's id [default: a tenth of the time to the next one, at most 5m]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub jitter: Option<String>,

    /// Take no snapshot that is foreseen to pause the guest for longer than this; 0 means no limit
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub max_pause: Option<String>,

    /// What a line of the guest's console must say in a rehearsal (`rehearse`); nothing means no such demand
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub expect: Option<String>,

    /// Keep only the newest N of the scheduled snapshots that the keep rules want; 0 means no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_count: Option<i64>,

    /// Keep only scheduled snapshots younger than this; 0 means no limit
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub max_age: Option<String>,

    /// Keep the newest N scheduled snapshots
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_last: Option<i64>,

    /// Keep the newest snapshot of each of the last N hours that have one
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_hourly: Option<i64>,

    /// Keep the newest snapshot of each of the last N days that have one
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_daily: Option<i64>,

    /// Keep the newest snapshot of each of the last N ISO weeks that have one
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_weekly: Option<i64>,

    /// Keep the newest snapshot of each of the last N months that have one
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_monthly: Option<i64>,

    /// Keep the newest snapshot of each of the last N years that have one
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub keep_yearly: Option<i64>,

    /// Keep all snapshots younger than this, counted back from the newest one
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        help_heading = "Keep rules"
    )]
    pub keep_within: Option<String>,

    /// Keep the newest N usable snapshots of each kind, whatever the limits and keep rules say [default: 1]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Keep rules"
    )]
    pub min_keep: Option<i64>,

    /// The time zone of --calendar and of the keep rules, such as Europe/Berlin [default: the host's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,

    /// Start snapshot names with this [default: scheduled]
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    pub name_prefix: Option<String>,

    /// A tag for every snapshot; may be given several times
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub metadata: Vec<String>,

    /// Leave out the memory of a guest that runs: it starts from such a snapshot as after a power cut
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub no_memory: Option<bool>,

    /// Save memory in full; only what was written since the last snapshot (diff: Firecracker that tracks dirty pages); or
    /// while the guest runs (migrate: Cloud Hypervisor)
    #[arg(long, value_name = "full|diff|migrate", allow_hyphen_values = true)]
    pub method: Option<String>,

    /// Compress memory once the guest runs again: zstd or zstd:1 to zstd:19, lz4 or lz4:0 to lz4:9, or none
    #[arg(long, value_name = "METHOD", allow_hyphen_values = true)]
    pub compress: Option<String>,

    /// Keep so much free where snapshots are stored, such as 20GiB or 10% [default: HYPEMAN_SNAP_MIN_FREE]
    #[arg(long, value_name = "SIZE|PERCENT", allow_hyphen_values = true)]
    pub min_free: Option<String>,

    /// A command to run before each snapshot; if it fails, none is taken
    ///
    /// A program, by its absolute path or a name in PATH, with its arguments; quotes are understood, but no shell runs
    /// it: write sh -c '…' for one. It runs as the user of run-due, in /, and finds in its environment HYPEMAN_SNAP_HOOK
    /// and HYPEMAN_SNAP_ followed by INSTANCE_ID, INSTANCE_NAME, SNAPSHOT_NAME, SNAPSHOT_ID, KIND, OUTCOME (snapshotted,
    /// failed or interrupted), ERROR and PAUSE_MS, as far as they are known.
    #[arg(
        long,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        help_heading = "Hooks"
    )]
    pub pre_hook: Option<String>,

    /// A command to run after each snapshot, also when the snapshot or the pre-hook failed
    #[arg(
        long,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        help_heading = "Hooks"
    )]
    pub post_hook: Option<String>,

    /// A command to run when anything of a run failed, last of all
    #[arg(
        long,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        help_heading = "Hooks"
    )]
    pub failure_hook: Option<String>,

    /// How long each hook may run before it is ended with its children [default: 60s]
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        help_heading = "Hooks"
    )]
    pub hook_timeout: Option<String>,
}

impl DeclarationArgs {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
