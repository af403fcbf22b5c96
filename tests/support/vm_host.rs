//! A host with one real VM that the tool looks after: state and data directories, the VM, its registration and its
//! schedule, and the tool's command line.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::qemu::{TestVm, VmOptions};

/// The instance's id.
pub const ID: &str = "vm-under-test";

/// A host with one VM. Everything goes when it is dropped.
#[derive(Debug)]
pub struct VmHost {
    binary: PathBuf,
    state: PathBuf,
    data: PathBuf,
    /// Where the VM's QEMU finds its libraries, if that is not where they are found anyway.
    libraries: Option<OsString>,
    /// The VM.
    pub vm: TestVm,
    _root: TempDir,
}

impl VmHost {
    /// Boots a VM whose disks and snapshots live below `parent`, and registers it. `binary` is the tool.
    ///
    /// # Panics
    /// When the VM does not come up or the tool refuses it.
    pub fn boot(binary: &str, parent: &Path, change: impl FnOnce(&mut VmOptions)) -> Self {
        let root = tempfile::Builder::new()
            .prefix("host-")
            .tempdir_in(parent)
            .expect("a directory for the host");
        let disks = root.path().join("disks");
        fs::create_dir(&disks).expect("a directory for disks");
        let mut options = VmOptions::new(&disks);
        change(&mut options);
        let vm = TestVm::boot(&options);
        let host = Self {
            binary: binary.into(),
            state: root.path().join("state"),
            data: root.path().join("data"),
            libraries: vm.variable("LD_LIBRARY_PATH"),
            vm,
            _root: root,
        };
        let socket = host
            .vm
            .socket()
            .to_str()
            .expect("a path in UTF-8")
            .to_owned();
        host.tool_ok(&["register", ID, "--hypervisor", "qemu", "--socket", &socket]);
        host
    }

    /// Puts the VM on a schedule that is not due.
    ///
    /// # Panics
    /// When the tool refuses.
    pub fn schedule(&self, max_count: u32) {
        let count = max_count.to_string();
        self.tool_ok(&["set", ID, "--interval", "1h", "--max-count", &count]);
    }

