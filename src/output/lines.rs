//! Answers that are no table: sentences, and one schedule in full.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::View;
use super::text::{Tint, visible};
use super::units::{time, time_in_full, took};
use crate::cadence::{Calendar, When};
use crate::instance::InstanceRef;
use crate::report::{
    Declared, Deleted, DeletedSnapshot, ProtectionRow, Registration, RegistrationChange, Taken,
};
use crate::schedule::duration::format_human;
use crate::schedule::hooks::{Stage, command_line};
use crate::schedule::{Declaration, Retention, Schedule};
use crate::snapshot::{DEFAULT_PREFIX, SnapshotId};

/// Which snapshots stay, in words.
pub fn retention(retention: &Retention) -> String {
    let mut parts: Vec<String> = Vec::new();
    let keep = keep(retention);
    if !keep.is_empty() {
        parts.push(keep);
    }
    if retention.max_count > 0 {
        parts.push(format!("newest {}", retention.max_count));
    }
    parts.extend(
        retention
            .max_age
            .map(|age| format!("up to {}", format_human(age))),
    );
    parts.extend(
        retention
            .min_keep
            .map(|count| format!("at least {count} of each kind")),
    );
    parts.join(", ")
}

/// The keep rules in words, such as `24 hourly + 7 daily`; empty where there are none.
fn keep(retention: &Retention) -> String {
    let keep = &retention.keep;
    let mut rules: Vec<String> = keep
        .periods()
        .filter(|(_, count)| *count > 0)
        .map(|(period, count)| format!("{count} {}", period.as_str()))
        .collect();
    rules.extend(
        keep.within
            .map(|within| format!("within {}", format_human(within))),
    );
    rules.join(" + ")
}

/// `set`: one line that says what is different now.
pub fn declared(declared: &Declared, view: &View) -> String {
    let instance = instance(&declared.instance);
    let schedule = &declared.schedule;
    let would = if declared.is_dry_run {
        "would have "
    } else {
        ""
    };
    let after = &schedule.declaration;
    let said = match &declared.before {
        None => format!(
            "{would}created schedule of {instance}: {}, keeps {}, first run {}\n",
            cadence(after),
            retention(&after.retention),
            time(schedule.record.next_run_at, view),
        ),
        Some(before) if declared.is_changed => format!(
            "{would}changed schedule of {instance}: {}; next run {}\n",
            differences(before, after).join(", "),
            time(schedule.record.next_run_at, view),
        ),
        Some(_) => format!(
            "unchanged schedule of {instance}; next run {}\n",
            time(schedule.record.next_run_at, view)
        ),
    };
    let runs = match &after.cadence.when {
        When::Calendar(calendar) => next_runs(&declared.next_runs, calendar, view),
        When::Every(_) => String::new(),
    };
    said + &runs
}

/// The next runs of a calendar, by its clock and by the host's.
fn next_runs(runs: &[DateTime<Utc>], calendar: &Calendar, view: &View) -> String {
    runs.iter()
        .map(|run| {
            let there = run.with_timezone(&calendar.zone());
            format!(
                "  {}  {}, here {}\n",
                there.format("%a %F %T"),
                calendar.zone(),
                time(*run, view)
            )
        })
        .collect()
}

/// What runs go by, for a column.
pub fn when(declaration: &Declaration) -> String {
    match &declaration.cadence.when {
        When::Every(interval) => format_human(*interval),
        When::Calendar(calendar) => visible(calendar.text()),
    }
}

/// The same in words.
pub fn cadence(declaration: &Declaration) -> String {
    match &declaration.cadence.when {
        When::Every(interval) => format!("every {}", format_human(*interval)),
        When::Calendar(calendar) => {
            format!("at {} ({})", visible(calendar.text()), calendar.zone())
        }
    }
}

