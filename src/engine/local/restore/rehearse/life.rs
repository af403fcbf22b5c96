//! Whether a guest lives: what its VMM says, what its kernel says, and whether its processors do anything.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde::Deserialize;

use super::super::how::Alone;
use crate::engine::EngineError;
use crate::engine::local::restore::running;
use crate::engine::rehearser::Terms;
use crate::engine::restorer::Launch;
use crate::error::in_words;
use crate::fs::beneath::Beneath;
use crate::instance::Hypervisor;
use crate::interrupt::{Deadline, Watch};
use crate::snapshot::Kind;
use crate::vmm::{Vmm, VmmError, VmmState};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The least that it is watched, also if it has said what was expected.
const LEAST: Duration = Duration::from_secs(2);
/// How much of a file is read at one look, and how long a line can be, in bytes.
const CHUNK_MAX_BYTES: usize = 1 << 20;
const LINE_MAX_BYTES: usize = 8 << 10;
/// A guest that boots from its disks may do that so often: firmware does, when it is new there.
const BOOTS_MAX: usize = 2;
/// What Linux says when it, or a disk of it, is not well (kernel/panic.c, block/blk-core.c, fs/ext4/super.c,
/// fs/xfs/xfs_message.c, fs/btrfs/messages.c in its sources).
const ILL: [&str; 8] = [
    "Kernel panic - not syncing",
    "I/O error, dev ",
    "EXT4-fs error (device ",
    "XFS: Internal error",
    "Metadata corruption detected",
    "Metadata CRC error detected",
    "BTRFS error (device ",
    "BTRFS critical (device ",
];

/// A guest that is watched.
pub(super) struct Life<'a> {
    vmm: Box<dyn Vmm>,
    launch: &'a Launch,
    log: &'a File,
    kind: Kind,
    consoles: Vec<Lines>,
    events: Option<Lines>,
    unread: Vec<u8>,
    boots: usize,
    is_expected_said: bool,
}

/// How long each processor of a guest has run, in nanoseconds, by its thread.
type Work = Vec<(i32, u64)>;

impl<'a> Life<'a> {
    /// Looks at a guest that has just begun to run.
    pub(super) fn of(
        vmm: Box<dyn Vmm>,
        launch: &'a Launch,
        alone: &Alone,
        own: &Beneath,
        log: &'a File,
        kind: Kind,
    ) -> Self {
        let mut consoles: Vec<Lines> = (alone.consoles.iter())
            .map(|path| Lines::of(own, path))
            .collect();
        // Firecracker's guests speak there.
        consoles.extend(log.try_clone().ok().map(Lines::from));
        Self {
            vmm,
            launch,
            log,
            kind,
            consoles,
            events: alone.events.as_deref().map(|path| Lines::of(own, path)),
            unread: Vec::new(),
            boots: 0,
            is_expected_said: false,
        }
    }

    /// Why it is dead; `None` when it lives as the terms say.
    pub(super) fn watch(
        mut self,
        child: &mut Child,
        terms: Terms<'_>,
        watch: Watch,
    ) -> Result<Option<String>, EngineError> {
        let end = Deadline::after(terms.watched_for);
        let least = Deadline::after(LEAST.min(terms.watched_for));
        let threads = self.threads(child)?;
        let before = work(child, &threads);
        loop {
            watch.check()?;
            if let Some(why) = self.illness(child, terms)? {
                return Ok(Some(why));
            }
            let works = works(&before, &work(child, &threads));
            let is_done = match terms.expected {
                Some(_) => self.is_expected_said && works && least.has_passed(),
                None => false,
            };
            if is_done {
                return Ok(None);
            }
            if end.has_passed() {
                let seconds = terms.watched_for.as_secs_f64();
                return Ok(match terms.expected {
                    _ if !works => Some(format!("its processors did nothing for {seconds:.0} s")),
                    Some(expected) => Some(format!(
                        "no line of its console said {:?} within {seconds:.0} s",
                        expected.as_str()
                    )),
                    None => None,
                });
            }
            std::thread::sleep(LOOK_EVERY.min(end.remaining()));
        }
    }

