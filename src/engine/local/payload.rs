//! The files of a snapshot: which there are, and whether they are worth what the snapshot's kind says. Looks at their
//! metadata alone, follows no symlink, and never writes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::json::ReadError;
use super::manifest::{self, ManifestError};
use super::packed::{self, is_memory};
use super::record::Compression;
use crate::fs::frame::Format;
use crate::snapshot::manifest::{FILE_NAME, FileEntry, Manifest};
use crate::snapshot::{Kind, SnapshotId};

/// The saved state's directory where no manifest names one, as in the copy of a standby of hypeman's (contract, section 4).
pub(super) const STATE_DIR: &str = "snapshots/snapshot-latest";
/// What is in `guest/` and is no part of what a restore needs: it is written anew.
const NOT_LISTED: [&str; 2] = ["metadata.json", FILE_NAME];
/// A flaw names so many files at most.
const NAMED_MAX: usize = 3;
/// How deep directories may be nested.
const DEPTH_MAX: usize = 16;
/// How many entries are looked at in search of a disk. Where there are more, nothing is known.
const SEARCH_MAX: usize = 1000;
/// What hypeman calls an instance's disk (contract, section 4).
const OVERLAY: &str = "overlay.raw";

/// What a record says of its snapshot, as far as it decides which files there must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'a> {
    /// Its id.
    pub(super) id: &'a SnapshotId,
    /// What it holds.
    pub(super) kind: Kind,
    /// The hypervisor, as it is spelled in the record.
    pub(super) hypervisor: &'a str,
    /// Whether `register` made the instance known, so that only a manifest knows its disks.
    pub(super) is_registered: bool,
    /// Whether hypeman left the memory where it was.
    pub(super) has_memory_elsewhere: bool,
    /// How long the compressed memory is; `None` where none is said to be, or not how long.
    pub(super) packed_bytes: Option<u64>,
}

/// Why nothing can be restored from the files in the open directory `guest`; `None` when they are what `claims` says, as
/// far as their metadata tells.
///
/// # Errors
/// When something can't be looked at, which says nothing about the snapshot.
pub(super) fn flaw(guest: impl AsFd, claims: &Claims<'_>) -> io::Result<Option<String>> {
    let guest = guest.as_fd();
    let manifest = match manifest::read(guest) {
        Ok(manifest) => Some(manifest).filter(|manifest| manifest.is_of(claims.id)),
        Err(ManifestError::Read(error)) if error.is_not_found() => None,
        Err(ManifestError::Read(ReadError::File(error))) => return Err(error),
        Err(error) => return Ok(Some(format!("{FILE_NAME}: {error}"))),
    };
    let mut files = Files {
        guest,
        packed_bytes: claims.packed_bytes,
        directories: BTreeSet::new(),
    };
    let mut flaws = Vec::new();
    if let Some(manifest) = &manifest {
        for entry in &manifest.files {
            flaws.extend(files.compare(entry)?);
        }
        for disk in &manifest.disks {
            if !manifest.files.iter().any(|entry| entry.path == disk.file) {
                flaws.extend(files.require(&disk.file)?);
            }
        }
    }
    if flaws.is_empty() {
        flaws.extend(files.of_kind(claims, manifest.as_ref())?);
    }
    Ok(in_words(&flaws))
}

/// Every regular file below the open directory `guest`, in the order of their paths, but those that are written anew and
/// frames in the making.
///
/// # Errors
/// When something can't be looked at.
pub(super) fn list(guest: impl AsFd) -> io::Result<Vec<FileEntry>> {
    let opened = open_dir(guest, OsStr::new("."), OFlags::RDONLY)?;
    let mut found = Vec::new();
    below(&opened, Path::new(""), 0, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// How the memory of a snapshot is compressed; `None` when it is there as it is, or not at all.
pub(super) fn compression(manifest: &Manifest) -> Option<Compression> {
    let state_dir = manifest.state_dir().unwrap_or_else(|| Path::new(STATE_DIR));
    let mut found = packed::among(&manifest.files).into_iter();
    let packed = found.find(|it| it.raw.parent() == Some(state_dir))?;
    Some(Compression {
        algorithm: packed.format.name(),
        size_bytes: packed.size_bytes,
    })
}

fn below(
    directory: &OwnedFd,
    path: &Path,
    depth: usize,
    found: &mut Vec<FileEntry>,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!(
            "{} is nested deeper than {DEPTH_MAX} levels",
            path.display()
        )));
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let path = path.join(name);
        if name == "." || name == ".." || NOT_LISTED.iter().any(|it| path == Path::new(it)) {
            continue;
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() {
            let opened = open_dir(directory, name, OFlags::RDONLY)?;
            below(&opened, &path, depth + 1, found)?;
        // A manifest is JSON: what has no name in UTF-8 can't be in it, and none of our files is called so.
        } else if kind.is_file() && path.to_str().is_some() && !packed::is_unfinished(&path) {
            found.push(FileEntry {
                path,
                size_bytes: u64::try_from(stat.st_size).map_err(io::Error::other)?,
            });
        }
    }
    Ok(())
}

