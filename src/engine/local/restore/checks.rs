//! What could be in the way of giving a snapshot back. Looks, and touches nothing.

use std::io;
use std::path::Path;

use crate::engine::local::processes;
use crate::finding::Finding;
use crate::fs::{copy, space};
use crate::snapshot::manifest::{Manifest, Stamp};

/// Free space that must be left, in bytes.
const RESERVE_BYTES: u64 = 16 << 20;

pub(super) fn target(to: &Path) -> Option<Finding> {
    const CHECK: &str = "directory";
    let broken =
        |detail: String, remedy: &str| Some(Finding::broken(CHECK, to.display(), detail, remedy));
    let is_empty = |path: &Path| std::fs::read_dir(path).map(|mut it| it.next().is_none());
    match to.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return broken(format!("can't be looked at: {error}"), "name another one"),
        Ok(metadata) if metadata.is_dir() && is_empty(to).unwrap_or(false) => {}
        Ok(_) => {
            return broken(
                "is there and is not an empty directory".to_owned(),
                "name another one",
            );
        }
    }
    let parent = to.parent().unwrap_or(Path::new("/"));
    match parent.metadata() {
        Ok(metadata) if metadata.is_dir() => Some(Finding::ok(CHECK, to.display(), "will be made")),
        Ok(_) => broken(
            format!("{} is not a directory", parent.display()),
            "name another one",
        ),
        Err(error) => broken(
            format!("{}: {error}", parent.display()),
            "make that directory first",
        ),
    }
}

pub(super) fn room(stored: &Path, to: &Path) -> Finding {
    const CHECK: &str = "free space";
    let parent = to.parent().unwrap_or(Path::new("/"));
    let needed = space::disk_usage(stored).unwrap_or(0);
    if copy::can_reflink(stored, parent).unwrap_or(false) {
        return Finding::ok(
            CHECK,
            parent.display(),
            "the copies share their blocks with the snapshot",
        );
    }
    let mib = |bytes: u64| bytes >> 20;
    match space::free_bytes(parent) {
        Ok(free) if free >= needed.saturating_add(RESERVE_BYTES) => Finding::ok(
            CHECK,
            parent.display(),
            format!("{} MiB are copied, {} MiB are free", mib(needed), mib(free)),
        ),
        Ok(free) => Finding::broken(
            CHECK,
            parent.display(),
            format!(
                "{} MiB are copied, and only {} MiB are free",
                mib(needed),
                mib(free)
            ),
            "make room, or name a directory on another file system",
        ),
        Err(error) => Finding::broken(
            CHECK,
            parent.display(),
            error.to_string(),
            "name another directory",
        ),
    }
}

/// Files that the snapshot needs and does not hold.
pub(super) fn others(manifest: &Manifest) -> Vec<Finding> {
    let backing = manifest.disks.iter().filter_map(|disk| {
        let path = disk.backing.as_ref()?;
        Some(unchanged("backing file", path, disk.backing_file.as_ref()))
    });
    let read_only = manifest
        .read_only_disks()
        .iter()
        .map(|disk| unchanged("read-only disk", &disk.source, disk.stamp.as_ref()));
    backing.chain(read_only).collect()
}

fn unchanged(check: &'static str, path: &Path, stamp: Option<&Stamp>) -> Finding {
    const REMEDY: &str = "bring back the file as it was when the snapshot was taken";
    let shown = path.display();
    match (path.metadata(), stamp) {
        (Err(error), _) => Finding::broken(check, shown, error.to_string(), REMEDY),
        (Ok(_), None) => Finding::warning(
            check,
            shown,
            "is there; whether it was changed was not recorded",
            "see that it is the same file as then",
        ),
        (Ok(metadata), Some(stamp)) => {
            let modified = metadata
                .modified()
                .ok()
                .map(chrono::DateTime::<chrono::Utc>::from);
            if metadata.len() == stamp.size_bytes && modified == Some(stamp.modified_at) {
                Finding::ok(check, shown, "unchanged")
            } else {
                Finding::broken(
                    check,
                    shown,
                    "was changed since the snapshot was taken",
                    REMEDY,
                )
            }
        }
    }
}

pub(super) fn processor(manifest: &Manifest) -> Option<Finding> {
    let then = manifest.host()?.cpu.clone()?;
    let now = processes::host().cpu?;
    Some(if then == now {
        Finding::ok("processor", &now, "as then")
    } else {
        Finding::warning(
            "processor",
            &now,
            format!("it was {then} then: a guest that knows it may fail"),
            "restore on a host like that one, or leave the memory out: --disks-only",
        )
    })
}
