//! When long work has to end before it is done: at a signal, or when its time is over. Whoever waits or copies looks at
//! its [`Watch`] between steps; what hangs all the same, in a system call or at a server that does not answer, is ended
//! by [`when_overdue`].
//!
//! A run that is asked to stop must first let the guest go on, so SIGINT and SIGTERM only raise a flag. What puts a guest
//! right goes on after that, but not for ever: a VMM that does not answer must not keep the run from ending.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// What an instance may take besides what its size accounts for.
const BASE: Duration = Duration::from_secs(5 * 60);
/// What each GiB may take: 17 MiB a second, as a slow disk manages that several copies share.
const PER_GIB: Duration = Duration::from_secs(60);
/// How long after a signal a guest is still put right. The run ends within ten seconds of it, whatever a VMM does.
const GRACE_AFTER_SIGNAL: Duration = Duration::from_secs(7);
/// How long after the end of its time a guest is still put right.
const GRACE_AFTER_TIME: Duration = Duration::from_secs(15);

const SIGNALS: [i32; 3] = [
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGHUP,
];

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static SEEN_AT: OnceLock<Instant> = OnceLock::new();
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

/// Starts to catch SIGINT, SIGTERM and SIGHUP. Called once, by commands that pause guests or copy files.
///
/// # Errors
/// When the kernel refuses the signal handler.
pub fn catch() -> io::Result<()> {
    let flag = FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in SIGNALS {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether the process has been asked to stop.
pub fn requested() -> bool {
    seen_at().is_some()
}

/// When it was first seen that the process has been asked to stop.
pub fn seen_at() -> Option<Instant> {
    let is_raised = FLAG.get().is_some_and(|flag| flag.load(Ordering::SeqCst));
    is_raised.then(|| *SEEN_AT.get_or_init(Instant::now))
}

/// Has a thread wait for one of the signals and, if the process is still there so long after it, call `end`, which no
/// hanging thread can hold up. The first call in a process counts, others do nothing.
///
/// # Errors
/// When the kernel refuses the thread or the signal handler.
pub fn when_overdue(patience: Duration, end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if IS_WATCHED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let (mut wakes, wake) = UnixStream::pair()?;
    for signal in SIGNALS {
        signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
    }
    thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            // A signal that came before the pipe was there has raised the flag only.
            while !requested() {
                // Whatever it says, the flag tells.
                let _ = wakes.read(&mut [0]);
            }
            let waited = seen_at().map_or(Duration::ZERO, |at| at.elapsed());
            thread::sleep(patience.saturating_sub(waited));
            end();
        })?;
    Ok(())
}

/// A moment after which waiting ends.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
    at: Instant,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self {
            limit,
            at: Instant::now() + limit,
        }
    }

    /// The whole time that was granted.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// What is left of it; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }
}

/// Why work has to end before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The process was asked to stop.
    #[error("interrupted by a signal")]
    Signal,
    /// The time for one instance is over.
    #[error(
        "it was not done within {} s, the time that --instance-timeout gives an instance",
        limit.as_secs()
    )]
    Time {
        /// How long that was.
        limit: Duration,
    },
}

/// What all work on one instance looks at: the signal, and the time that the instance may take.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    deadline: Option<Deadline>,
    /// Whether nobody set the time, so that it grows with the size of what there is to do.
    is_default: bool,
    signal: fn() -> Option<Instant>,
}

impl Watch {
    /// One that only a signal ends.
    pub const fn unlimited() -> Self {
        Self {
            deadline: None,
            is_default: false,
            signal: seen_at,
        }
    }

    /// From now on, for `limit`; without one for as long as [`Watch::sized`] says.
    pub fn begin(limit: Option<Duration>) -> Self {
        Self {
            deadline: Some(Deadline::after(limit.unwrap_or(BASE))),
            is_default: limit.is_none(),
            ..Self::unlimited()
        }
    }

    /// The same for an instance of which so much has to be saved: a minute more for each GiB, unless the time was set.
    #[must_use]
    pub fn sized(mut self, bytes: u64) -> Self {
        if let Some(deadline) = self.deadline.as_mut().filter(|_| self.is_default) {
            let more = PER_GIB.mul_f64(bytes as f64 / f64::from(1 << 30));
            deadline.limit += more;
            deadline.at += more;
        }
        self
    }

    /// The same with another source of signals.
    #[cfg(test)]
    #[must_use]
    pub const fn with_signal(mut self, signal: fn() -> Option<Instant>) -> Self {
        self.signal = signal;
        self
    }

    /// How long it was given.
    #[cfg(test)]
    pub fn limit(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.limit())
    }

    /// Whether work has to end.
    pub fn is_over(&self) -> bool {
        self.check().is_err()
    }

    /// # Errors
    /// When work has to end, with the reason.
    pub fn check(&self) -> Result<(), Over> {
        self.check_after(Duration::ZERO, Duration::ZERO)
    }

    /// As [`Watch::check`], for what puts a guest right: a while later.
    ///
    /// # Errors
    /// As [`Watch::check`].
    pub fn check_cleanup(&self) -> Result<(), Over> {
        self.check_after(GRACE_AFTER_SIGNAL, GRACE_AFTER_TIME)
    }

    /// How long one request may take that puts a guest right and has `limit` otherwise: after a signal a third of what
    /// is left, so that another connection can be tried.
    pub fn patience(&self, limit: Duration) -> Duration {
        match (self.signal)() {
            Some(_) => limit.min(GRACE_AFTER_SIGNAL / 3),
            None => limit,
        }
    }

    fn check_after(&self, after_signal: Duration, after_time: Duration) -> Result<(), Over> {
        if (self.signal)().is_some_and(|seen_at| seen_at.elapsed() >= after_signal) {
            return Err(Over::Signal);
        }
        match self.deadline {
            Some(Deadline { limit, at }) if at + after_time <= Instant::now() => {
                Err(Over::Time { limit })
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_size_unless_it_was_set() {
        let limit = |watch: Watch| watch.deadline.unwrap().limit();
        assert_eq!(limit(Watch::begin(None)), BASE);
        let grown = limit(Watch::begin(None).sized(3 << 30));
        assert_eq!(grown, BASE + 3 * PER_GIB);
        let set = Duration::from_secs(2);
        assert_eq!(limit(Watch::begin(Some(set)).sized(3 << 30)), set);
        assert!(Watch::unlimited().sized(u64::MAX).check().is_ok());
        assert!(Watch::begin(None).sized(u64::MAX).check().is_ok());
    }

    #[test]
    fn what_puts_a_guest_right_goes_on_for_a_while() {
        let watch = Watch::begin(Some(Duration::ZERO));
        let over = Over::Time {
            limit: Duration::ZERO,
        };
        assert_eq!(watch.check(), Err(over));
        assert_eq!(watch.check_cleanup(), Ok(()));
        let watch = Watch::unlimited().with_signal(|| Some(Instant::now()));
        assert_eq!(watch.check(), Err(Over::Signal));
        assert_eq!(watch.check_cleanup(), Ok(()));
        let long_ago = || Instant::now().checked_sub(GRACE_AFTER_SIGNAL);
        let watch = Watch::unlimited().with_signal(long_ago);
        assert_eq!(watch.check_cleanup(), Err(Over::Signal));
    }
}
