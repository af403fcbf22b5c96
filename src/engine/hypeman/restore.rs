//! Giving a snapshot back by the server, in place: that is all it does.
//!
//! It deletes the instance's directory before it copies, without a backup, and refuses only what runs (contract, section
//! 3). So only an instance that is at rest is given to it, and a snapshot of what is there is taken first. The request is
//! never sent twice, and like a creation it is not cut short.

use std::collections::BTreeMap;
use std::time::Instant;

use reqwest::Method;
use serde::Serialize;

use super::Hypeman;
use super::client::{Client, Request, pause};
use super::fault::{Concern, Fault};
use super::wire::WireInstance;
use crate::engine::restorer::{Destination, Launch, Preflight, Restorer, Wanted, usable};
use crate::engine::{CreateRequest, Engine, EngineError, Presence};
use crate::error::in_words;
use crate::finding::Finding;
use crate::instance::{Instance, InstanceId, State};
use crate::interrupt;
use crate::snapshot::storing::Storing;
use crate::snapshot::{Kind, Snapshot};

const CHECK: &str = "instance";

/// The body of a restore.
#[derive(Debug, Serialize)]
struct Target {
    target_state: State,
}

impl Restorer for Hypeman {
    fn restores_beside(&self) -> bool {
        false
    }

    fn preflight(&self, wanted: &Wanted<'_>) -> Result<Preflight, EngineError> {
        let snapshot = wanted.snapshot;
        let mut findings = vec![usable(snapshot), at_rest(wanted, &self.now(wanted)?)];
        if wanted.starts && wanted.disks_only && snapshot.kind == Kind::Standby {
            findings.push(Finding::broken(
                "start",
                &snapshot.source_instance_name,
                "the server starts a snapshot with memory from that alone",
                "leave --start out, and start the instance by hypeman's own client then",
            ));
        }
        findings.push(Finding::ok(
            "settings",
            &snapshot.source_instance_name,
            "environment, tags, volumes and expiry become those of the snapshot, too; its logs are lost",
        ));
        Ok(Preflight {
            findings,
            launch: None,
            has_memory: snapshot.kind == Kind::Standby && !wanted.disks_only,
        })
    }

    fn lay_down(
        &self,
        wanted: &Wanted<'_>,
        preflight: &Preflight,
    ) -> Result<Option<Snapshot>, EngineError> {
        let Destination::InPlace(undo_name) = wanted.to else {
            return Err(EngineError::instance("the server restores in place only"));
        };
        let instance = self.require_rest(wanted)?;
        let before = self.create(&CreateRequest {
            instance: &instance,
            kind: if instance.state == State::Standby {
                Kind::Standby
            } else {
                Kind::Stopped
            },
            name: undo_name,
            tags: &BTreeMap::new(),
            max_pause: None,
            storing: &Storing::default(),
            now: wanted.now,
        })?;
        let before = before.snapshot;
        let target = match (wanted.starts, preflight.has_memory) {
            (true, _) => State::Running,
            (false, true) => State::Standby,
            (false, false) => State::Stopped,
        };
        let kept = |error: EngineError| {
            let kept = format!(
                "what was there before is snapshot {} ({})",
                before.name, before.id
            );
            if matches!(error, EngineError::Interrupted) {
                log::warn!("{kept}");
                return error;
            }
            EngineError::instance(format!("{}; {kept}", in_words(&error)))
        };
        // The copy took its time.
        let instance = self.require_rest(wanted).map_err(kept)?;
        self.ask_for(wanted.snapshot, &instance, target)
            .map_err(kept)?;
        Ok(Some(before))
    }

    fn start(
        &self,
        _wanted: &Wanted<'_>,
        _launch: &Launch,
        _has_memory: bool,
    ) -> Result<u32, EngineError> {
        Err(EngineError::instance(
            "the server starts its instances itself",
        ))
    }
}

impl Hypeman {
    fn now(&self, wanted: &Wanted<'_>) -> Result<Presence, EngineError> {
        let id: InstanceId = (wanted.snapshot.source_instance_id)
            .parse()
            .map_err(|error| {
                EngineError::caused("the snapshot's instance has no such id", error)
            })?;
        Ok(self.find(&id))
    }

