//! Creating one snapshot, and finding out what became of it when the server gave no clear answer.
//!
//! A creation is never sent twice. After an unclear outcome it is looked for by its name, and a guest that the server
//! suspended for it and left behind is woken. The request is not cut short when the process is asked to stop, either:
//! the server would take that as its own cancellation, in the middle of its pause.

use std::time::Instant;

use log::{info, warn};
use reqwest::Method;

use super::Hypeman;
use super::client::{Client, Request, pause};
use super::fault::{Concern, Fault};
use super::lists::Snapshots;
use super::wire::{Compression, NewSnapshot, WireSnapshot, garbled};
use crate::engine::{CreateRequest, Created, EngineError};
use crate::instance::State;
use crate::interrupt;
use crate::snapshot::{Kind, Snapshot, TAG_INSTANCE, TAG_SCHEDULED};

/// One creation under way.
pub(super) struct Creation<'a> {
    engine: &'a Hypeman,
    client: &'a Client,
    request: &'a CreateRequest<'a>,
    began: Instant,
}

/// What is known after looking for a snapshot whose creation had no clear answer.
enum Outlook {
    /// It is there, so it is whole: the server lists nothing else.
    Made(Box<Snapshot>),
    /// It is not there, and nothing speaks for its still coming.
    NotMade,
    /// It can't be told, and why.
    Unclear(String),
}

/// The guest ran before and does not run now, in words with a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Asleep(String);

impl<'a> Creation<'a> {
    pub(super) fn new(
        engine: &'a Hypeman,
        client: &'a Client,
        request: &'a CreateRequest<'a>,
    ) -> Self {
        Self {
            engine,
            client,
            request,
            began: Instant::now(),
        }
    }

