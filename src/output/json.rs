//! JSON, whose fields are a promise (README, manual). Times are UTC; a field that does not apply is `null`.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::text::visible_json;
use super::{View, check};
use crate::exit::Exit;
use crate::finding;
use crate::monitoring::health::{Newest, Source};
use crate::plan::{Fate, Forecast};
use crate::report::run::{HookRun, InstanceResult, Packed, Report};
use crate::report::{
    Answer, ApiRequest, Declared, Deleted, DeletedSnapshot, Health, HealthRow, Judgement, Keeping,
    ProtectionRow, Registration, RegistrationChange, RehearsedRow, Restored, ScheduleRow,
    SnapshotRow, Taken, VerifiedRow,
};
use crate::retention::Decision;
use crate::schedule::Schedule;
use crate::snapshot::Protection;
use crate::snapshot::{Rehearsed, Verified};
use crate::snapshot::{Snapshot, SnapshotId};

/// The answer, indented, with a line end behind it.
pub fn answer(answer: &Answer, view: &View) -> String {
    let value = match answer {
        Answer::Declared(it) => declared(it),
        Answer::Schedule(it) => schedule(it),
        Answer::Schedules(rows) => rows.iter().map(schedule_row).collect(),
        Answer::Deleted(it) => deleted(it),
        Answer::Run(it) => run(it),
        Answer::Snapshots(rows) => rows.iter().map(snapshot).collect(),
        Answer::Plan(it) => plan(&it.forecast),
        Answer::Restored(it) => restored(it),
        Answer::Verified(rows) => rows.iter().map(verified).collect(),
        Answer::Rehearsed(rows) => rows.iter().map(rehearsed).collect(),
        Answer::Taken(it) => taken(it),
        Answer::Protections(rows) => rows.iter().map(protected).collect(),
        Answer::DeletedSnapshots(rows) => rows.iter().map(deleted_snapshot).collect(),
        Answer::Health(it) => health(it, view),
        Answer::Registration(it) => registration(it),
        Answer::Findings(findings) => findings.iter().map(examined).collect(),
        Answer::Verbatim(text) => Value::from(text.as_str()),
    };
    text(&value)
}

/// What ended a command.
pub fn failure(message: &str, exit: Exit) -> String {
    text(&json!({ "error": message, "exit_code": exit.code() }))
}

fn text(value: &Value) -> String {
    format!("{}\n", visible_json(&format!("{value:#}")))
}

fn declared(declared: &Declared) -> Value {
    let mut value = json!({
        "changed": declared.is_changed,
        "next_runs": declared.next_runs,
        "schedule": schedule(&declared.schedule),
    });
    if declared.is_dry_run {
        value["dry_run"] = Value::Bool(true);
    }
    value
}

/// Exactly what the schedule's file holds.
fn schedule(schedule: &Schedule) -> Value {
    // Every field is a string, a number or a map with strings as keys, so this can't fail.
    serde_json::to_value(schedule).unwrap_or_default()
}

fn schedule_row(row: &ScheduleRow) -> Value {
    let mut object = match &row.schedule {
        Ok(it) => schedule(it),
        Err(error) => json!({ "instance_id": row.instance_id, "error": error }),
    };
    if let Value::Object(fields) = &mut object {
        // What the engine could not be asked is left out; null means that there is none.
        match row.newest {
            Newest::Unknown => {}
            Newest::None => add_known(fields, row, Value::Null),
            Newest::At(at) => add_known(fields, row, json!(at)),
        }
    }
    object
}

fn add_known(fields: &mut Map<String, Value>, row: &ScheduleRow, newest: Value) {
    fields.insert("instance_name".to_owned(), json!(row.name));
    fields.insert("newest_snapshot_at".to_owned(), newest);
    fields.insert("unusable_reason".to_owned(), json!(row.flaw));
}