/// Each setting that is not what it was, as `name: old → new`.
fn differences(before: &Declaration, after: &Declaration) -> Vec<String> {
    let age = |declaration: &Declaration| {
        declaration
            .retention
            .max_age
            .map_or_else(|| "none".to_owned(), format_human)
    };
    let count = |declaration: &Declaration| match declaration.retention.max_count {
        0 => "none".to_owned(),
        count => count.to_string(),
    };
    let jitter = |declaration: &Declaration| {
        declaration
            .cadence
            .jitter
            .map_or_else(|| "default".to_owned(), format_human)
    };
    let pause = |declaration: &Declaration| {
        let limit = declaration.max_pause;
        limit.map_or_else(|| "any".to_owned(), format_human)
    };
    let rules = |declaration: &Declaration| match keep(&declaration.retention) {
        rules if rules.is_empty() => "everything".to_owned(),
        rules => rules,
    };
    let floor = |declaration: &Declaration| declaration.retention.min_keep().to_string();
    let zone = |declaration: &Declaration| {
        declaration
            .timezone
            .map_or_else(|| "none".to_owned(), |zone| zone.name().to_owned())
    };
    [
        match (&before.cadence.when, &after.cadence.when) {
            (When::Every(_), When::Every(_)) => ("interval", when(before), when(after)),
            _ => ("runs", cadence(before), cadence(after)),
        },
        ("jitter", jitter(before), jitter(after)),
        ("max-pause", pause(before), pause(after)),
        ("max-count", count(before), count(after)),
        ("max-age", age(before), age(after)),
        ("keep", rules(before), rules(after)),
        ("min-keep", floor(before), floor(after)),
        ("timezone", zone(before), zone(after)),
        ("name-prefix", prefix(before), prefix(after)),
        ("metadata", metadata(before), metadata(after)),
        ("memory", memory(before), memory(after)),
        (
            "pre-hook",
            hook(Stage::Pre, before),
            hook(Stage::Pre, after),
        ),
        (
            "post-hook",
            hook(Stage::Post, before),
            hook(Stage::Post, after),
        ),
        (
            "failure-hook",
            hook(Stage::Failure, before),
            hook(Stage::Failure, after),
        ),
        (
            "hook-timeout",
            format_human(before.hooks.timeout()),
            format_human(after.hooks.timeout()),
        ),
    ]
    .into_iter()
    .filter(|(_, before, after)| before != after)
    .map(|(name, before, after)| format!("{name}: {before} → {after}"))
    .collect()
}

fn prefix(declaration: &Declaration) -> String {
    declaration
        .name_prefix
        .clone()
        .unwrap_or_else(|| DEFAULT_PREFIX.to_owned())
}

fn metadata(declaration: &Declaration) -> String {
    if declaration.metadata.is_empty() {
        return "none".to_owned();
    }
    let pairs: Vec<String> = declaration
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    visible(&pairs.join(", "))
}

fn memory(declaration: &Declaration) -> String {
    if declaration.storing.no_memory {
        "left out"
    } else {
        "with it"
    }
    .to_owned()
}

fn hook(stage: Stage, declaration: &Declaration) -> String {
    match declaration.hooks.command(stage) {
        [] => "none".to_owned(),
        command => visible(&command_line(command)),
    }
}

