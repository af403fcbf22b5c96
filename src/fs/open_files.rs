//! Who has a file open, and who holds locks on it: what `/proc` knows, by device and inode, so that no name matters.
//! Changes nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use procfs::process::{FDPermissions, FDTarget, Process, StatFlags, all_processes};
use procfs::{Current, LockKind, LockType, Locks, ProcError};
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use serde::{Deserialize, Serialize};

/// The bytes of an image that QEMU locks while it writes to it (`block/file-posix.c`, `RAW_LOCK_PERM_BASE` 100 plus the
/// bit of `BLK_PERM_WRITE`, 1), and while it changes its size (3). Who only reads holds 100, 201 and 203.
const QEMU_WRITE_BYTES: [u64; 2] = [101, 103];

/// A file, whatever leads to it: its file system and inode, or the number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileId {
    /// A file, by `st_dev` and `st_ino`.
    File(u64, u64),
    /// A block device, by `st_rdev`: every node of it is the same disk.
    Device(u64),
}

impl FileId {
    /// The file that is open as `file`.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_stat(&statx(file, "", AtFlags::EMPTY_PATH)?))
    }

    /// The file that `path` leads to, symlinks followed.
    ///
    /// # Errors
    /// When there is none, or it can't be looked at.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from_stat(&statx(CWD, path, AtFlags::empty())?))
    }

    /// Whether `other` is this file as far as that can be told at another time: the numbers of file systems may change with
    /// a boot, that of an inode does not.
    pub fn is_same_inode(self, other: Self) -> bool {
        match (self, other) {
            (Self::File(_, own), Self::File(_, inode)) => own == inode,
            (own, other) => own == other,
        }
    }

    fn from_stat(stat: &Statx) -> Self {
        let mode = FileType::from_raw_mode(u32::from(stat.stx_mode));
        if mode == FileType::BlockDevice {
            Self::Device(rustix::fs::makedev(
                stat.stx_rdev_major,
                stat.stx_rdev_minor,
            ))
        } else {
            Self::File(
                rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
                stat.stx_ino,
            )
        }
    }
}

/// A file that a process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Which one.
    pub id: FileId,
    /// Whether the process may write to it.
    pub is_writable: bool,
    /// Its descriptor's number in the process.
    pub fd: i32,
    /// Its name as the kernel shows it; a hint, never the way to the file.
    pub path: PathBuf,
}

/// The files that the process `pid` has open; sockets, pipes and the like are passed over.
///
/// # Errors
/// When there is no such process, or this user may not look into it (`PermissionDenied`).
pub fn of_process(pid: i32) -> io::Result<Vec<OpenFile>> {
    Process::new(pid)
        .and_then(|process| files_of(&process))
        .map_err(into_io)
}

fn files_of(process: &Process) -> Result<Vec<OpenFile>, ProcError> {
    let mut files = Vec::new();
    for descriptor in process.fd()? {
        let descriptor = match descriptor {
            Ok(descriptor) => descriptor,
            // Closed meanwhile.
            Err(ProcError::NotFound(_)) => continue,
            Err(error) => return Err(error),
        };
        let FDTarget::Path(path) = &descriptor.target else {
            continue;
        };
        let link = format!("/proc/{}/fd/{}", process.pid, descriptor.fd);
        // One that was closed meanwhile is none.
        let Ok(stat) = statx(CWD, link, AtFlags::empty()) else {
            continue;
        };
        files.push(OpenFile {
            id: FileId::from_stat(&stat),
            is_writable: descriptor.mode().contains(FDPermissions::WRITE),
            fd: descriptor.fd,
            path: path.clone(),
        });
    }
    Ok(files)
}

/// Who writes to which files of this host at one moment: one pass over `/proc`.
#[derive(Debug, Default)]
pub struct Survey {
    writers: HashMap<FileId, Vec<i32>>,
    locked: HashSet<LockedFile>,
    unreadable: usize,
}

/// A file as `/proc/locks` names it: the device of its file system, which on btrfs and overlays is not `st_dev`.
type LockedFile = (u32, u32, u64);

impl Survey {
    /// Looks at every process and every lock now. Costs a few system calls for each open file of the host.
    ///
    /// # Errors
    /// When `/proc` can't be read at all.
    pub fn take() -> io::Result<Self> {
        let mut survey = Self {
            locked: writing_locks().map_err(into_io)?,
            ..Self::default()
        };
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        for process in all_processes().map_err(into_io)? {
            match process.and_then(|process| Ok((process.pid, open_of(&process)?))) {
                Ok((pid, _)) if pid == own => {}
                Ok((pid, files)) => survey.add(pid, files),
                // It has ended.
                Err(ProcError::NotFound(_)) => {}
                Err(_) => survey.unreadable += 1,
            }
        }
        Ok(survey)
    }

    fn add(&mut self, pid: i32, files: Vec<OpenFile>) {
        for file in files.into_iter().filter(|file| file.is_writable) {
            let pids = self.writers.entry(file.id).or_default();
            if pids.last() != Some(&pid) {
                pids.push(pid);
            }
        }
    }

    /// The processes that have the file open for writing, this one excepted.
    pub fn writers(&self, file: FileId) -> &[i32] {
        self.writers.get(&file).map_or(&[], Vec::as_slice)
    }