fn plan(forecast: &Forecast) -> Value {
    json!({
        "from": forecast.from,
        "until": forecast.until,
        "runs": forecast.runs,
        "snapshots": forecast.fates.iter().map(fate).collect::<Vec<_>>(),
        "kept_at_end": forecast.kept_at_end(),
        "most_at_once": forecast.most_at_once,
        "bytes_at_most": forecast.bytes_at_most,
    })
}

/// A snapshot that is there has an id, one that will be taken a time.
fn fate(fate: &Fate) -> Value {
    let mut value = match &fate.id {
        Some(id) => json!({ "id": id }),
        None => json!({ "run_at": fate.created_at }),
    };
    value["removed_at"] = json!(fate.removed_at);
    value["reasons"] = json!(reasons(&fate.decision));
    value
}

fn restored(restored: &Restored) -> Value {
    json!({
        "restored": !restored.is_stopped && !restored.is_dry_run,
        "dry_run": restored.is_dry_run,
        "source_instance_id": restored.instance.id,
        "snapshot_id": restored.snapshot.id,
        "snapshot_name": restored.snapshot.name,
        "checks": restored.findings.iter().map(examined).collect::<Vec<_>>(),
        "directory": restored.to,
        "before_snapshot_id": restored.before.as_ref().map(|before| &before.id),
        "before_snapshot_name": restored.before.as_ref().map(|before| &before.name),
        "has_memory": restored.has_memory,
        "command": restored.argv,
        "command_directory": restored.directory,
        "monitor": restored.monitor,
        "requests": restored.requests.iter().map(api_request).collect::<Vec<_>>(),
        "started": restored.is_started,
        "pid": restored.pid,
        "clock_behind_seconds": restored.behind.map(|behind| behind.as_secs()),
    })
}

fn api_request(request: &ApiRequest) -> Value {
    json!({
        "method": request.method,
        "path": request.path,
        "body": request.body,
    })
}

fn verified(row: &VerifiedRow) -> Value {
    let (outcome, found) = match &row.verified {
        Ok(Verified::Sound { is_read: true, .. }) => ("verified", Vec::new()),
        Ok(Verified::Sound { is_read: false, .. }) => ("looks whole", Vec::new()),
        Ok(Verified::Damaged(found)) => ("damaged", found.clone()),
        Ok(Verified::Unknown(found)) => ("not verified", found.clone()),
        Ok(Verified::Gone) => ("gone", Vec::new()),
        Err(error) => ("not verified", vec![error.clone()]),
    };
    let first_read = if let Ok(Verified::Sound { first_read, .. }) = &row.verified {
        *first_read
    } else {
        0
    };
    json!({
        "snapshot_id": row.snapshot.id,
        "snapshot_name": row.snapshot.name,
        "source_instance_id": row.snapshot.source_instance_id,
        "outcome": outcome,
        "found": found,
        "first_read": first_read,
    })
}

fn rehearsed(row: &RehearsedRow) -> Value {
    let (outcome, detail) = match &row.rehearsed {
        Ok(Rehearsed::Alive) => ("alive", None),
        Ok(Rehearsed::Dead(why)) => ("dead", Some(why)),
        Ok(Rehearsed::Impossible(why)) => ("not possible", Some(why)),
        Err(why) => ("error", Some(why)),
    };
    json!({
        "snapshot_id": row.snapshot.id,
        "snapshot_name": row.snapshot.name,
        "source_instance_id": row.snapshot.source_instance_id,
        "source_instance_name": row.snapshot.source_instance_name,
        "outcome": outcome,
        "detail": detail,
    })
}

fn taken(created: &Taken) -> Value {
    let snapshot = &created.snapshot;
    json!({
        "snapshot_id": snapshot.id,
        "snapshot_name": snapshot.name,
        "source_instance_id": snapshot.source_instance_id,
        "kind": snapshot.kind,
        "consistency": snapshot.consistency,
        "created_at": snapshot.created_at,
        "pause_ms": created.pause.map(pause_ms),
        "notes": created.notes,
    })
}

