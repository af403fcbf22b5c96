//! `set --update`: what was typed over what is declared.

use std::time::Duration;

use super::Input;
use crate::cadence::When;
use crate::schedule::hooks::{self, Stage};
use crate::schedule::{Declaration, Retention, duration};

impl Input {
    /// What was typed over what is declared: what was not given stays. A hook or a prefix that is empty goes.
    #[must_use]
    pub fn over(self, before: &Declaration) -> Self {
        let count = |typed: Option<i64>, before: u64| {
            typed.or_else(|| (before > 0).then(|| i64::try_from(before).unwrap_or(i64::MAX)))
        };
        let duration = |typed: Option<String>, before: Option<Duration>| {
            typed.or_else(|| before.map(duration::format_go))
        };
        let filled = |text: &String| !text.trim().is_empty();
        let hook = |typed: Option<String>, stage| {
            let command = before.hooks.command(stage);
            let before = (!command.is_empty()).then(|| hooks::command_line(command));
            typed.or(before).filter(filled)
        };
        let (interval, calendar) = match (&before.cadence.when, self.interval, self.calendar) {
            (When::Every(interval), None, None) => (Some(duration::format_go(*interval)), None),
            (When::Calendar(calendar), None, None) => (None, Some(calendar.text().to_owned())),
            (_, interval, calendar) => (interval, calendar),
        };
        let Retention {
            max_count,
            max_age,
            keep,
            min_keep,
        } = &before.retention;
        let pre_hook = hook(self.pre_hook, Stage::Pre);
        let post_hook = hook(self.post_hook, Stage::Post);
        let failure_hook = hook(self.failure_hook, Stage::Failure);
        let has_hook = pre_hook.is_some() || post_hook.is_some() || failure_hook.is_some();
        Self {
            calendar,
            interval,
            jitter: duration(self.jitter, before.cadence.jitter),
            max_pause: duration(self.max_pause, before.max_pause),
            expect: self.expect.or_else(|| before.expect.clone()),
            max_count: count(self.max_count, *max_count),
            max_age: duration(self.max_age, *max_age),
            keep_last: count(self.keep_last, keep.last),
            keep_hourly: count(self.keep_hourly, keep.hourly),
            keep_daily: count(self.keep_daily, keep.daily),
            keep_weekly: count(self.keep_weekly, keep.weekly),
            keep_monthly: count(self.keep_monthly, keep.monthly),
            keep_yearly: count(self.keep_yearly, keep.yearly),
            keep_within: duration(self.keep_within, keep.within),
            min_keep: count(self.min_keep, min_keep.unwrap_or(0)),
            timezone: self.timezone,
            // Where something still goes by the clock, it goes by the same one.
            host_timezone: before
                .timezone
                .map(|zone| zone.name().to_owned())
                .or(self.host_timezone),
            name_prefix: self
                .name_prefix
                .or_else(|| before.name_prefix.clone())
                .filter(filled),
            metadata: if self.metadata.is_empty() {
                let pairs = before.metadata.iter();
                pairs.map(|(key, value)| format!("{key}={value}")).collect()
            } else {
                self.metadata
            },
            no_memory: self.no_memory.or(Some(before.storing.no_memory)),
            method: self.method.or_else(|| {
                let kept = before
                    .storing
                    .saving
                    .filter(|_| self.no_memory != Some(true));
                kept.map(|it| it.to_string())
            }),
            compress: self.compress.or_else(|| {
                // Memory that is left out now needs no method.
                let kept = before
                    .storing
                    .compress
                    .filter(|_| self.no_memory != Some(true));
                kept.map(|it| it.to_string())
            }),
            min_free: self
                .min_free
                .or_else(|| before.storing.min_free.map(|it| it.to_string())),
            pre_hook,
            post_hook,
            failure_hook,
            hook_timeout: duration(self.hook_timeout, before.hooks.timeout.filter(|_| has_hook)),
        }
    }
}
