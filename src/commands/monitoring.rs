//! What `run-due` tells monitoring systems when it ends: the metrics file and the heartbeat, each only where it was asked
//! for. What goes wrong here is a warning and never changes how the run ended.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Context;
use super::known::Known;
use crate::error::in_words;
use crate::exit::Exit;
use crate::monitoring::heartbeat::{self, Beat};
use crate::monitoring::metrics::{self, Instance, Run, Snapshots, Stamp, Stock};
use crate::report::run::{Outcome, Report};
use crate::settings::Monitoring;
use crate::{clock, interrupt};

/// How long after a signal monitoring is waited for.
const END_AFTER_SIGNAL: Duration = Duration::from_secs(8);
/// How many instances a heartbeat's message names.
const NAMED_MAX: usize = 5;

/// Tells of a run that began at `started_at`. A dry run and one that only recovers are no runs to tell of.
pub fn tell(
    context: &Context<'_>,
    started_at: DateTime<Utc>,
    outcome: Result<&Report, &anyhow::Error>,
) {
    let monitoring = &context.settings.monitoring;
    if *monitoring != Monitoring::default() {
        // A server that does not answer must not keep this process from ending.
        let end = || std::process::exit(Exit::Failed.code().into());
        if let Err(error) = interrupt::when_overdue(END_AFTER_SIGNAL, end) {
            log::debug!("a signal may not end this process: {error}");
        }
    }
    if let Some(path) = &monitoring.metrics_file {
        let ended_at = clock::now();
        let run = Run {
            ended_at,
            duration: (ended_at - started_at).to_std().unwrap_or_default(),
            is_success: outcome.is_ok_and(|report| !report.has_failures()),
        };
        let has_changed = outcome.is_ok_and(has_changed);
        let updated = metrics::file::update(path, &context.store.metrics_lock(), |old| {
            text(context, &run, old, has_changed)
        });
        if let Err(error) = updated {
            log::warn!(
                "can't write the metrics file {}: {error}; its directory must exist and be writable",
                path.display()
            );
        }
    }
    if let Some(target) = &monitoring.heartbeat {
        let ca_file = context.settings.ca_file.as_deref();
        if let Err(error) = heartbeat::send(target, &beat(context, outcome), ca_file) {
            log::warn!("{error}");
        }
    }
}

/// Whether a run changed what is in the store.
fn has_changed(report: &Report) -> bool {
    report.results.iter().any(|result| match result.outcome {
        Outcome::Snapshotted | Outcome::Pruned | Outcome::Retired => true,
        Outcome::Skipped | Outcome::Failed | Outcome::Interrupted => !result.pruned.is_empty(),
    })
}

/// The metrics file's new text. Schedules and snapshots are looked at only when something may have changed.
fn text(context: &Context<'_>, run: &Run, old: Option<&str>, has_changed: bool) -> String {
    // Looked at before the schedules are read: what changes meanwhile is seen next time.
    let schedules_changed_at = context.store.changed_at();
    let kept = old
        .filter(|_| !has_changed)
        .and_then(|old| metrics::refresh(old, run, schedules_changed_at));
    kept.unwrap_or_else(|| {
        let stamp = Stamp {
            read_at: run.ended_at,
            schedules_changed_at,
        };
        metrics::render(run, &stamp, &stock(context, old.unwrap_or_default()))
    })
}

/// All schedules, and what the engine knows of their instances.
fn stock(context: &Context<'_>, old: &str) -> Stock {
    let (ids, unreadable) = match context.store.ids() {
        Ok((ids, strays)) => (ids, strays.len()),
        Err(error) => {
            log::debug!("no schedules for the metrics: {}", in_words(&error));
            (Vec::new(), 0)
        }
    };
    let known = (context.ports)().and_then(|ports| Known::ask(&ports.engine));
    if let Err(error) = &known {
        log::debug!("no snapshots for the metrics: {}", in_words(error));
    }
    let known = known.ok();
    let old_names = match known {
        Some(_) => BTreeMap::new(),
        None => metrics::names_in(old),
    };
    let mut stock = Stock {
        instances: Vec::new(),
        unreadable,
        is_engine_up: known.is_some(),
    };
    for id in ids {
        let schedule = match context.store.load(&id) {
            Ok(Some(schedule)) => schedule,
            Ok(None) => continue,
            Err(_) => {
                stock.unreadable += 1;
                continue;
            }
        };
        let name = match &known {
            Some(known) => known.name(&id),
            None => old_names.get(id.as_str()).map(String::as_str),
        };
        stock.instances.push(Instance {
            name: name.unwrap_or_default().to_owned(),
            snapshots: known.as_ref().map(|known| {
                known
                    .scheduled
                    .get(&id)
                    .map_or_else(Snapshots::default, |all| Snapshots {
                        count: all.count,
                        unusable: all.unusable,
                        size_bytes: all.size_bytes,
                        newest_at: all.newest_at,
                        verified_at: all.verified_at,
                        rehearsed: all.rehearsed,
                    })
            }),
            schedule,
        });
    }
    stock
}

/// All is well only when this run and every schedule's last one and its retention went well: else a failure would be taken back by the
/// next minute in which nothing is due.
fn beat(context: &Context<'_>, outcome: Result<&Report, &anyhow::Error>) -> Beat {
    let down = |message: String| Beat {
        is_up: false,
        message,
    };
    let Ok(report) = outcome else {
        return down("run-due could not run; its log says why".to_owned());
    };
    let mut failing: Vec<String> = report
        .results
        .iter()
        .filter(|result| result.outcome == Outcome::Failed || result.error.is_some())
        .map(|result| result.instance_id.to_string())
        .collect();
    let ids = context.store.ids().map(|(ids, _)| ids).unwrap_or_default();
    let total = ids.len();
    for id in ids {
        // What can't be read is among the results.
        if let Ok(Some(schedule)) = context.store.load(&id) {
            if schedule.record.consecutive_failures > 0 || schedule.record.retention_error.is_some()
            {
                failing.push(id.into());
            }
        }
    }
    failing.sort();
    failing.dedup();
    if failing.is_empty() && report.problems.is_empty() {
        return Beat {
            is_up: true,
            message: format!("OK: {total} schedules"),
        };
    }
    if failing.is_empty() {
        return down("run-due met a problem; its log says which".to_owned());
    }
    let named = &failing[..failing.len().min(NAMED_MAX)];
    let more = match failing.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    down(format!(
        "{} of {total} schedules fail: {}{more}",
        failing.len(),
        named.join(", ")
    ))
}