fn protected(row: &ProtectionRow) -> Value {
    json!({
        "changed": row.is_changed,
        "snapshot_id": row.snapshot_id,
        "snapshot_name": (!row.name.is_empty()).then_some(&row.name),
        "protected": protection(row.protection.as_ref()),
    })
}

fn protection(protection: Option<&Protection>) -> Value {
    protection.map_or(Value::Null, |it| {
        json!({
            "reason": it.reason,
            "until": it.until,
            "protected_at": it.protected_at,
        })
    })
}

fn deleted_snapshot(row: &DeletedSnapshot) -> Value {
    json!({
        "changed": row.error.is_none(),
        "snapshot_id": row.snapshot.id,
        "snapshot_name": row.snapshot.name,
        "error": row.error,
    })
}

fn deleted(deleted: &Deleted) -> Value {
    json!({
        "changed": deleted.is_changed,
        "instance_id": deleted.instance_id,
        "snapshots": deleted.snapshots,
    })
}

fn registration(registration: &Registration) -> Value {
    json!({
        "changed": registration.change != RegistrationChange::None,
        "instance_id": registration.instance_id,
    })
}

fn examined(finding: &finding::Finding) -> Value {
    json!({
        "check": finding.check,
        "subject": finding.subject,
        "status": finding.status.as_str(),
        "detail": finding.detail,
        "remedy": finding.remedy,
    })
}

fn run(report: &Report) -> Value {
    json!({
        "started_at": report.started_at,
        "finished_at": report.finished_at,
        "dry_run": report.is_dry_run,
        "results": report.results.iter().map(|it| result(it, report.is_dry_run)).collect::<Vec<_>>(),
        "problems": report.problems,
        "warnings": report.warnings,
    })
}

fn result(result: &InstanceResult, is_dry_run: bool) -> Value {
    let mut value = json!({
        "instance_id": result.instance_id,
        "outcome": result.outcome.as_str(),
        "kind": result.kind,
        "snapshot_id": result.snapshot_id,
        "snapshot_name": result.snapshot_name,
        "pruned": result.pruned,
        "held_back": result.held_back,
        "compressed": result.compressed.iter().map(compressed).collect::<Vec<_>>(),
        "pause_ms": result.pause.map(pause_ms),
        "duration_ms": milliseconds(result.duration),
        "error": result.error,
        "notes": result.notes,
        "hooks": result.hooks.iter().map(hook).collect::<Vec<_>>(),
    });
    if is_dry_run {
        value["snapshots"] = result.judged.iter().map(judged).collect();
    }
    value
}

fn compressed(packed: &Packed) -> Value {
    json!({
        "snapshot_id": packed.snapshot_id,
        "uncompressed_size_bytes": packed.raw_bytes,
        "compressed_size_bytes": packed.packed_bytes,
    })
}

/// A snapshot that retention has judged. One that is not taken yet has no id.
fn judged((snapshot, decision): &(Snapshot, Decision)) -> Value {
    json!({
        "id": (snapshot.id != SnapshotId::not_taken_yet()).then_some(&snapshot.id),
        "name": snapshot.name,
        "created_at": snapshot.created_at,
        "keep": decision.keeps(),
        "reasons": reasons(decision),
    })
}

