//! Which file each disk of a guest is. A VMM may name any file, its guest may have taken it over, and this process reads
//! as root: so a file counts as a disk only if the VMM's own process has it open, or the admin has named it. Looks at
//! `/proc`, and opens nothing else than such a file.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Disk, Process, VmmError};
use crate::fs::given::{self, Given};
use crate::fs::open_files::{self, FileId};

/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What shows that a file is a guest's disk.
#[derive(Debug)]
pub struct DiskFiles<'a> {
    process: Option<&'a Process>,
    /// The files that the VMM's process has open, or why that can't be told.
    open: Result<HashSet<FileId>, String>,
    /// The files that the admin has named.
    named: HashSet<FileId>,
    /// Where the others live, each as it was said and as the kernel has it; anywhere if there is none.
    roots: Vec<(PathBuf, Option<PathBuf>)>,
}

/// A disk's file.
#[derive(Debug)]
pub struct DiskFile {
    /// Where it is, for people: as the VMM calls it, if that leads there from here too.
    pub path: PathBuf,
    /// The file, held.
    pub given: Given,
}

impl<'a> DiskFiles<'a> {
    /// Looks which files the VMM's `process` has open now. `named` is what the admin said that the disks are; what can't
    /// be reached of it shows nothing.
    pub fn of(process: Option<&'a Process>, named: &[PathBuf]) -> Self {
        Self {
            process,
            open: process.map_or_else(
                || Err("the kernel does not tell which process it is".to_owned()),
                |process| files_of(process).map_err(|error| error.to_string()),
            ),
            named: named
                .iter()
                .filter_map(|path| Given::trusted(path).ok())
                .map(|given| given.id())
                .collect(),
            roots: Vec::new(),
        }
    }

    /// The same for disks that live below one of `roots`, if there are any, or that the admin has named.
    #[must_use]
    pub fn within(self, roots: &[PathBuf]) -> Self {
        let real = |root: &PathBuf| {
            given::trusted_directory(root)
                .ok()
                .as_ref()
                .and_then(given::path_of)
        };
        Self {
            roots: roots
                .iter()
                .map(|root| (root.clone(), real(root)))
                .collect(),
            ..self
        }
    }

    /// The file of `disk`.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] when there is none of that name, or nothing shows that it is the guest's.
    pub fn find(&self, disk: &Disk) -> Result<DiskFile, VmmError> {
        let mut failure = None;
        let mut is_there = false;
        for found in self.candidates(&disk.path) {
            match found {
                Ok(file) if self.is_shown(file.given.id()) => return self.in_place(disk, file),
                Ok(_) => is_there = true,
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(VmmError::Unsupported(match failure {
            Some(error) if !is_there => format!(
                "disk {} can't be part of a snapshot: its file {}: {error}",
                disk.name,
                disk.path.display()
            ),
            Some(_) | None => self.strange(disk),
        }))
    }

    /// Refuses a file outside of all roots that the admin has not named.
    fn in_place(&self, disk: &Disk, file: DiskFile) -> Result<DiskFile, VmmError> {
        let real = file.given.path().ok();
        let is_below = |(_, root): &(PathBuf, Option<PathBuf>)| {
            let both = real.as_ref().zip(root.as_ref());
            both.is_some_and(|(file, root)| file.starts_with(root))
        };
        if self.roots.is_empty()
            || self.named.contains(&file.given.id())
            || self.roots.iter().any(is_below)
        {
            return Ok(file);
        }
        let roots: Vec<String> = self
            .roots
            .iter()
            .map(|(root, _)| root.display().to_string())
            .collect();
        Err(VmmError::Unsupported(format!(
            "disk {} can't be part of a snapshot: its file {} is in none of the directories that --disk-root or HYPEMAN_SNAP_DISK_ROOTS named ({}); \
             name its directory too, or the disk with `hypeman-snap register --disk`",
            disk.name,
            file.path.display(),
            roots.join(", ")
        )))
    }

    fn is_shown(&self, id: FileId) -> bool {
        self.named.contains(&id) || self.open.as_ref().is_ok_and(|open| open.contains(&id))
    }

    /// What the VMM may mean by `name`: it may have another root directory, other mounts or another directory to start
    /// from. Which of them it is shows by what is open.
    fn candidates(&self, name: &Path) -> Vec<io::Result<DiskFile>> {
        let here = name.is_absolute().then(|| {
            Given::at(name).map(|given| DiskFile {
                path: name.to_owned(),
                given,
            })
        });
        let there = self.process.map(|process| {
            let given = if name.is_absolute() {
                Given::within(directory_of(process, "root")?, name)?
            } else {
                Given::below(directory_of(process, "cwd")?, name)?
            };
            Ok(DiskFile {
                path: given.path()?,
                given,
            })
        });
        here.into_iter().chain(there).collect()
    }

    fn strange(&self, disk: &Disk) -> String {
        let (name, path) = (&disk.name, disk.path.display());
        let remedy =
            format!("if it is this VM's disk, name it with `hypeman-snap register --disk {path}`");
        match &self.open {
            Ok(_) => format!(
                "disk {name} can't be part of a snapshot: the VMM{} does not have {path} open; {remedy}",
                self.shown_process()
            ),
            Err(error) => format!(
                "disk {name} can't be part of a snapshot: whether the VMM{} has {path} open can't be told: {error}; run \
                 this tool as root, or, {remedy}",
                self.shown_process()
            ),
        }
    }

    fn shown_process(&self) -> String {
        self.process
            .map(|process| format!(" (process {})", process.pid))
            .unwrap_or_default()
    }
}

/// The format of the image `file`, whose VMM does not tell it.
///
/// # Errors
/// When it can't be read.
pub fn format_of(file: &File) -> io::Result<&'static str> {
    let mut start = [0; QCOW2_MAGIC.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) if start == QCOW2_MAGIC => Ok("qcow2"),
        Ok(()) => Ok("raw"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok("raw"),
        Err(error) => Err(error),
    }
}

/// The files that `process` has open, and no other process that has its number by now.
fn files_of(process: &Process) -> io::Result<HashSet<FileId>> {
    let files = open_files::of_process(process.pid)?;
    if !process.is_alive() {
        return Err(io::Error::other("it has ended"));
    }
    Ok(files.into_iter().map(|file| file.id).collect())
}

fn directory_of(process: &Process, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/{name}", process.pid);
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn own() -> Process {
        Process::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    fn disk(path: &Path) -> Disk {
        Disk {
            name: "disk0".to_owned(),
            path: path.to_owned(),
            format: None,
            is_read_only: false,
            backing: None,
        }
    }

    #[test]
    fn what_the_process_has_open_is_its_disk_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("disk"), dir.path().join("link"));
        let _open = File::create(&path).unwrap();
        symlink(&path, &link).unwrap();
        let own = own();
        let files = DiskFiles::of(Some(&own), &[]);
        for name in [&path, &link] {
            let found = files.find(&disk(name)).unwrap();
            assert_eq!(found.path, *name);
            assert_eq!(found.given.path().unwrap(), path);
        }
        // By a name that is relative to where the process is.
        let here = std::env::current_dir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let relative = up.join(path.strip_prefix("/").unwrap());
        assert_eq!(files.find(&disk(&relative)).unwrap().path, path);
    }

