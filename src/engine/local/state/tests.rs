//! States by what stands in a guest directory and what a VMM says, and what must not be taken for `Stopped`.

use super::*;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use tempfile::TempDir;

/// A guest directory, with a metadata file that says so and a socket that is not there yet.
struct Guest {
    root: TempDir,
    whole: Value,
}

impl Guest {
    fn new() -> Self {
        // A socket's path must be short.
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let whole = json!({
            "Id": "vm1", "HypervisorType": "qemu", "DataDir": root.path(),
            "SocketPath": root.path().join("qemu.sock"),
            "ProgramStartedAt": "2026-09-01T08:00:04Z", "GuestAgentReadyAt": "2026-09-01T08:00:05Z",
        });
        Self { root, whole }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.whole[key] = value;
        self
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("qemu.sock")
    }

    fn metadata(&self) -> Metadata {
        let whole = self.whole.as_object().unwrap().clone();
        Metadata::parse(whole, &"vm1".parse().unwrap()).unwrap()
    }

    /// The state with nobody to ask.
    fn silent(&self) -> Derived {
        derive_by(
            &self.metadata(),
            Some(self.root.path()),
            |_| panic!("there is no socket, so nobody is asked"),
            &|| None,
        )
    }

    /// The state with a VMM that answers so.
    fn answering(&self, state: VmmState) -> Derived {
        fs::write(self.socket(), "").unwrap();
        derive_by(
            &self.metadata(),
            Some(self.root.path()),
            |_| {
                Ok(Answer {
                    state,
                    process: None,
                })
            },
            &|| None,
        )
    }

    fn save_state(&self) {
        let saved = self.root.path().join("snapshots/snapshot-latest");
        fs::create_dir_all(&saved).unwrap();
        fs::write(saved.join("memory"), "x").unwrap();
    }
}

fn is_unknown(derived: &Derived, says: &str) {
    assert_eq!(derived.state, State::Unknown, "{derived:?}");
    assert!(derived.note.as_ref().unwrap().contains(says), "{derived:?}");
}

#[test]
fn without_a_socket_the_saved_state_decides() {
    let guest = Guest::new();
    assert_eq!(guest.silent(), Derived::plain(State::Stopped));
    fs::create_dir_all(guest.root.path().join("snapshots/snapshot-latest")).unwrap();
    assert_eq!(guest.silent(), Derived::plain(State::Stopped));
    guest.save_state();
    assert_eq!(guest.silent(), Derived::plain(State::Standby));
    let nowhere = Guest::new().with("SocketPath", json!(""));
    assert_eq!(nowhere.silent(), Derived::plain(State::Stopped));
}

#[test]
fn the_vmm_decides_where_there_is_a_socket() {
    let guest = Guest::new();
    guest.save_state();
    for (answer, state) in [
        (VmmState::Running, State::Running),
        (VmmState::Paused, State::Paused),
        (VmmState::Created, State::Created),
        (VmmState::Shutdown, State::Shutdown),
    ] {
        assert_eq!(guest.answering(answer), Derived::plain(state));
    }
    let odd = guest.answering(VmmState::Other("io-error".to_owned()));
    is_unknown(&odd, "io-error");
}

#[test]
fn a_guest_that_has_not_reported_is_initializing() {
    for key in ["ProgramStartedAt", "GuestAgentReadyAt"] {
        let guest = Guest::new().with(key, Value::Null);
        let derived = guest.answering(VmmState::Running);
        assert_eq!(derived.state, State::Initializing, "{key}");
        assert!(derived.note.unwrap().contains("ten minutes"));
        // Only a guest that runs can be on its way.
        let paused = guest.answering(VmmState::Paused);
        assert_eq!(paused.state, State::Paused, "{key}");
    }
}

#[test]
fn after_ten_minutes_the_markers_are_not_waited_for() {
    let seconds = |seconds| booting(Some(Duration::from_secs(seconds))).state;
    assert_eq!(seconds(599), State::Initializing);
    assert_eq!(seconds(600), State::Running);
    assert_eq!(booting(None).state, State::Initializing);
    let note = booting(Some(Duration::from_secs(1900))).note.unwrap();
    assert!(note.contains("31 minutes"), "{note}");
}

