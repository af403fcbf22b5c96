//! `check` as monitoring plugins speak: one line with the worst news and the performance data, then a line for each
//! instance (Monitoring Plugins Development Guidelines, "Plugin Output").

use std::time::Duration;

use super::View;
use super::text::visible;
use super::units::{rough, time};
use crate::instance::in_full;
use crate::monitoring::health::{Assessment, Cause, Level, Source};
use crate::report::{Health, HealthRow, Judgement};
use crate::schedule::Schedule;
use crate::schedule::duration::format_human;

/// The whole answer; with `-q` its first line only.
pub fn lines(health: &Health, view: &View) -> String {
    let mut text = format!(
        "SNAPSHOTS {} - {}|{}\n",
        word(health.level()),
        summary(health, view),
        performance(health)
    );
    if view.is_quiet {
        return text;
    }
    for row in &health.rows {
        let line = format!(
            "{}: {}: {}\n",
            word(row.level()),
            instance(row),
            message(row, view)
        );
        text.push_str(&plain(&line));
    }
    if let Some(error) = &health.engine_error {
        let line = format!(
            "the engine can't be asked, so ages are those that the schedules record: {}\n",
            visible(error)
        );
        text.push_str(&plain(&line));
    }
    text
}

/// What the first line says.
pub fn summary(health: &Health, view: &View) -> String {
    if let Some(reason) = &health.reason {
        return plain(&visible(reason));
    }
    let total = health.rows.len();
    let bad: Vec<&HealthRow> = health
        .rows
        .iter()
        .filter(|row| row.level() > Level::Ok)
        .collect();
    let Some(worst) = bad.first() else {
        return all_well(health);
    };
    let more = match bad.len() - 1 {
        0 => format!(" ({} of {total})", bad.len()),
        more => format!(" (and {more} more of {total})"),
    };
    plain(&format!(
        "{}: {}{more}",
        instance(worst),
        message(worst, view)
    ))
}

/// What there is to say when all is well.
fn all_well(health: &Health) -> String {
    let count = |wanted: fn(&Assessment) -> bool| {
        health
            .rows
            .iter()
            .filter(
                |row| matches!(&row.judgement, Judgement::Judged { verdict, .. } if wanted(verdict)),
            )
            .count()
    };
    let gone = count(|verdict| verdict.cause == Cause::Gone);
    let waiting = count(|verdict| verdict.cause != Cause::Gone && verdict.newest.is_none());
    let fresh = health.rows.len() - gone - waiting;
    let mut parts = vec![match fresh {
        1 => "1 instance has a recent snapshot".to_owned(),
        fresh => format!("{fresh} instances have a recent snapshot"),
    }];
    if waiting > 0 {
        parts.push(format!("{waiting} not yet due"));
    }
    if gone > 0 {
        parts.push(format!("{gone} gone"));
    }
    parts.join(", ")
}

/// What is to be said of one schedule.
pub fn message(row: &HealthRow, view: &View) -> String {
    match &row.judgement {
        Judgement::Unjudged { message, .. } => visible(message),
        Judgement::Judged { schedule, verdict } => judged(schedule, verdict, view),
    }
}

fn judged(schedule: &Schedule, verdict: &Assessment, view: &View) -> String {
    let message = because(schedule, verdict, view);
    match &schedule.record.retention_error {
        Some(error) => format!("{message}; retention fails: {}", visible(error)),
        None => message,
    }
}

