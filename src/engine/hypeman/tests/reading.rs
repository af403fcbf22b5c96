//! Instances, snapshots and schedules, as the server has them.

use serde_json::json;
use support::fake_hypeman::Answer;

use super::*;
use crate::snapshot::Snapshot;

#[test]
fn instances_are_listed_by_id_and_name() {
    let server = server();
    server.world().set_state("another", "Stopped");
    let mut found = engine(&server).instances().unwrap();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<(&str, &str)> = found
        .iter()
        .map(|found| (found.id.as_str(), found.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("another", "name-of-another"),
            (ID, &format!("name-of-{ID}"))
        ]
    );
}

#[test]
fn an_instance_with_an_unusable_id_does_not_hide_the_others() {
    let server = server();
    let list = json!([{"id": "../etc"}, {"name": "no id"}, 7, {"id": "good", "later": true}]);
    server
        .world()
        .fail("GET /instances", Answer::json(200, &list));
    let found = engine(&server).instances().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id.as_str(), "good");
}

#[test]
fn every_state_is_understood_and_an_unknown_one_is_told() {
    let server = server();
    let engine = engine(&server);
    for (word, state) in [
        ("Created", State::Created),
        ("Initializing", State::Initializing),
        ("Running", State::Running),
        ("Paused", State::Paused),
        ("Shutdown", State::Shutdown),
        ("Stopped", State::Stopped),
        ("Standby", State::Standby),
        ("Unknown", State::Unknown),
        ("Migrating", State::Unknown),
    ] {
        server.world().set_state(ID, word);
        let found = engine.find(&id(ID)).found().unwrap().unwrap();
        assert_eq!(found.state, state, "{word}");
        let note = found.state_note.unwrap_or_default();
        assert_eq!(note.contains("Migrating"), word == "Migrating", "{note}");
    }
}

#[test]
fn the_reason_of_a_state_is_told() {
    let server = server();
    let answer =
        json!({"id": ID, "name": "web", "state": "Unknown", "state_error": "socket is gone"});
    server
        .world()
        .fail("GET /instances/*", Answer::json(200, &answer));
    let found = engine(&server).find(&id(ID)).found().unwrap().unwrap();
    assert_eq!(found.state_note.as_deref(), Some("socket is gone"));
}

#[test]
fn an_instance_is_gone_when_the_server_says_so_in_the_contracts_words() {
    let server = server();
    assert_eq!(engine(&server).find(&id("zzz")).found().unwrap(), None);
}

#[test]
fn an_instance_is_gone_when_its_id_now_names_or_begins_another() {
    let server = server();
    let engine = engine(&server);
    // By prefix, by name, and by a prefix of several.
    assert_eq!(engine.find(&id("mk3v")).found().unwrap(), None);
    assert_eq!(
        engine.find(&id(&format!("name-of-{ID}"))).found().unwrap(),
        None
    );
    server.world().set_state("mk3v-too", "Running");
    assert_eq!(engine.find(&id("mk3v")).found().unwrap(), None);
    assert!(engine.find(&id(ID)).found().unwrap().is_some());
}

#[test]
fn an_id_stays_inside_its_path_segment() {
    let server = server();
    let engine = engine(&server);
    let odd = "a?b#c%2e%2e&d=é";
    server.world().set_state(odd, "Running");
    assert_eq!(
        engine.find(&id(odd)).found().unwrap().unwrap().id.as_str(),
        odd
    );
    assert_eq!(
        server.world().lines("GET "),
        ["GET /instances/a%3Fb%23c%252e%252e&d=%C3%A9"]
    );
}

#[test]
fn a_path_prefix_of_the_base_url_is_kept() {
    let server = server();
    let engine = engine_with(settings(&format!("{}/hypeman/", server.url())));
    engine.find(&id(ID)).found().unwrap_err();
    assert_eq!(
        server.world().lines("GET "),
        [format!("GET /hypeman/instances/{ID}")]
    );
}

#[test]
fn the_whole_store_is_one_request() {
    let server = server();
    for n in 0..50 {
        let (vm, name) = (format!("vm{n}"), format!("s-{n}"));
        server
            .world()
            .make_snapshot(&vm, "Standby", &name, &json!({"n": "1"}));
    }
    let listing = engine(&server).list().unwrap();
    assert_eq!(listing.snapshots.len(), 50);
    assert!(listing.problems.is_empty());
    assert_eq!(server.world().lines(""), ["GET /snapshots"]);
}

#[test]
fn a_snapshot_is_read_with_all_that_the_contract_tells() {
    let server = server();
    let record = json!([{
        "id": "s8p1", "name": null, "kind": "Stopped", "source_instance_id": ID,
        "source_instance_name": "web-a", "source_hypervisor": "qemu-microvm",
        "created_at": "2026-09-02T05:15:20.123456789+02:00", "size_bytes": 12_884_901_888_u64,
        "compression_state": "compressing", "compressed_size_bytes": null,
    }]);
    server
        .world()
        .fail("GET /snapshots", Answer::json(200, &record));
    assert_eq!(
        engine(&server).list().unwrap().snapshots,
        [Snapshot {
            id: "s8p1".parse().unwrap(),
            name: String::new(),
            kind: Kind::Stopped,
            consistency: crate::snapshot::Consistency::Stopped,
            tags: BTreeMap::new(),
            source_instance_id: ID.to_owned(),
            source_instance_name: "web-a".to_owned(),
            source_hypervisor: "qemu-microvm".to_owned(),
            created_at: "2026-09-02T03:15:20.123456789Z".parse().unwrap(),
            size_bytes: 12_884_901_888,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
        }]
    );
}

