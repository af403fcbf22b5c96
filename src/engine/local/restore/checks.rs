//! What could be in the way of giving a snapshot back. Looks, and touches nothing.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::stored::Stored;
use super::targets::{Refusal, Target};
use crate::engine::EngineError;
use crate::engine::local::metadata::Metadata;
use crate::engine::local::processes;
use crate::engine::local::registration::DiskAtRest;
use crate::error::in_words;
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

pub(super) fn room(stored: &Stored, to: &Path) -> Finding {
    const CHECK: &str = "free space";
    let parent = to.parent().unwrap_or(Path::new("/"));
    // What is unpacked shares nothing.
    let grows_by = stored.grows_by();
    let stored = &stored.directory;
    let is_shared = copy::can_reflink(stored, parent).unwrap_or(false);
    if is_shared && grows_by == 0 {
        return Finding::ok(
            CHECK,
            parent.display(),
            "the copies share their blocks with the snapshot",
        );
    }
    let copied = if is_shared {
        0
    } else {
        space::disk_usage(stored).unwrap_or(0)
    };
    let needed = copied.saturating_add(grows_by);
    enough(
        parent,
        needed,
        "make room, or name a directory on another file system",
        "name another directory",
    )
}

/// Whether `directory` has room for so many bytes; what helps if it has not, and if that can't be told.
fn enough(directory: &Path, needed: u64, without_room: &str, untold: &str) -> Finding {
    const CHECK: &str = "free space";
    let shown = directory.display();
    let mib = |bytes: u64| bytes >> 20;
    match space::free_bytes(directory) {
        Ok(free) if free >= needed.saturating_add(RESERVE_BYTES) => Finding::ok(
            CHECK,
            shown,
            format!("{} MiB are copied, {} MiB are free", mib(needed), mib(free)),
        ),
        Ok(free) => Finding::broken(
            CHECK,
            shown,
            format!(
                "{} MiB are copied, and only {} MiB are free",
                mib(needed),
                mib(free)
            ),
            without_room,
        ),
        Err(error) => Finding::broken(CHECK, shown, error.to_string(), untold),
    }
}

/// The instance can only be written under while it is off.
pub(super) fn off(name: &str, objection: Result<Option<String>, EngineError>) -> Finding {
    const CHECK: &str = "instance";
    match objection {
        Ok(None) => Finding::ok(CHECK, name, "is off"),
        Ok(Some(why)) => Finding::broken(
            CHECK,
            name,
            format!("is not off: {why}"),
            "shut it down first, or restore beside it: --to",
        ),
        Err(error) => Finding::broken(
            CHECK,
            name,
            in_words(&error),
            "see that it is off, or restore beside it: --to",
        ),
    }
}

/// The places of the disks in the manifest, and what is to be said of them; no places if one can't be had.
pub(super) fn places(
    manifest: &Manifest,
    metadata: &Metadata,
) -> (Option<Vec<Target>>, Vec<Finding>) {
    const CHECK: &str = "disk";
    let known = metadata.disks_at_rest();
    let mut targets = Vec::new();
    let mut findings = Vec::new();
    let mut broken = |path: &Path, why: String, remedy: &str| {
        findings.push(Finding::broken(CHECK, path.display(), why, remedy));
    };
    let mut paths = Vec::new();
    for entry in &manifest.disks {
        let path = &entry.source;
        let is_it = |disk: &&DiskAtRest<'_>| {
            disk.path() == path || disk.path().canonicalize().is_ok_and(|real| real == *path)
        };
        let Some(disk) = known.iter().find(is_it) else {
            broken(
                path,
                "is not known as a disk of this VM, and only such ones are written to".to_owned(),
                "name it with `hypeman-snap register --disk`, or restore beside it: --to",
            );
            continue;
        };
        let writable = |target: Target| match target.require_writable() {
            Ok(()) => Ok(target),
            Err(error) => Err(Refusal::Io(error)),
        };
        match Target::of(*disk).and_then(writable) {
            Ok(target) if paths.contains(&target.path) => {
                broken(
                    path,
                    "stands there twice".to_owned(),
                    "restore beside it: --to",
                );
            }
            Ok(target) => {
                paths.push(target.path.clone());
                targets.push(target);
            }
            Err(why) => broken(
                path,
                format!("can't be replaced: {why}"),
                "restore beside it: --to",
            ),
        }
    }
    if manifest.disks.is_empty() {
        broken(
            Path::new("(none)"),
            "the snapshot does not say which file is which disk".to_owned(),
            "restore beside it: --to",
        );
    }
    for target in &targets {
        let what = match &target.now {
            Some(_) => "will be replaced, and kept in a snapshot",
            None => "is gone, and will be made",
        };
        findings.push(Finding::ok(CHECK, target.path.display(), what));
    }
    let others = known.iter().filter(|disk| {
        let real = disk.path().canonicalize();
        let real = real.as_deref().unwrap_or(disk.path());
        !paths.iter().any(|path| path == real) && !manifest.disks.iter().any(|it| it.source == real)
    });
    for disk in others {
        findings.push(Finding::warning(
            CHECK,
            disk.path().display(),
            "is not in the snapshot: it stays as it is, and does not go with the others",
            "use --force where that is meant",
        ));
    }
    let is_whole = targets.len() == manifest.disks.len() && !targets.is_empty();
    (is_whole.then_some(targets), findings)
}

