//! The hooks of one instance's run: which run when, and what each of them is told. How a process is run is in
//! `process`; what a failure means for the run is decided by the steps.

mod process;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::engine::{Created, EngineError};
use crate::fs::trust;
use crate::instance::InstanceId;
use crate::interrupt;
use crate::report::run::{HookRun, Outcome};
use crate::run::at_work::AtWork;
use crate::run::failure::{Failure, HookFailed};
use crate::schedule::hooks::{Hooks as Declared, Stage};
use crate::schedule::{Attempt, Schedule};
use crate::snapshot::{Kind, Snapshot};

/// How long after a signal to this process a hook that undoes or reports is told to end, and how long it has for that.
const UNDO_GRACE: [Duration; 2] = [Duration::from_secs(7), Duration::from_secs(1)];
/// The same for one that only prepares.
const PRE_GRACE: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3)];
/// How much of its last line of output is part of a hook's error, in characters.
const QUOTE_MAX_CHARS: usize = 200;

/// What no hook is given: the API key and the ways to it, and the URL that whoever knows it can report to.
const SECRETS: [&str; 4] = [
    "HYPEMAN_API_KEY",
    "HYPEMAN_API_KEY_FILE",
    "CREDENTIALS_DIRECTORY",
    "HYPEMAN_SNAP_HEARTBEAT_URL",
];

/// The hooks of one instance's run.
pub(super) struct Hooks {
    declared: Declared,
    id: InstanceId,
    facts: Facts,
    ran: Vec<HookRun>,
}

/// What is known by now, and told to the hooks as far as it is.
#[derive(Debug, Clone, Default)]
struct Facts {
    instance_name: Option<String>,
    snapshot_name: String,
    snapshot_id: Option<String>,
    kind: Option<Kind>,
    pause: Option<Duration>,
    outcome: Option<Outcome>,
    error: Option<String>,
}

impl Hooks {
    /// Those of `schedule`, for a run that makes `attempt`.
    pub(super) fn new(schedule: &Schedule, attempt: &Attempt) -> Self {
        Self {
            declared: schedule.declaration.hooks.clone(),
            id: schedule.instance_id.clone(),
            facts: Facts {
                snapshot_name: attempt.snapshot_name.clone(),
                ..Facts::default()
            },
            ran: Vec::new(),
        }
    }

    /// Notes what the run found out about its instance.
    pub(super) fn know(&mut self, instance_name: &str, kind: Option<Kind>) {
        self.facts.instance_name = Some(instance_name.to_owned());
        self.facts.kind = kind;
    }

    /// Takes a snapshot by `create`, between the pre-hook and the post-hook. The post-hook runs in any case, because it
    /// may have to undo what the pre-hook did.
    ///
    /// # Errors
    /// That of `create`, which is not called when the pre-hook fails, or that of the pre-hook; interrupted when the
    /// process was asked to stop meanwhile, whatever came of that.
    pub(super) fn around(
        &mut self,
        at_work: &AtWork,
        create: impl FnOnce() -> Result<Created, EngineError>,
    ) -> Result<Created, Failure> {
        if interrupt::requested() {
            return Err(EngineError::Interrupted.into());
        }
        // Both before either runs: what the one does, the other has to undo.
        let refused = refused(&self.declared)
            .into_iter()
            .find(|(stage, _)| matches!(stage, Stage::Pre | Stage::Post));
        if let Some((_, error)) = refused {
            self.know_failure(&error);
            return Err(HookFailed(error).into());
        }
        let created = match self.run(Stage::Pre) {
            Ok(()) if interrupt::requested() => Ok(Err(EngineError::Interrupted.into())),
            Ok(()) => {
                at_work.arm(&self.id, Box::new(self.undo()));
                let created = catch_unwind(AssertUnwindSafe(create));
                at_work.disarm(&self.id);
                created.map(|created| created.map_err(Failure::Engine))
            }
            Err(error) => Ok(Err(error.into())),
        };
        match created {
            Ok(Err(failure)) if failure.is_interruption() => {
                log::debug!(instance = self.id.as_str(); "{}", failure.in_words());
                self.facts = self.facts.interrupted();
                self.post();
                Err(EngineError::Interrupted.into())
            }
            Ok(Ok(created)) => {
                self.facts.pause = created.pause;
                self.taken(&created.snapshot);
                Ok(created)
            }
            Ok(Err(failure)) => {
                self.know_failure(&failure.in_words());
                self.post();
                Err(failure)
            }
            Err(panic) => {
                self.know_failure("internal error: the run of this instance panicked");
                self.post();
                self.failure();
                resume_unwind(panic)
            }
        }
    }

