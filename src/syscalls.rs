//! System calls that no crate wraps. The only place of unsafe code: one function for each call, with the reason why it is
//! sound, and no more in it than the call.
#![expect(unsafe_code, reason = "system calls that no crate wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Has the kernel make huge pages of the memory from `start` on in the process that `pidfd` is (`MADV_COLLAPSE`, since
/// Linux 6.1: madvise(2), process_madvise(2)). For a length of zero it says whether that would be allowed.
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE or the right to look at the process, `EINVAL` where the kernel is too old or the memory
/// is not of the kind, `ENOMEM` or `EAGAIN` when there is no huge page to be had or the memory can't be moved now.
pub fn collapse(pidfd: impl AsFd, start: usize, length: usize) -> Result<(), Errno> {
    let range = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(start),
        iov_len: length,
    };
    let (one, no_flags) = (1_usize, 0_usize);
    // SAFETY: the kernel reads one `iovec`, which lives until the call returns, and writes nothing to this process. The
    // address in it is looked up in the other process alone; in whichever it is, MADV_COLLAPSE changes by which pages memory
    // is held, and never what is in it.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            libc::c_long::from(pidfd.as_fd().as_raw_fd()),
            &raw const range,
            one,
            libc::c_long::from(libc::MADV_COLLAPSE),
            no_flags,
        )
    };
    if advised < 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Lets the calling thread run only when nothing else wants the processor (`SCHED_IDLE`: sched(7)).
///
/// # Errors
/// `EPERM` where a sandbox does not allow it.
pub fn idle_processor() -> Result<(), Errno> {
    // SAFETY: all bits zero are a `sched_param`, which the kernel only reads; 0 is the calling thread.
    let done = unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter)
    };
    told(done.into())
}

/// What the disk's scheduler knows the calling thread by.
const WHO_PROCESS: libc::c_long = 1;
const CALLING_THREAD: libc::c_long = 0;

/// The calling thread's priority at the disk, as ioprio_set(2) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPriority(libc::c_long);

impl DiskPriority {
    /// Only when nobody else wants the disk (`IOPRIO_CLASS_IDLE`).
    pub const IDLE: Self = Self(3 << 13);

    /// That of the calling thread.
    ///
    /// # Errors
    /// `EPERM` where a sandbox does not allow it.
    pub fn of_thread() -> Result<Self, Errno> {
        // SAFETY: two numbers; no memory is involved.
        let found = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, CALLING_THREAD) };
        told(found).map(|()| Self(found))
    }

    /// Makes it that of the calling thread, and of the processes that it starts.
    ///
    /// # Errors
    /// `EPERM` where a sandbox does not allow it.
    pub fn apply(self) -> Result<(), Errno> {
        // SAFETY: three numbers; no memory is involved.
        told(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, CALLING_THREAD, self.0) })
    }
}

/// Makes the first `length` bytes of `target` share the blocks of those of `source` (`FICLONERANGE`: ioctl_ficlonerange(2)).
///
/// # Errors
/// As `FICLONE`; `EINVAL` also where `length` is no whole number of blocks.
pub fn clone_beginning(source: impl AsFd, target: impl AsFd, length: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Range {
        source: i64,
        source_offset: u64,
        length: u64,
        target_offset: u64,
    }
    // _IOW(0x94, 13, struct file_clone_range)
    const FICLONERANGE: libc::Ioctl = 0x4020_940D;
    let range = Range {
        source: source.as_fd().as_raw_fd().into(),
        source_offset: 0,
        length,
        target_offset: 0,
    };
    // SAFETY: the structure is laid out as the kernel has it and lives until the call returns; the kernel only reads it.
    let done = unsafe { libc::ioctl(target.as_fd().as_raw_fd(), FICLONERANGE, &raw const range) };
    told(done.into())
}

/// A piece of a file, as the file system keeps it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    /// Where in the file it begins, in bytes.
    pub start: u64,
    physical: u64,
    /// How long it is, in bytes.
    pub length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

impl Extent {
    /// Whether another file, or another piece of this one, has the same blocks (`FIEMAP_EXTENT_SHARED`).
    pub const fn is_shared(&self) -> bool {
        self.flags & 0x2000 != 0
    }
}

/// How many extents are asked for at once.
const EXTENTS: usize = 512;

/// The extents of a file from `start` on, some at a time; none when there are no more (`FS_IOC_FIEMAP`:
/// Documentation/filesystems/fiemap.rst in Linux).
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` where the file system does not tell.
pub fn extents(file: impl AsFd, start: u64) -> Result<Vec<Extent>, Errno> {
    #[repr(C)]
    struct Map {
        start: u64,
        length: u64,
        flags: u32,
        mapped: u32,
        count: u32,
        reserved: u32,
        extents: [Extent; EXTENTS],
    }
    // _IOWR('f', 11, struct fiemap), which is 32 bytes without the extents.
    const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B_u32 as libc::Ioctl;
    let mut map = Box::new(Map {
        start,
        length: u64::MAX - start,
        flags: 0,
        mapped: 0,
        count: u32::try_from(EXTENTS).unwrap_or(0),
        reserved: 0,
        extents: [Extent::default(); EXTENTS],
    });
    // SAFETY: the structure is laid out as the kernel has it, lives until the call returns, and has room for as many extents
    // as it says, which is the most that the kernel writes.
    let done = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP, &raw mut *map) };
    told(done.into())?;
    let mapped = usize::try_from(map.mapped).unwrap_or(0);
    Ok(map.extents.iter().take(mapped).copied().collect())
}

fn told(done: libc::c_long) -> Result<(), Errno> {
    if done >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    #[test]
    fn memory_keeps_what_is_in_it_when_it_becomes_a_huge_page() {
        const HUGE: usize = 2 << 20;
        let filled: Vec<u8> = (0_u8..=255).cycle().take(3 * HUGE).collect();
        let start = filled.as_ptr().addr().next_multiple_of(HUGE);
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        // An older kernel, or one without huge pages, refuses.
        if let Err(error) = collapse(&pidfd, start, HUGE) {
            support::skip::skipped(&format!("to make a huge page: {error}"));
        }
        assert!(
            filled
                .iter()
                .zip((0_u8..=255).cycle())
                .all(|(is, was)| *is == was)
        );
    }

    #[test]
    fn a_thread_gets_what_is_left_and_others_what_they_had() {
        let scheduler = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The policy is field 41 (proc_pid_stat(5)); the name, which may hold blanks, is the second.
            let after = stat.rsplit(')').next().unwrap();
            after.split_whitespace().nth(38).unwrap().to_owned()
        };
        let before = scheduler();
        let idle = std::thread::spawn(move || {
            idle_processor().unwrap();
            let before = DiskPriority::of_thread().unwrap();
            DiskPriority::IDLE.apply().unwrap();
            assert_eq!(DiskPriority::of_thread().unwrap(), DiskPriority::IDLE);
            before.apply().unwrap();
            scheduler()
        });
        assert_eq!(idle.join().unwrap(), libc::SCHED_IDLE.to_string());
        assert_eq!(scheduler(), before);
    }

    #[test]
    fn what_is_no_process_or_no_memory_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(collapse(&file, 0, 1 << 21).is_err());
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert!(collapse(&pidfd, 0, 1 << 21).is_err());
    }
}