/// Whether there is room beside the disks for their new content, and in the store for what is there now.
pub(super) fn room_in_place(
    stored: &Stored,
    manifest: &Manifest,
    targets: &[Target],
    has_memory: bool,
    store: &Path,
) -> Vec<Finding> {
    let grows_by = stored.grows_by();
    let stored = &stored.directory;
    let mut needs: Vec<(u64, PathBuf, u64)> = Vec::new();
    let mut need = |directory: &Path, bytes: u64| {
        let device = directory.metadata().map_or(0, |it| it.dev());
        match needs.iter_mut().find(|(known, ..)| *known == device) {
            Some((_, _, needed)) => *needed = needed.saturating_add(bytes),
            None => needs.push((device, directory.to_owned(), bytes)),
        }
    };
    let usage = |path: &Path| {
        path.metadata()
            .map_or(0, |it| it.blocks().saturating_mul(512))
    };
    for (entry, target) in manifest.disks.iter().zip(targets) {
        let directory = target.directory();
        let is_shared = copy::can_reflink(stored, directory).unwrap_or(false);
        need(
            directory,
            if is_shared {
                0
            } else {
                usage(&stored.join(&entry.file))
            },
        );
        let is_linked = directory.metadata().ok().map(|it| it.dev())
            == store.metadata().ok().map(|it| it.dev());
        if !is_linked && target.now.is_some() {
            need(store, usage(&target.path));
        }
    }
    if let (true, Some(state), Some(first)) = (has_memory, manifest.state_dir(), targets.first()) {
        let is_shared = copy::can_reflink(stored, first.directory()).unwrap_or(false);
        let bytes = space::disk_usage(&stored.join(state)).unwrap_or(0);
        let copied = if is_shared { 0 } else { bytes };
        need(first.directory(), copied.saturating_add(grows_by));
    }
    needs
        .into_iter()
        .map(|(_, directory, needed)| {
            enough(
                &directory,
                needed,
                "make room, or restore beside it: --to",
                "restore beside it: --to",
            )
        })
        .collect()
}

/// Files that the snapshot needs and does not hold.
pub(super) fn others(manifest: &Manifest) -> Vec<Finding> {
    let backing = manifest.disks.iter().filter_map(|disk| {
        // QEMU names it from its working directory, if at all.
        let cwd = manifest.vmm().and_then(|vmm| vmm.directory.as_deref());
        let path = cwd.unwrap_or(Path::new("/")).join(disk.backing.as_ref()?);
        Some(unchanged("backing file", &path, disk.backing_file.as_ref()))
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

/// The guest's taps: a missing one is made anew by most VMMs, without a bridge.
pub(super) fn taps(manifest: &Manifest) -> Vec<Finding> {
    const CHECK: &str = "tap";
    let taps = manifest.devices().map_or(&[][..], |it| &it.taps);
    // An interface's name is a file's name there.
    let taps = taps
        .iter()
        .filter(|tap| !tap.contains('/') && !tap.starts_with('.'));
    taps.map(|tap| {
        let interface = Path::new("/sys/class/net").join(tap);
        let carrier = std::fs::read_to_string(interface.join("carrier"));
        if !interface.exists() {
            Finding::warning(
                CHECK,
                tap,
                "is not there: the VMM fails, or makes one without a bridge",
                "make it first, as it was",
            )
        } else if carrier.is_ok_and(|carrier| carrier.trim() == "1") {
            Finding::warning(CHECK, tap, "is in use", "stop who uses it")
        } else {
            Finding::ok(CHECK, tap, "is there and not in use")
        }
    })
    .collect()
}
