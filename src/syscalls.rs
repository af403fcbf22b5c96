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

/// Lets the calling thread read and write only when nobody else wants the disk (`IOPRIO_CLASS_IDLE`: ioprio_set(2)).
///
/// # Errors
/// `EPERM` where a sandbox does not allow it.
pub fn idle_disk() -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_long = 1;
    const CLASS_IDLE: libc::c_long = 3;
    const CLASS_SHIFT: u32 = 13;
    let own: libc::c_long = 0;
    // SAFETY: three numbers, of which 0 is the calling thread; no memory is involved.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            WHO_PROCESS,
            own,
            CLASS_IDLE << CLASS_SHIFT,
        )
    };
    told(done)
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
            idle_disk().unwrap();
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
