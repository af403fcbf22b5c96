//! `check`: whether each newest snapshot is young enough, for monitoring systems. Takes no lock and writes nothing.
//!
//! Nothing ends it early: whatever can't be told is part of the answer, as monitoring plugins do.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Context;
use super::known::Known;
use super::target::Targets;
use crate::cli::CheckArgs;
use crate::clock;
use crate::error::in_words;
use crate::instance::InstanceId;
use crate::monitoring::health::{self, Facts, Level, Newest, require};
use crate::report::{Answer, Health, HealthRow, Judgement};
use crate::schedule::Schedule;
use crate::store::StoreError;

/// Judges the instances that were named, or all that have a schedule.
pub fn run(context: &Context<'_>, args: &CheckArgs) -> Answer {
    if args.rpo == Some(Duration::ZERO) {
        return unusable("--rpo \"0s\": must be above zero");
    }
    let (ids, mut rows) = match subjects(context, &args.instance) {
        Ok(found) => found,
        Err(error) => return failed(&error),
    };
    if ids.is_empty() && rows.is_empty() {
        return unusable(&format!(
            "no schedules in {}; give instances one with `hypeman-snap set`, or name the right place with --state-dir",
            context.settings.state_dir.display()
        ));
    }
    let asked = (context.ports)().and_then(|ports| Known::ask(&ports.engine));
    let known = asked.as_ref().ok();
    let now = clock::now();
    for id in ids {
        let finding = match context.store.load(&id) {
            Ok(Some(schedule)) => judge(known, schedule, args, now),
            // Deleted since the directory was read.
            Ok(None) => continue,
            Err(error) => unreadable(&error),
        };
        rows.push(HealthRow {
            name: known.and_then(|known| known.name(&id)).map(str::to_owned),
            instance_id: id.into(),
            judgement: finding,
        });
    }
    rows.sort_by(|a, b| {
        b.level()
            .cmp(&a.level())
            .then_with(|| a.instance_id.cmp(&b.instance_id))
    });
    Answer::Health(Health {
        reason: rows
            .is_empty()
            .then(|| "the schedules were deleted meanwhile".to_owned()),
        rows,
        engine_error: asked.as_ref().err().map(|error| in_words(error)),
    })
}

/// The answer when nothing could be looked at.
pub fn failed(error: &anyhow::Error) -> Answer {
    unusable(&format!("{error:#}"))
}

fn unusable(reason: &str) -> Answer {
    Answer::Health(Health {
        reason: Some(reason.to_owned()),
        ..Health::default()
    })
}

/// The schedules to judge, each once, and a row for whatever was asked for or found that is none.
fn subjects(
    context: &Context<'_>,
    references: &[String],
) -> anyhow::Result<(Vec<InstanceId>, Vec<HealthRow>)> {
    let unjudged = |instance_id: String, level, message, is_found| HealthRow {
        instance_id,
        name: None,
        judgement: Judgement::Unjudged {
            level,
            is_found,
            message,
        },
    };
    if references.is_empty() {
        let (ids, strays) = context.store.ids()?;
        let rows = strays
            .iter()
            .map(|stray| {
                let name = stray.path.file_stem().unwrap_or_default();
                // Whichever instance it was meant for has no snapshots.
                let level = Level::Critical;
                unjudged(
                    name.to_string_lossy().into_owned(),
                    level,
                    stray.to_string(),
                    true,
                )
            })
            .collect();
        return Ok((ids, rows));
    }
    let targets = Targets::read(context)?;
    let mut ids = Vec::new();
    let mut rows = Vec::new();
    for reference in references {
        match targets.find(reference) {
            Ok(found) if ids.contains(&found.id) => {}
            Ok(found) => ids.push(found.id),
            Err(error) => rows.push(unjudged(
                reference.clone(),
                Level::Unknown,
                format!("{error:#}"),
                false,
            )),
        }
    }
    Ok((ids, rows))
}

fn judge(
    known: Option<&Known>,
    schedule: Schedule,
    args: &CheckArgs,
    now: DateTime<Utc>,
) -> Judgement {
    let id = &schedule.instance_id;
    let facts = Facts {
        schedule: &schedule,
        newest: known.map_or(Newest::Unknown, |known| known.newest(id)),
        flaw: known.and_then(|known| known.flaw(&schedule)),
        is_gone: known.is_some_and(|known| known.is_gone(id)),
    };
    let verdict = health::judge(&facts, args.rpo, now);
    let verdict = match known.map(|known| known.scheduled(id)) {
        Some(all) => {
            let verdict = match args.verified_within {
                Some(within) => require::verified(verdict, all.verified_at, within, now),
                None => verdict,
            };
            match args.rehearsed_within {
                Some(within) => {
                    require::rehearsed(verdict, all.rehearsed, all.alive_at, within, now)
                }
                None => verdict,
            }
        }
        None => verdict,
    };
    Judgement::Judged {
        schedule: Box::new(schedule),
        verdict,
    }
}

/// A schedule that can't be read. What its content says is the same for every run; what the system says may be the
/// fault of whom this check runs as.
fn unreadable(error: &StoreError) -> Judgement {
    let level = match error {
        StoreError::Io { .. } => Level::Unknown,
        StoreError::NotAFile { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Malformed { .. }
        | StoreError::Invalid { .. }
        | StoreError::Untrusted { .. } => Level::Critical,
    };
    Judgement::Unjudged {
        level,
        is_found: true,
        message: in_words(error),
    }
}
