//! `doctor`: what the tool would use, and whether it works. Changes nothing, creates nothing and takes no lock.
//!
//! Goes on whatever it finds: each thing that can't be looked at is a finding itself.

mod runner;
mod schedules;

use std::path::Path;

use chrono::{DateTime, Utc};

use super::Context;
use crate::cli::EngineKind;
use crate::clock;
use crate::engine::Engine;
use crate::error::in_words;
use crate::finding::Finding;
use crate::host::directory::{self, Missing};
use crate::host::time_sync;
use crate::report::Answer;
use crate::snapshot::SnapshotId;

/// Looks at everything.
pub fn run(context: &Context<'_>) -> Answer {
    let now = clock::now();
    let is_busy = |id: &_| context.store.is_busy(id);
    let mut findings = settings(context);
    findings.extend(directory::examine(
        "state directory",
        &context.settings.state_dir,
        Missing::CreatedBy("the first `hypeman-snap set`"),
    ));
    match (context.ports)() {
        Ok(ports) => {
            findings.extend(ports.diagnosis.examine(&is_busy));
            findings.extend(protections(context, ports.engine.as_ref(), now));
        }
        Err(error) => findings.push(Finding::broken(
            "engine",
            engine_name(context),
            in_words(&error),
            "correct the setting",
        )),
    }
    let schedules = schedules::examine(context.store, now);
    findings.extend(runner::examine(context, &schedules));
    findings.push(time_sync::examine(
        now,
        schedules.newest_write,
        Path::new(time_sync::TIMESYNC_DIR),
    ));
    findings.extend(schedules.findings);
    Answer::Findings(findings)
}

/// The protections of snapshots that are not there: they were deleted by somebody else, or the store is another one now.
fn protections(context: &Context<'_>, engine: &dyn Engine, now: DateTime<Utc>) -> Vec<Finding> {
    const CHECK: &str = "protection";
    let protections = match context.store.protections(now) {
        Ok(protections) if protections.is_empty() => return Vec::new(),
        Ok(protections) => protections,
        Err(error) => {
            return vec![Finding::broken(
                CHECK,
                "all",
                in_words(&error),
                "correct or remove the file; until then retention removes nothing",
            )];
        }
    };
    // That the store can't be read has been said.
    let Ok(listing) = engine.list() else {
        return Vec::new();
    };
    let is_listed = |id: &SnapshotId| listing.snapshots.iter().any(|it| it.id == *id);
    protections
        .keys()
        .filter(|id| !is_listed(id))
        .map(|id| {
            Finding::warning(
                CHECK,
                id,
                "it protects a snapshot that is not listed",
                format!("hypeman-snap unprotect {id}"),
            )
        })
        .collect()
}

/// What is used, and who says so.
fn settings(context: &Context<'_>) -> Vec<Finding> {
    const CHECK: &str = "setting";
    let settings = context.settings;
    let origins = &settings.origins;
    let mut findings = vec![
        Finding::ok(
            CHECK,
            "engine",
            format!("{} ({})", engine_name(context), origins.engine),
        ),
        Finding::ok(
            CHECK,
            "state directory",
            format!("{} ({})", settings.state_dir.display(), origins.state_dir),
        ),
    ];
    findings.push(match settings.engine {
        EngineKind::Local => Finding::ok(
            CHECK,
            "data directory",
            format!("{} ({})", settings.data_dir.display(), origins.data_dir),
        ),
        // The address itself is checked before it is shown, by the engine: it may hold a password.
        EngineKind::Hypeman => Finding::ok(
            CHECK,
            "server",
            match settings.base_url {
                Some(_) => format!("from {}", origins.base_url),
                None => "from ~/.config/hypeman/cli.yaml, or the default".to_owned(),
            },
        ),
    });
    // Their values are told by those whom they concern; two are secret.
    findings.extend(
        origins
            .others
            .iter()
            .map(|(name, origin)| Finding::ok(CHECK, name, format!("set by {origin}"))),
    );
    findings
}

fn engine_name(context: &Context<'_>) -> &'static str {
    match context.settings.engine {
        EngineKind::Local => "local",
        EngineKind::Hypeman => "hypeman",
    }
}
