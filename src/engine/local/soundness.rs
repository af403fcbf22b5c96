//! What `doctor` says of the snapshot store: which snapshots are not usable, and what is in it that is none.

use std::collections::BTreeSet;

use super::store::SnapshotStore;
use crate::error::in_words;
use crate::finding::Finding;

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