    #[test]
    fn what_it_has_not_open_is_no_disk_unless_the_admin_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("disk");
        fs::write(&path, "another's").unwrap();
        let own = own();
        let error = DiskFiles::of(Some(&own), &[]).find(&disk(&path));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("--disk") && error.contains("disk0"),
            "{error}"
        );
        let named = [path.clone(), PathBuf::from("/nowhere")];
        let files = DiskFiles::of(Some(&own), &named);
        assert_eq!(files.find(&disk(&path)).unwrap().path, path);
        let without_process = DiskFiles::of(None, &named);
        assert!(without_process.find(&disk(&path)).is_ok());
    }

    #[test]
    fn disks_outside_of_their_roots_are_refused_unless_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["disks", "disks-2"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let inside = dir.join("disks/disk");
        let outside = dir.join("disks-2/disk");
        let _open = [&inside, &outside].map(|path| File::create(path).unwrap());
        symlink(&outside, dir.join("disks/link")).unwrap();
        let own = own();
        let roots = [dir.join("disks"), dir.join("missing")];
        let files = DiskFiles::of(Some(&own), &[]).within(&roots);
        assert!(files.find(&disk(&inside)).is_ok());
        for path in [&outside, &dir.join("disks/link")] {
            let error = files.find(&disk(path)).unwrap_err().to_string();
            assert!(error.contains("--disk-root"), "{error}");
        }
        let named = DiskFiles::of(Some(&own), std::slice::from_ref(&outside)).within(&roots);
        assert!(named.find(&disk(&outside)).is_ok());
    }

    #[test]
    fn a_process_that_cannot_be_looked_at_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let _open = File::create(&path).unwrap();
        let another = Process {
            start_ticks: 1,
            ..own()
        };
        for process in [None, Some(&another)] {
            let error = DiskFiles::of(process, &[]).find(&disk(&path));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("can't be told"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_no_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let own = own();
        let files = DiskFiles::of(Some(&own), &[]);
        for (path, reason) in [
            (dir.path().join("missing"), "No such file"),
            (PathBuf::from("/"), "a directory"),
            (PathBuf::from("/dev/null"), "a character device"),
        ] {
            let error = files.find(&disk(&path)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
