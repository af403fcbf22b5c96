//! Metrics in Prometheus' text format, for node-exporter's textfile collector. Pure: what is written where is the
//! matter of [`file`].
//!
//! The text has two parts. The first is about the last run and new each time. The second is about schedules and
//! snapshots, which costs a look at all of them; a line between the parts says what it was made from, so that a minute
//! in which nothing happens can keep it as it is ([`refresh`]).

pub mod file;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::schedule::Schedule;

/// What every metric's name begins with.
const PREFIX: &str = "hypeman_snap_";
/// What the line between the two parts begins with. Comments that are neither HELP nor TYPE are ignored by readers.
const BOUNDARY: &str = "# hypeman-snap: what follows was read at ";
/// Between the two times of that line.
const CHANGED: &str = " from schedules changed at ";
/// How long the second part may be kept: snapshots can come and go without any schedule being written.
const MAX_AGE: TimeDelta = TimeDelta::minutes(15);
/// The metric that every schedule has, from which a name is read back.
const NAME_BEARER: &str = "schedule_interval_seconds";

/// The last run.
#[derive(Debug, Clone)]
pub struct Run {
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// How long it took.
    pub duration: Duration,
    /// Whether nothing failed.
    pub is_success: bool,
}

/// What the second part is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// When it was read.
    pub read_at: DateTime<Utc>,
    /// When a schedule was last written or removed; `None` when there never was one.
    pub schedules_changed_at: Option<DateTime<Utc>>,
}

/// Everything about schedules and snapshots.
#[derive(Debug)]
pub struct Stock {
    /// One for each schedule that can be read.
    pub instances: Vec<Instance>,
    /// How many schedule files can't be read.
    pub unreadable: usize,
    /// Whether the engine could be asked.
    pub is_engine_up: bool,
}

/// One schedule, and what the engine knows of its instance.
#[derive(Debug)]
pub struct Instance {
    pub schedule: Schedule,
    /// The instance's name; empty when it has none or it is not known.
    pub name: String,
    /// Its scheduled snapshots; `None` when the engine could not be asked.
    pub snapshots: Option<Snapshots>,
}

/// The scheduled snapshots of one instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshots {
    /// How many there are.
    pub count: u64,
    /// How many of them are not usable.
    pub unusable: u64,
    /// The lengths of their files together, in bytes.
    pub size_bytes: u64,
    /// When the newest one was taken.
    pub newest_at: Option<DateTime<Utc>>,
    /// When a usable one was last verified.
    pub verified_at: Option<DateTime<Utc>>,
    /// When a usable one was last rehearsed, and whether its guest lived.
    pub rehearsed: Option<(DateTime<Utc>, bool)>,
}

/// Both parts, made new.
pub fn render(run: &Run, stamp: &Stamp, stock: &Stock) -> String {
    let mut text = of_run(run);
    text.push_str(&boundary(stamp));
    of_stock(stock, &mut text);
    text
}

/// The first part made new, the second as it is in `old`; `None` when that does not do any more: when there is none, a
/// schedule was written since, or it is too old.
pub fn refresh(
    old: &str,
    run: &Run,
    schedules_changed_at: Option<DateTime<Utc>>,
) -> Option<String> {
    let (_, rest) = old.split_once(BOUNDARY)?;
    let (line, stock) = rest.split_once('\n')?;
    let (read_at, _) = line.split_once(CHANGED)?;
    let read_at: DateTime<Utc> = read_at.parse().ok()?;
    let age = run.ended_at - read_at;
    let stamp = Stamp {
        read_at,
        schedules_changed_at,
    };
    let is_current = line == stamp_text(&stamp) && age >= TimeDelta::zero() && age < MAX_AGE;
    is_current.then(|| format!("{}{}{stock}", of_run(run), boundary(&stamp)))
}

/// The instances' names in an earlier text, by id: they are part of each series' identity, which must not change while
/// the engine can't be asked.
pub fn names_in(old: &str) -> BTreeMap<String, String> {
    let start = format!("{PREFIX}{NAME_BEARER}{{instance_id=\"");
    old.lines()
        .filter_map(|line| {
            let (id, rest) = unquoted(line.strip_prefix(&start)?)?;
            let (name, _) = unquoted(rest.strip_prefix(",name=\"")?)?;
            Some((id, name))
        })
        .collect()
}

