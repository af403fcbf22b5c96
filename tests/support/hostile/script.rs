//! What a hostile VMM does, and how that is written down for `vmm.c`: a rule is a line, and so is each of its actions.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Program, text};

/// What is done about a request, one after the other.
#[derive(Clone, Debug)]
pub enum Act {
    /// QMP: this is what the command returns.
    Return(Value),
    /// QMP: the command fails with this text.
    Refuse(String),
    /// QMP: this event happens.
    Event(&'static str),
    /// HTTP: a whole answer with this status and body; 204 has none.
    Http(u16, String),
    /// These very bytes. Here and in the answers above `%{NAME}` stands for a variable, `%{id}` for the request's id,
    /// and `%{n}` for a number that is another one each time.
    Send(String),
    /// This text so many times.
    Repeat(u64, String),
    /// This text, one byte each time so much has passed.
    Drip(Duration, String),
    /// Nothing for a while.
    Sleep(Duration),
    /// Nothing for ever, whatever else comes over this connection.
    Hang,
    /// The connection ends.
    Close,
    /// A variable gets a value.
    Set(String, String),
    /// Waits until a variable has a value, most likely by [`Hostile::tell`].
    Await(&'static str),
    /// Keeps the descriptor that came last under this name.
    Take(&'static str),
    /// Creates or opens the file that a member of the request's JSON names, in it a file if that is not empty, and keeps
    /// its descriptor under the first name.
    Open(&'static str, &'static str, &'static str),
    /// Writes a text into the file with the descriptor of this name, at this offset.
    Write(&'static str, u64, String),
    /// Closes the descriptor of this name.
    Drop(&'static str),
    /// Runs a command of the shell, as this user.
    Run(String),
    /// Tells the test.
    Say(&'static str),
    /// What follows is done in the background.
    Later,
    /// The process ends.
    Exit,
}

/// What a hostile VMM does.
#[derive(Clone, Debug)]
pub struct Script {
    pub(super) program: Program,
    pub(super) head: String,
    pub(super) first: String,
    pub(super) rules: String,
}

impl Script {
    /// A VMM that answers nothing at all.
    pub fn mute(program: Program) -> Self {
        Self {
            program,
            head: String::new(),
            first: String::new(),
            rules: String::new(),
        }
    }

    /// A VMM that does everything right, with these disks, all of them raw and writable. It holds them open.
    pub fn well_behaved(program: Program, disks: &[PathBuf]) -> Self {
        match program {
            Program::Qemu => Self::qemu(disks),
            Program::Firecracker => Self::firecracker(disks),
            Program::CloudHypervisor => Self::cloud_hypervisor(disks),
        }
    }

    /// It holds this file open, for writing if `is_writable`.
    #[must_use]
    pub fn hold(mut self, path: &Path, is_writable: bool) -> Self {
        let mode = if is_writable { "rw" } else { "r" };
        line(&mut self.head, &["hold", mode, text(path)]);
        self
    }

    /// A variable has this value at first.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        line(&mut self.head, &["let", name, value]);
        self
    }

    /// What is done about requests in which all of `needles` occur, whatever the rules so far say. A QMP command is met
    /// by [`command`], an HTTP request begins with `PUT /path `, followed by its body.
    #[must_use]
    pub fn on(self, needles: &[&str], acts: &[Act]) -> Self {
        self.put_first(-1, ("", ""), needles, acts)
    }

    /// As [`Script::on`], the first time only.
    #[must_use]
    pub fn once(self, needles: &[&str], acts: &[Act]) -> Self {
        self.put_first(1, ("", ""), needles, acts)
    }

    /// As [`Script::on`], while a variable has a value.
    #[must_use]
    pub fn on_while(self, variable: (&str, &str), needles: &[&str], acts: &[Act]) -> Self {
        self.put_first(-1, variable, needles, acts)
    }

    fn put_first(
        mut self,
        times: i32,
        variable: (&str, &str),
        needles: &[&str],
        acts: &[Act],
    ) -> Self {
        let mut rule = String::new();
        render(&mut rule, times, variable, needles, acts);
        self.first.insert_str(0, &rule);
        self
    }

    /// A rule behind all others.
    pub(super) fn otherwise(
        mut self,
        variable: (&str, &str),
        needles: &[&str],
        acts: &[Act],
    ) -> Self {
        render(&mut self.rules, -1, variable, needles, acts);
        self
    }
}

/// How a request for a QMP command can be told: as the tool writes it.
pub fn command(name: &str) -> String {
    format!("\"execute\":\"{name}\"")
}

fn render(
    out: &mut String,
    times: i32,
    (key, value): (&str, &str),
    needles: &[&str],
    acts: &[Act],
) {
    let times = times.to_string();
    line(out, &[&["rule", &times, key, value], needles].concat());
    for act in acts {
        match act {
            Act::Return(value) => {
                line(
                    out,
                    &[
                        "send",
                        &format!("{{\"return\": {value}, \"id\": %{{id}}}}\r\n"),
                    ],
                );
            }
            Act::Refuse(reason) => {
                let error = json!({"class": "GenericError", "desc": reason});
                line(
                    out,
                    &[
                        "send",
                        &format!("{{\"error\": {error}, \"id\": %{{id}}}}\r\n"),
                    ],
                );
            }
            Act::Event(name) => {
                let event = format!(
                    "{{\"event\": \"{name}\", \"timestamp\": {{\"seconds\": 1, \"microseconds\": %{{n}}}}}}\r\n"
                );
                line(out, &["send", &event]);
            }
            Act::Http(status, body) => line(out, &["http", &status.to_string(), body]),
            Act::Send(text) => line(out, &["send", text]),
            Act::Repeat(times, text) => line(out, &["repeat", &times.to_string(), text]),
            Act::Drip(time, text) => line(out, &["drip", &time.as_millis().to_string(), text]),
            Act::Sleep(time) => line(out, &["sleep", &time.as_millis().to_string()]),
            Act::Hang => line(out, &["hang"]),
            Act::Close => line(out, &["close"]),
            Act::Set(name, value) => line(out, &["set", name, value]),
            Act::Await(name) => line(out, &["await", name]),
            Act::Take(name) => line(out, &["take", name]),
            Act::Open(name, member, file) => line(out, &["open", name, member, file]),
            Act::Write(name, at, text) => line(out, &["write", name, &at.to_string(), text]),
            Act::Drop(name) => line(out, &["drop", name]),
            Act::Run(command) => line(out, &["run", command]),
            Act::Say(text) => line(out, &["say", text]),
            Act::Later => line(out, &["later"]),
            Act::Exit => line(out, &["exit"]),
        }
    }
}

pub(super) fn line(out: &mut String, fields: &[&str]) {
    let escaped = fields.iter().map(|field| {
        field
            .replace('\\', "\\\\")
            .replace('\n', "\\n")
            .replace('\r', "\\r")
            .replace('\t', "\\t")
    });
    // Writing to a string can't fail.
    let _ = writeln!(out, "{}", escaped.collect::<Vec<_>>().join("\t"));
}