    /// What is wrong with it now, if anything.
    fn illness(
        &mut self,
        child: &mut Child,
        terms: Terms<'_>,
    ) -> Result<Option<String>, EngineError> {
        // What it said explains what happened to it.
        if let Some(line) = self.hear(terms) {
            return Ok(Some(format!("it says: {line}")));
        }
        let failed = |error| EngineError::caused("can't tell whether its VMM runs", error);
        if let Some(status) = child.try_wait().map_err(failed)? {
            let said = running::said(self.log);
            return Ok(Some(format!("its VMM ended: {status}{said}")));
        }
        let state = self.vmm.mishaps().and_then(|mishaps| {
            let state = self.vmm.state()?;
            Ok((mishaps, state))
        });
        let (mut mishaps, state) = match state {
            Ok(said) => said,
            Err(VmmError::Over(over)) => return Err(over.into()),
            // It has just ended, or hangs.
            Err(error) => return Ok(Some(in_words(&error))),
        };
        mishaps.extend(self.events());
        for mishap in mishaps {
            let is_boot = mishap == BOOTS_ANEW && self.kind == Kind::Stopped;
            self.boots += usize::from(is_boot);
            if !is_boot || self.boots > BOOTS_MAX {
                return Ok(Some(mishap));
            }
        }
        Ok(match state {
            VmmState::Running => None,
            VmmState::Paused | VmmState::Created => Some("it stopped".to_owned()),
            VmmState::Shutdown => Some("it shut down".to_owned()),
            VmmState::Other(word) => Some(format!("it is in the state {word}")),
        })
    }

    /// Takes in what its consoles say, and returns a line that tells of an illness.
    fn hear(&mut self, terms: Terms<'_>) -> Option<String> {
        let mut ill = None;
        for console in &mut self.consoles {
            let is_expected_said = &mut self.is_expected_said;
            console.take(|line| {
                *is_expected_said |= terms.expected.is_some_and(|it| it.is_match(line));
                if ill.is_none() && ILL.iter().any(|words| line.contains(words)) {
                    ill = Some(line.trim().to_owned());
                }
            });
        }
        ill
    }

    /// What Cloud Hypervisor reported.
    fn events(&mut self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Event {
            source: String,
            event: String,
        }
        let more = self.events.as_mut().and_then(Lines::read);
        self.unread.extend(more.unwrap_or_default());
        let mut mishaps = Vec::new();
        let mut events = serde_json::Deserializer::from_slice(&self.unread).into_iter::<Event>();
        for event in events.by_ref().map_while(Result::ok) {
            match (event.source.as_str(), event.event.as_str()) {
                ("guest", "panic") => mishaps.push("its kernel panicked".to_owned()),
                ("vm", "booting" | "rebooting") => mishaps.push(BOOTS_ANEW.to_owned()),
                ("vm", "shutdown" | "deleted") => mishaps.push("it shut down".to_owned()),
                _ => {}
            }
        }
        // The last one may be there in part only.
        let whole = events.byte_offset();
        self.unread.drain(..whole.min(self.unread.len()));
        mishaps
    }

    /// The threads that are its processors.
    fn threads(&mut self, child: &Child) -> Result<Vec<i32>, EngineError> {
        let told = match self.vmm.processors() {
            Ok(told) => told,
            Err(VmmError::Over(over)) => return Err(over.into()),
            Err(_) => None,
        };
        if let Some(told) = told {
            return Ok(told);
        }
        // As these two call them.
        let prefix = match self.launch.hypervisor {
            Hypervisor::CloudHypervisor => "vcpu",
            Hypervisor::Firecracker => "fc_vcpu",
            Hypervisor::Qemu | Hypervisor::QemuMicrovm => return Ok(Vec::new()),
        };
        let is_processor = |task: &procfs::process::Task| {
            let stat = task.stat();
            stat.is_ok_and(|stat| stat.comm.starts_with(prefix))
        };
        let tasks = tasks(child).into_iter().filter(is_processor);
        Ok(tasks.map(|task| task.tid).collect())
    }
}

/// As QEMU's connection tells it.
const BOOTS_ANEW: &str = "it boots anew";

fn tasks(child: &Child) -> Vec<procfs::process::Task> {
    let process = i32::try_from(child.id())
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    let tasks = process.and_then(|process| process.tasks().ok());
    tasks.into_iter().flatten().flatten().collect()
}