#[test]
fn records_that_are_not_understood_are_reported_and_hide_nothing() {
    let server = server();
    let good = server
        .world()
        .make_snapshot(ID, "Standby", "good", &json!({}));
    let changed = |field: &str, value: serde_json::Value| {
        let mut record = good.clone();
        record[field] = value;
        record["id"] = json!(format!("bad-{field}"));
        record
    };
    let records = json!([
        changed("kind", json!("Differential\u{1b}[2J")),
        changed("created_at", json!("yesterday")),
        changed("size_bytes", json!(-1)),
        {"id": "../../etc", "kind": "Standby"},
        "not even an object",
        good.clone(),
    ]);
    server
        .world()
        .fail("GET /snapshots", Answer::json(200, &records));
    let listing = engine(&server).list().unwrap();
    assert_eq!(listing.snapshots.len(), 1);
    assert_eq!(listing.problems.len(), 5, "{:?}", listing.problems);
    for (problem, name) in listing.problems.iter().zip(["bad-kind", "bad-created_at"]) {
        assert!(problem.contains(name), "{problem}");
    }
    assert!(!listing.problems.concat().contains('\u{1b}'));
}

#[test]
fn an_empty_store_may_be_written_as_null() {
    let server = server();
    for body in ["[]", "null", " [ ] "] {
        let answer = Answer::text(200, "application/json", body);
        server.world().fail("GET /snapshots", answer);
        assert!(engine(&server).list().unwrap().snapshots.is_empty());
    }
}

#[test]
fn a_snapshot_is_deleted_and_one_that_is_gone_is_no_error() {
    let server = server();
    server.world().make_snapshot(ID, "Standby", "a", &json!({}));
    let engine = engine(&server);
    let snapshot = "snap001".parse().unwrap();
    engine.delete(&snapshot).unwrap();
    assert!(server.world().snapshots.is_empty());
    engine.delete(&snapshot).unwrap();
    let other = Answer::text(404, "text/plain", "404 page not found");
    server.world().fail("DELETE /snapshots/*", other);
    engine.delete(&snapshot).unwrap_err();
}

#[test]
fn a_schedule_of_the_servers_own_is_told() {
    let server = server();
    let engine = engine(&server);
    assert_eq!(engine.second_scheduler(&id(ID)).unwrap(), None);
    let schedule = json!({"instance_id": ID, "interval": "24h0m0s", "retention": {}});
    server.world().schedules = Some(BTreeMap::from([(ID.to_owned(), schedule)]));
    let second = engine.second_scheduler(&id(ID)).unwrap().unwrap();
    assert!(
        second.contains(ID) && second.contains("24h0m0s") && second.contains("two schedulers"),
        "{second}"
    );
    // It is another instance's, whose id begins like this.
    assert_eq!(engine.second_scheduler(&id("mk3")).unwrap(), None);
    assert_eq!(engine.second_scheduler(&id("gone")).unwrap(), None);
}

#[test]
fn a_server_without_a_scheduler_has_no_rival() {
    let server = server();
    server.world().schedules = None;
    assert_eq!(engine(&server).second_scheduler(&id(ID)).unwrap(), None);
    let refusal = Answer::error(403, "Forbidden", "scope snapshot:read needed");
    server.world().fail("GET /instances/*", refusal);
    engine(&server).second_scheduler(&id(ID)).unwrap_err();
}

#[test]
fn an_examination_names_the_keys_source_and_what_the_server_says_to_it() {
    let server = server();
    let examine = |settings| {
        let findings = engine_with(settings).examine(&|_| false);
        let shown = format!("{findings:?}");
        assert!(!shown.contains(KEY), "{shown}");
        let [it, key] = <[_; 2]>::try_from(findings).unwrap();
        assert_eq!((it.check, it.status), ("server", Status::Ok), "{shown}");
        assert!(it.detail.contains("fake-hypeman/1"), "{shown}");
        assert_eq!(key.check, "API key");
        key
    };
    let key = examine(settings(&server.url()));
    assert_eq!(key.status, Status::Ok, "{key:?}");
    assert_eq!(key.subject, "HYPEMAN_API_KEY");
    assert!(key.detail.contains("1 instance"), "{key:?}");
    let mut no_key = settings(&server.url());
    no_key.key = KeySource::default();
    let key = examine(no_key);
    assert_eq!(key.status, Status::Broken, "{key:?}");
    assert_eq!(key.subject, "none");
    assert!(key.detail.contains("no API key was found"), "{key:?}");
}

#[test]
fn building_an_engine_asks_nothing_and_reads_nothing() {
    let mut settings = settings("http://127.0.0.1:1");
    settings.key.key = None;
    settings.key.key_file = Some("/nonexistent/key".into());
    settings.ca_file = Some("/nonexistent/ca.pem".into());
    let engine = engine_with(settings);
    assert!(engine.unfinished().unwrap().is_empty());
    assert!(engine.sweep().unwrap().is_empty());
    assert!(engine.recover(&id(ID)).unwrap().is_empty());
    assert!(engine.client.lock().unwrap().is_none());
    let message = engine.instances().unwrap_err().to_string();
    assert!(message.contains("/nonexistent/ca.pem"), "{message}");
}
