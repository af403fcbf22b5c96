//! Ansible as a controller that is also the host, with this project's collection and nothing of the machine's own settings.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::skip::skipped;

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
}