    /// Runs the post-hook for a snapshot that is there.
    pub(super) fn taken(&mut self, snapshot: &Snapshot) {
        self.facts.kind = Some(snapshot.kind);
        self.facts.snapshot_id = Some(snapshot.id.to_string());
        self.facts.outcome = Some(Outcome::Snapshotted);
        self.post();
    }

    fn post(&mut self) {
        if let Err(error) = self.run(Stage::Post) {
            // The failure-hook hears of it, unless something worse is to be said.
            self.facts.error.get_or_insert(error.0);
        }
    }

    /// Notes that the run failed.
    pub(super) fn know_failure(&mut self, error: &str) {
        self.facts.outcome = Some(Outcome::Failed);
        self.facts.error = Some(error.to_owned());
    }

    /// Notes that something failed besides the snapshot, such as retention; what failed first is what hooks are told.
    pub(super) fn know_error(&mut self, error: &str) {
        self.facts.error.get_or_insert_with(|| error.to_owned());
    }

    /// Runs the failure-hook, if anything failed.
    pub(super) fn failure(&mut self) {
        if self.facts.error.is_some() {
            // What went wrong is with the others.
            let _ = self.run(Stage::Failure);
        }
    }

    /// The hooks that ran, and how.
    pub(super) fn ran(self) -> Vec<HookRun> {
        self.ran
    }

    /// The post-hook of a run that is interrupted, for somebody else to run.
    fn undo(&self) -> impl FnOnce() + Send + use<> {
        let call = self.call(Stage::Post, &self.facts.interrupted());
        move || {
            if let Some(call) = call {
                if let Some(error) = call.run().error {
                    log::error!("{error}");
                }
            }
        }
    }

    /// Runs the hook of `stage`, if there is one, and says what it said.
    fn run(&mut self, stage: Stage) -> Result<(), HookFailed> {
        let Some(call) = self.call(stage, &self.facts) else {
            return Ok(());
        };
        let refused = refused(&self.declared)
            .into_iter()
            .find(|(refused, _)| *refused == stage);
        let ran = match refused {
            None => call.run(),
            Some((_, error)) => HookRun {
                stage,
                command: call.words,
                duration: None,
                error: Some(error),
            },
        };
        let error = ran.error.clone();
        self.ran.push(ran);
        error.map_or(Ok(()), |error| Err(HookFailed(error)))
    }

    /// The hook of `stage`, if there is one, told these facts.
    fn call(&self, stage: Stage, facts: &Facts) -> Option<Call> {
        let words = self.declared.command(stage);
        let (program, arguments) = words.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/");
        for secret in SECRETS {
            command.env_remove(secret);
        }
        for (name, value) in facts.variables(&self.id, stage) {
            match value {
                Some(value) => command.env(name, plain(&value)),
                None => command.env_remove(name),
            };
        }
        Some(Call {
            id: self.id.clone(),
            stage,
            words: words.to_vec(),
            command,
            timeout: self.declared.timeout(),
        })
    }
}