#[test]
fn the_age_of_a_process_is_known() {
    let process = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(age(&process).unwrap() < Duration::from_secs(24 * 3600));
    let init = Process::of(1).unwrap();
    assert!(age(&init).unwrap() >= age(&process).unwrap());
}

#[test]
fn a_socket_that_nobody_listens_on_is_what_a_killed_vmm_leaves() {
    let guest = Guest::new();
    drop(UnixListener::bind(guest.socket()).unwrap());
    let timeouts = Timeouts {
        request: Duration::from_secs(5),
        watch: crate::interrupt::Watch::unlimited(),
    };
    let derived = derive(
        &guest.metadata(),
        Some(guest.root.path()),
        timeouts,
        &|| None,
    );
    assert_eq!(derived, Derived::plain(State::Stopped));
    fs::remove_file(guest.socket()).unwrap();
    let off = derive(
        &guest.metadata(),
        Some(guest.root.path()),
        timeouts,
        &|| None,
    );
    assert_eq!(off, Derived::plain(State::Stopped));
}

#[test]
fn a_hypervisor_without_a_driver_is_unknown() {
    for hypervisor in ["crosvm", "vz"] {
        let guest = Guest::new().with("HypervisorType", json!(hypervisor));
        fs::write(guest.socket(), "").unwrap();
        let timeouts = Timeouts {
            request: Duration::from_secs(5),
            watch: crate::interrupt::Watch::unlimited(),
        };
        is_unknown(
            &derive(
                &guest.metadata(),
                Some(guest.root.path()),
                timeouts,
                &|| None,
            ),
            hypervisor,
        );
    }
}

#[test]
fn a_guest_directory_that_was_moved_is_not_taken_for_stopped() {
    let guest = Guest::new().with("DataDir", json!("/var/lib/hypeman/guests/vm1"));
    is_unknown(&guest.silent(), "/var/lib/hypeman/guests/vm1");
    // Another way to the same directory is fine.
    let guest = Guest::new();
    let detour = guest.root.path().join("sub/..");
    fs::create_dir(guest.root.path().join("sub")).unwrap();
    let guest = guest.with("DataDir", json!(detour));
    assert_eq!(guest.silent(), Derived::plain(State::Stopped));
}

#[test]
fn a_vmm_that_lost_its_socket_is_not_taken_for_stopped() {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ticks = Process::of(i32::try_from(std::process::id()).unwrap())
        .unwrap()
        .start_ticks;
    let recorded = |ticks: u64, boot_id: &str| {
        Guest::new()
            .with("HypervisorPID", json!(std::process::id()))
            .with("HypervisorStartTime", json!(ticks))
            .with("HypervisorBootID", json!(boot_id.trim()))
    };
    is_unknown(&recorded(ticks, &boot_id).silent(), "is gone");
    for stale in [
        recorded(ticks + 1, &boot_id),
        recorded(ticks, "another-boot"),
    ] {
        assert_eq!(stale.silent(), Derived::plain(State::Stopped));
    }
}

#[test]
fn without_a_start_time_the_command_line_must_name_the_socket() {
    let guest = Guest::new();
    let mut vmm = std::process::Command::new("cat")
        .arg("-")
        .arg(guest.socket())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The kernel shows the parent's command line until the child has become another program.
    let guest = guest.with("HypervisorPID", json!(vmm.id()));
    support::wait::wait_until("the process is recognised", || {
        guest.silent().state == State::Unknown
    });
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    assert_eq!(guest.silent(), Derived::plain(State::Stopped));
    // A process that has nothing to do with it.
    let guest = guest.with("HypervisorPID", json!(std::process::id()));
    assert_eq!(guest.silent(), Derived::plain(State::Stopped));
}

#[test]
fn a_socket_that_can_not_be_looked_at_is_unknown() {
    let guest = Guest::new();
    let long = guest.root.path().join("x".repeat(300));
    let guest = guest.with("SocketPath", json!(long));
    is_unknown(&guest.silent(), "can't look at socket");
    let below_a_file = Guest::new();
    fs::write(below_a_file.socket(), "").unwrap();
}