fn boundary(stamp: &Stamp) -> String {
    format!("{BOUNDARY}{}\n", stamp_text(stamp))
}

fn stamp_text(stamp: &Stamp) -> String {
    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let changed = stamp
        .schedules_changed_at
        .map_or_else(|| "never".to_owned(), text);
    format!("{}{CHANGED}{changed}", text(stamp.read_at))
}

fn of_run(run: &Run) -> String {
    let mut text = String::new();
    let mut gauge = |name, help, labels, value| {
        family(&mut text, name, "gauge", help, [(labels, Some(value))]);
    };
    gauge(
        "build_info",
        "The version of hypeman-snap; always 1.",
        concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}").to_owned(),
        1.0,
    );
    let none = String::new;
    gauge(
        "last_run_timestamp_seconds",
        "When run-due last ended, whether anything was due or not.",
        none(),
        timestamp(run.ended_at),
    );
    gauge(
        "last_run_duration_seconds",
        "How long the last run-due took.",
        none(),
        run.duration.as_secs_f64(),
    );
    gauge(
        "last_run_success",
        "Whether nothing failed in the last run-due: 1 or 0.",
        none(),
        flag(run.is_success),
    );
    text
}

fn of_stock(stock: &Stock, text: &mut String) {
    let mut gauge = |name, help, value| {
        family(text, name, "gauge", help, [(String::new(), Some(value))]);
    };
    gauge(
        "engine_up",
        "Whether instances and snapshots could be listed: 1 or 0.",
        flag(stock.is_engine_up),
    );
    gauge(
        "schedules",
        "How many schedules there are that can be read.",
        number(stock.instances.len()),
    );
    gauge(
        "unreadable_schedules",
        "How many schedule files hold no schedule; their instances get no snapshots.",
        number(stock.unreadable),
    );
    for metric in METRICS {
        let samples = stock
            .instances
            .iter()
            .map(|instance| (labels(instance), (metric.value)(instance)));
        family(text, metric.name, metric.kind, metric.help, samples);
    }
}

/// A metric that has a sample for each instance.
struct Metric {
    /// Without the prefix.
    name: &'static str,
    /// `gauge` or `counter`.
    kind: &'static str,
    help: &'static str,
    /// The sample, or nothing where there is none yet.
    value: fn(&Instance) -> Option<f64>,
}

