//! What a schedule declares, in words.

use super::text::visible;
use crate::cadence::When;
use crate::schedule::duration::format_human;
use crate::schedule::hooks::{Stage, command_line};
use crate::schedule::{Declaration, Retention};
use crate::snapshot::DEFAULT_PREFIX;

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
pub fn differences(before: &Declaration, after: &Declaration) -> Vec<String> {
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
    let expect = |declaration: &Declaration| {
        let pattern = declaration.expect.as_deref();
        pattern.map_or_else(|| "nothing".to_owned(), visible)
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
        ("expect", expect(before), expect(after)),
        ("max-count", count(before), count(after)),
        ("max-age", age(before), age(after)),
        ("keep", rules(before), rules(after)),
        ("min-keep", floor(before), floor(after)),
        ("timezone", zone(before), zone(after)),
        ("name-prefix", prefix(before), prefix(after)),
        ("metadata", metadata(before), metadata(after)),
        ("memory", memory(before), memory(after)),
        ("method", saving(before), saving(after)),
        ("compress", compress(before), compress(after)),
        ("min-free", min_free(before), min_free(after)),
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

pub fn prefix(declaration: &Declaration) -> String {
    declaration
        .name_prefix
        .clone()
        .unwrap_or_else(|| DEFAULT_PREFIX.to_owned())
}

pub fn metadata(declaration: &Declaration) -> String {
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

pub fn memory(declaration: &Declaration) -> String {
    if declaration.storing.no_memory {
        "left out"
    } else {
        "with it"
    }
    .to_owned()
}

fn saving(declaration: &Declaration) -> String {
    let method = declaration.storing.saving;
    method.map_or_else(|| "full".to_owned(), |it| it.to_string())
}

fn compress(declaration: &Declaration) -> String {
    let method = declaration.storing.compress;
    method.map_or_else(|| "none".to_owned(), |it| it.to_string())
}

fn min_free(declaration: &Declaration) -> String {
    let min_free = declaration.storing.min_free;
    min_free.map_or_else(|| "the host's".to_owned(), |it| it.to_string())
}

pub fn hook(stage: Stage, declaration: &Declaration) -> String {
    match declaration.hooks.command(stage) {
        [] => "none".to_owned(),
        command => visible(&command_line(command)),
    }
}
