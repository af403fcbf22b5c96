//! Ansible as a controller that is also the host, with this project's collection and nothing of the machine's own settings.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::guests::write_stopped;
use super::skip::skipped;
use super::throwaway::{Throwaway, text};

/// The repository's `contrib/ansible`.
pub fn collection() -> PathBuf {
    repository().join("contrib/ansible")
}

fn repository() -> PathBuf {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = support.join("../..").canonicalize();
    repository.expect("the repository")
}

/// Where `contrib/test.sh` puts ansible-core and ansible-lint; else they may be on the path.
fn ansible_bin() -> Option<PathBuf> {
    let own = repository().join("target/ansible/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A virtual environment dies with its Python.
    let own = Some(own).filter(|directory| directory.join("python3").exists());
    let found = own
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|directory| {
            ["ansible-playbook", "ansible-lint"]
                .iter()
                .all(|program| directory.join(program).exists())
        });
    if found.is_none() {
        skipped(
            "Ansible: run python3 -m venv target/ansible && target/ansible/bin/pip install ansible-core ansible-lint",
        );
    }
    found
}

/// A controller; its directory goes when it is dropped.
#[derive(Debug)]
pub struct Controller {
    bin: PathBuf,
    dir: TempDir,
}

impl Controller {
    /// Makes a directory in which Ansible finds the collection; nothing where there is no Ansible.
    ///
    /// # Panics
    /// When the directory can't be made.
    pub fn create() -> Option<Self> {
        let bin = ansible_bin()?;
        let dir = tempfile::tempdir().expect("a directory for Ansible");
        let collections = dir.path().join("ansible_collections/hypeman");
        std::fs::create_dir_all(&collections).expect("a directory for collections");
        symlink(collection(), collections.join("snap")).expect("a link to the collection");
        Some(Self { bin, dir })
    }

    /// Where Ansible's programs are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A path in a directory of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One of Ansible's programs, arguments still to come.
    pub fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.bin.join(program));
        command
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .env("ANSIBLE_COLLECTIONS_PATH", self.dir.path())
            .env("ANSIBLE_LOCALHOST_WARNING", "false")
            .env("ANSIBLE_PIPELINING", "true")
            .env("ANSIBLE_NOCOLOR", "1")
            .env("NO_COLOR", "1")
            .env_remove("ANSIBLE_CONFIG")
            .current_dir(self.dir.path());
        command
    }

    /// Runs one of the collection's modules once, with these options and with flags such as `--check`.
    ///
    /// # Panics
    /// When Ansible can't be started.
    pub fn module(&self, name: &str, options: &Value, flags: &[&str]) -> Ran {
        let output = self
            .command("ansible")
            .args(["localhost", "-m", &format!("hypeman.snap.{name}")])
            .args(["-a", &options.to_string()])
            .args(flags)
            .output()
            .expect("ansible starts");
        Ran::of(&output)
    }
}

/// What the module answered, and all that Ansible showed.
#[derive(Debug)]
pub struct Ran {
    /// Whether the module failed.
    pub has_failed: bool,
    /// Its answer.
    pub answer: Value,
    /// Everything that was printed.
    pub shown: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let shown = text(output);
        let stdout = String::from_utf8_lossy(&output.stdout);
        // `localhost | CHANGED => {…}`, with a difference or a warning above it.
        let (_, answer) = stdout
            .split_once("localhost | ")
            .unwrap_or_else(|| panic!("no answer in {shown}"));
        let (status, answer) = answer.split_once(" => ").expect("an answer");
        Self {
            has_failed: status == "FAILED!",
            answer: serde_json::from_str(answer).expect("an answer in JSON"),
            shown,
        }
    }

    /// Whether it changed anything.
    ///
    /// # Panics
    /// When it failed.
    pub fn changed(&self) -> bool {
        assert!(!self.has_failed, "{}", self.shown);
        self.answer["changed"]
            .as_bool()
            .expect("whether it changed anything")
    }
}

/// Sets a host up from nothing and again, each time with what Ansible says about it in `$SHARED/NAME`.
const ROLE: &str = r#"
export PATH="$BIN:$PATH" HOME=/root LC_ALL=C.UTF-8 ANSIBLE_COLLECTIONS_PATH="$SHARED/collections" ANSIBLE_NOCOLOR=1
export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_PIPELINING=true
rm -rf /etc/cron.d/hypeman-snap /etc/default/hypeman-snap /etc/credstore
play() {
  local name=$1
  shift
  ansible-playbook --diff "$@" "$SHARED/site.yml" >"$SHARED/$name" 2>&1 || { cat "$SHARED/$name" >&2; exit 1; }
}
"#;

/// A machine with the collection as `ansible-galaxy` installs it from the repository, the tool as `$SHARED/hypeman-snap`, and
/// one VM in `$SHARED/vms`; with the beginning of the script to run in it, which has `play NAME FLAG…` for the playbook
/// `$SHARED/site.yml`. Nothing where there is no Ansible.
///
/// # Panics
/// When the collection can't be installed.
pub fn role_machine(tool: &str) -> Option<(Throwaway, String)> {
    let controller = Controller::create()?;
    let machine = Throwaway::create();
    machine.share(Path::new(tool), "hypeman-snap");
    let installed = controller
        .command("ansible-galaxy")
        .env_remove("ANSIBLE_COLLECTIONS_PATH")
        .args(["collection", "install", "--offline", "--collections-path"])
        .arg(machine.shared().join("collections"))
        .arg(collection())
        .output()
        .expect("ansible-galaxy starts");
    assert!(installed.status.success(), "{}", text(&installed));
    write_stopped(&machine.shared().join("vms"), "web0", "web");
    let script = format!("BIN='{}'\n{ROLE}", controller.bin().display());
    Some((machine, script))
}

/// What a play showed, which must not have failed, and how many tasks changed something.
///
/// # Panics
/// When it failed.
pub fn play(machine: &Throwaway, name: &str) -> (String, u32) {
    let shown = machine.read(name);
    let recap = shown
        .lines()
        .find(|line| line.starts_with("localhost") && line.contains("changed="))
        .unwrap_or_else(|| panic!("no recap in {shown}"));
    let number = |key: &str| -> u32 {
        let (_, behind) = recap.split_once(key).expect("a number in the recap");
        behind
            .split(' ')
            .next()
            .and_then(|it| it.parse().ok())
            .expect("a number in the recap")
    };
    assert_eq!(number("failed="), 0, "{shown}");
    let changed = number("changed=");
    (shown, changed)
}

/// Asserts which plays changed something and which did not.
///
/// # Panics
/// When one failed or did the other thing.
pub fn plays(machine: &Throwaway, changing: &[&str], idle: &[&str]) {
    for name in changing {
        let (shown, changed) = play(machine, name);
        assert!(changed > 0, "{name}: {shown}");
    }
    for name in idle {
        let (shown, changed) = play(machine, name);
        assert_eq!(changed, 0, "{name}: {shown}");
    }
}
