//! `restore` with the hypeman engine: the server deletes what is there before it copies, so that only an instance at rest
//! is given to it, and only behind a snapshot of what is there.

#![cfg(test)]

use serde_json::{Value, json};
use support::cli::{Host, Said, said};
use support::fake_hypeman::{Answer, FakeHypeman, Fault, KEY};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// A host whose engine is a server with the instance [`ID`] and two snapshots of it, the older with memory.
struct Api {
    host: Host,
    server: FakeHypeman,
}

impl Api {
    fn new(state: &str) -> Self {
        let server = FakeHypeman::start();
        {
            let mut world = server.world();
            world.set_state(ID, state);
            world.make_snapshot(ID, "Standby", "with-memory", &json!({}));
            world.make_snapshot(ID, "Stopped", "disks", &json!({}));
        }
        Self {
            host: Host::new(env!("CARGO_BIN_EXE_hypeman-snap")),
            server,
        }
    }

    fn restore(&self, args: &[&str]) -> Said {
        let mut command = self.host.command();
        command
            .env("HYPEMAN_BASE_URL", self.server.url())
            .env("HYPEMAN_API_KEY", KEY)
            .args(["-o", "json", "restore", ID]);
        said(command.args(args))
    }

    fn state(&self) -> String {
        self.server.world().instances[ID].1.clone()
    }

    fn names(&self) -> Vec<String> {
        let world = self.server.world();
        let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
        world.snapshots.iter().map(name).collect()
    }

    /// What changed something, as method, last part of the path, and body.
    fn changes(&self) -> Vec<(String, Value)> {
        let world = self.server.world();
        let changes = world.requests.iter();
        changes
            .filter(|request| !request.line.starts_with("GET "))
            .map(|request| {
                let method = request.line.split(' ').next().unwrap();
                let last = request.line.rsplit('/').next().unwrap();
                let body = serde_json::from_str(&request.body).unwrap_or_default();
                (format!("{method} {last}"), body)
            })
            .collect()
    }

    fn restored(&self) -> Option<String> {
        self.server.world().restored.get(ID).cloned()
    }
}

#[test]
fn what_is_there_is_snapshotted_first_and_the_state_is_said_to_the_server() {
    for (state, snapshot, flags, kind, target) in [
        (
            "Stopped",
            "with-memory",
            &["--start"][..],
            "Stopped",
            "Running",
        ),
        ("Standby", "with-memory", &[], "Standby", "Standby"),
        (
            "Standby",
            "with-memory",
            &["--disks-only"],
            "Standby",
            "Stopped",
        ),
        ("Stopped", "disks", &[], "Stopped", "Stopped"),
        ("Standby", "disks", &["--start"], "Standby", "Running"),
    ] {
        let api = Api::new(state);
        let said = api.restore(&[&[snapshot], flags].concat()).exits(0);
        let json = said.json();
        let changes = api.changes();
        let lines: Vec<&str> = changes.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(
            lines,
            ["POST snapshots", "POST restore"],
            "{snapshot} {flags:?}"
        );
        assert_eq!(changes[0].1["kind"], kind);
        assert_eq!(changes[1].1, json!({ "target_state": target }));
        assert_eq!(api.state(), target);
        let before = json["before_snapshot_name"].as_str().unwrap();
        assert!(before.starts_with("before-restore-"), "{json}");
        assert_eq!(*api.names().last().unwrap(), before);
        let started = flags.contains(&"--start");
        assert_eq!(json["started"], started, "{json}");
        let is_behind = json["clock_behind_seconds"].is_u64();
        assert_eq!(is_behind, started && snapshot == "with-memory", "{json}");
    }
}

#[test]
fn the_newest_is_not_what_an_earlier_restore_kept_and_that_one_is_the_way_back() {
    let api = Api::new("Stopped");
    let first = api.restore(&["latest"]).exits(0).json();
    assert_eq!(first["snapshot_name"], "disks");
    let again = api.restore(&["latest"]).exits(0).json();
    assert_eq!(again["snapshot_name"], "disks");
    let back = first["before_snapshot_name"].as_str().unwrap();
    let back = api.restore(&[back]).exits(0).json();
    assert_eq!(back["snapshot_id"], first["before_snapshot_id"], "{back}");
    assert_eq!(api.restored().as_deref(), back["snapshot_id"].as_str());
}

