//! A plan as deeds: the snapshot between its hooks.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::engine::{CreateRequest, Created, EngineError};
use crate::error;
use crate::interrupt;
use crate::plan::{Action, Plan, Refusal};
use crate::run::Run;
use crate::run::failure::Failure;
use crate::run::hooks::Hooks;
use crate::run::retain::make_room;
use crate::schedule::Schedule;
use crate::snapshot::{Kind, Protection, Snapshot, SnapshotId};

/// How it went.
pub(super) struct Carried {
    /// What came of the snapshot.
    pub(super) end: End,
    /// What the user should know besides.
    pub(super) notes: Vec<String>,
    /// What was removed to make room for it, oldest first.
    pub(super) removed: Vec<SnapshotId>,
}

/// What came of the snapshot.
pub(super) enum End {
    Taken(Created),
    /// An earlier run had finished it and died before it could record it.
    Adopted(Snapshot),
    Gone,
    /// A signal ended it; nothing failed.
    Interrupted {
        /// The kind that was begun; `None` if it did not come to that.
        kind: Option<Kind>,
    },
    Failed {
        /// The kind that was tried; `None` if it did not come to that.
        kind: Option<Kind>,
        /// Whether the instance was found.
        is_found: bool,
        /// Whether the snapshot may still turn up under the attempt's name.
        is_open: bool,
        /// How long the guest was paused for it, if it was.
        pause: Option<Duration>,
        why: Failure,
    },
}

/// Does what the plan says about the snapshot.
pub(super) fn carry_out(
    context: &Run<'_>,
    schedule: &Schedule,
    plan: &Plan<'_, Arc<EngineError>>,
    hooks: &mut Hooks,
) -> Carried {
    let mut notes = Vec::new();
    let mut removed = Vec::new();
    let refused = |why, is_found, is_open| End::Failed {
        kind: None,
        is_found,
        is_open,
        pause: None,
        why,
    };
    let end = match &plan.action {
        Action::Adopt(snapshot) => {
            notes.push(
                "an earlier run had taken this snapshot and did not see it finished".to_owned(),
            );
            // That run may not have come to its post-hook.
            hooks.know(&snapshot.source_instance_name, Some(snapshot.kind));
            hooks.taken(snapshot);
            End::Adopted((*snapshot).clone())
        }
        // Its VMM may not have been waited for, so that its state says nothing.
        _ if interrupt::requested() => End::Interrupted { kind: None },
        Action::OnlyRetain => End::Gone,
        Action::Refuse(Refusal::State(instance)) => {
            hooks.know(&instance.name, None);
            refused(Failure::State((*instance).clone()), true, false)
        }
        // While nothing can be found out, an end that was open stays so.
        Action::Refuse(Refusal::Unknown(error)) => {
            let why = Failure::Shared(Arc::clone(error));
            if why.is_interruption() {
                End::Interrupted { kind: None }
            } else {
                refused(why, false, plan.takes_up)
            }
        }
        Action::Take { instance, expected } => {
            if plan.takes_up {
                notes.push(
                    "an earlier run did not finish its snapshot; this one takes it".to_owned(),
                );
            }
            context.sweep();
            let id = &instance.id;
            match context.ports.diagnosis.second_scheduler(id) {
                Ok(second) => context.warn(second),
                // Whatever is wrong, the snapshot itself will meet it.
                Err(error) => log::debug!("instance {id}: {}", error::in_words(&error)),
            }
            let request = CreateRequest {
                instance,
                kind: expected.kind,
                name: &expected.name,
                tags: &expected.tags,
                max_pause: schedule.declaration.max_pause,
                storing: &schedule.declaration.storing,
                // Not the run time: a run that died may be taken up much later.
                now: clock::now(),
            };
            hooks.know(&instance.name, Some(expected.kind));
            let create = || create(context, schedule, expected, &request, &mut removed);
            take(context, request.kind, hooks, create)
        }
    };
    Carried {
        end,
        notes,
        removed,
    }
}

/// Takes the snapshot; if there is no room for it, once more when what goes behind it anyway is removed.
fn create(
    context: &Run<'_>,
    schedule: &Schedule,
    expected: &Snapshot,
    request: &CreateRequest<'_>,
    removed: &mut Vec<SnapshotId>,
) -> Result<Created, EngineError> {
    let engine = &context.ports.engine;
    match engine.create(request) {
        Err(EngineError::NoRoom {
            message,
            missing_bytes,
        }) => {
            log::debug!(instance = schedule.instance_id.as_str(); "{message}");
            removed.extend(make_room(context, schedule, expected));
            if removed.is_empty() {
                return Err(EngineError::NoRoom {
                    message,
                    missing_bytes,
                });
            }
            engine.create(request)
        }
        other => other,
    }
}

fn take(
    context: &Run<'_>,
    kind: Kind,
    hooks: &mut Hooks,
    create: impl FnOnce() -> Result<Created, EngineError>,
) -> End {
    let kind = Some(kind);
    match hooks.around(&context.at_work, create) {
        Ok(created) => {
            if context.options.protects {
                protect(context, &created);
            }
            End::Taken(created)
        }
        Err(Failure::Engine(EngineError::Interrupted)) => End::Interrupted { kind },
        Err(why) => End::Failed {
            kind,
            is_found: true,
            is_open: matches!(why, Failure::Engine(EngineError::Unclear { .. })),
            pause: why.pause(),
            why,
        },
    }
}

/// Protects a snapshot that has just been taken: before retention, which may come to it.
fn protect(context: &Run<'_>, created: &Created) {
    let now = clock::now();
    let protection = Protection {
        reason: None,
        until: None,
        protected_at: now,
    };
    let id = &created.snapshot.id;
    let protected = context
        .store
        .lock_protections(context.options.lock_timeout)
        .map_err(Failure::from)
        .and_then(|_lock| Ok(context.store.protect(id, &protection)?));
    if let Err(failure) = protected {
        let why = failure.in_words();
        context.fail(format!(
            "snapshot {id} was taken and is not protected: {why}"
        ));
    }
}