/// The hooks that root does not run, and why: others can change what they are.
pub fn refused(hooks: &Declared) -> Vec<(Stage, String)> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    Stage::ALL
        .into_iter()
        .filter_map(|stage| {
            let program = hooks.command(stage).first()?;
            // What is not there, or can't be looked at, fails when it is started.
            let found = trust::distrust(&found(program)?).ok()??;
            let (place, why) = (found.place.display(), found.why);
            Some((
                stage,
                format!(
                    "the {} {program} is not run as root, because {place} {why}, so that others than root can change what \
                     it does: `chown root` and `chmod go-w` {place}, or name another program",
                    stage.hook()
                ),
            ))
        })
        .collect()
}

/// Where a program is, as the system finds it.
fn found(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// A value as hooks are given it: what a terminal, a mail or a log would obey has no place in it, and neither has a NUL in
/// any environment. Names and messages come from others.
fn plain(value: &str) -> String {
    value
        .chars()
        .map(|c| match c {
            c if c.is_whitespace() => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                char::REPLACEMENT_CHARACTER
            }
            c => c,
        })
        .collect()
}

/// One hook that is about to run.
struct Call {
    id: InstanceId,
    stage: Stage,
    words: Vec<String>,
    command: Command,
    timeout: Duration,
}

impl Call {
    /// Runs it, and passes on what it said.
    fn run(mut self) -> HookRun {
        let began = Instant::now();
        let [stop_grace, end_grace] = match self.stage {
            Stage::Pre => PRE_GRACE,
            Stage::Post | Stage::Failure => UNDO_GRACE,
        };
        let ended = process::run(
            &mut self.command,
            &process::Limits {
                timeout: self.timeout,
                stopped_since: &interrupt::seen_at,
                stop_grace,
                end_grace,
            },
        );
        let hook = self.stage.hook();
        let instance = self.id.as_str();
        for line in &ended.output {
            if ended.failure.is_some() {
                log::warn!(instance; "{hook}: {line}");
            } else {
                log::info!(instance; "{hook}: {line}");
            }
        }
        let program = self.words.first().map_or("", String::as_str);
        let error = ended.failure.map(|failure| {
            let quoted = ended.output.last().map_or_else(String::new, |line| {
                let line: String = line.chars().take(QUOTE_MAX_CHARS).collect();
                format!(": {line}")
            });
            format!("the {hook} {program} {failure}{quoted}")
        });
        HookRun {
            stage: self.stage,
            duration: Some(began.elapsed()),
            error,
            command: self.words,
        }
    }
}

impl Facts {
    /// The same for a run that a signal has ended.
    fn interrupted(&self) -> Self {
        Self {
            outcome: Some(Outcome::Interrupted),
            error: Some(EngineError::Interrupted.to_string()),
            ..self.clone()
        }
    }

    /// What a hook's environment holds, and what it must not hold because it is not so.
    fn variables(&self, id: &InstanceId, stage: Stage) -> [(&'static str, Option<String>); 9] {
        let pause_ms = self
            .pause
            .map(|pause| format!("{:.3}", pause.as_secs_f64() * 1000.0));
        [
            ("HYPEMAN_SNAP_HOOK", Some(stage.as_str().to_owned())),
            ("HYPEMAN_SNAP_INSTANCE_ID", Some(id.to_string())),
            ("HYPEMAN_SNAP_INSTANCE_NAME", self.instance_name.clone()),
            (
                "HYPEMAN_SNAP_SNAPSHOT_NAME",
                Some(self.snapshot_name.clone()),
            ),
            ("HYPEMAN_SNAP_SNAPSHOT_ID", self.snapshot_id.clone()),
            ("HYPEMAN_SNAP_KIND", self.kind.map(|kind| kind.to_string())),
            (
                "HYPEMAN_SNAP_OUTCOME",
                self.outcome.map(|outcome| outcome.as_str().to_owned()),
            ),
            ("HYPEMAN_SNAP_ERROR", self.error.clone()),
            ("HYPEMAN_SNAP_PAUSE_MS", pause_ms),
        ]
    }
}
