//! A throw-away copy of this machine to install things into: its root directory under an overlay in memory, in name
//! spaces of its own and without a network, with or without systemd as process 1 (see `throwaway-root.sh`). The machine
//! itself is never written to. Needs root; where it is not possible, says so and gives nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::skip::skipped;

/// What `throwaway-root.sh` ends with when the machine can't do it.
const NOT_POSSIBLE: i32 = 77;

/// Longer than any test needs, in seconds: a minute of cron's, two plays of Ansible's, on a busy machine.
const DEADLINE_S: &str = "600";

/// A throw-away machine that can be started, once or several times; each start begins with this machine as it is.
#[derive(Debug)]
pub struct Throwaway {
    shared: TempDir,
    has_network: bool,
}

impl Throwaway {
    /// Makes the shared directory, empty.
    ///
    /// # Panics
    /// When there is no directory for it.
    pub fn create() -> Self {
        // Below /run, where services that get a /tmp of their own see it too. Without root nothing will start anyway.
        let is_root = rustix::process::geteuid().is_root();
        let shared = tempfile::Builder::new()
            .prefix("throwaway-")
            .tempdir_in(if is_root { "/run" } else { "/tmp" })
            .expect("a directory to share");
        Self {
            shared,
            has_network: false,
        }
    }

    /// Gives it this machine's network, for a server that the test runs.
    #[must_use]
    pub fn with_network(mut self) -> Self {
        self.has_network = true;
        self
    }

    /// The one directory that both machines can write to: `$SHARED` for scripts, the same path in both. Programs go in, results
    /// come out.
    pub fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// Copies `program` to `$SHARED/NAME`.
    ///
    /// # Panics
    /// When it can't be copied.
    pub fn share(&self, program: &Path, name: &str) -> PathBuf {
        let to = self.shared().join(name);
        std::fs::copy(program, &to).expect("a copy to share");
        to
    }

    /// The text of a file in the shared directory.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(&self, name: &str) -> String {
        let path = self.shared().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a bash script as root in the machine, where `$PROJECT` is the repository; nothing when that is not possible here.
    ///
    /// # Panics
    /// When the script can't be started or takes far too long.
    pub fn run(&self, script: &str) -> Option<Output> {
        let output = self.start("run", script);
        self.possible(&output).then_some(output)
    }

    /// Boots systemd and runs a bash script as root below it; nothing when that is not possible here.
    ///
    /// # Panics
    /// When it can't be started or takes far too long.
    pub fn boot(&self, script: &str) -> Option<Output> {
        let mut output = self.start("systemd", script);
        if !self.possible(&output) {
            return None;
        }
        // systemd itself writes nothing; what the script wrote is in files.
        output.stdout = std::fs::read(self.shared().join("stdout")).unwrap_or_default();
        output
            .stderr
            .extend(std::fs::read(self.shared().join("stderr")).unwrap_or_default());
        Some(output)
    }

    fn start(&self, mode: &str, script: &str) -> Output {
        let support = Path::new(env!("CARGO_MANIFEST_DIR"));
        let project = support.join("../..");
        let project = project.canonicalize().expect("the repository");
        let path = self.shared().join("script");
        let script = format!(
            "SHARED='{}'\nPROJECT='{}'\n{script}",
            self.shared().display(),
            project.display()
        );
        std::fs::write(&path, script).expect("a script to run");
        let output = Command::new("timeout")
            .args(["--kill-after=5", DEADLINE_S, "bash"])
            .arg(support.join("throwaway-root.sh"))
            .arg(mode)
            .arg(self.shared())
            .args(["bash", "-euo", "pipefail"])
            .arg(&path)
            .env("NETWORK", if self.has_network { "shared" } else { "none" })
            .output()
            .expect("timeout and bash");
        assert_ne!(
            output.status.code(),
            Some(124),
            "not done after {DEADLINE_S} s:\n{}",
            text(&output)
        );
        output
    }

    fn possible(&self, output: &Output) -> bool {
        if output.status.code() != Some(NOT_POSSIBLE) {
            return true;
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().last().unwrap_or_default();
        skipped(&format!("a throw-away machine: {reason}"));
        false
    }
}

/// All that a program wrote, for a message.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