    fn require_rest(&self, wanted: &Wanted<'_>) -> Result<Instance, EngineError> {
        let id = &wanted.snapshot.source_instance_id;
        match self.now(wanted)? {
            Presence::Here(it) if is_at_rest(it.state) => Ok(it),
            Presence::Here(it) => Err(EngineError::instance(format!(
                "instance {id} is {}, and only one that is Stopped or in Standby is restored: the server deletes what is \
                 there first",
                it.state
            ))),
            Presence::Gone => Err(EngineError::instance(format!("instance {id} is gone"))),
            Presence::Unknown(error) => Err(error),
        }
    }

    fn ask_for(
        &self,
        snapshot: &Snapshot,
        instance: &Instance,
        target: State,
    ) -> Result<(), EngineError> {
        if interrupt::requested() {
            return Err(EngineError::Interrupted);
        }
        let client = self.client()?;
        let began = Instant::now();
        let id = instance.id.as_str();
        let path = [
            "instances",
            id,
            "snapshots",
            snapshot.id.as_str(),
            "restore",
        ];
        let body = Target {
            target_state: target,
        };
        let asked = client.send_for::<WireInstance>(&Request {
            // A word in a structure always has a JSON form.
            body: Some(serde_json::to_vec(&body).unwrap_or_default()),
            ..Request::new(Method::POST, &path, self.create_timeout)
        });
        let asked = asked.and_then(WireInstance::into_instance);
        match asked {
            Ok(it) if it.id == instance.id && has_come_to(it.state, target) => Ok(()),
            Ok(it) => Err(EngineError::instance(format!(
                "the server says that it restored {}, which is {} now, and not {target}",
                it.id, it.state
            ))),
            Err(fault) if fault.leaves_outcome_open() => {
                self.settle(&client, &fault, instance, target, began)
            }
            Err(fault) => Err(fault.into_error(
                &format!("restore instance {id}"),
                Concern::Instance,
                &client.base(),
                client.has_key(),
            )),
        }
    }

    /// Finds out what became of a request without a clear answer. The server goes on copying behind its own deadline, so
    /// that the instance is looked at until it is as it was to become, for as long as a restore may take. One that was
    /// in that state before tells nothing by it.
    fn settle(
        &self,
        client: &Client,
        fault: &Fault,
        instance: &Instance,
        target: State,
        began: Instant,
    ) -> Result<(), EngineError> {
        let detail = fault.detail(&client.base(), client.has_key());
        let id = &instance.id;
        let unclear = |seen: &str| {
            EngineError::instance(format!(
                "instance {id} may or may not be restored, and is not to be started before that is clear: {detail}; {seen}"
            ))
        };
        if has_come_to(instance.state, target) {
            return Err(unclear("its state does not tell; restore it again"));
        }
        let mut delay = self.pace.look_after;
        loop {
            let seen = match self.look_up(client, id) {
                Ok(Some(it)) if has_come_to(it.state, target) => {
                    log::warn!("instance {id} was restored and is {target}, although {detail}");
                    return Ok(());
                }
                Ok(Some(it)) => format!("it is {}", it.state),
                Ok(None) => "the server does not have it any more".to_owned(),
                Err(other) => other.detail(&client.base(), client.has_key()),
            };
            // A refusal in the server's own words is its last.
            let is_over = fault.is_final_word() || began.elapsed() >= self.create_timeout;
            if is_over || !pause(delay) {
                return Err(unclear(&format!("now {seen}; restore it again")));
            }
            delay = (delay * 2).min(self.pace.look_at_least_every);
        }
    }
}

fn at_rest(wanted: &Wanted<'_>, presence: &Presence) -> Finding {
    let name = &wanted.snapshot.source_instance_name;
    match presence {
        Presence::Here(it) if is_at_rest(it.state) => {
            Finding::ok(CHECK, name, format!("is {}", it.state))
        }
        Presence::Here(it) => Finding::broken(
            CHECK,
            name,
            format!(
                "is {}, and the server deletes what is there before it copies",
                it.state
            ),
            "stop it, or put it to standby, by hypeman's own client",
        ),
        Presence::Gone => Finding::broken(
            CHECK,
            name,
            "is gone, and the server restores in place only",
            "make an instance from the snapshot by hypeman's own client",
        ),
        Presence::Unknown(error) => Finding::broken(
            CHECK,
            name,
            format!("its state is not known: {}", in_words(error)),
            "ask again when the server answers",
        ),
    }
}

const fn is_at_rest(state: State) -> bool {
    matches!(state, State::Stopped | State::Standby)
}

/// Whether an instance in this state is as it was to become: one that starts counts as running.
fn has_come_to(state: State, target: State) -> bool {
    state == target || (target == State::Running && state == State::Initializing)
}