fn open_dir(parent: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// What stands at a path.
enum Found {
    Nothing,
    /// A regular file of that length.
    File(u64),
    Directory,
    /// Something else, in words.
    Other(&'static str),
}

impl Found {
    /// What is wrong with `path` when a regular file should be there.
    fn instead_of_file(&self, path: &Path) -> String {
        let shown = path.display();
        match self {
            Self::Nothing => format!("{shown} is missing"),
            Self::File(_) => format!("{shown} is empty"),
            Self::Directory => format!("{shown} is a directory"),
            Self::Other(what) => format!("{shown} {what}"),
        }
    }
}

/// The files below an open directory.
struct Files<'a> {
    guest: BorrowedFd<'a>,
    /// How long the memory's compressed form is by the record.
    packed_bytes: Option<u64>,
    /// The directories on the way that are known to be none but directories.
    directories: BTreeSet<PathBuf>,
}

impl Files<'_> {
    fn find(&mut self, path: &Path) -> io::Result<Found> {
        if let Some(parent) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            if !self.directories.contains(parent) {
                if let Some(obstacle) = self.on_the_way(parent)? {
                    return Ok(obstacle);
                }
                self.directories.insert(parent.to_owned());
            }
        }
        self.stat(path)
    }

    /// What is on the way to a directory that is no directory, if anything.
    fn on_the_way(&self, directory: &Path) -> io::Result<Option<Found>> {
        let mut so_far = PathBuf::new();
        for part in directory {
            so_far.push(part);
            match rustix::fs::statat(self.guest, &so_far, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    if kind.is_symlink() {
                        return Ok(Some(Found::Other("is behind a symlink")));
                    }
                    if !kind.is_dir() {
                        return Ok(Some(Found::Nothing));
                    }
                }
                Err(error) if is_absence(error) => return Ok(Some(Found::Nothing)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn stat(&self, path: &Path) -> io::Result<Found> {
        match rustix::fs::statat(self.guest, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    Found::File(u64::try_from(stat.st_size).unwrap_or_default())
                }
                FileType::Symlink => Found::Other("is a symlink"),
                FileType::Directory => Found::Directory,
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => Found::Other("is no regular file"),
            }),
            Err(error) if is_absence(error) => Ok(Found::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// What is wrong with a file of known length, if anything.
    fn compare(&mut self, entry: &FileEntry) -> io::Result<Option<String>> {
        let path = &entry.path;
        let found = self.find(path)?;
        if let Found::File(size_bytes) = found {
            return Ok((size_bytes < entry.size_bytes).then(|| {
                let (shown, whole) = (path.display(), entry.size_bytes);
                format!("{shown} is cut: {size_bytes} of {whole} bytes")
            }));
        }
        self.unless_in_other_form(path, &found)
    }

    /// What is wrong with a file that must be there and hold something, if anything.
    fn require(&mut self, path: &Path) -> io::Result<Option<String>> {
        let found = self.find(path)?;
        if matches!(found, Found::File(1..)) {
            return Ok(None);
        }
        self.unless_in_other_form(path, &found)
    }

    fn unless_in_other_form(&mut self, path: &Path, found: &Found) -> io::Result<Option<String>> {
        let other = match found {
            Found::Nothing => self.other_form(path)?,
            Found::File(_) | Found::Directory | Found::Other(_) => None,
        };
        let Some((form, size_bytes)) = other else {
            return Ok(Some(found.instead_of_file(path)));
        };
        let is_packed = packed::raw_of(&form).is_some();
        let then = self
            .packed_bytes
            .filter(|then| is_packed && *then != size_bytes);
        Ok(then.map(|then| {
            let shown = form.display();
            format!("{shown} has {size_bytes} bytes, and had {then}")
        }))
    }

    /// The form of memory that is there instead of this one, and its length. A server may be at it at this moment, so that
    /// the form that was missing is looked for once more.
    fn other_form(&mut self, path: &Path) -> io::Result<Option<(PathBuf, u64)>> {
        let raw = packed::raw_of(path).map(|(raw, _)| raw);
        let Some(raw) = raw.or_else(|| is_memory(path).then(|| path.to_owned())) else {
            return Ok(None);
        };
        let compressed = Format::ALL.map(|format| packed::form_of(&raw, format));
        for form in compressed.into_iter().chain([raw]) {
            if let Found::File(size_bytes @ 1..) = self.find(&form)? {
                return Ok(Some((form, size_bytes)));
            }
        }
        Ok(None)
    }

    /// What a snapshot of this kind lacks, if anything.
    fn of_kind(
        &mut self,
        claims: &Claims<'_>,
        manifest: Option<&Manifest>,
    ) -> io::Result<Option<String>> {
        let state_dir = manifest
            .and_then(Manifest::state_dir)
            .unwrap_or_else(|| Path::new(STATE_DIR));
        match claims.kind {
            Kind::Standby => {
                if !claims.has_memory_elsewhere {
                    if let Some(flaw) = self.state(claims.hypervisor, state_dir)? {
                        return Ok(Some(flaw));
                    }
                }
                // Whoever wrote a manifest listed the disks there, and a VM may have none. Instances of hypeman's have.
                if manifest.is_some() || claims.is_registered {
                    return Ok(None);
                }
                self.disk(manifest)
            }
            Kind::Stopped => self.disk(manifest),
        }
    }

    /// What the saved state lacks, if anything.
    fn state(&mut self, hypervisor: &str, directory: &Path) -> io::Result<Option<String>> {
        let needed: &[&str] = match hypervisor {
            "cloud-hypervisor" => &["memory-ranges", "state.json", "config.json"],
            "firecracker" => &["memory", "state"],
            "qemu" | "qemu-microvm" => &["memory"],
            _ => {
                let is_there = self.has_file(directory, &|_| true)?;
                return Ok((!is_there).then(|| format!("{} holds no memory", directory.display())));
            }
        };
        for name in needed {
            if let Some(flaw) = self.require(&directory.join(name))? {
                return Ok(Some(flaw));
            }
        }
        Ok(None)
    }

    /// Says so when there is no disk.
    fn disk(&mut self, manifest: Option<&Manifest>) -> io::Result<Option<String>> {
        let is_there = match manifest {
            // They have been compared.
            Some(manifest) if manifest.lists_files() => manifest.files.iter().any(|entry| {
                let is_named = manifest.disks.iter().any(|disk| disk.file == entry.path);
                entry.size_bytes > 0 && (is_named || is_disk(&entry.path))
            }),
            Some(manifest) if !manifest.disks.is_empty() => true,
            Some(_) | None => {
                matches!(self.stat(Path::new(OVERLAY))?, Found::File(1..))
                    || self.has_file(Path::new(""), &is_disk)?
            }
        };
        Ok((!is_there).then(|| "there is no disk in it".to_owned()))
    }

    /// Whether a file that holds something and that `is_wanted` is somewhere below `directory`, or may be.
    fn has_file(&self, directory: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> io::Result<bool> {
        let mut directories = vec![directory.to_owned()];
        let mut looked_at = 0;
        while let Some(directory) = directories.pop() {
            if self.on_the_way(&directory)?.is_some() {
                continue;
            }
            let name = if directory.as_os_str().is_empty() {
                OsStr::new(".")
            } else {
                directory.as_os_str()
            };
            let mut below = Vec::new();
            for entry in Dir::new(open_dir(self.guest, name, OFlags::RDONLY)?)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                looked_at += 1;
                if looked_at > SEARCH_MAX {
                    return Ok(true);
                }
                let path = directory.join(name);
                match self.stat(&path)? {
                    Found::Directory => below.push(path),
                    Found::File(1..) if is_wanted(&path) => return Ok(true),
                    Found::File(_) | Found::Other(_) | Found::Nothing => {}
                }
            }
            below.retain(|path| path.components().count() < DEPTH_MAX);
            directories.extend(below);
        }
        Ok(false)
    }
}

/// Whether an error says for certain that nothing stands at a path.
fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP
    )
}

/// Whether a file in `guest/` can be a disk: it is none of those that are known to be something else.
fn is_disk(path: &Path) -> bool {
    let is_below = |directory: &str| path.starts_with(directory);
    let is_top_level = path.components().count() == 1;
    let is_other = path.extension().is_some_and(|it| {
        ["json", "log", "sock", "tmp", "pid", "lock"]
            .iter()
            .any(|other| it == *other)
    });
    let is_config_disk = is_top_level && path == Path::new("config.ext4");
    !is_below("logs") && !is_below("snapshots") && !is_other && !is_config_disk
}

fn in_words(flaws: &[String]) -> Option<String> {
    let named = &flaws[..flaws.len().min(NAMED_MAX)];
    let text = named.join(", ");
    match flaws.len() - named.len() {
        0 => (!flaws.is_empty()).then_some(text),
        more => Some(format!("{text}, and {more} more")),
    }
}

#[cfg(test)]
mod tests;
