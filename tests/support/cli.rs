//! The tool as a user sees it: a host with a state directory and a data directory of its own, commands that are run
//! on it, and what they said. Instances are stopped ones, so that no VMM is needed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use chrono::{DateTime, SecondsFormat, Utc};
use fs2::FileExt;
use serde_json::{Value, json};
use tempfile::TempDir;

/// No command on a host without VMMs takes as long as this.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The time of the machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the tool under test reads the same clock, and ages are relative to it"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// A host with nothing on it yet but an instance that keeps its data directory from being empty.
pub struct Host {
    program: PathBuf,
    dir: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Said {
    /// The same, after a look at the exit code.
    ///
    /// # Panics
    /// When the exit code is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The same, after a look at stderr.
    ///
    /// # Panics
    /// When one of `parts` is not in it.
    #[track_caller]
    pub fn complains(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:?}");
        }
        self
    }

    /// The same, after a look at stderr.
    ///
    /// # Panics
    /// When there is anything in it.
    #[track_caller]
    pub fn is_content(self) -> Self {
        assert_eq!(self.stderr, "", "{self:?}");
        self
    }

    /// stdout as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// stdout with times and sizes replaced, and columns two blanks apart, so that it can be compared.
    pub fn normalised(&self) -> String {
        normalise(&self.stdout)
    }
}

impl Host {
    /// A host on which `program`, `env!("CARGO_BIN_EXE_hypeman-snap")`, runs.
    ///
    /// # Panics
    /// When its directories can't be created.
    pub fn new(program: &str) -> Self {
        Self::new_in(program, &std::env::temp_dir())
    }

    /// The same with all its directories below `parent`.
    ///
    /// # Panics
    /// When they can't be created.
    pub fn new_in(program: &str, parent: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hs-cli-")
            .tempdir_in(parent)
            .unwrap();
        fs::create_dir_all(dir.path().join("data/guests")).unwrap();
        fs::create_dir_all(dir.path().join("data/snapshots")).unwrap();
        Self {
            program: program.into(),
            dir,
        }
    }

    /// A host with the stopped instances `web-a` and `web-b`, whose ids are `mk3v9t0xq2r7w5d8h1c6b4za` and
    /// `mk3w0000000000000000000b`.
    ///
    /// # Panics
    /// When they can't be created.
    pub fn with_two_instances(program: &str) -> Self {
        let host = Self::new(program);
        host.add_instance("mk3v9t0xq2r7w5d8h1c6b4za", "web-a");
        host.add_instance("mk3w0000000000000000000b", "web-b");
        host
    }

    /// A directory of this host that the tool knows nothing of.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The state directory; created by the tool.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command that is ready to run. Its environment holds nothing of the machine's that the tool looks at.
    pub fn command(&self) -> Command {
        let mut command = Command::from_std(self.std_command());
        command.timeout(TIMEOUT);
        command
    }

    /// The same without a limit of time, for tests that do something while it runs.
    pub fn std_command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("HYPEMAN_SNAP_STATE_DIR", self.state_dir())
            .env("HYPEMAN_SNAP_DATA_DIR", self.data_dir());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not end by itself, or says what is no text.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Said {
        said(self.command().args(args))
    }

    /// Registers the VM whose VMM listens at `socket`, with an hourly schedule that keeps three.
    ///
    /// # Panics
    /// When the tool refuses.
    #[track_caller]
    pub fn register(&self, id: &str, hypervisor: &str, socket: &Path) {
        let socket = socket.to_str().expect("UTF-8");
        let register = [
            "register",
            id,
            "--hypervisor",
            hypervisor,
            "--socket",
            socket,
        ];
        self.run(&register).exits(0);
        self.run(&["set", id, "--interval", "1h", "--max-count", "3"])
            .exits(0);
    }

