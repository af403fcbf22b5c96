//! What the engine knows of all instances at once, for commands that show or judge schedules.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::engine::{Engine, EngineError};
use crate::health::Newest;
use crate::instance::InstanceId;

/// The scheduled snapshots of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// How many there are; at least one.
    pub count: u64,
    /// The lengths of their files together, in bytes.
    pub size_bytes: u64,
    /// When the newest usable one was taken.
    pub newest_at: Option<DateTime<Utc>>,
}

/// Names and scheduled snapshots.
#[derive(Debug, Default)]
pub struct Known {
    /// The names of the instances that the engine lists; empty where one has none.
    names: BTreeMap<InstanceId, String>,
    /// The scheduled snapshots of each instance that has any, whether it exists or not.
    pub scheduled: BTreeMap<InstanceId, Scheduled>,
}

impl Known {
    /// Asks the engine: two requests, however many instances there are.
    ///
    /// # Errors
    /// When it can't list instances or snapshots.
    pub fn ask(engine: &dyn Engine) -> Result<Self, EngineError> {
        let names = engine
            .instances()?
            .into_iter()
            .map(|instance| (instance.id, instance.name))
            .collect();
        let mut scheduled: BTreeMap<InstanceId, Scheduled> = BTreeMap::new();
        for snapshot in engine.list()?.snapshots {
            if !snapshot.is_scheduled() {
                continue;
            }
            if let Ok(id) = snapshot.source_instance_id.parse::<InstanceId>() {
                let all = scheduled.entry(id).or_insert(Scheduled {
                    count: 0,
                    size_bytes: 0,
                    newest_at: None,
                });
                all.count += 1;
                all.size_bytes = all.size_bytes.saturating_add(snapshot.size_bytes);
                if snapshot.is_usable() {
                    all.newest_at = all.newest_at.max(Some(snapshot.created_at));
                }
            }
        }
        Ok(Self { names, scheduled })
    }

    /// Whether the engine lists the instance. One that it does not list need not be gone.
    pub fn lists(&self, id: &InstanceId) -> bool {
        self.names.contains_key(id)
    }

    /// The instance's name, if it is listed and has one.
    pub fn name(&self, id: &InstanceId) -> Option<&str> {
        self.names
            .get(id)
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// The instance's newest usable scheduled snapshot.
    pub fn newest(&self, id: &InstanceId) -> Newest {
        self.scheduled
            .get(id)
            .and_then(|all| all.newest_at)
            .map_or(Newest::None, Newest::At)
    }
}
