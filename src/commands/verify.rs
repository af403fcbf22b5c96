//! `verify`: whether snapshots are what they were.

use anyhow::Context as _;

use super::Context;
use super::failure::Refused;
use super::restore::source;
use crate::cli::VerifyArgs;
use crate::error::in_words;
use crate::host::priority::IdleDisk;
use crate::instance::ResolveError;
use crate::report::{Answer, VerifiedRow};
use crate::snapshot::{self, Snapshot, Verified};
use crate::{clock, interrupt, queue};

/// Looks at the snapshots that are named, of the instances that are named, or at all.
///
/// # Errors
/// When a reference means nothing or several things, and when the engine keeps no snapshots on this host. What was found is
/// in the answer.
pub fn run(context: &Context<'_>, args: &VerifyArgs) -> anyhow::Result<Answer> {
    interrupt::catch().context("can't catch signals")?;
    let ports = (context.ports)()?;
    let verifier = ports.verifier.ok_or_else(|| {
        Refused::Usage(
            "`verify` is for the local engine, but the engine is hypeman, whose server keeps the snapshots".to_owned(),
        )
    })?;
    let listing = ports.engine.list()?;
    for problem in &listing.problems {
        log::warn!("{problem}");
    }
    let wanted = select(&args.what, &listing.snapshots)?;
    let one = |snapshot: &Snapshot| -> VerifiedRow {
        let _idle = IdleDisk::begin();
        let verified = if interrupt::requested() {
            Err("interrupted by a signal".to_owned())
        } else {
            verifier
                .verify(snapshot, args.read, clock::now())
                .map_err(|error| in_words(&error))
        };
        VerifiedRow {
            snapshot: snapshot.clone(),
            verified,
        }
    };
    let panicked = |snapshot: &Snapshot| VerifiedRow {
        snapshot: snapshot.clone(),
        verified: Err("a bug in this program ended it; see above".to_owned()),
    };
    let mut rows = queue::each(usize::from(args.jobs), wanted, one, panicked);
    rows.sort_by(|a, b| {
        let key = |row: &VerifiedRow| {
            let it = &row.snapshot;
            (
                it.source_instance_name.clone(),
                it.created_at,
                it.id.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    for row in &rows {
        let id = &row.snapshot.id;
        match &row.verified {
            Ok(Verified::Damaged(found)) => {
                for line in found {
                    log::error!("snapshot {id} is damaged: {line}");
                }
            }
            Ok(Verified::Unknown(found)) => {
                for line in found {
                    log::error!("snapshot {id} is not verified: {line}");
                }
            }
            Err(error) => log::error!("snapshot {id} is not verified: {error}"),
            Ok(Verified::Sound { .. } | Verified::Gone) => {}
        }
    }
    Ok(Answer::Verified(rows))
}

/// What the references mean: all snapshots of an instance, or one.
fn select(references: &[String], listing: &[Snapshot]) -> anyhow::Result<Vec<Snapshot>> {
    if references.is_empty() {
        return Ok(listing.to_vec());
    }
    let mut wanted: Vec<Snapshot> = Vec::new();
    for reference in references {
        let of_instance = source(reference, listing);
        let found: Vec<&Snapshot> = match of_instance {
            Ok(instance) => listing
                .iter()
                .filter(|it| it.source_instance_id == instance.id.as_str())
                .collect(),
            Err(error) => match error.downcast_ref::<ResolveError>() {
                Some(ResolveError::NotFound(_)) => vec![snapshot::find(reference, listing)?],
                _ => return Err(error),
            },
        };
        for snapshot in found {
            if !wanted.iter().any(|it| it.id == snapshot.id) {
                wanted.push(snapshot.clone());
            }
        }
    }
    Ok(wanted)
}