/// `get`: one line for each thing that is set or has happened.
pub fn schedule(schedule: &Schedule, view: &View) -> String {
    let declaration = &schedule.declaration;
    let at = |at| time_in_full(at, view);
    let mut fields = vec![
        ("instance", schedule.instance_id.to_string()),
        (
            match &declaration.cadence.when {
                When::Every(_) => "interval",
                When::Calendar(_) => "calendar",
            },
            when(declaration),
        ),
        ("keeps", retention(&declaration.retention)),
        ("name prefix", prefix(declaration)),
    ];
    let mut optional = |name, value: Option<String>| {
        if let Some(value) = value {
            fields.push((name, value));
        }
    };
    optional("jitter", declaration.cadence.jitter.map(format_human));
    optional("max pause", declaration.max_pause.map(format_human));
    optional(
        "time zone",
        declaration.timezone.map(|zone| zone.name().to_owned()),
    );
    optional(
        "metadata",
        (!declaration.metadata.is_empty()).then(|| metadata(declaration)),
    );
    optional(
        "memory",
        declaration.storing.no_memory.then(|| memory(declaration)),
    );
    for stage in Stage::ALL {
        let is_set = !declaration.hooks.command(stage).is_empty();
        optional(stage.hook(), is_set.then(|| hook(stage, declaration)));
    }
    optional(
        "hook timeout",
        (!declaration.hooks.is_empty()).then(|| format_human(declaration.hooks.timeout())),
    );
    optional("next run", Some(at(schedule.record.next_run_at)));
    optional("next retry", schedule.record.retry_at.map(at));
    optional(
        "unfinished run",
        schedule.record.attempt.as_ref().map(|attempt| {
            format!(
                "{}, began {}",
                visible(&attempt.snapshot_name),
                at(attempt.started_at)
            )
        }),
    );
    optional("last run", schedule.record.last_run_at.map(at));
    optional(
        "last snapshot",
        schedule.record.last_snapshot_id.as_deref().map(visible),
    );
    optional(
        "last error",
        schedule
            .record
            .run_error()
            .map(|error| tinted(visible(error), Tint::Failure, view)),
    );
    optional(
        "retention error",
        schedule
            .record
            .retention_error
            .as_deref()
            .map(|error| tinted(visible(error), Tint::Failure, view)),
    );
    optional(
        "failures",
        (schedule.record.consecutive_failures > 0)
            .then(|| schedule.record.consecutive_failures.to_string()),
    );
    optional("last success", schedule.record.last_success_at.map(at));
    optional(
        "last pause",
        schedule
            .record
            .last_pause_ms
            .map(|ms| format!("{ms:.1} ms")),
    );
    optional(
        "last duration",
        schedule
            .record
            .last_duration_ms
            .map(|ms| took(Duration::from_millis(ms))),
    );
    optional("instance gone since", schedule.record.missing_since.map(at));
    optional("created", Some(at(schedule.record.created_at)));
    optional("updated", Some(at(schedule.record.updated_at)));
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

/// `delete`.
pub fn deleted(deleted: &Deleted) -> String {
    let instance = visible(&deleted.instance_id);
    if !deleted.is_changed {
        return format!("unchanged: {instance} has no schedule\n");
    }
    let rest = match deleted.snapshots {
        None => "its snapshots stay".to_owned(),
        Some(0) => "there are no snapshots of it".to_owned(),
        Some(count) => format!(
            "its snapshots stay ({count}): `hypeman-snap snapshots {instance}` lists them, \
             `hypeman-snap delete-snapshot` removes them"
        ),
    };
    format!("deleted schedule of {instance}; {rest}\n")
}

/// `snapshot`.
pub fn taken(created: &Taken) -> String {
    let snapshot = &created.snapshot;
    let pause = created
        .pause
        .map(|pause| format!(", paused {}", took(pause)));
    format!(
        "took {} ({}{}): {}\n",
        visible(&snapshot.name),
        snapshot.kind,
        pause.unwrap_or_default(),
        snapshot.id
    )
}

/// `protect`, `unprotect`.
pub fn protections(rows: &[ProtectionRow], view: &View) -> String {
    rows.iter()
        .map(|row| {
            let snapshot = snapshot(&row.name, &row.snapshot_id);
            let unchanged = if row.is_changed { "" } else { "unchanged: " };
            match &row.protection {
                None if row.is_changed => format!("unprotected {snapshot}\n"),
                None => format!("unchanged: {snapshot} is not protected\n"),
                Some(protection) => {
                    let until = protection
                        .until
                        .map(|it| format!(" until {}", time(it, view)));
                    let until = until.unwrap_or_default();
                    format!("{unchanged}protected {snapshot}{until}\n")
                }
            }
        })
        .collect()
}

/// `delete-snapshot`.
pub fn deleted_snapshots(rows: &[DeletedSnapshot]) -> String {
    rows.iter()
        .filter(|row| row.error.is_none())
        .map(|row| {
            let snapshot = snapshot(&row.snapshot.name, &row.snapshot.id);
            format!("deleted snapshot {snapshot}\n")
        })
        .collect()
}

fn snapshot(name: &str, id: &SnapshotId) -> String {
    if name.is_empty() {
        return id.to_string();
    }
    format!("{} ({id})", visible(name))
}

/// `register`, `unregister`.
pub fn registration(registration: &Registration) -> String {
    let id = &registration.instance_id;
    match registration.change {
        RegistrationChange::Created => format!("registered {id}\n"),
        RegistrationChange::Updated => format!("changed registration of {id}\n"),
        RegistrationChange::None => format!("unchanged registration of {id}\n"),
        RegistrationChange::Removed => {
            format!("unregistered {id}; its schedule and snapshots stay\n")
        }
    }
}

pub(super) fn tinted(text: String, tint: Tint, view: &View) -> String {
    if !view.has_colours {
        return text;
    }
    let code = match tint {
        Tint::Failure => 31,
        Tint::Notice => 33,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[39m")
}

fn instance(instance: &InstanceRef) -> String {
    visible(&instance.to_string())
}