#[test]
fn what_was_there_is_removed_in_the_end_where_that_is_meant() {
    let api = Api::new("Stopped");
    let json = api.restore(&["disks", "--no-save"]).exits(0).json();
    assert_eq!(json["before_snapshot_id"], Value::Null);
    assert_eq!(api.names(), ["with-memory", "disks"]);
    let lines: Vec<String> = api.changes().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, ["POST snapshots", "POST restore", "DELETE snap003"]);
    // Not if it fails.
    let api = Api::new("Stopped");
    let path = format!("POST /instances/{ID}/snapshots/snap002/restore");
    let gone = Answer::error(404, "not_found", "the image is missing");
    api.server.world().fail(&path, gone);
    api.restore(&["disks", "--no-save"]).exits(1).complains(&[
        "the image is missing",
        "before-restore-",
        "snap003",
    ]);
    assert_eq!(api.names().len(), 3);
}

#[test]
fn only_an_instance_at_rest_is_given_to_the_server() {
    for state in [
        "Running",
        "Paused",
        "Initializing",
        "Created",
        "Shutdown",
        "Unknown",
    ] {
        let api = Api::new(state);
        for flags in [&[][..], &["--force"], &["--dry-run"]] {
            let said = api.restore(&[&["disks"], flags].concat()).exits(1);
            assert!(said.stdout.contains(&format!("is {state}")), "{said:?}");
        }
        assert!(api.changes().is_empty());
    }
    // One that is started while the snapshot is taken.
    let api = Api::new("Stopped");
    let made = Answer::error(500, "internal_error", "unused");
    let start = Fault::after(
        |world| {
            let name = "before-restore-by-the-test";
            world.make_snapshot(ID, "Stopped", name, &json!({}));
            world.set_state(ID, "Running");
        },
        made,
    );
    let path = format!("POST /instances/{ID}/snapshots");
    api.server.world().fail(&path, start);
    api.restore(&["disks"]).exits(1);
    assert_eq!(api.restored(), None);
}

#[test]
fn nothing_is_restored_when_what_is_there_can_not_be_kept() {
    let api = Api::new("Stopped");
    let path = format!("POST /instances/{ID}/snapshots");
    let full = Answer::error(500, "internal_error", "no space left");
    api.server.world().fail(&path, full);
    api.restore(&["disks"]).exits(1);
    assert_eq!((api.restored(), api.state()), (None, "Stopped".to_owned()));
}

#[test]
fn an_answer_that_is_lost_is_made_up_for_by_a_look_and_the_request_is_never_repeated() {
    let path = format!("POST /instances/{ID}/snapshots/snap001/restore");
    let api = Api::new("Stopped");
    api.server.world().fail(&path, Fault::LoseAnswer);
    api.restore(&["with-memory", "--start"]).exits(0);
    assert_eq!(api.state(), "Running");
    let restores = |api: &Api| {
        let changes = api.changes();
        changes
            .iter()
            .filter(|(it, _)| it == "POST restore")
            .count()
    };
    assert_eq!(restores(&api), 1);

    // The server deleted what was there, and then failed.
    let api = Api::new("Stopped");
    let deleted = Fault::after(
        |world| {
            world.instances.remove(ID);
        },
        Answer::error(500, "internal_error", "copy failed"),
    );
    api.server.world().fail(&path, deleted);
    api.restore(&["with-memory", "--start"])
        .exits(1)
        .complains(&[
            "may or may not be restored",
            "does not have it any more",
            "what was there before is snapshot before-restore-",
        ]);
    assert_eq!(restores(&api), 1);

    // Where the state does not tell, it is not taken for done.
    let api = Api::new("Stopped");
    let path = format!("POST /instances/{ID}/snapshots/snap002/restore");
    api.server.world().fail(&path, Fault::LoseAnswer);
    api.restore(&["disks"])
        .exits(1)
        .complains(&["may or may not be restored", "its state does not tell"]);
    assert_eq!(restores(&api), 1);
}

#[test]
fn what_the_server_can_not_do_is_said_before() {
    let api = Api::new("Stopped");
    api.restore(&["disks", "--to", "/tmp/nowhere"])
        .exits(2)
        .complains(&["--to", "in place only"]);
    let said = api.restore(&["with-memory", "--disks-only", "--start"]);
    assert!(said.exits(1).stdout.contains("from that alone"));
    api.server.world().instances.remove(ID);
    api.restore(&["disks"])
        .exits(3)
        .complains(&["is gone", "hypeman's own client"]);
    assert!(api.changes().is_empty());
    // A server says what it refuses.
    let api = Api::new("Standby");
    let path = format!("POST /instances/{ID}/snapshots/snap001/restore");
    let running = Answer::error(409, "invalid_state", "source instance is Running");
    api.server.world().fail(&path, running);
    api.restore(&["with-memory"])
        .exits(1)
        .complains(&["source instance is Running", "before-restore-"]);
}