/// All reasons, the strongest first.
fn reasons(decision: &Decision) -> Vec<String> {
    decision
        .reasons()
        .iter()
        .map(|reason| reason.words(rfc3339))
        .collect()
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn hook(hook: &HookRun) -> Value {
    json!({
        "hook": hook.stage.as_str(),
        "command": hook.command,
        "duration_ms": hook.duration.map(milliseconds),
        "error": hook.error,
    })
}

/// In milliseconds; microseconds are what the VMMs' own clocks can tell.
fn pause_ms(pause: Duration) -> f64 {
    (pause.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn snapshot(row: &SnapshotRow) -> Value {
    let snapshot = &row.snapshot;
    json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "kind": snapshot.kind,
        "consistency": snapshot.consistency,
        "tags": snapshot.tags,
        "source_instance_id": snapshot.source_instance_id,
        "source_instance_name": snapshot.source_instance_name,
        "source_hypervisor": snapshot.source_hypervisor,
        "created_at": snapshot.created_at,
        "size_bytes": snapshot.size_bytes,
        "disk_bytes": snapshot.disk_bytes,
        "shared_bytes": row.occupied.and_then(|it| it.shared_bytes),
        "compressed_bytes": row.occupied.and_then(|it| it.compressed_bytes),
        "uncompressed_bytes": row.occupied.and_then(|it| it.uncompressed_bytes),
        "scheduled": snapshot.is_scheduled(),
        "verified_at": snapshot.verified_at,
        "rehearsed_at": snapshot.rehearsed.as_ref().map(|it| it.at),
        "rehearsed_alive": snapshot.rehearsed.as_ref().map(|it| it.dead.is_none()),
        "rehearsed_detail": snapshot.rehearsed.as_ref().and_then(|it| it.dead.as_ref()),
        "usable": snapshot.is_usable(),
        "unusable_reason": snapshot.unusable,
        "keep": !matches!(&row.keeping, Keeping::Judged(decision) if !decision.keeps()),
        "reasons": match &row.keeping {
            Keeping::Judged(decision) => json!(reasons(decision)),
            Keeping::Manual | Keeping::Unscheduled | Keeping::Unreadable => {
                json!([verdict(&row.keeping)["reason"]])
            }
        },
        "protected": protection(row.protection.as_ref()),
        "verdict": verdict(&row.keeping),
    })
}

fn health(health: &Health, view: &View) -> Value {
    json!({
        "status": health.level().as_str(),
        "summary": check::summary(health, view),
        "engine_error": health.engine_error,
        "instances": health.rows.iter().map(|row| health_row(row, view)).collect::<Vec<_>>(),
    })
}

fn health_row(row: &HealthRow, view: &View) -> Value {
    let mut value = json!({
        "instance_id": row.instance_id,
        "instance_name": row.name,
        "status": row.level().as_str(),
        "cause": "unreadable",
        "message": check::message(row, view),
    });
    match &row.judgement {
        Judgement::Unjudged { is_found, .. } => {
            if !is_found {
                value["cause"] = json!("not_found");
            }
        }
        Judgement::Judged { schedule, verdict } => {
            value["cause"] = json!(verdict.cause.as_str());
            value["newest_snapshot_at"] = json!(verdict.newest.map(|(at, _)| at));
            value["unusable_reason"] = json!(verdict.flaw);
            value["newest_is_recorded"] =
                json!(verdict.newest.map(|(_, source)| source == Source::Record));
            value["age_seconds"] = json!(verdict.age.map(|age| age.as_secs()));
            value["rpo_seconds"] = json!(verdict.rpo.as_secs());
            value["warning_after_seconds"] = json!(verdict.warning_after.as_secs());
            value["critical_after_seconds"] = json!(verdict.critical_after.as_secs());
            value["next_run_at"] = json!(schedule.record.next_run_at);
            value["retry_at"] = json!(schedule.record.retry_at);
            value["last_run_at"] = json!(schedule.record.last_run_at);
            value["last_error"] = json!(schedule.record.last_error);
            value["retention_error"] = json!(schedule.record.retention_error);
            value["consecutive_failures"] = json!(schedule.record.consecutive_failures);
        }
    }
    value
}

fn verdict(keeping: &Keeping) -> Value {
    let kept = |reason: &str| json!({ "keep": true, "reason": reason, "expires_at": null });
    match keeping {
        Keeping::Manual => kept("manual"),
        Keeping::Unscheduled => kept("no schedule"),
        Keeping::Unreadable => kept("its schedule can't be read"),
        Keeping::Judged(decision) => json!({
            "keep": decision.keeps(),
            "reason": decision.words(rfc3339),
            "expires_at": decision.expires_at(),
        }),
    }
}