/// How long the threads have run; of all of them where it is not known which ones matter.
fn work(child: &Child, threads: &[i32]) -> Work {
    let tasks = tasks(child).into_iter();
    let tasks = tasks.filter(|task| threads.is_empty() || threads.contains(&task.tid));
    tasks
        .map(|task| {
            let exact = task.schedstat().map(|it| it.sum_exec_runtime);
            let ticks = || task.stat().map_or(0, |it| it.utime + it.stime);
            (task.tid, exact.unwrap_or_else(|_| ticks()))
        })
        .collect()
}

/// Whether one of the threads has run meanwhile.
fn works(before: &Work, after: &Work) -> bool {
    let had = |tid: i32| {
        before
            .iter()
            .find(|(it, _)| *it == tid)
            .map(|(_, ran)| *ran)
    };
    after
        .iter()
        .any(|(tid, ran)| had(*tid).is_none_or(|before| *ran > before))
}

/// A file that grows, line by line.
struct Lines {
    file: Source,
    offset: u64,
    rest: Vec<u8>,
}

enum Source {
    /// It may come to be in a directory that others write to.
    Named(Beneath, OsString),
    Open(File),
}

impl From<File> for Lines {
    fn from(file: File) -> Self {
        Self {
            file: Source::Open(file),
            offset: 0,
            rest: Vec::new(),
        }
    }
}

impl Lines {
    fn of(directory: &Beneath, path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_owned();
        Self {
            file: Source::Named(directory.clone(), name),
            offset: 0,
            rest: Vec::new(),
        }
    }

    /// Reads what comes at the offset.
    fn read(&mut self) -> Option<Vec<u8>> {
        if let Source::Named(directory, name) = &self.file {
            self.file = Source::Open(directory.open_file(name).ok()??);
        }
        let Source::Open(file) = &self.file else {
            return None;
        };
        let mut more = vec![0; CHUNK_MAX_BYTES];
        let count = file.read_at(&mut more, self.offset).ok()?;
        more.truncate(count);
        self.offset = self
            .offset
            .saturating_add(u64::try_from(count).unwrap_or(0));
        Some(more)
    }

    /// Gives what came since the last time, and the line that it is at. Without a file, or when it can't be read, nothing came.
    fn take(&mut self, mut each: impl FnMut(&str)) {
        let Some(more) = self.read() else {
            return;
        };
        let count = more.len();
        self.rest.extend(more);
        let mut lines: Vec<&[u8]> = self.rest.split(|byte| *byte == b'\n').collect();
        let last = lines.pop().unwrap_or_default();
        for line in lines {
            each(&String::from_utf8_lossy(line));
        }
        // A prompt ends without a line's end; so might the half of a word, which is whole at the next look.
        if count > 0 && !last.is_empty() {
            each(&String::from_utf8_lossy(last));
        }
        let keeps = last.len() <= LINE_MAX_BYTES;
        self.rest = if keeps { last.to_vec() } else { Vec::new() };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_heard_whole_even_if_it_came_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let own = Beneath::open(directory.path()).unwrap();
        let path = directory.path().join("console.log");
        let mut lines = Lines::of(&own, &path);
        lines.take(|line| panic!("{line}"));
        let mut file = File::create(&path).unwrap();
        let mut hear = |text: &str| {
            file.write_all(text.as_bytes()).unwrap();
            let mut heard = Vec::new();
            lines.take(|line| heard.push(line.to_owned()));
            heard
        };
        assert_eq!(hear("a\nKernel pa"), ["a", "Kernel pa"]);
        assert_eq!(hear("nic\n"), ["Kernel panic"]);
        assert!(hear("").is_empty());
        assert_eq!(hear("login: "), ["login: "]);
        // A link leads nowhere.
        std::os::unix::fs::symlink("console.log", directory.path().join("link")).unwrap();
        Lines::of(&own, Path::new("link")).take(|line| panic!("{line}"));
    }

    #[test]
    fn processors_work_if_one_of_them_does() {
        assert!(works(&vec![(1, 5), (2, 7)], &vec![(1, 5), (2, 8)]));
        assert!(!works(&vec![(1, 5)], &vec![(1, 5)]));
        assert!(!works(&Vec::new(), &Vec::new()));
        assert!(works(&Vec::new(), &vec![(3, 0)]));
    }
}
