//! A throw-away copy of this machine to install things into: its root directory under an overlay in memory, in name
//! spaces of its own and without a network, with or without systemd as process 1 (see `throwaway-root.sh`). The machine
//! itself is never written to. Needs root; where it is not possible, says so and gives nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What `throwaway-root.sh` ends with when the machine can't do it.
const NOT_POSSIBLE: i32 = 77;

/// Longer than any test needs, in seconds: a minute of cron's, and what a busy machine takes besides.
const DEADLINE_S: &str = "300";

/// A throw-away machine that can be started, once or several times; each start begins with this machine as it is.
#[derive(Debug)]
pub struct Throwaway {
    host: TempDir,
}

impl Throwaway {
    /// Makes the shared directory, empty.
    ///
    /// # Panics
    /// When there is no directory for it.
    #[expect(
        clippy::new_without_default,
        reason = "it makes a directory, which a default value should not do"
    )]
    pub fn new() -> Self {
        let host = tempfile::Builder::new()
            .prefix("throwaway-")
            .tempdir_in("/tmp")
            .expect("a directory to share");
        Self { host }
    }

    /// The directory that the throw-away machine sees as `/host`: scripts and programs go in, results come out.
    pub fn host(&self) -> &Path {
        self.host.path()
    }

    /// Makes `program` available as `/host/NAME`.
    ///
    /// # Panics
    /// When it can't be copied.
    pub fn share(&self, program: &Path, name: &str) -> PathBuf {
        let to = self.host().join(name);
        std::fs::copy(program, &to).expect("a copy to share");
        to
    }

    /// Runs a bash script as root in the machine; nothing when that is not possible here.
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
        output.stdout = std::fs::read(self.host().join("stdout")).unwrap_or_default();
        output
            .stderr
            .extend(std::fs::read(self.host().join("stderr")).unwrap_or_default());
        Some(output)
    }

    fn start(&self, mode: &str, script: &str) -> Output {
        std::fs::write(self.host().join("script"), script).expect("a script to run");
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("throwaway-root.sh");
        let output = Command::new("timeout")
            .args(["--kill-after=5", DEADLINE_S, "bash"])
            .arg(starter)
            .arg(mode)
            .arg(self.host())
            .args(["bash", "-euo", "pipefail", "/host/script"])
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
        // Straight to stderr: the test harness captures only what the print macros write, and a skip must be seen.
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().last().unwrap_or_default();
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no throw-away machine: {reason}"
        );
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
