//! What the engine knows of all instances at once, for commands that show or judge schedules.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::engine::{Engine, EngineError, Inventory};
use crate::instance::InstanceId;
use crate::monitoring::health::Newest;
use crate::schedule::Schedule;
use crate::snapshot::Snapshot;

/// The scheduled snapshots of one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// How many there are.
    pub count: u64,
    /// How many of them are not usable.
    pub unusable: u64,
    /// The lengths of their files together, in bytes.
    pub size_bytes: u64,
    /// When the newest usable one was taken.
    pub newest_at: Option<DateTime<Utc>>,
    /// When a usable one was last verified.
    pub verified_at: Option<DateTime<Utc>>,
    /// When one was last rehearsed, and whether its guest lived.
    pub rehearsed: Option<(DateTime<Utc>, bool)>,
    /// When the guest of a usable one last lived in a rehearsal.
    pub alive_at: Option<DateTime<Utc>>,
}

/// A snapshot that is not usable.
#[derive(Debug)]
struct Unusable {
    at: DateTime<Utc>,
    flaw: String,
}

/// Names and scheduled snapshots.
pub struct Known {
    inventory: Inventory,
    /// The scheduled snapshots of each instance that has any, whether it exists or not.
    pub scheduled: BTreeMap<InstanceId, Scheduled>,
    /// Of each instance, the newest snapshot that is not usable: a scheduled one, or one that can't be told from them.
    newest_unusable: BTreeMap<InstanceId, Unusable>,
    /// Why a snapshot is not usable, by its id.
    flaws: BTreeMap<String, String>,
}

impl Known {
    /// Asks the engine: two requests, however many instances there are.
    ///
    /// # Errors
    /// When it can't list instances or snapshots.
    pub fn ask(engine: &Arc<dyn Engine>) -> Result<Self, EngineError> {
        let mut known = Self {
            inventory: Inventory::take(engine)?,
            scheduled: BTreeMap::new(),
            newest_unusable: BTreeMap::new(),
            flaws: BTreeMap::new(),
        };
        for snapshot in engine.list()?.snapshots {
            known.add(snapshot);
        }
        Ok(known)
    }

    fn add(&mut self, snapshot: Snapshot) {
        let id = snapshot.source_instance_id.parse::<InstanceId>();
        if let (true, Ok(id)) = (snapshot.is_scheduled(), &id) {
            let all = self.scheduled.entry(id.clone()).or_default();
            all.count += 1;
            all.size_bytes = all.size_bytes.saturating_add(snapshot.size_bytes);
            if snapshot.is_usable() {
                all.newest_at = all.newest_at.max(Some(snapshot.created_at));
                all.verified_at = all.verified_at.max(snapshot.verified_at);
                if let Some(last) = &snapshot.rehearsed {
                    let lived = last.dead.is_none();
                    all.rehearsed = all.rehearsed.max(Some((last.at, lived)));
                    all.alive_at = all.alive_at.max(lived.then_some(last.at));
                }
            } else {
                all.unusable += 1;
            }
        }
        // A record that says nothing leaves neither name nor tags.
        let is_unsaid = snapshot.name.is_empty() && snapshot.tags.is_empty();
        let may_be_scheduled = snapshot.is_scheduled() || is_unsaid;
        let Some(flaw) = snapshot.unusable else {
            return;
        };
        self.flaws.insert(snapshot.id.into(), flaw.clone());
        if let (true, Ok(id)) = (may_be_scheduled, id) {
            let at = snapshot.created_at;
            let newest = self.newest_unusable.get(&id);
            if newest.is_none_or(|newest| newest.at < at) {
                self.newest_unusable.insert(id, Unusable { at, flaw });
            }
        }
    }

    /// Whether the instance positively is not there any more.
    pub fn is_gone(&self, id: &InstanceId) -> bool {
        self.inventory.presence(id).is_gone()
    }

    /// The instance's name, if it is listed and has one.
    pub fn name(&self, id: &InstanceId) -> Option<&str> {
        self.inventory.name(id)
    }

    /// The instance's newest usable scheduled snapshot.
    pub fn newest(&self, id: &InstanceId) -> Newest {
        self.newest_at(id).map_or(Newest::None, Newest::At)
    }

    /// The scheduled snapshots of the instance.
    pub fn scheduled(&self, id: &InstanceId) -> Scheduled {
        self.scheduled.get(id).copied().unwrap_or_default()
    }

    fn newest_at(&self, id: &InstanceId) -> Option<DateTime<Utc>> {
        self.scheduled.get(id).and_then(|all| all.newest_at)
    }

    /// Why nothing can be restored from the newest snapshot of the schedule, if so.
    pub fn flaw(&self, schedule: &Schedule) -> Option<&str> {
        let id = &schedule.instance_id;
        let recorded = schedule.record.last_snapshot_id.as_ref();
        if let Some(flaw) = recorded.and_then(|id| self.flaws.get(id)) {
            return Some(flaw);
        }
        let unusable = self.newest_unusable.get(id)?;
        let is_newest = self.newest_at(id).is_none_or(|newest| newest < unusable.at);
        is_newest.then_some(unusable.flaw.as_str())
    }
}
