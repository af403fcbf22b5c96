//! What a run did, or would do: a line for each instance that something happened to.

use super::View;
use super::lines::tinted;
use super::text::{Tint, visible};
use super::units::{size, took};
use crate::report::run::{InstanceResult, Outcome, Packed, Report};
use crate::schedule::hooks::{Stage, command_line};
use crate::snapshot::SnapshotId;

/// `run-due`, `prune`: a line for each instance that something happened to.
pub fn run(report: &Report, view: &View) -> String {
    report
        .results
        .iter()
        .filter_map(|result| {
            let done = if report.is_dry_run {
                foreseen(result, view)
            } else {
                happened(result, view)
            };
            done.map(|done| format!("{}: {done}\n", result.instance_id))
        })
        .collect()
}

fn happened(result: &InstanceResult, view: &View) -> Option<String> {
    let pruned = (!result.pruned.is_empty()).then(|| format!("pruned {}", result.pruned.len()));
    let main = match result.outcome {
        Outcome::Snapshotted => {
            let mut details: Vec<String> = result.kind.iter().map(ToString::to_string).collect();
            details.extend(result.pause.map(|pause| format!("paused {}", took(pause))));
            details.push(took(result.duration));
            Some(format!(
                "snapshotted {} ({})",
                name(result),
                details.join(", ")
            ))
        }
        Outcome::Retired => Some(tinted(
            "retired its schedule: the instance is gone and nothing is left to prune".to_owned(),
            Tint::Notice,
            view,
        )),
        // What failed is said on stderr.
        Outcome::Pruned | Outcome::Skipped | Outcome::Failed | Outcome::Interrupted => None,
    };
    let rest = pruned.into_iter().chain(held_back(result));
    joined(main.into_iter().chain(rest).chain(compressed(result)))
}

/// Whose memory takes less room now.
fn compressed(result: &InstanceResult) -> Option<String> {
    let sum = |bytes: fn(&Packed) -> u64| size(result.compressed.iter().map(bytes).sum());
    (!result.compressed.is_empty()).then(|| {
        let (before, after) = (sum(|it| it.raw_bytes), sum(|it| it.packed_bytes));
        format!("compressed {before} of memory to {after}")
    })
}

/// That retention has not removed all that goes, and how it does.
fn held_back(result: &InstanceResult) -> Option<String> {
    let count = result.held_back.len();
    (count > 0).then(|| {
        format!(
            "{count} more wait for the next run: one run removes at most half of them; `hypeman-snap prune --force {}` \
             removes them now",
            result.instance_id
        )
    })
}

fn foreseen(result: &InstanceResult, view: &View) -> Option<String> {
    let pruned = (!result.pruned.is_empty()).then(|| {
        let ids: Vec<&str> = result.pruned.iter().map(SnapshotId::as_str).collect();
        let text = format!("would prune {}: {}", ids.len(), ids.join(" "));
        tinted(text, Tint::Notice, view)
    });
    let main = match result.outcome {
        Outcome::Snapshotted => {
            let kind = result
                .kind
                .map_or_else(String::new, |kind| format!(" ({kind})"));
            Some(format!("would snapshot {}{kind}", name(result)))
        }
        Outcome::Retired => Some(tinted(
            "would retire its schedule".to_owned(),
            Tint::Notice,
            view,
        )),
        Outcome::Skipped => (!result.notes.is_empty()).then(|| visible(&result.notes.join("; "))),
        Outcome::Pruned | Outcome::Failed | Outcome::Interrupted => None,
    };
    let hooks = result.hooks.iter().map(|hook| {
        let when = match hook.stage {
            Stage::Pre => "would first run",
            Stage::Post => "would then run",
            Stage::Failure => "on failure would run",
        };
        format!("{when} {}", visible(&command_line(&hook.command)))
    });
    let rest = hooks.chain(pruned).chain(held_back(result));
    joined(main.into_iter().chain(rest))
}

fn name(result: &InstanceResult) -> String {
    visible(result.snapshot_name.as_deref().unwrap_or("a snapshot"))
}

fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
