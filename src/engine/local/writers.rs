//! What `doctor` says of the directories of hypeman's guests: whether others than root and their owner can write there,
//! and so say what a guest's disks and its socket are.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::data_dir::DataDir;
use crate::finding::Finding;
use crate::instance::InstanceRef;

const CHECK: &str = "guest directory";

/// A finding for each directory, or `metadata.json` in it, that others can write.
pub(super) fn examine(data: &DataDir, instances: &[InstanceRef]) -> Vec<Finding> {
    let guests = instances.iter().map(|it| data.guest_dir(&it.id));
    guests.filter_map(|guest| of_others(&guest)).collect()
}

/// What can't be looked at is said of the instance itself, and a registered VM has no directory.
fn of_others(guest: &Path) -> Option<Finding> {
    let metadata = guest.join("metadata.json");
    let owner = guest.symlink_metadata().ok()?.uid();
    [guest, &metadata].into_iter().find_map(|path| {
        let it = path.symlink_metadata().ok()?;
        let shown = path.display();
        let (who, remedy) = if it.is_symlink() {
            return None;
        } else if it.mode() & 0o022 != 0 {
            let who = format!(
                "others than root and its owner can write it (mode {:04o})",
                it.mode() & 0o7777
            );
            (who, format!("chmod go-w {shown}"))
        } else if ![0, owner].contains(&it.uid()) {
            let who = format!(
                "it belongs to user {}, not to root or user {owner}",
                it.uid()
            );
            (who, format!("chown {owner} {shown}"))
        } else {
            return None;
        };
        let detail = format!("{who}: they could say which files and which socket are the guest's");
        Some(Finding::warning(CHECK, shown, detail, remedy))
    })
}
