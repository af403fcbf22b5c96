//! `plan`: a summary, what happens by day or month, and what stays at the end.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _, Local, TimeDelta, Utc};

use super::text::visible;
use super::units::{size, time};
use super::{View, declaration, table};
use crate::plan::Forecast;
use crate::report::Planned;
use crate::schedule::duration::format_human;

/// Longer than this, it is told by months.
const MOST_DAYS: i64 = 31;
/// How many characters stand for the whole time of what stays.
const CELLS: i64 = 54;

pub fn text(planned: &Planned, view: &View) -> String {
    let forecast = &planned.forecast;
    let mut text = format!(
        "{}: {}\n{}\n",
        visible(&planned.instance.to_string()),
        summary(forecast),
        schedule(planned, view),
    );
    if !forecast.runs.is_empty() {
        text.push('\n');
        text.push_str(&table::plan(periods(forecast), view));
    }
    if forecast.kept_at_end() > 0 {
        text.push('\n');
        text.push_str(&timeline(forecast));
    }
    text
}

fn summary(forecast: &Forecast) -> String {
    let span = (forecast.until - forecast.from).to_std();
    let room = forecast.bytes_at_most.map_or_else(String::new, |bytes| {
        format!(", some {} at most", size(bytes))
    });
    format!(
        "{} runs in {}, {} snapshots stay, {} at most at once{room}",
        forecast.runs.len(),
        format_human(span.unwrap_or_default()),
        forecast.kept_at_end(),
        forecast.most_at_once
    )
}

fn schedule(planned: &Planned, view: &View) -> String {
    let declaration = &planned.schedule.declaration;
    let first = planned.forecast.runs.first();
    format!(
        "{}: {}, keeps {}{}",
        if planned.is_proposed {
            "proposed"
        } else {
            "schedule"
        },
        declaration::cadence(declaration),
        declaration::retention(&declaration.retention),
        first.map_or_else(String::new, |at| format!("; next run {}", time(*at, view))),
    )
}

/// What happens in each day or month, by the host's clock: its name, such as `2026-09-02` or `2026-09`, runs, removals, and
/// how many snapshots are there when it ends.
fn periods(forecast: &Forecast) -> Vec<[String; 4]> {
    let by_month = forecast.until - forecast.from > TimeDelta::days(MOST_DAYS);
    let key = |at: DateTime<Utc>| {
        let local = at.with_timezone(&Local);
        let day = if by_month { 0 } else { local.day() };
        (local.year(), local.month(), day)
    };
    let mut all: BTreeMap<(i32, u32, u32), (usize, usize)> = BTreeMap::new();
    for run in &forecast.runs {
        all.entry(key(*run)).or_default().0 += 1;
    }
    for removed in forecast.fates.iter().filter_map(|fate| fate.removed_at) {
        all.entry(key(removed)).or_default().1 += 1;
    }
    let listed = forecast.fates.iter().filter(|fate| fate.id.is_some());
    let mut stay = i64::try_from(listed.count()).unwrap_or(i64::MAX);
    all.into_iter()
        .map(|((year, month, day), (runs, removed))| {
            let change = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            stay += change(runs) - change(removed);
            let name = if by_month {
                format!("{year}-{month:02}")
            } else {
                format!("{year}-{month:02}-{day:02}")
            };
            [
                name,
                runs.to_string(),
                removed.to_string(),
                stay.to_string(),
            ]
        })
        .collect()
}

/// What stays at the end, from the oldest one to then.
fn timeline(forecast: &Forecast) -> String {
    let kept = forecast
        .fates
        .iter()
        .filter(|fate| fate.removed_at.is_none());
    let times: Vec<DateTime<Utc>> = kept.map(|fate| fate.created_at).collect();
    let Some(first) = times.iter().min() else {
        return String::new();
    };
    let span = (forecast.until - *first).num_seconds().max(1);
    let mut cells = vec![0_usize; usize::try_from(CELLS).unwrap_or_default()];
    for time in &times {
        let at = (*time - *first).num_seconds().saturating_mul(CELLS) / span;
        let at = at.clamp(0, CELLS - 1);
        if let Some(cell) = usize::try_from(at).ok().and_then(|at| cells.get_mut(at)) {
            *cell += 1;
        }
    }
    let line: String = cells
        .into_iter()
        .map(|count| match count {
            0 => ' ',
            1 => '.',
            2..=9 => ':',
            _ => '|',
        })
        .collect();
    let day = |at: DateTime<Utc>| at.with_timezone(&Local).format("%F").to_string();
    format!("{} [{line}] {}\n", day(*first), day(forecast.until))
}
