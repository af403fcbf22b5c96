//! The keep rules: what they want of an instance's history. They select what `restic forget` selects (restic's manual,
//! "Removing backup snapshots"): the newest snapshot of each of the last so many hours, days, ISO weeks, months or years
//! that have one, by the schedule's time zone. While a rule has counts left it wants the oldest one as well, so that a
//! young history is as long as it can be. A snapshot that any rule wants is wanted.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use super::{History, Policy, Reason};
use crate::schedule::Period;
use crate::snapshot::Snapshot;

/// What each keep rule wants of those that count, one rule after the other.
pub(super) fn wishes(
    newest_first: &[&Snapshot],
    counts: &[bool],
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Vec<Option<Reason>>> {
    let keep = &policy.retention.keep;
    if keep.is_empty() {
        return Vec::new();
    }
    let counting: Vec<usize> = (0..newest_first.len()).filter(|&at| counts[at]).collect();
    let spread = |wanted: Vec<Option<Reason>>| {
        let mut all = vec![None; newest_first.len()];
        for (&at, reason) in counting.iter().zip(wanted) {
            all[at] = reason;
        }
        all
    };
    let times: Vec<DateTime<Tz>> = counting
        .iter()
        .map(|&at| newest_first[at].created_at.with_timezone(&policy.zone))
        .collect();
    let periods = keep
        .periods()
        .filter(|(_, count)| *count > 0)
        .map(|(period, count)| of_period(&times, period, count));
    let within = keep.within.map(|within| of_age(&times, within, now));
    periods.chain(within).map(spread).collect()
}

/// Speaks against what no rule wants, where there are rules.
pub(super) fn unwanted(history: &History<'_>, _: &Policy, _: DateTime<Utc>) -> Vec<Option<Reason>> {
    let wanted = history.wanted.iter().zip(&history.counts);
    wanted
        .map(|(&is_wanted, &counts)| (!is_wanted && counts).then_some(Reason::Unwanted))
        .collect()
}

fn of_period(newest_first: &[DateTime<Tz>], period: Period, count: u64) -> Vec<Option<Reason>> {
    let mut left = count;
    let mut last = None;
    newest_first
        .iter()
        .enumerate()
        .map(|(at, time)| {
            let bucket = bucket(time, period, at);
            let is_new = last != Some(bucket);
            let is_oldest = at + 1 == newest_first.len();
            if left == 0 || !(is_new || is_oldest) {
                return None;
            }
            left -= 1;
            last = Some(bucket);
            Some(Reason::Kept {
                period,
                is_oldest: !is_new,
            })
        })
        .collect()
}

/// What snapshots of the same period have in common.
fn bucket(local: &DateTime<Tz>, period: Period, at: usize) -> (i64, u32, u32, u32) {
    let (year, month, day) = (i64::from(local.year()), local.month(), local.day());
    match period {
        Period::Last => (i64::try_from(at).unwrap_or(i64::MAX), 0, 0, 0),
        // An hour that the clock shows twice is one.
        Period::Hourly => (year, month, day, local.hour()),
        Period::Daily => (year, month, day, 0),
        Period::Weekly => {
            let week = local.iso_week();
            (i64::from(week.year()), week.week(), 0, 0)
        }
        Period::Monthly => (year, month, 0, 0),
        Period::Yearly => (year, 0, 0, 0),
    }
}

/// Counted back from the newest one, so that history is not eaten while snapshots fail. A newest one that lies in the
/// future by a little is not counted from.
fn of_age(
    newest_first: &[DateTime<Tz>],
    within: Duration,
    now: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let newest = newest_first.iter().find(|time| **time < now);
    let since = newest
        .zip(TimeDelta::from_std(within).ok())
        .and_then(|(newest, within)| newest.to_utc().checked_sub_signed(within));
    newest_first
        .iter()
        .map(|time| {
            // As far back as the calendar goes, everything is within.
            since
                .is_none_or(|since| *time > since)
                .then_some(Reason::Within(within))
        })
        .collect()
}
