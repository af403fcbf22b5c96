//! The local engine's other ports: what puts right, examines and registers.

use chrono::{DateTime, Utc};

use super::journal::Journaled;
use super::restore::rehearse;
use super::store::SnapshotStore;
use super::{Local, compress, examine, registration, second_scheduler, session};
use crate::engine::registrar::{Places, Registered, Registrar, RegistrationError, Request};
use crate::engine::{Diagnose, EngineError, Recovery};
use crate::finding::Finding;
use crate::instance::InstanceId;

impl Recovery for Local {
    fn unfinished(&self) -> Result<Vec<InstanceId>, EngineError> {
        self.journal.ids()
    }

    fn recover(&self, id: &InstanceId) -> Result<Vec<String>, EngineError> {
        let entry = match self.journal.read(id)? {
            None => return Ok(Vec::new()),
            Some(Journaled::Capture(entry)) => *entry,
            Some(Journaled::Restore(restoring)) => return self.recover_restore(*restoring),
        };
        let snapshot_id = entry.snapshot_id.clone();
        let mut lines = session::recover(&self.journal, entry, self.timeouts_from_now())?;
        // The VMM came first: what is left of the staging only takes space.
        match self
            .instances
            .data_dir()
            .and_then(|data| SnapshotStore::of(&data).discard_staging(&snapshot_id))
        {
            Ok(_) => {}
            Err(error) => lines.push(crate::error::in_words(&error)),
        }
        Ok(lines)
    }

    fn sweep(&self) -> Result<Vec<String>, EngineError> {
        let store = self.instances.store()?;
        let cleared = compress::clear_up(&store, &compress::markers(&self.state_dir));
        let mut lines = store.sweep()?;
        lines.extend(cleared.map_err(|error| {
            EngineError::caused("can't clear up behind a compression that died", error)
        })?);
        lines.extend(rehearse::sweep(&self.data_dir)?);
        Ok(lines)
    }
}

impl Diagnose for Local {
    fn second_scheduler(&self, id: &InstanceId) -> Result<Option<String>, EngineError> {
        second_scheduler::of(&self.data_dir, id)
    }

    fn examine(&self, is_busy: &(dyn Fn(&InstanceId) -> bool + Sync)) -> Vec<Finding> {
        examine::Examination {
            data_dir: &self.data_dir,
            instances: &self.instances,
            surveys: &self.surveys,
            journal: &self.journal,
            timeouts: self.timeouts,
            server: &self.server,
            is_busy,
        }
        .run()
    }
}

impl Registrar for Local {
    fn is_registered(&self, id: &InstanceId) -> Result<bool, RegistrationError> {
        registration::is_registered(&self.instances, id)
    }

    fn register(
        &self,
        request: Request,
        now: DateTime<Utc>,
    ) -> Result<(Registered, Vec<String>), RegistrationError> {
        registration::register(&self.instances, request, self.timeouts, now)
    }

    fn unregister(&self, id: &InstanceId, has_schedule: bool) -> Result<(), RegistrationError> {
        registration::unregister(&self.instances, id, has_schedule)
    }

    fn places(&self) -> Result<Vec<Places>, RegistrationError> {
        let registry = &self.instances.registry;
        let ids = registry.ids()?;
        let readable = ids.iter().filter_map(|id| registry.read(id).ok().flatten());
        let places = readable.map(|vm| Places {
            disks: (vm.disks_at_rest().iter())
                .map(|disk| disk.path().to_owned())
                .collect(),
            id: vm.declared.id,
            socket: vm.declared.socket,
        });
        Ok(places.collect())
    }
}
