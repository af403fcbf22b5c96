//! SIGINT and SIGTERM as a flag that long work looks at; it never ends the process by itself.
//!
//! A run that is asked to stop must first let the guest go on, so the signals only raise a flag. Whoever waits or
//! copies calls [`requested`] between steps and returns an error, which resumes the guest on its way out.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Starts to catch SIGINT, SIGTERM and SIGHUP. Called once, by commands that pause guests or copy files.
///
/// # Errors
/// When the kernel refuses the signal handler.
pub fn catch() -> io::Result<()> {
    let flag = FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether the process has been asked to stop.
pub fn requested() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}
