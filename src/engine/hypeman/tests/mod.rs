//! The engine against a fake server: reading, creating, faults, TLS.

mod creating;
mod faults;
mod reading;
mod repeats;
mod tls;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::fake_hypeman::{FakeHypeman, KEY};

use super::key::Secret;
use super::*;
use crate::finding::Status;
use crate::instance::State;
use crate::snapshot::{Kind, scheduled_tags};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// Patience for a server in the same process.
fn pace() -> Pace {
    Pace {
        repeat_after: Duration::from_millis(1),
        repeats: 3,
        repeat_within: Duration::from_secs(3),
        silence: Duration::ZERO,
        look_after: Duration::from_millis(10),
        look_at_least_every: Duration::from_millis(20),
        untouched_for: Duration::from_millis(200),
        blind: Duration::from_millis(400),
        wake_timeout: Duration::from_secs(5),
    }
}

fn settings(base_url: &str) -> HypemanSetup {
    HypemanSetup {
        base_url: base_url.to_owned(),
        key: KeySource {
            key: Secret::new(KEY),
            ..KeySource::default()
        },
        ca_file: None,
        insecure_http: false,
        request_timeout: Duration::from_secs(10),
        create_timeout: Duration::from_secs(10),
    }
}

fn engine_with(settings: HypemanSetup) -> Hypeman {
    Hypeman {
        pace: pace(),
        ..Hypeman::new(settings).unwrap()
    }
}

fn engine(server: &FakeHypeman) -> Hypeman {
    engine_with(settings(&server.url()))
}

/// A server with one running instance, [`ID`].
fn server() -> FakeHypeman {
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    server
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn instance(state: State) -> Instance {
    Instance {
        id: id(ID),
        name: format!("name-of-{ID}"),
        state,
        state_note: None,
    }
}

/// Creates a snapshot named `nightly-1` of [`ID`], which was in `state` just before.
fn create(engine: &Hypeman, state: State) -> Result<Created, EngineError> {
    let metadata = BTreeMap::from([("team".to_owned(), "infra".to_owned())]);
    engine.create(&CreateRequest {
        instance: &instance(state),
        kind: if state == State::Stopped {
            Kind::Stopped
        } else {
            Kind::Standby
        },
        name: "nightly-1",
        tags: &scheduled_tags(&metadata, &id(ID)),
        max_pause: None,
        storing: &crate::snapshot::storing::Storing::default(),
        now: crate::clock::now(),
    })
}

/// Polls until `is_so`, for at most ten seconds.
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come about in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}