    /// Creates the snapshot.
    ///
    /// # Errors
    /// When there is none, or when the guest does not run although it did before.
    pub(super) fn run(&self) -> Result<Created, EngineError> {
        if interrupt::requested() {
            return Err(EngineError::Interrupted);
        }
        if self.request.kind == Kind::Stopped && self.request.instance.state != State::Stopped {
            return Err(EngineError::instance(
                "the schedule leaves memory out (--no-memory), and a hypeman server takes no disks of a guest that runs; \
                 set it without that, or use --engine local",
            ));
        }
        match self.post() {
            Ok(snapshot) => self.accept(snapshot, Vec::new()),
            Err(fault) if fault.may_be_taken_name() => self.adopt_earlier(fault),
            Err(fault) if fault.leaves_outcome_open() => self.settle(&fault),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    fn post(&self) -> Result<Snapshot, Fault> {
        let body = serde_json::to_vec(&NewSnapshot {
            kind: self.request.kind,
            name: self.request.name,
            tags: self.request.tags,
            compression: self
                .request
                .storing
                .compress
                .filter(|_| self.request.kind == Kind::Standby)
                .map(Compression::of),
        })
        // Strings and maps of strings always have a JSON form.
        .unwrap_or_default();
        let path = ["instances", self.id(), "snapshots"];
        let made: WireSnapshot = self.client.send_for(&Request {
            body: Some(body),
            ..Request::new(Method::POST, &path, self.engine.create_timeout)
        })?;
        let made = made.into_snapshot().map_err(garbled)?;
        if made.name != self.request.name {
            // Somebody else's answer, such as one that a proxy kept.
            return Err(garbled(format!("it is about snapshot {:?}", made.name)));
        }
        Ok(made)
    }

    /// Checks that the server did what was asked for: it takes names and prefixes for ids, too.
    fn accept(
        &self,
        snapshot: Snapshot,
        mut warnings: Vec<String>,
    ) -> Result<Created, EngineError> {
        let is_tagged = self
            .request
            .tags
            .iter()
            .all(|(key, value)| snapshot.tags.get(key) == Some(value));
        if snapshot.source_instance_id != self.id() {
            let deleted = if is_tagged {
                // Its name and its tags are those of this very call, which has just made it, so it may be removed.
                super::Engine::delete(self.engine, &snapshot.id)
            } else {
                Err(EngineError::instance("its tags are another's"))
            };
            let fate = match deleted {
                Ok(()) => "it was deleted again".to_owned(),
                Err(error) => format!("snapshot {} of it is left: {error}", snapshot.id),
            };
            return Err(EngineError::instance(format!(
                "instance {} is gone: the server took a snapshot of instance {:?} instead, whose name or id is like it; \
                 {fate}",
                self.id(),
                snapshot.source_instance_id
            )));
        }
        if !is_tagged {
            warnings.push(format!(
                "the server did not keep every tag of snapshot {} of instance {}: without the marker tags retention \
                 leaves it alone",
                snapshot.id,
                self.id()
            ));
        }
        Ok(Created {
            snapshot,
            // The server does not tell.
            pause: None,
            warnings,
        })
    }

    /// The name is taken. The run asks for the same name twice only when its own earlier attempt may have made it.
    fn adopt_earlier(&self, fault: Fault) -> Result<Created, EngineError> {
        let is_ours = |snapshot: &Snapshot| {
            [TAG_SCHEDULED, TAG_INSTANCE]
                .into_iter()
                .all(|tag| snapshot.tags.get(tag) == self.request.tags.get(tag))
        };
        match self.find_by_name() {
            Ok(Some(snapshot)) if is_ours(&snapshot) => {
                info!(
                    "instance {}: snapshot {} is there from an earlier attempt",
                    self.id(),
                    self.request.name
                );
                let mut warning = format!(
                    "snapshot {} of instance {} was there already, from an earlier attempt whose end was not seen",
                    self.request.name,
                    self.id()
                );
                if self.request.instance.state == State::Standby {
                    // That attempt can't be asked whether the guest ran before it.
                    warning.push_str("; the instance is in Standby: if it should run, ");
                    warning.push_str(&self.how_to_wake());
                }
                Ok(Created {
                    snapshot,
                    pause: None,
                    warnings: vec![warning],
                })
            }
            Ok(_) => Err(self.failed(fault)),
            Err(other) => Err(EngineError::instance(format!(
                "{}; and it can't be told whether an earlier attempt made it: {}",
                self.failed(fault),
                self.detail(&other)
            ))),
        }
    }

    /// Finds out what became of a request without a clear answer, and leaves the guest as it was.
    fn settle(&self, fault: &Fault) -> Result<Created, EngineError> {
        let (id, name) = (self.id(), self.request.name);
        let detail = self.detail(fault);
        warn!(
            "instance {id}: it is not clear whether snapshot {name} was made, so it is looked for: {detail}"
        );
        let outlook = self.look(fault.is_final_word());
        let guest = self.wake_if_left_behind(fault.is_final_word());
        if let (Outlook::Made(snapshot), Ok(note)) = (&outlook, &guest) {
            let mut warnings = vec![format!(
                "snapshot {name} of instance {id} was made, although {detail}"
            )];
            warnings.extend(note.clone());
            return self.accept(Snapshot::clone(snapshot), warnings);
        }
        let aftermath = match guest {
            Ok(None) => String::new(),
            Ok(Some(note)) => format!("; {note}"),
            Err(asleep) => format!("; {asleep}"),
        };
        Err(match outlook {
            Outlook::Made(_) => EngineError::instance(format!(
                "snapshot {name} was made, but not all is well: {detail}{aftermath}"
            )),
            Outlook::NotMade if fault.is_final_word() => {
                EngineError::instance(format!("snapshot {name} was not made: {detail}{aftermath}"))
            }
            Outlook::NotMade => EngineError::Unclear {
                message: format!(
                    "snapshot {name} was not made as far as can be seen: {detail}{aftermath}; the next attempt looks \
                     for it first"
                ),
            },
            Outlook::Unclear(why) => EngineError::Unclear {
                message: format!(
                    "snapshot {name} may or may not have been made: {detail}; then {why}{aftermath}; the next attempt \
                     looks for it first"
                ),
            },
        })
    }

    /// Looks for the snapshot until it is there, or until it is not to be expected any more.
    ///
    /// While the server works on a running guest, that guest is not in its old state; so it counts as not made when
    /// the instance looks untouched for a while. In any other state it may still copy, for as long as a creation may
    /// take. Looks that all fail are given up sooner: the caller holds the instance's lock, and the next attempt looks
    /// again.
    fn look(&self, is_final: bool) -> Outlook {
        let pace = &self.engine.pace;
        let untouched_end = Instant::now() + pace.untouched_for;
        let deadline = if is_final {
            untouched_end
        } else {
            untouched_end.max(self.creation_end())
        };
        let mut delay = pace.look_after;
        let mut untouched_since = None;
        let mut blind_since = None;
        loop {
            let now = Instant::now();
            let found = self.find_by_name();
            let state = self.state();
            let trouble = match (found, state) {
                (Ok(Some(snapshot)), _) => return Outlook::Made(Box::new(snapshot)),
                (Ok(None), Ok(None)) => return Outlook::NotMade,
                (Ok(None), Ok(Some(state))) => {
                    blind_since = None;
                    if is_final {
                        return Outlook::NotMade;
                    }
                    if state == self.request.instance.state {
                        if now.duration_since(*untouched_since.get_or_insert(now))
                            >= pace.untouched_for
                        {
                            return Outlook::NotMade;
                        }
                    } else {
                        untouched_since = None;
                    }
                    None
                }
                (Err(fault), _) | (_, Err(fault)) => {
                    untouched_since = None;
                    let trouble = self.detail(&fault);
                    if now.duration_since(*blind_since.get_or_insert(now)) >= pace.blind {
                        return Outlook::Unclear(trouble);
                    }
                    Some(trouble)
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return trouble.map_or(Outlook::NotMade, Outlook::Unclear);
            }
            if !pause(delay.min(left)) {
                return Outlook::Unclear("the process was asked to stop".to_owned());
            }
            delay = (delay * 2).min(pace.look_at_least_every);
        }
    }

    /// Wakes the guest if it ran when this creation began and the server left it in Standby (contract, section 3,
    /// "Timing"). `Ok` with a note when it was woken; `Err` with what is wrong when it does not run.
    ///
    /// The server suspends a running guest, copies it, and wakes it. To wake it while the server still copies could
    /// tear the snapshot, so this waits: until the server has given its last word, until the finished snapshot has
    /// been listed for a while, or until the time that a creation may take has passed. A guest that somebody else
    /// suspends in just this time is woken as well; a guest that stays suspended unasked is worse.
    fn wake_if_left_behind(&self, is_final: bool) -> Result<Option<String>, Asleep> {
        if self.request.instance.state != State::Running || self.request.kind != Kind::Standby {
            return Ok(None);
        }
        let pace = &self.engine.pace;
        let is_over = is_final || Instant::now() >= self.creation_end();
        let until = Instant::now()
            + if is_over {
                pace.look_after
            } else {
                pace.untouched_for
            };
        let mut delay = pace.look_after;
        loop {
            let state = self.state();
            let left = until.saturating_duration_since(Instant::now());
            match state {
                Ok(None | Some(State::Running | State::Initializing)) => return Ok(None),
                Ok(Some(State::Standby)) if left.is_zero() => return self.wake().map(Some),
                Ok(Some(state)) if left.is_zero() => {
                    return Err(Asleep(format!(
                        "the instance was Running before and is {state} now: look after it"
                    )));
                }
                Err(fault) if left.is_zero() => {
                    return Err(Asleep(format!(
                        "the instance was Running before and its state can't be read now: {}; if it is in Standby, {}",
                        self.detail(&fault),
                        self.how_to_wake()
                    )));
                }
                Ok(Some(_)) | Err(_) => {}
            }
            if !pause(delay.min(left)) {
                return Err(Asleep(format!(
                    "the instance was Running before and was not seen running again when the process was asked to \
                     stop; if it stays in Standby, {}",
                    self.how_to_wake()
                )));
            }
            delay = (delay * 2).min(pace.look_at_least_every);
        }
    }

    fn wake(&self) -> Result<String, Asleep> {
        let path = ["instances", self.id(), "restore"];
        let pace = &self.engine.pace;
        let sent = self
            .client
            .send(&Request::new(Method::POST, &path, pace.wake_timeout));
        let state = self.state();
        match (sent, state) {
            // Also when the server refused because it has woken the guest itself meanwhile.
            (_, Ok(Some(State::Running | State::Initializing))) => Ok(format!(
                "the server had left instance {} in Standby, and it was woken again",
                self.id()
            )),
            (Err(fault), _) => Err(Asleep(format!(
                "the server left the instance in Standby, and waking it failed: {}; {}",
                self.detail(&fault),
                self.how_to_wake()
            ))),
            (Ok(_), _) => Err(Asleep(format!(
                "the server left the instance in Standby and said that it woke it, but it is not seen running; {}",
                self.how_to_wake()
            ))),
        }
    }

    fn how_to_wake(&self) -> String {
        format!(
            "wake it with POST {}/instances/{}/restore",
            self.client.base(),
            self.id()
        )
    }

    /// The instance's snapshot of this name; names are unique per instance (contract, section 3).
    fn find_by_name(&self) -> Result<Option<Snapshot>, Fault> {
        let query = [
            ("source_instance_id", self.id()),
            ("name", self.request.name),
        ];
        let request = Request {
            query: &query,
            ..self.engine.get(&["snapshots"])
        };
        let listing = self
            .client
            .fetch_list(request, Snapshots::take)?
            .into_listing();
        Ok(listing.snapshots.into_iter().find(|snapshot| {
            snapshot.name == self.request.name && snapshot.source_instance_id == self.id()
        }))
    }

    fn state(&self) -> Result<Option<State>, Fault> {
        self.engine
            .look_up(self.client, &self.request.instance.id)
            .map(|found| found.map(|instance| instance.state))
    }

    /// When a creation that began with this one's request may take no longer.
    fn creation_end(&self) -> Instant {
        self.began + self.engine.create_timeout
    }

    fn id(&self) -> &str {
        self.request.instance.id.as_str()
    }

    fn detail(&self, fault: &Fault) -> String {
        fault.detail(&self.client.base(), self.client.has_key())
    }

    fn failed(&self, fault: Fault) -> EngineError {
        fault.into_error(
            &format!("snapshot instance {}", self.id()),
            Concern::Instance,
            &self.client.base(),
            self.client.has_key(),
        )
    }
}
