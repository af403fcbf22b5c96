//! Work on one instance that no schedule asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock;
use crate::engine::{CreateRequest, Created, EngineError, Ports};
use crate::instance::InstanceId;
use crate::run::at_work::AtWork;
use crate::run::failure::Failure;
use crate::snapshot::Kind;
use crate::snapshot::storing::Storing;
use crate::store::Store;

/// Does `work` under the instance's lock, after putting right what a run that died left behind.
///
/// # Errors
/// When the lock is held for longer than `timeout`, when what was left behind can't be put right, and as `work` says.
pub fn with_lock<T>(
    store: &Store,
    ports: &Ports,
    id: &InstanceId,
    timeout: Duration,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let at_work = AtWork::default();
    at_work.watch();
    let _working = at_work.begin(id);
    let _lock = store.lock(id, timeout)?;
    for line in ports.recovery.recover(id)? {
        log::warn!(instance = id.as_str(); "{line}");
    }
    work()
}

/// Takes a snapshot under the instance's lock, after putting right what a run that died left behind.
///
/// # Errors
/// As [`with_lock`], when the instance is not there or in a state that allows no snapshot, and when there is no whole
/// snapshot; the guest is as it was.
pub fn snapshot(
    store: &Store,
    ports: &Ports,
    id: &InstanceId,
    name: &str,
    tags: &BTreeMap<String, String>,
    timeout: Duration,
) -> anyhow::Result<Created> {
    with_lock(store, ports, id, timeout, || {
        let found = ports.engine.find(id).found()?;
        let instance =
            found.ok_or_else(|| EngineError::instance(format!("instance {id} has just gone")))?;
        let Some(kind) = Kind::for_state(instance.state) else {
            return Err(Failure::State(instance).into());
        };
        Ok(ports.engine.create(&CreateRequest {
            instance: &instance,
            kind,
            name,
            tags,
            max_pause: None,
            storing: &Storing::default(),
            now: clock::now(),
        })?)
    })
}
