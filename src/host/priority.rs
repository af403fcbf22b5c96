//! How much this process gets of what others want too.

use crate::syscalls::{self, DiskPriority};

/// As long as this is there, the thread that made it, and what it starts, reads and writes only when nobody else wants the
/// disk (for schedulers that know priorities, such as BFQ).
#[derive(Debug)]
#[must_use = "the thread has its old priority again when this is dropped"]
pub struct IdleDisk {
    before: Option<DiskPriority>,
    /// A thread can't give another one its priority back.
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

impl IdleDisk {
    /// Where that can't be done, the thread goes on as it is.
    pub fn begin() -> Self {
        let before = DiskPriority::of_thread()
            .and_then(|before| DiskPriority::IDLE.apply().map(|()| before))
            .inspect_err(|error| log::debug!("can't leave the disk to others: {error}"));
        Self {
            before: before.ok(),
            _of_this_thread: std::marker::PhantomData,
        }
    }
}

impl Drop for IdleDisk {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.before.map(DiskPriority::apply) {
            log::debug!("can't take the disk from others again: {error}");
        }
    }
}

/// Lets the calling thread work only when nobody else wants the processor. Where that can't be done, it goes on as it is.
pub fn idle_processor() {
    if let Err(error) = syscalls::idle_processor() {
        log::debug!("can't leave the processor to others: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_leaves_the_disk_to_others_for_a_while() {
        let before = DiskPriority::of_thread().unwrap();
        let idle = IdleDisk::begin();
        assert_eq!(DiskPriority::of_thread().unwrap(), DiskPriority::IDLE);
        drop(idle);
        assert_eq!(DiskPriority::of_thread().unwrap(), before);
    }
}
