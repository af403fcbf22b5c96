//! `list`: every schedule file, readable or not, with what the engine knows of its instance.

use super::Context;
use super::known::Known;
use crate::error::in_words;
use crate::monitoring::health::Newest;
use crate::report::{Answer, ScheduleRow};

/// Reads every schedule, and asks the engine once for names and snapshots.
///
/// # Errors
/// When the directory of the schedules can't be read. An engine that can't be used is a warning, and a schedule that
/// can't be read is a row.
pub fn run(context: &Context<'_>) -> anyhow::Result<Answer> {
    let (ids, problems) = context.store.ids()?;
    if ids.is_empty() && problems.is_empty() {
        log::warn!(
            "no schedules in {} ({}); `hypeman-snap set` makes one",
            context.settings.state_dir.display(),
            context.settings.origins.state_dir
        );
    }
    let known = if ids.is_empty() {
        None
    } else {
        match (context.ports)().and_then(|ports| Known::ask(&ports.engine)) {
            Ok(known) => Some(known),
            Err(error) => {
                log::warn!("names and snapshots are not known: {}", in_words(&error));
                None
            }
        }
    };
    let mut rows: Vec<ScheduleRow> = problems
        .into_iter()
        .map(|problem| ScheduleRow {
            // Its name is no id, but it is all there is to call it by.
            instance_id: problem
                .path
                .file_stem()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            name: None,
            schedule: Err(problem.to_string()),
            newest: Newest::Unknown,
            flaw: None,
        })
        .collect();
    for id in ids {
        let schedule = match context.store.load(&id) {
            Ok(Some(schedule)) => Ok(schedule),
            // Deleted since the directory was read.
            Ok(None) => continue,
            Err(error) => Err(in_words(&error)),
        };
        rows.push(ScheduleRow {
            name: known
                .as_ref()
                .and_then(|known| known.name(&id))
                .map(str::to_owned),
            newest: known
                .as_ref()
                .map_or(Newest::Unknown, |known| known.newest(&id)),
            flaw: match (&known, &schedule) {
                (Some(known), Ok(schedule)) => known.flaw(schedule).map(str::to_owned),
                _ => None,
            },
            instance_id: id.into(),
            schedule,
        });
    }
    rows.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    Ok(Answer::Schedules(rows))
}