fn because(schedule: &Schedule, verdict: &Assessment, view: &View) -> String {
    let age = age(verdict);
    match verdict.cause {
        Cause::Fresh | Cause::RetentionFailing => age,
        Cause::NotYetDue => format!(
            "{age}; the next run is due {}",
            time(schedule.record.next_run_at, view)
        ),
        Cause::Gone => match schedule.record.missing_since {
            Some(since) => format!(
                "the instance is gone, noticed {}; only retention goes on",
                time(since, view)
            ),
            None => "the instance is gone; only retention goes on".to_owned(),
        },
        Cause::NotRunning { since } => {
            let since = since.map_or_else(
                || "the clock went backwards and no run has put that right".to_owned(),
                |since| format!("a run has been due since {}", time(since, view)),
            );
            let failing = failures(schedule)
                .map(|failures| format!("; before that {failures}"))
                .unwrap_or_default();
            format!(
                "{age}; run-due does not run: {since}; is the timer or the crontab entry active?{failing}"
            )
        }
        Cause::Unfinished { since } => format!(
            "{age}; a run that began {} has not ended: it still works, or it died and run-due does not run",
            time(since, view)
        ),
        Cause::Failing => {
            let failures = failures(schedule).unwrap_or_default();
            let again = schedule
                .record
                .retry_at
                .unwrap_or(schedule.record.next_run_at);
            format!("{age}; next try {}; {failures}", time(again, view))
        }
        Cause::Unusable => {
            let flaw = verdict.flaw.as_deref().map(visible).unwrap_or_default();
            let before = match (verdict.newest, verdict.age) {
                (Some((_, Source::Snapshot)), Some(age)) => {
                    format!("the newest usable one is {} old", rough(age))
                }
                _ => "there is no usable one".to_owned(),
            };
            format!("nothing can be restored from the newest snapshot: {flaw}; {before}")
        }
        Cause::NotVerified { since } => match since {
            None => format!("{age}, and no snapshot was ever verified"),
            Some(at) => format!("{age}, and one was last verified {}", time(at, view)),
        },
        Cause::NotRehearsed {
            died_at: Some(at), ..
        } => format!(
            "{age}, and the guest of the one that was last rehearsed, {}, did not live: see `hypeman-snap rehearse`",
            time(at, view)
        ),
        Cause::NotRehearsed { since, .. } => match since {
            None => format!("{age}, and no snapshot was ever rehearsed"),
            Some(at) => format!(
                "{age}, and one last lived in a rehearsal {}",
                time(at, view)
            ),
        },
        Cause::Lost => {
            let age = match verdict.newest {
                Some(_) => age,
                None => "no snapshot is left".to_owned(),
            };
            let taken = schedule
                .record
                .last_success_at
                .map_or_else(String::new, |at| format!(", taken {},", time(at, view)));
            format!("{age}; the last one{taken} is not in the store any more")
        }
        Cause::Sparse => format!(
            "{age}; its schedule's interval of {} is longer than that",
            format_human(schedule.gap())
        ),
        Cause::Late => format!(
            "{age}; the next run is due {}",
            time(schedule.record.next_run_at, view)
        ),
        Cause::InFuture => verdict.newest.map_or(age, |(at, _)| {
            format!(
                "the newest snapshot is dated {}, which is in the future: is the clock right?",
                time(at, view)
            )
        }),
        Cause::Untold => {
            "the snapshots can't be listed, and the schedule records no success".to_owned()
        }
    }
}

/// How old the newest snapshot is, and beside it how old it may be once it is older.
fn age(verdict: &Assessment) -> String {
    let age = verdict.age.unwrap_or_default();
    let limit = if age > verdict.rpo {
        format!(", which is beyond the RPO of {}", rough(verdict.rpo))
    } else {
        String::new()
    };
    match verdict.newest {
        Some((_, Source::Snapshot)) => format!("newest snapshot is {} old{limit}", rough(age)),
        Some((_, Source::Record)) => format!("last success was {} ago{limit}", rough(age)),
        None => format!(
            "no snapshot since the schedule was set {} ago{limit}",
            rough(age)
        ),
    }
}

fn failures(schedule: &Schedule) -> Option<String> {
    let error = schedule.record.run_error();
    let is_failing = error.is_some();
    let error = error.unwrap_or("no reason given");
    match schedule.record.consecutive_failures {
        0 if !is_failing => None,
        0 | 1 => Some(format!("the last run failed: {}", visible(error))),
        count => Some(format!("{count} runs in a row failed: {}", visible(error))),
    }
}

/// Levels counted and ages in seconds with their limits. Labels are ids, which never change.
fn performance(health: &Health) -> String {
    let count = |level| {
        let rows = health.rows.iter();
        rows.filter(|row| row.level() == level).count()
    };
    let mut items = vec![
        format!("instances={};;;0", health.rows.len()),
        format!("warning={};;;0", count(Level::Warning)),
        format!("critical={};;;0", count(Level::Critical)),
        format!("unknown={};;;0", count(Level::Unknown)),
    ];
    for row in &health.rows {
        if let Judgement::Judged { verdict, .. } = &row.judgement {
            if let Some(age) = verdict.age {
                let seconds = |duration: Duration| duration.as_secs();
                items.push(format!(
                    "'age_{}'={}s;{};{};0",
                    label(&row.instance_id),
                    seconds(age),
                    seconds(verdict.warning_after),
                    seconds(verdict.critical_after),
                ));
            }
        }
    }
    items.join(" ")
}

/// An id as part of a quoted label, in which quotes are doubled and an equals sign is not allowed.
fn label(id: &str) -> String {
    plain(&visible(id)).replace('=', "_").replace('\'', "''")
}

/// Text in which no vertical bar can pass for the start of performance data.
fn plain(text: &str) -> String {
    text.replace('|', "/")
}

fn instance(row: &HealthRow) -> String {
    let name = row.name.as_deref().unwrap_or_default();
    visible(&in_full(name, &row.instance_id))
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "OK",
        Level::Unknown => "UNKNOWN",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
    }
}
