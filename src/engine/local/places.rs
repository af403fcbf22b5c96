//! Where the copy of each disk goes in a snapshot. Names come from an index and plain letters alone: what a VMM calls its
//! disks is never a part of a path. Decides, and touches nothing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::fs::beneath::{is_plain, is_plain_name};
use crate::snapshot::manifest;

/// The directory in the snapshot's `guest/` for disks that have no place of their own there.
const OUTSIDE: &str = "disks";
/// What stands in a guest directory and is no disk: a disk of that name would be in the way of a snapshot's own files.
const RESERVED: [&str; 6] = [
    "snapshots",
    "logs",
    OUTSIDE,
    "metadata.json",
    "qemu-config.json",
    manifest::FILE_NAME,
];
/// How much of a disk's own name its copy keeps, in bytes: its end, with the suffix.
const NAME_MAX_BYTES: usize = 64;

/// The places of one snapshot's disks.
#[derive(Debug)]
pub(super) struct Places {
    /// As the kernel calls it, without symlinks; a registered VM has none.
    guest_dir: Option<PathBuf>,
    taken: HashSet<PathBuf>,
    next: usize,
}

/// The place of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The copy, relative to the snapshot's `guest/`.
    pub(super) file: PathBuf,
    /// The disk itself, relative to the guest directory, where it is in there.
    pub(super) inside: Option<PathBuf>,
}

impl Places {
    /// None is taken yet. `guest_dir`, if there is one, has no symlinks in its path.
    pub(super) fn new(guest_dir: Option<PathBuf>) -> Self {
        Self {
            guest_dir,
            taken: HashSet::new(),
            next: 0,
        }
    }

    /// The place for the next disk, which is the file `path`, without symlinks in it: its own if it lives in the guest
    /// directory (hypeman looks for it there), else `disks/INDEX-NAME`, after `shown`, how people call the file, or `name`
    /// where that has no file name.
    pub(super) fn place(&mut self, path: &Path, shown: &Path, name: &str) -> Place {
        let index = self.next;
        self.next += 1;
        let guest_dir = self.guest_dir.as_deref();
        let inside = guest_dir.and_then(|guest_dir| path.strip_prefix(guest_dir).ok());
        let inside = inside.filter(|inside| !inside.as_os_str().is_empty());
        let own = inside.filter(|inside| is_own(inside) && self.taken.insert((*inside).to_owned()));
        let file = own.map_or_else(
            || {
                let name = shown.file_name().unwrap_or(OsStr::new(name));
                Path::new(OUTSIDE).join(format!("{index}-{}", plain(name)))
            },
            Path::to_owned,
        );
        Place {
            file,
            inside: inside.map(Path::to_owned),
        }
    }
}

/// Whether a disk may keep its relative place: plain names, and none that a snapshot needs for itself.
fn is_own(inside: &Path) -> bool {
    let mut parts = inside.components();
    let Some(Component::Normal(first)) = parts.next() else {
        return false;
    };
    !RESERVED.iter().any(|reserved| first == *reserved) && is_plain_path(inside)
}

/// Whether `path` is relative and made of plain names alone: what the manifest of a snapshot may call a file of its own.
pub(super) fn is_plain_path(path: &Path) -> bool {
    path.components().next().is_some()
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(name) if is_plain_name(name)))
}

/// The end of `name` with everything that is no plain letter replaced.
fn plain(name: &OsStr) -> String {
    let bytes = name.as_encoded_bytes();
    let end = &bytes[bytes.len().saturating_sub(NAME_MAX_BYTES)..];
    let plain = |byte: &u8| {
        if is_plain(*byte) {
            char::from(*byte)
        } else {
            '_'
        }
    };
    end.iter().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(disks: &[(&str, &str)]) -> Vec<String> {
        let mut places = Places::new(Some(PathBuf::from("/data/guests/vm")));
        disks
            .iter()
            .map(|(path, name)| places.place(Path::new(path), Path::new(path), name))
            .map(|place| place.file.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_disk_of_the_guest_directory_keeps_its_place_and_others_get_a_number() {
        let disks = [
            ("/data/guests/vm/overlay.raw", "a"),
            ("/data/guests/vm/vol-overlays/v-1.raw", "b"),
            ("/srv/vms/root.qcow2", "c"),
            ("/srv/other/root.qcow2", "d"),
            ("/data/guests/vm2/overlay.raw", "e"),
            ("/data/guests/vm/overlay.raw", "f"),
        ];
        assert_eq!(
            files(&disks),
            [
                "overlay.raw",
                "vol-overlays/v-1.raw",
                "disks/2-root.qcow2",
                "disks/3-root.qcow2",
                "disks/4-overlay.raw",
                "disks/5-overlay.raw",
            ]
        );
    }

    #[test]
    fn no_name_leads_anywhere_or_stands_in_the_way() {
        let disks = [
            ("/", "../../../etc/cron.d/x"),
            ("/dev/..", "$(reboot)\n"),
            ("/srv/ä b'\"`.raw", ""),
            ("/data/guests/vm/my disk.raw", ""),
            ("/data/guests/vm/a/../../vm2/overlay.raw", ""),
            ("/data/guests/vm/metadata.json", ""),
            ("/data/guests/vm/snapshots/snapshot-latest/memory", ""),
            ("/data/guests/vm/disks/0-root", ""),
            ("/data/guests/vm", ""),
            ("/data/guests/vm/hypeman-snap.json", ""),
        ];
        assert_eq!(
            files(&disks),
            [
                "disks/0-.._.._.._etc_cron.d_x",
                "disks/1-__reboot__",
                "disks/2-___b___.raw",
                "disks/3-my_disk.raw",
                "disks/4-overlay.raw",
                "disks/5-metadata.json",
                "disks/6-memory",
                "disks/7-0-root",
                "disks/8-vm",
                "disks/9-hypeman-snap.json",
            ]
        );
        assert!(files(&disks).iter().all(|it| is_plain_path(Path::new(it))));
    }

    #[test]
    fn what_is_inside_is_known_even_if_its_copy_goes_elsewhere() {
        let mut places = Places::new(Some(PathBuf::from("/g")));
        let path = Path::new("/g/my disk");
        let place = places.place(path, path, "");
        assert_eq!(place.inside.as_deref(), Some(Path::new("my disk")));
        assert_eq!(place.file, Path::new("disks/0-my_disk"));
        let (dm, lv) = (Path::new("/dev/dm-0"), Path::new("/dev/vg/lv"));
        let place = places.place(dm, lv, "");
        assert_eq!(place.inside, None);
        assert_eq!(place.file, Path::new("disks/1-lv"));
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let long = format!("/srv/{}.qcow2", "x".repeat(200));
        let file = &files(&[(&long, "")])[0];
        assert_eq!(file.len(), "disks/0-".len() + NAME_MAX_BYTES);
        assert!(file.ends_with("x.qcow2"), "{file}");
    }

    #[test]
    fn paths_of_a_manifest_are_plain() {
        for path in ["overlay.raw", "disks/0-a", "a/b/c"] {
            assert!(is_plain_path(Path::new(path)), "{path}");
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a b",
            ".",
            "a/./..",
            "disks/\n",
        ] {
            assert!(!is_plain_path(Path::new(path)), "{path}");
        }
    }
}