    /// Adds a stopped instance, or changes its name.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn add_instance(&self, id: &str, name: &str) {
        let dir = self.data_dir().join("guests").join(id);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("overlay.raw"), b"a disk").unwrap();
        let metadata = json!({
            "Id": id,
            "Name": name,
            "Image": "docker.io/library/nginx:alpine",
            "Size": 1_073_741_824,
            "OverlaySize": 6,
            "Vcpus": 2,
            "Env": null,
            "Tags": null,
            "Volumes": null,
            "Devices": null,
            "HypervisorType": "qemu",
            "HypervisorPID": null,
            "SocketPath": dir.join("qemu.sock"),
            "DataDir": dir,
            "VsockCID": 0,
            "VsockSocket": "",
            "GPUProfile": "",
            "GPUMdevUUID": "",
            "SkipGuestAgent": true,
            "ProgramStartedAt": null,
            "GuestAgentReadyAt": null,
        });
        fs::write(dir.join("metadata.json"), format!("{metadata:#}")).unwrap();
    }

    /// Takes an instance away, as hypeman does.
    ///
    /// # Panics
    /// When it can't be removed.
    pub fn remove_instance(&self, id: &str) {
        fs::remove_dir_all(self.data_dir().join("guests").join(id)).unwrap();
    }

    /// Makes each deletion of the snapshot `id` fail, until what this returns is dropped: something is where it would be
    /// renamed to.
    ///
    /// # Panics
    /// When that can't be written.
    #[must_use]
    pub fn obstruct_deletion(&self, id: &str) -> Obstacle {
        let obstacle = self
            .data_dir()
            .join("snapshots")
            .join(format!(".trash-{id}"));
        fs::write(&obstacle, "").unwrap();
        Obstacle(obstacle)
    }

    /// Adds a snapshot of `instance` that is `age` old: a manual one, or one made by the instance's schedule.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn add_snapshot(
        &self,
        id: &str,
        instance: (&str, &str),
        age: Duration,
        is_scheduled: bool,
    ) {
        let dir = self.data_dir().join("snapshots").join(id);
        fs::create_dir_all(dir.join("guest")).unwrap();
        fs::write(dir.join("guest/overlay.raw"), b"a disk").unwrap();
        let (instance_id, instance_name) = instance;
        let tags = if is_scheduled {
            json!({"hypeman.scheduled": "true", "hypeman.schedule_instance_id": instance_id})
        } else {
            json!({"team": "infra"})
        };
        let record = json!({
            "snapshot": {
                "id": id,
                "name": format!("name-of-{id}"),
                "kind": "Stopped",
                "tags": tags,
                "source_instance_id": instance_id,
                "source_instance_name": instance_name,
                "SourceHypervisor": "qemu",
                "created_at": (now() - age).to_rfc3339_opts(SecondsFormat::Nanos, true),
                "size_bytes": 6,
            },
            "stored_metadata": {"Id": instance_id},
        });
        fs::write(dir.join("snapshot.json"), format!("{record:#}")).unwrap();
    }

    /// The ids of the snapshots that are there, sorted.
    ///
    /// # Panics
    /// When the store can't be read.
    pub fn snapshots(&self) -> Vec<String> {
        let mut ids: Vec<String> = fs::read_dir(self.data_dir().join("snapshots"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("snapshot.json").exists())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        ids.sort();
        ids
    }

    /// Where the schedule of `id` is, or would be.
    pub fn schedule_path(&self, id: &str) -> PathBuf {
        self.state_dir()
            .join("snapshot-schedules")
            .join(format!("{id}.json"))
    }

    /// The schedule of `id` as it is on disk.
    ///
    /// # Panics
    /// When there is none.
    pub fn schedule(&self, id: &str) -> Value {
        serde_json::from_slice(&fs::read(self.schedule_path(id)).unwrap()).unwrap()
    }

    /// Writes a schedule file as hypeman does, or anything else that a file may hold.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write_schedule(&self, id: &str, content: impl AsRef<[u8]>) {
        let path = self.schedule_path(id);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Holds the lock of `id`, as another run does, until the value is dropped.
    ///
    /// # Panics
    /// When it can't be had.
    pub fn lock(&self, id: &str) -> File {
        let dir = self.state_dir().join("locks");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .unwrap();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(format!("{id}.lock")))
            .unwrap();
        FileExt::try_lock_exclusive(&file).unwrap();
        file
    }

    /// Everything under the state directory, and the schedules' contents: what must be the same if nothing was changed.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn state(&self) -> Vec<(PathBuf, u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.state_dir()];
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                let is_json = entry.path().extension() == Some(OsStr::new("json"));
                let content = if metadata.is_file() && is_json {
                    fs::read(entry.path()).unwrap()
                } else {
                    Vec::new()
                };
                if metadata.is_dir() {
                    dirs.push(entry.path());
                }
                found.push((entry.path(), metadata.ino(), content));
            }
        }
        found.sort();
        found
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not end by itself, or says what is no text.
#[track_caller]
pub fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output
            .status
            .code()
            .unwrap_or_else(|| panic!("ended by {}: {output:?}", output.status)),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `text` with times and sizes replaced and columns two blanks apart.
fn normalise(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let cells: Vec<String> = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(|cell| {
                if is_size(cell) {
                    "SIZE".to_owned()
                } else {
                    hide(cell, "####-##-## ##:##:## +##:##", "TIME")
                }
            })
            .collect();
        lines.push_str(&cells.join("  "));
        lines.push('\n');
    }
    lines
}

fn is_size(cell: &str) -> bool {
    cell.split_once(' ').is_some_and(|(number, unit)| {
        number.parse::<f64>().is_ok() && ["B", "KiB", "MiB"].contains(&unit)
    })
}

/// `text` with each part that looks like `pattern`, where `#` is a digit, replaced.
fn hide(text: &str, pattern: &str, replacement: &str) -> String {
    let looks_like = |part: &str| {
        part.chars().count() == pattern.chars().count()
            && part
                .chars()
                .zip(pattern.chars())
                .all(|(c, p)| if p == '#' { c.is_ascii_digit() } else { c == p })
    };
    let mut result = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match rest.get(..pattern.len()) {
            Some(part) if looks_like(part) => {
                result.push_str(replacement);
                rest = &rest[pattern.len()..];
            }
            _ => {
                result.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    result
}

/// What is in the way of a deletion until this is dropped.
#[derive(Debug)]
pub struct Obstacle(PathBuf);

impl Drop for Obstacle {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