    /// The tool's environment, arguments still to come.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        self.environment(&mut command);
        command
    }

    /// Gives `command` the environment in which the tool works on this host.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("HYPEMAN_SNAP_STATE_DIR", &self.state)
            .env("HYPEMAN_SNAP_DATA_DIR", &self.data)
            .env_remove("HYPEMAN_BASE_URL")
            .env_remove("HYPEMAN_SNAP_ENGINE");
        // The tool starts QEMU itself, without the wrapper of one that was only unpacked.
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
    }

    /// The tool itself.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The tool's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// hypeman's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Runs the tool.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn tool(&self, arguments: &[&str]) -> Output {
        self.command()
            .args(arguments)
            .output()
            .expect("the tool starts")
    }

    /// Runs the tool, which must succeed, and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn tool_ok(&self, arguments: &[&str]) -> String {
        let output = self.tool(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("output in UTF-8")
    }

    /// Runs the tool with JSON output, which must succeed.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.tool_ok(&[&["--output", "json"], arguments].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// The file of the instance's schedule.
    pub fn schedule_file(&self) -> PathBuf {
        self.state.join(format!("snapshot-schedules/{ID}.json"))
    }

    /// The instance's schedule as it is on disk.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn read_schedule(&self) -> Value {
        let text = fs::read_to_string(self.schedule_file()).expect("a schedule file");
        serde_json::from_str(&text).expect("a schedule in JSON")
    }

    /// Sets the next run to long ago, so that the next `run-due` serves it.
    ///
    /// # Panics
    /// When there is no schedule.
    pub fn make_due(&self) {
        let mut schedule = self.read_schedule();
        schedule["next_run_at"] = "2026-01-01T00:00:00Z".into();
        fs::write(self.schedule_file(), schedule.to_string()).expect("a schedule that is due");
    }

    /// Makes the instance due and runs `run-due`, which must succeed; gives the instance's result.
    ///
    /// # Panics
    /// When the run fails or did nothing for the instance.
    pub fn snapshot(&self) -> Value {
        self.make_due();
        let report = self.json(&["run-due"]);
        let result = report["results"][0].clone();
        assert_eq!(result["outcome"], "snapshotted", "{report}");
        result
    }

    /// The snapshots that are there, oldest first.
    ///
    /// # Panics
    /// When they can't be listed.
    pub fn snapshots(&self) -> Vec<Value> {
        let mut all = self
            .json(&["snapshots"])
            .as_array()
            .expect("an array")
            .clone();
        all.sort_by_key(|snapshot| snapshot["created_at"].to_string());
        all
    }

    /// A snapshot's directory.
    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.data.join("snapshots").join(id)
    }

    /// What is in the snapshot store, staging and trash included.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn store_names(&self) -> Vec<String> {
        names_in(&self.data.join("snapshots"))
    }

    /// The journals of runs that are not finished.
    ///
    /// # Panics
    /// When they can't be read.
    pub fn journals(&self) -> Vec<String> {
        names_in(&self.state.join("journal"))
    }

    /// The disk copies of a snapshot, in the guest's order.
    ///
    /// # Panics
    /// When the snapshot has no manifest.
    pub fn disk_copies(&self, id: &str) -> Vec<PathBuf> {
        let guest = self.snapshot_dir(id).join("guest");
        let manifest = fs::read_to_string(guest.join("hypeman-snap.json")).expect("a manifest");
        let manifest: Value = serde_json::from_str(&manifest).expect("a manifest in JSON");
        let copy_of = |disk: &PathBuf| {
            let entry = manifest["disks"]
                .as_array()
                .expect("disks")
                .iter()
                .find(|entry| entry["source"] == disk.to_str().expect("a path in UTF-8"))
                .unwrap_or_else(|| panic!("no copy of {} in {manifest}", disk.display()));
            guest.join(entry["file"].as_str().expect("a file"))
        };
        self.vm.disks().iter().map(copy_of).collect()
    }

    /// Starts a second VM from a snapshot, on copies of its disks below `dir`, so that the snapshot stays as it is.
    ///
    /// # Panics
    /// When QEMU refuses the saved state.
    pub fn restore(&self, id: &str, dir: &Path) -> TestVm {
        let disks: Vec<PathBuf> = self
            .disk_copies(id)
            .iter()
            .map(|copy| {
                let to = dir.join(copy.file_name().expect("a file name"));
                fs::copy(copy, &to).expect("a copy of the disk copy");
                to
            })
            .collect();
        let memory = self
            .snapshot_dir(id)
            .join("guest/snapshots/snapshot-latest/memory");
        let mut options = self.vm.options().clone();
        options.socket = None;
        TestVm::restore(&options, &memory, &disks)
    }

    /// Asserts that the snapshot is whole: the restored guest goes on counting from the counter that its disks hold,
    /// and finds RAM and disks at the same instant. The first count that it prints may be one that its disks hold
    /// already: it prints a count when all disks have it, and the snapshot may have come between.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_goes_on(&self, id: &str) {
        let scratch = tempfile::tempdir().expect("a directory for copies");
        let options = self.vm.options();
        let saved: Vec<u64> = self
            .disk_copies(id)
            .iter()
            .map(|copy| options.disk_format.counter(copy))
            .collect();
        let restored = self.restore(id, scratch.path());
        let first = restored.wait_ticks_beyond(0);
        let saved_at_most = saved.iter().max().copied().unwrap_or(0);
        assert!(
            saved_at_most > 0 && first >= saved_at_most,
            "goes on at {first}, its disks hold {saved:?}"
        );
        restored.wait_ticks_beyond(first + 100);
        assert_eq!(restored.torn_lines(), Vec::<String>::new());
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("a directory entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}
