//! What `doctor` says of the snapshot store: which snapshots are not usable, and what is in it that is none.

use std::collections::{BTreeMap, BTreeSet};

use super::compress::state;
use super::store::SnapshotStore;
use crate::error::in_words;
use crate::finding::Finding;
use crate::snapshot::{Kind, Snapshot};

const CHECK: &str = "snapshot";
/// So many are named; of the others it is said how many they are.
const NAMED_MAX: usize = 10;

/// Looks at every snapshot as a listing does.
pub(super) fn examine(store: &SnapshotStore) -> Vec<Finding> {
    let listing = match store.list() {
        Ok(listing) => listing,
        Err(error) => {
            return vec![Finding::broken(
                CHECK,
                store.directory().display(),
                in_words(&error),
                "make the directory readable for this user",
            )];
        }
    };
    let total = listing.snapshots.len();
    let mut bad: Vec<Finding> = listing
        .snapshots
        .iter()
        .filter_map(|snapshot| {
            let flaw = snapshot.unusable.as_ref()?;
            Some(Finding::warning(
                CHECK,
                &snapshot.id,
                format!("nothing can be restored from it: {flaw}"),
                "put back what is missing, or remove its directory; the schedule's next snapshot replaces it",
            ))
        })
        .collect();
    let usable = total - bad.len();
    bad.sort_by(|a, b| a.subject.cmp(&b.subject));
    let unnamed = bad.len().saturating_sub(NAMED_MAX);
    bad.truncate(NAMED_MAX);
    if unnamed > 0 {
        bad.push(Finding::warning(
            CHECK,
            "others",
            format!("nothing can be restored from {unnamed} more either"),
            "hypeman-snap snapshots",
        ));
    }
    bad.extend(uncompressed(store, &listing.snapshots));
    // A record that says nothing is a problem of the listing as well.
    let flaws: BTreeSet<&str> = listing
        .snapshots
        .iter()
        .filter_map(|snapshot| snapshot.unusable.as_deref())
        .collect();
    let is_new = |line: &&String| !flaws.iter().any(|flaw| line.ends_with(flaw));
    let others = listing.problems.iter().filter(is_new).take(NAMED_MAX);
    bad.extend(others.map(|line| {
        let subject = store.directory().display();
        Finding::warning(CHECK, subject, line, "remove it if nothing works on it")
    }));
    if usable > 0 {
        let detail = match usable {
            1 => "1 is usable, as far as its files' sizes tell".to_owned(),
            usable => format!("{usable} are usable, as far as their files' sizes tell"),
        };
        bad.push(Finding::ok(CHECK, store.directory().display(), detail));
    }
    bad
}

/// Whose memory could not be compressed, by the newest snapshot of each instance that says so.
fn uncompressed(store: &SnapshotStore, snapshots: &[Snapshot]) -> Vec<Finding> {
    let mut newest: BTreeMap<&str, (&Snapshot, String, usize)> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|it| it.kind == Kind::Standby) {
        let Some(why) = state::error_of(&store.snapshot_dir(&snapshot.id)) else {
            continue;
        };
        let id = snapshot.source_instance_id.as_str();
        let known = newest.entry(id).or_insert((snapshot, why.clone(), 0));
        known.2 += 1;
        if known.0.created_at < snapshot.created_at {
            (known.0, known.1) = (snapshot, why);
        }
    }
    newest
        .into_iter()
        .map(|(id, (snapshot, why, count))| {
            let more = match count {
                0 | 1 => String::new(),
                count => format!(", as that of {} more", count - 1),
            };
            Finding::warning(
                "compression",
                id,
                format!("the memory of {} stays uncompressed{more}: {why}", snapshot.name),
                "a faster method (zstd:1, lz4), a longer interval, or `hypeman-snap set --update --compress none`",
            )
        })
        .collect()
}
