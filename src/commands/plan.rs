//! `plan`: what a schedule will do, today's or a proposed one. Asks no VM and changes nothing.

use std::time::Duration;

use super::failure::Refused;
use super::target::{self, Targets};
use super::{Context, declared};
use crate::cli::PlanArgs;
use crate::clock;
use crate::error::in_words;
use crate::instance::InstanceRef;
use crate::plan::{self, Terms};
use crate::report::{Answer, Planned};
use crate::schedule::validate;
use crate::schedule::{Schedule, duration};

const DEFAULT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Forecasts the schedule that is there, or the one that the flags declare.
///
/// # Errors
/// When a value breaks a rule, when there is no such instance or several, when it has no schedule and none is proposed,
/// and when the schedule or the protections can't be read.
pub fn run(context: &Context<'_>, args: &PlanArgs) -> anyhow::Result<Answer> {
    let now = clock::now();
    let span = match &args.r#for {
        None => DEFAULT_FOR,
        Some(text) => duration::parse(text)
            .map_err(|invalid| Refused::Usage(format!("--for {text:?}: {}", invalid.rule)))?,
    };
    let until = chrono::TimeDelta::from_std(span)
        .ok()
        .filter(|span| !span.is_zero())
        .and_then(|span| now.checked_add_signed(span))
        .ok_or_else(|| {
            Refused::Usage(format!(
                "--for {}: must be above 0 and end before the calendar does",
                duration::format_human(span)
            ))
        })?;
    let proposed = (!args.declaration.is_empty())
        .then(|| validate::declaration(declared::input(&args.declaration)))
        .transpose()?;
    let instance = find(context, &args.instance, proposed.is_some())?;
    let present = context.store.load(&instance.id)?;
    let is_proposed = proposed.is_some();
    let schedule = match (present, proposed) {
        (Some(mut schedule), Some(declaration)) => {
            schedule.declare(declaration, now);
            schedule
        }
        (Some(schedule), None) => schedule,
        (None, Some(declaration)) => Schedule::new(instance.id.clone(), declaration, now),
        (None, None) => {
            let none = format!(
                "instance {instance} has no schedule; propose one by the flags of `hypeman-snap set`"
            );
            return Err(Refused::NotFound(none).into());
        }
    };
    let snapshots = snapshots(context, &instance);
    let terms = Terms {
        is_gone: false,
        is_uncapped: false,
        missing_grace: context.settings.limits.missing_grace,
        protected: context
            .store
            .protections(now)?
            .into_iter()
            .map(|(id, protection)| (id, protection.until))
            .collect(),
    };
    let forecast = plan::forecast(&schedule, &snapshots, &terms, now, until).map_err(|many| {
        Refused::Usage(format!("--for {}: {many}", duration::format_human(span)))
    })?;
    Ok(Answer::Plan(Box::new(Planned {
        instance,
        schedule,
        is_proposed,
        forecast,
    })))
}

/// The instance: one with a schedule, or else one that exists.
fn find(context: &Context<'_>, reference: &str, is_proposed: bool) -> anyhow::Result<InstanceRef> {
    match Targets::read(context)?.find(reference) {
        Err(_) if is_proposed => {
            let ports = (context.ports)()?;
            target::existing(ports.engine.as_ref(), reference)
        }
        found => found,
    }
}

/// The snapshots of the instance that are there. That they can't be listed is said, and then there are none.
fn snapshots(context: &Context<'_>, instance: &InstanceRef) -> Vec<crate::snapshot::Snapshot> {
    let engine = match (context.ports)() {
        Ok(ports) => ports.engine,
        Err(error) => {
            log::warn!(
                "planning without the snapshots that are there: {}",
                in_words(&error)
            );
            return Vec::new();
        }
    };
    match engine.list() {
        Ok(listing) => {
            let mut snapshots = listing.snapshots;
            snapshots.retain(|it| it.is_scheduled_for(&instance.id));
            crate::engine::measure(engine.as_ref(), &mut snapshots);
            snapshots
        }
        Err(error) => {
            log::warn!(
                "planning without the snapshots that are there: {}",
                in_words(&error)
            );
            Vec::new()
        }
    }
}
