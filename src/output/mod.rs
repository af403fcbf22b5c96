//! Answers as text: tables and sentences for people, JSON for programs; and the one place that writes to stdout.
//!
//! Asks nobody anything: what is printed is in the answer, and `now` comes with the [`View`].

mod check;
mod declaration;
mod json;
mod lines;
mod plan;
mod rehearsed;
mod restored;
mod runs;
mod table;
pub mod text;
mod units;
mod verified;

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use crate::exit::Exit;
use crate::report::Answer;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Who looks at the output, and when.
#[derive(Debug, Clone)]
pub struct View {
    /// How results are printed.
    pub format: Format,
    /// What relative times are relative to.
    pub now: DateTime<Utc>,
    /// Whether a person looks at a terminal: times are relative and long texts cut short. Otherwise the output is
    /// complete.
    pub is_terminal: bool,
    /// How many characters a line has room for; `None` for any number.
    pub width: Option<usize>,
    /// Whether failures are red and what needs a look is yellow.
    pub has_colours: bool,
    /// Whether runs that went well print nothing.
    pub is_quiet: bool,
    /// Whether every reason is shown, not only those that decide.
    pub is_verbose: bool,
}

/// The answer as it goes to stdout: nothing, or whole lines.
pub fn render(answer: &Answer, view: &View) -> String {
    if let Answer::Verbatim(text) = answer {
        return text.clone();
    }
    match view.format {
        Format::Json => json::answer(answer, view),
        Format::Table => match answer {
            Answer::Schedules(rows) => table::schedules(rows, view),
            Answer::Snapshots(rows) => table::snapshots(rows, view),
            Answer::Findings(findings) => table::findings(findings, view),
            Answer::Schedule(schedule) => lines::schedule(schedule, view),
            Answer::Declared(declared) => lines::declared(declared, view),
            Answer::Deleted(deleted) => lines::deleted(deleted),
            Answer::Plan(planned) => plan::text(planned, view),
            Answer::Restored(restored) => restored::text(restored, view),
            Answer::Verified(rows) => verified::text(rows, view),
            Answer::Rehearsed(rows) => rehearsed::text(rows, view),
            Answer::Taken(created) => lines::taken(created),
            Answer::Protections(rows) => lines::protections(rows, view),
            Answer::DeletedSnapshots(rows) => lines::deleted_snapshots(rows),
            Answer::Health(health) => check::lines(health, view),
            Answer::Registration(registration) => lines::registration(registration),
            Answer::Run(_) if view.is_quiet => String::new(),
            Answer::Run(report) => runs::run(report, view),
            Answer::Verbatim(text) => text.clone(),
        },
    }
}

/// What ended a command, for programs: JSON in the place of the answer.
pub fn failure(message: &str, exit: Exit) -> String {
    json::failure(message, exit)
}

/// Writes `text` to stdout. A reader that has seen enough and gone away (`| head`) is no error.
///
/// # Errors
/// When stdout can't be written to.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