const METRICS: [Metric; 17] = [
    Metric {
        name: NAME_BEARER,
        kind: "gauge",
        help: "Time between two snapshots of the instance.",
        value: |it| Some(it.schedule.gap().as_secs_f64()),
    },
    Metric {
        name: "next_run_timestamp_seconds",
        kind: "gauge",
        help: "When the instance's next run is due, retries included.",
        value: |it| {
            let next = it.schedule.record.next_run_at;
            Some(timestamp(
                it.schedule.record.retry_at.map_or(next, |at| at.min(next)),
            ))
        },
    },
    Metric {
        name: "last_success_timestamp_seconds",
        kind: "gauge",
        help: "When the newest good snapshot was taken, as the schedule records it; absent before the first.",
        value: |it| it.schedule.record.last_success_at.map(timestamp),
    },
    Metric {
        name: "runs_total",
        kind: "counter",
        help: "Runs that were begun for the instance since its schedule was set.",
        value: |it| Some(whole(it.schedule.record.total_runs)),
    },
    Metric {
        name: "failures_total",
        kind: "counter",
        help: "Runs that failed for the instance since its schedule was set.",
        value: |it| Some(whole(it.schedule.record.total_failures)),
    },
    Metric {
        name: "consecutive_failures",
        kind: "gauge",
        help: "Runs that failed since the last good one.",
        value: |it| Some(f64::from(it.schedule.record.consecutive_failures)),
    },
    Metric {
        name: "retention_failing",
        kind: "gauge",
        help: "Whether the instance's old snapshots could not be removed when that was last tried: 1 or 0.",
        value: |it| Some(flag(it.schedule.record.retention_error.is_some())),
    },
    Metric {
        name: "last_pause_seconds",
        kind: "gauge",
        help: "How long the guest was paused for its newest snapshot; absent where it was not.",
        value: |it| it.schedule.record.last_pause_ms.map(|ms| ms / 1000.0),
    },
    Metric {
        name: "last_duration_seconds",
        kind: "gauge",
        help: "How long the instance's newest run took; absent before the first.",
        value: |it| {
            let ms = it.schedule.record.last_duration_ms?;
            Some(Duration::from_millis(ms).as_secs_f64())
        },
    },
    Metric {
        name: "instance_missing",
        kind: "gauge",
        help: "Whether the instance is known to be gone: 1 or 0.",
        value: |it| Some(flag(it.schedule.record.missing_since.is_some())),
    },
    Metric {
        name: "snapshots",
        kind: "gauge",
        help: "Scheduled snapshots of the instance in the store; absent while the engine can't be asked.",
        value: |it| it.snapshots.map(|all| whole(all.count)),
    },
    Metric {
        name: "unusable_snapshots",
        kind: "gauge",
        help: "How many of these snapshots lost something, so that nothing can be restored from them.",
        value: |it| it.snapshots.map(|all| whole(all.unusable)),
    },
    Metric {
        name: "snapshots_size_bytes",
        kind: "gauge",
        help: "Lengths of the files of these snapshots together; sparse and shared files occupy less.",
        value: |it| it.snapshots.map(|all| whole(all.size_bytes)),
    },
    Metric {
        name: "newest_snapshot_timestamp_seconds",
        kind: "gauge",
        help: "When the newest usable one of these snapshots was taken; absent where there is none.",
        value: |it| it.snapshots.and_then(|all| all.newest_at).map(timestamp),
    },
    Metric {
        name: "snapshot_verified_timestamp_seconds",
        kind: "gauge",
        help: "When a usable one of these snapshots was last read whole and found to be what it was; absent if never.",
        value: |it| it.snapshots.and_then(|all| all.verified_at).map(timestamp),
    },
    Metric {
        name: "snapshot_rehearsed_timestamp_seconds",
        kind: "gauge",
        help: "When a usable one of these snapshots was last rehearsed; absent if never.",
        value: |it| {
            it.snapshots
                .and_then(|all| all.rehearsed)
                .map(|(at, _)| timestamp(at))
        },
    },
    Metric {
        name: "snapshot_rehearsed_alive",
        kind: "gauge",
        help: "Whether the guest lived then: 1 or 0.",
        value: |it| {
            it.snapshots
                .and_then(|all| all.rehearsed)
                .map(|(_, lived)| f64::from(u8::from(lived)))
        },
    },
];

/// Adds a metric's help, its type and its samples; nothing when there are none.
fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, Option<f64>)>,
) {
    let mut has_head = false;
    for (labels, value) in samples {
        let Some(value) = value else { continue };
        if !has_head {
            has_head = true;
            // Writing to a string can't fail.
            let _ = writeln!(text, "# HELP {PREFIX}{name} {help}");
            let _ = writeln!(text, "# TYPE {PREFIX}{name} {kind}");
        }
        let _ = writeln!(text, "{PREFIX}{name}{labels} {value}");
    }
}

/// Not `instance`: Prometheus itself gives that label to whatever it scrapes.
fn labels(instance: &Instance) -> String {
    format!(
        "{{instance_id=\"{}\",name=\"{}\"}}",
        quoted(instance.schedule.instance_id.as_str()),
        quoted(&instance.name)
    )
}

/// A label's value as it stands between quotes. Control characters but line feeds have no place in one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                quoted.push(char::REPLACEMENT_CHARACTER);
            }
            c => quoted.push(c),
        }
    }
    quoted
}

/// The value that begins `text` and ends at the next quote, and what stands behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            c => value.push(c),
        }
    }
    None
}

fn timestamp(at: DateTime<Utc>) -> f64 {
    at.timestamp() as f64 + f64::from(at.timestamp_subsec_millis()) / 1000.0
}

fn whole(count: u64) -> f64 {
    count as f64
}

fn number(count: usize) -> f64 {
    count as f64
}

const fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests;