    /// How many processes could not be looked into: any of them may have any file open.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// Whether somebody holds a lock on the open file `file` that says that he writes to it: QEMU's on byte 101 or 103, or
    /// any write lock of the whole file. Locks are seen whoever holds them, in a container too.
    ///
    /// # Errors
    /// When it can't be told which file system the file is on.
    pub fn is_locked_for_writing(&self, file: impl AsFd) -> io::Result<bool> {
        if self.locked.is_empty() {
            return Ok(false);
        }
        Ok(self.locked.contains(&as_in_locks(file)?))
    }
}

/// The files of a process; none of a thread of the kernel, which nobody may look into.
fn open_of(process: &Process) -> Result<Vec<OpenFile>, ProcError> {
    match files_of(process) {
        Err(ProcError::PermissionDenied(_)) if is_kernel_thread(process)? => Ok(Vec::new()),
        result => result,
    }
}

fn is_kernel_thread(process: &Process) -> Result<bool, ProcError> {
    Ok(process.stat()?.flags & StatFlags::PF_KTHREAD.bits() != 0)
}

fn writing_locks() -> Result<HashSet<LockedFile>, ProcError> {
    Ok(Locks::current()?
        .0
        .into_iter()
        .filter(|lock| {
            let end = lock.offset_last.unwrap_or(u64::MAX);
            let is_image_lock = lock.lock_type == LockType::ODF
                && QEMU_WRITE_BYTES
                    .iter()
                    .any(|byte| (lock.offset_first..=end).contains(byte));
            let is_whole_file = lock.offset_first == 0 && lock.offset_last.is_none();
            let is_write = matches!(lock.kind, LockKind::Write);
            let is_file_lock = !matches!(lock.lock_type, LockType::Other(_));
            is_image_lock || (is_whole_file && is_write && is_file_lock)
        })
        .map(|lock| (lock.devmaj, lock.devmin, lock.inode))
        .collect())
}

/// How `/proc/locks` names the file: by the device of its file system, which the mount's line in `mountinfo` has.
fn as_in_locks(file: impl AsFd) -> io::Result<LockedFile> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH)?;
    let plain = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Ok(plain);
    }
    let mounts = Process::myself()
        .and_then(|own| own.mountinfo())
        .map_err(into_io)?;
    let device = mounts
        .iter()
        .find(|mount| u64::try_from(mount.mnt_id) == Ok(stat.stx_mnt_id))
        .and_then(|mount| mount.majmin.split_once(':'))
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    // A mount that is not ours to see: the device that the file says will mostly be right.
    Ok(device.map_or(plain, |(major, minor)| (major, minor, stat.stx_ino)))
}

/// What is known of a file without asking a server that may not answer (NFS): `/proc` leads to files of everybody.
fn statx(directory: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(directory, path, flags, wanted)?)
}

fn into_io(error: ProcError) -> io::Error {
    let kind = match &error {
        ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied,
        ProcError::NotFound(_) => io::ErrorKind::NotFound,
        ProcError::Incomplete(_)
        | ProcError::Io(..)
        | ProcError::Other(_)
        | ProcError::InternalError(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Child, Command};

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    /// A process that has `file` open until it is dropped.
    struct Holder(Child);

    impl Holder {
        fn of(file: File) -> Self {
            let mut sleep = Command::new("sleep");
            Self(sleep.arg("1000").stdin(file).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn who_has_a_file_open_for_writing_is_found_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other_name) = (dir.path().join("disk"), dir.path().join("link"));
        let file = File::create(&path).unwrap();
        std::fs::hard_link(&path, &other_name).unwrap();
        let id = FileId::of(&file).unwrap();
        assert_eq!(FileId::at(&other_name).unwrap(), id);
        assert_eq!(
            Survey::take().unwrap().writers(id),
            [0; 0],
            "only this process"
        );
        let reader = Holder::of(File::open(&other_name).unwrap());
        assert_eq!(Survey::take().unwrap().writers(id), [0; 0], "a reader");
        let writer = Holder::of(File::options().write(true).open(&other_name).unwrap());
        let survey = Survey::take().unwrap();
        let blind = survey.unreadable();
        assert_eq!(survey.writers(id), [writer.pid()], "{blind} unseen");
        for (holder, is_writable) in [(&reader, false), (&writer, true)] {
            let files = of_process(holder.pid()).unwrap();
            let found = files.iter().find(|it| it.id == id).unwrap();
            assert_eq!((found.is_writable, found.fd), (is_writable, 0));
        }
        let pid = writer.pid();
        drop(writer);
        assert_eq!(of_process(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(Survey::take().unwrap().writers(id), [0; 0]);
    }

    #[test]
    fn locks_of_writers_are_told_from_those_of_readers() {
        use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared};
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("disk")).unwrap();
        let is_locked = || {
            Survey::take()
                .unwrap()
                .is_locked_for_writing(&file)
                .unwrap()
        };
        let lock = |operation: FlockOperation| flock(&file, operation).unwrap();
        assert!(!is_locked());
        lock(NonBlockingLockShared);
        assert!(!is_locked());
        lock(NonBlockingLockExclusive);
        assert!(is_locked());
        lock(FlockOperation::Unlock);
        assert!(!is_locked());
    }
}
