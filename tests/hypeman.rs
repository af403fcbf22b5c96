//! The hypeman engine from the command line, against a fake server: what is snapshotted, what is never lost, and what
//! a server may answer without anything being retired.

#![cfg(test)]

use assert_cmd::Command;
use chrono::TimeDelta;
use serde_json::{Value, json};
use support::cli::{Host, Said, now, said};
use support::fake_hypeman::{Answer, FakeHypeman, Fault, KEY, World};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// A host whose engine is a server with one running instance, [`ID`].
struct Api {
    host: Host,
    server: FakeHypeman,
}

impl Api {
    fn new() -> Self {
        let server = FakeHypeman::start();
        server.world().set_state(ID, "Running");
        Self {
            host: Host::new(env!("CARGO_BIN_EXE_hypeman-snap")),
            server,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command();
        command
            .env("HYPEMAN_BASE_URL", self.server.url())
            .env("HYPEMAN_API_KEY", KEY)
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        said(&mut self.command(args))
    }

    /// An hourly schedule of `id` that keeps `max_count` snapshots and is due since five minutes.
    fn due(&self, id: &str, max_count: u64) {
        let at = |minutes| (now() - TimeDelta::minutes(minutes)).to_rfc3339();
        let schedule = json!({
            "instance_id": id,
            "interval": "1h0m0s",
            "retention": {"max_count": max_count},
            "next_run_at": at(5),
            "created_at": at(600),
            "updated_at": at(600),
        });
        self.host.write_schedule(id, schedule.to_string());
    }

    /// The names of the server's snapshots of `id`, in the order of their making.
    fn names(&self, id: &str) -> Vec<String> {
        let world = self.server.world();
        world
            .snapshots
            .iter()
            .filter(|snapshot| snapshot["source_instance_id"] == id)
            .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn requests(&self, start: &str) -> usize {
        self.server.world().lines(start).len()
    }
}

fn scheduled_tags(id: &str) -> Value {
    json!({"hypeman.scheduled": "true", "hypeman.schedule_instance_id": id})
}

#[test]
fn an_instance_of_the_server_is_scheduled_and_snapshotted() {
    let api = Api::new();
    let name = format!("name-of-{ID}");
    api.run(&[
        "set",
        &name,
        "--interval",
        "1h",
        "--max-count",
        "2",
        "--metadata",
        "team=infra",
    ])
    .exits(0)
    .is_content();
    assert_eq!(api.host.schedule(ID)["instance_id"], ID);

    let report = api
        .run(&["run-due", "--force", "-o", "json"])
        .exits(0)
        .is_content();
    let report = report.json();
    let result = &report["results"][0];
    assert_eq!(result["outcome"], "snapshotted");
    assert_eq!(result["kind"], "Standby");
    assert_eq!(result["snapshot_id"], "snap001");
    assert_eq!(result["pause_ms"], Value::Null);
    let snapshot = api.server.world().snapshots[0].clone();
    assert_eq!(snapshot["name"], result["snapshot_name"]);
    let tags = json!({
        "team": "infra", "hypeman.scheduled": "true", "hypeman.schedule_instance_id": ID,
    });
    assert_eq!(snapshot["tags"], tags);
    assert_eq!(api.host.schedule(ID)["last_snapshot_id"], "snap001");

    let shown = api.run(&["snapshots", "-o", "json"]).exits(0).json();
    assert_eq!(shown[0]["id"], "snap001");
    assert_eq!(shown[0]["source_instance_id"], ID);
}

#[test]
fn a_stopped_instance_gives_a_snapshot_of_its_disks() {
    let api = Api::new();
    api.server.world().set_state(ID, "Stopped");
    api.due(ID, 2);
    let report = api.run(&["run-due", "-o", "json"]).exits(0).json();
    assert_eq!(report["results"][0]["kind"], "Stopped");
}

#[test]
fn a_server_takes_no_disks_of_a_guest_that_runs() {
    let api = Api::new();
    api.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "2",
        "--no-memory",
    ])
    .exits(2)
    .complains(&["--no-memory", "--engine local"]);
    // Declared with the local engine, say.
    api.due(ID, 2);
    let path = api
        .host
        .state_dir()
        .join(format!("snapshot-schedules/{ID}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut schedule: Value = serde_json::from_str(&text).unwrap();
    schedule["no_memory"] = true.into();
    std::fs::write(&path, schedule.to_string()).unwrap();
    api.run(&["run-due"]).exits(1).complains(&["--no-memory"]);
    assert_eq!(api.names(ID), Vec::<String>::new());
    api.run(&["set", ID, "--update", "--no-memory=false"])
        .exits(0);
    api.run(&["run-due", "--force"]).exits(0);
    assert_eq!(api.names(ID).len(), 1);
}

#[test]
fn snapshots_of_a_server_are_taken_protected_and_deleted_by_name() {
    let api = Api::new();
    api.run(&["snapshot", ID, "--name", "before-5-0"]).exits(0);
    api.due(ID, 1);
    for _ in 0..2 {
        let forced = ["run-due", "--force", "--protect", "-o", "json"];
        api.run(&forced).exits(0);
    }
    assert_eq!(api.names(ID).len(), 3, "both scheduled ones are protected");
    api.run(&["delete-snapshot", "--yes", "before-5-0"])
        .exits(0);
    let scheduled = api.names(ID);
    assert_eq!(scheduled.len(), 2);
    api.run(&["delete-snapshot", "--yes", &scheduled[0]])
        .exits(2)
        .complains(&["is protected"]);
    api.run(&["unprotect", &scheduled[0]]).exits(0);
    api.run(&["prune"]).exits(0);
    assert_eq!(api.names(ID), scheduled[1..]);
}

#[test]
fn an_idle_run_asks_the_server_for_nothing() {
    let api = Api::new();
    api.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    let before = api.requests("");
    // Not even its key and its certificates are looked at.
    let mut command = api.command(&["run-due", "--ca-file", "/nonexistent/ca.pem"]);
    command.env("HYPEMAN_API_KEY", "");
    command.env("HYPEMAN_API_KEY_FILE", "/nonexistent/key");
    let idle = said(&mut command).exits(0).is_content();
    assert_eq!(idle.stdout, "");
    assert_eq!(api.requests(""), before);
}

#[test]
fn the_store_is_listed_once_per_run_however_many_instances_are_due() {
    let api = Api::new();
    let ids: Vec<String> = (0..7).map(|n| format!("vm{n}")).collect();
    for id in &ids {
        api.server.world().set_state(id, "Running");
        api.due(id, 1);
    }
    api.run(&["run-due"]).exits(0);
    for id in &ids {
        assert_eq!(api.names(id).len(), 1);
    }
    assert_eq!(api.requests("GET /snapshots"), 1);
    assert_eq!(api.requests("POST "), 7);
    // And besides, for each: the instance, and whether the server has a schedule for it.
    assert_eq!(api.requests(""), 1 + 7 * 3);
}

#[test]
fn a_lost_answer_makes_exactly_one_snapshot() {
    for fault in [Fault::LoseAnswer, Fault::CutAnswer] {
        let api = Api::new();
        api.due(ID, 5);
        let post = format!("POST /instances/{ID}/snapshots");
        api.server.world().fail(&post, fault);
        api.run(&["run-due"])
            .exits(0)
            .complains(&["was made, although", "broke before"]);
        assert_eq!(api.names(ID).len(), 1);
        assert_eq!(api.host.schedule(ID)["last_snapshot_id"], "snap001");
        api.run(&["run-due"]).exits(0).is_content();
        assert_eq!(api.names(ID).len(), 1);
        assert_eq!(api.requests(&post), 1);
    }
}

#[test]
fn an_answer_of_somebody_in_between_makes_exactly_one_snapshot() {
    for answer in [
        Answer::text(408, "text/plain", "request timeout"),
        Answer::text(201, "text/html", "<html>your session has ended</html>"),
        Answer::text(201, "text/plain", "created"),
        Answer::text(502, "text/html", "<html>bad gateway</html>"),
        Answer::text(504, "", ""),
    ] {
        let api = Api::new();
        api.due(ID, 5);
        let name = |body: &str| {
            let body: Value = serde_json::from_str(body).unwrap();
            body["name"].as_str().unwrap().to_owned()
        };
        // The server carries it out under the name that it was asked for.
        let make = move |world: &mut World| {
            let name = name(&world.requests.last().unwrap().body);
            world.make_snapshot(ID, "Standby", &name, &scheduled_tags(ID));
        };
        let post = format!("POST /instances/{ID}/snapshots");
        api.server.world().fail(&post, Fault::after(make, answer));
        api.run(&["run-due"])
            .exits(0)
            .complains(&["was made, although"]);
        assert_eq!(api.host.schedule(ID)["last_snapshot_id"], "snap001");
        api.run(&["run-due"]).exits(0).is_content();
        assert_eq!(api.names(ID).len(), 1);
        assert_eq!(api.requests(&post), 1);
    }
}

#[test]
fn prune_asks_only_for_instances_that_are_not_listed_and_have_snapshots() {
    let api = Api::new();
    let tags = scheduled_tags;
    for n in 0..30 {
        let listed = format!("listed{n}");
        api.server.world().set_state(&listed, "Running");
        api.due(&listed, 1);
        for _ in 0..2 {
            let mut world = api.server.world();
            world.make_snapshot(&listed, "Standby", &format!("s{n}"), &tags(&listed));
        }
        api.due(&format!("empty{n}"), 1);
    }
    api.due("gone", 1);
    for n in 0..3 {
        let mut world = api.server.world();
        world.make_snapshot("gone", "Standby", &format!("s{n}"), &tags("gone"));
    }
    api.run(&["prune"]).exits(0).is_content();
    let world = api.server.world();
    assert_eq!(world.lines("GET /instances/"), ["GET /instances/gone"]);
    assert_eq!(world.lines("GET ").len(), 3, "and one list of each");
    assert_eq!(world.lines("DELETE ").len(), 32);
}

#[test]
fn a_snapshot_that_a_killed_run_had_asked_for_is_not_made_twice() {
    let api = Api::new();
    api.due(ID, 5);
    let mut schedule = api.host.schedule(ID);
    let at = now().to_rfc3339();
    schedule["attempt"] = json!({
        "run_at": at, "snapshot_name": "scheduled-20260902-031520", "tries": 1, "started_at": at,
    });
    api.host.write_schedule(ID, schedule.to_string());
    let tags = scheduled_tags(ID);
    // The server finishes it between the run's look at the list and its own request.
    let finish = move |world: &mut World| {
        world.make_snapshot(ID, "Standby", "scheduled-20260902-031520", &tags);
    };
    let taken = Answer::error(409, "conflict", "snapshot name already exists");
    let post = format!("POST /instances/{ID}/snapshots");
    api.server.world().fail(&post, Fault::after(finish, taken));
    api.run(&["run-due"])
        .exits(0)
        .complains(&["was there already"]);
    assert_eq!(api.names(ID), ["scheduled-20260902-031520"]);
    assert_eq!(api.host.schedule(ID)["last_snapshot_id"], "snap001");
}

#[test]
fn a_guest_that_the_server_left_suspended_runs_again() {
    let api = Api::new();
    api.due(ID, 5);
    let suspend = |world: &mut World| world.set_state(ID, "Standby");
    let failure = Answer::error(500, "internal_error", "operation failed");
    let post = format!("POST /instances/{ID}/snapshots");
    api.server
        .world()
        .fail(&post, Fault::after(suspend, failure));
    api.run(&["run-due"])
        .exits(1)
        .complains(&["was not made", "operation failed", "woken again"]);
    assert_eq!(api.server.world().instances[ID].1, "Running");
}

/// A run over a schedule whose instance has been gone for long, if the server may be believed.
fn run_with_little_patience(api: &Api) -> Said {
    api.due(ID, 5);
    let mut schedule = api.host.schedule(ID);
    schedule["missing_since"] = json!((now() - TimeDelta::days(9)).to_rfc3339());
    api.host.write_schedule(ID, schedule.to_string());
    api.run(&["run-due", "--missing-grace", "0s"])
}

#[test]
fn only_the_contracts_own_not_found_retires_a_schedule() {
    let gone = Api::new();
    gone.server.world().instances.clear();
    run_with_little_patience(&gone).exits(0);
    assert!(!gone.host.schedule_path(ID).exists());

    let cases: Vec<(Answer, &str)> = vec![
        (Answer::error(401, "Unauthorized", "no"), "API key is wrong"),
        (Answer::error(403, "Forbidden", "no"), "lacks a permission"),
        (Answer::error(500, "internal_error", "no"), "internal_error"),
        (Answer::text(502, "text/html", "<html>"), "HTML page"),
        (Answer::text(200, "text/html", "<html>"), "login page?"),
        (
            Answer::text(200, "application/json", "[]"),
            "not the hypeman API's",
        ),
        (
            Answer::text(404, "text/plain", "404 page not found"),
            "is the base URL right",
        ),
        (
            Answer::error(404, "no_such_bucket", "not found"),
            "no_such_bucket",
        ),
        (Answer::error(410, "gone", "not here"), "410 Gone"),
        (
            Answer::text(302, "", "").with("Location", "https://sso.example/"),
            "sso.example",
        ),
    ];
    for (answer, words) in cases {
        let api = Api::new();
        api.server.world().instances.clear();
        for _ in 0..4 {
            api.server.world().fail("GET /instances/*", answer.clone());
        }
        run_with_little_patience(&api).exits(1).complains(&[words]);
        assert!(api.host.schedule_path(ID).exists(), "{words}");
    }
}

#[test]
fn an_unreachable_server_retires_nothing() {
    let api = Api::new();
    let Api { host, server } = api;
    let url = server.url();
    drop(server);
    let mut schedule = json!({
        "instance_id": ID, "interval": "1h0m0s", "retention": {"max_count": 1},
        "next_run_at": "2026-09-01T00:00:00Z", "missing_since": "2026-09-01T00:00:00Z",
        "created_at": "2026-09-01T00:00:00Z", "updated_at": "2026-09-01T00:00:00Z",
    });
    for id in ["vm1", "vm2", "vm3"] {
        schedule["instance_id"] = json!(id);
        host.write_schedule(id, schedule.to_string());
    }
    let mut command = host.command();
    command.env("HYPEMAN_API_KEY", KEY).args([
        "run-due",
        "--missing-grace",
        "0s",
        "--base-url",
        &url,
    ]);
    said(&mut command)
        .exits(1)
        .complains(&["can't be reached", &url, "vm1", "vm2", "vm3"]);
    for id in ["vm1", "vm2", "vm3"] {
        assert!(host.schedule_path(id).exists());
    }
}

#[test]
fn retention_deletes_the_oldest_scheduled_snapshots_on_the_server() {
    let api = Api::new();
    {
        let mut world = api.server.world();
        for (name, days) in [("old-1", 5), ("old-2", 4), ("old-3", 3)] {
            world.make_snapshot(ID, "Standby", name, &scheduled_tags(ID));
            let last = world.snapshots.last_mut().unwrap();
            last["created_at"] = json!((now() - TimeDelta::days(days)).to_rfc3339());
        }
        world.make_snapshot(ID, "Standby", "by-hand", &json!({"team": "infra"}));
        world.make_snapshot("other", "Standby", "others", &scheduled_tags("other"));
    }
    api.due(ID, 2);
    let report = api.run(&["run-due", "-o", "json"]).exits(0).json();
    assert_eq!(
        report["results"][0]["pruned"],
        json!(["snap001", "snap002"])
    );
    let names = api.names(ID);
    assert_eq!(names[..2], ["old-3", "by-hand"]);
    assert_eq!(names.len(), 3);
    assert_eq!(api.names("other"), ["others"]);
    assert_eq!(api.requests("DELETE "), 2);

    api.due(ID, 1);
    let pruned = api.run(&["prune", ID, "-o", "json"]).exits(0).json();
    assert_eq!(pruned["results"][0]["pruned"], json!(["snap003"]));
}

#[test]
fn a_second_scheduler_is_warned_about() {
    let api = Api::new();
    let schedule = json!({"instance_id": ID, "interval": "24h0m0s", "retention": {}});
    api.server.world().schedules = Some([(ID.to_owned(), schedule)].into());
    let words = ["schedule of its own", "24h0m0s", "two schedulers"];
    api.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0)
        .complains(&words);
    api.due(ID, 2);
    api.run(&["run-due"]).exits(0).complains(&words);
    assert_eq!(api.names(ID).len(), 1);

    api.server.world().schedules = None;
    api.due(ID, 2);
    api.run(&["run-due"]).exits(0).is_content();
}

#[test]
fn plain_http_does_not_leave_this_host() {
    let api = Api::new();
    let refused = |args: &[&str]| {
        let mut command = api.host.command();
        command.env("HYPEMAN_API_KEY", KEY).args(args);
        said(&mut command)
    };
    // A network that is reserved for documentation: nobody answers there.
    refused(&["list", "--base-url", "http://192.0.2.1:8080"]).exits(0);
    api.due(ID, 1);
    refused(&["run-due", "--base-url", "http://192.0.2.1:8080"])
        .exits(1)
        .complains(&["plain text", "--insecure-http"]);
}
