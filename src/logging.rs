//! The log on stderr: for a terminal or cron, and for the journal when systemd reads it.
//!
//! Each record is one line, whatever its text holds. Only this tool's own records go below warnings: libraries that
//! speak to servers would log what nobody asked for.

use std::ffi::OsString;
use std::io::{self, Write};

use env_logger::Target;
use log::kv::Key;
use log::{Level, LevelFilter, Record};

use crate::output::text::visible;

/// The key under which a record names the instance that it is about.
const INSTANCE: &str = "instance";

/// Starts to log, once in the life of the process: to stderr, by way of `writer` if there is one.
pub fn start(verbose: u8, is_quiet: bool, writer: Option<impl Write + Send + 'static>) {
    let level = match (is_quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, 2) => LevelFilter::Debug,
        (false, _) => LevelFilter::Trace,
    };
    let for_journal = is_journal(std::env::var_os("JOURNAL_STREAM"));
    let mut builder = env_logger::Builder::new();
    if let Some(writer) = writer {
        builder.target(Target::Pipe(Box::new(writer)));
    }
    builder
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module(env!("CARGO_CRATE_NAME"), level)
        // What it has to say comes back as an error as well, which is told with its remedy.
        .filter_module("rustls_platform_verifier", LevelFilter::Off)
        .format(move |out, record| writeln!(out, "{}", line(record, for_journal)))
        .init();
}

/// One line for a record. The journal gets syslog's priority as `<N>`, and knows the time and the program itself.
fn line(record: &Record<'_>, for_journal: bool) -> String {
    let message = visible(&record.args().to_string());
    let instance = record
        .key_values()
        .get(Key::from(INSTANCE))
        .map_or_else(String::new, |id| format!("{}: ", visible(&id.to_string())));
    let (priority, word) = match record.level() {
        Level::Error => (3, "error: "),
        Level::Warn => (4, "warning: "),
        Level::Info => (6, ""),
        Level::Debug | Level::Trace => (7, "debug: "),
    };
    if for_journal {
        format!("<{priority}>{instance}{message}")
    } else {
        format!("hypeman-snap: {word}{instance}{message}")
    }
}

/// Whether stderr is the stream that systemd named in `JOURNAL_STREAM` (systemd.exec(5)): as `DEVICE:INODE`.
fn is_journal(stream: Option<OsString>) -> bool {
    let Some(stream) = stream.and_then(|stream| stream.into_string().ok()) else {
        return false;
    };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(level: Level, instance: Option<&str>, for_journal: bool) -> String {
        let pairs = instance.map(|id| (INSTANCE, id));
        line(
            &Record::builder()
                .level(level)
                .key_values(&pairs.as_slice())
                .args(format_args!("disk\nis full"))
                .build(),
            for_journal,
        )
    }

    #[test]
    fn records_are_one_line_that_names_program_level_and_instance() {
        assert_eq!(
            logged(Level::Warn, Some("vm-1"), false),
            "hypeman-snap: warning: vm-1: disk\\nis full"
        );
        assert_eq!(
            logged(Level::Info, None, false),
            "hypeman-snap: disk\\nis full"
        );
    }

    #[test]
    fn the_journal_gets_priorities_instead_of_words() {
        assert_eq!(
            logged(Level::Error, Some("vm-1"), true),
            "<3>vm-1: disk\\nis full"
        );
        assert_eq!(logged(Level::Debug, None, true), "<7>disk\\nis full");
    }
}
