//! Answers that are no table: sentences, and one schedule in full.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::View;
use super::declaration::{cadence, differences, hook, memory, metadata, prefix, retention, when};
use super::text::{Tint, visible};
use super::units::{time, time_in_full, took};
use crate::cadence::{Calendar, When};
use crate::instance::InstanceRef;
use crate::report::{
    Declared, Deleted, DeletedSnapshot, ProtectionRow, Registration, RegistrationChange, Taken,
};
use crate::schedule::Schedule;
use crate::schedule::duration::format_human;
use crate::schedule::hooks::Stage;
use crate::snapshot::SnapshotId;

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
    optional("expect", declaration.expect.as_deref().map(visible));
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
    optional(
        "method",
        declaration.storing.saving.map(|it| it.to_string()),
    );
    optional(
        "compress",
        declaration.storing.compress.map(|it| it.to_string()),
    );
    optional(
        "min free",
        declaration.storing.min_free.map(|it| it.to_string()),
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

/// A snapshot, by its name if it has one.
pub(super) fn snapshot(name: &str, id: &SnapshotId) -> String {
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
