//! hypeman's data directory as an engine: instances, VMM sockets and the snapshot store of this host.

mod capture;
mod compress;
pub mod data_dir;
mod detach;
mod differences;
mod digests;
mod disks;
mod examine;
mod foresight;
mod guest_files;
mod instances;
mod journal;
mod json;
mod learn;
mod left_behind;
mod look;
mod manifest;
pub mod metadata;
mod needs;
mod off;
mod ownership;
mod packed;
mod payload;
mod peers;
mod places;
mod processes;
mod reading;
pub mod record;
mod registration;
mod rest;
mod resting;
mod restore;
mod room;
mod second_scheduler;
mod session;
mod soundness;
pub mod staging;
pub mod state;
pub mod store;
mod sweep;
mod turns;
mod upkeep;
mod verdict;
mod verify;
mod writers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::hypeman::ServerPresence;
use crate::engine::{
    Compress, Compressed, CreateRequest, Created, Engine, EngineError, Listing, Presence,
};
use crate::host::priority::{self, IdleDisk};
use crate::instance::{Instance, InstanceId, InstanceRef, State};
use crate::interrupt::Watch;
use crate::progress::Progress;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::storing::MinFree;
use crate::snapshot::{Consistency, Kind, Occupied, Snapshot, SnapshotId};
use crate::vmm::Timeouts;

use capture::{Captured, Surroundings};
use digests::FileDigests;
use instances::Instances;
use journal::Journal;
use metadata::Metadata;
use off::Surveys;
use room::Room;
use staging::Staging;
use state::Derived;
use store::SnapshotStore;
use turns::Turns;

/// How long a VMM may take for one answer that needs no long work.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the local engine works and how long it waits.
#[derive(Debug, Clone)]
pub struct LocalSetup {
    /// hypeman's data directory.
    pub data_dir: PathBuf,
    /// This tool's own directory, for journals.
    pub state_dir: PathBuf,
    /// How long a guest may be paused for a snapshot.
    pub pause_timeout: Duration,
    /// How long all of one instance may take; `None` for what its size accounts for.
    pub instance_timeout: Option<Duration>,
    /// Where disks may be that the admin has not named, but for guests whose registration says it; anywhere if there is
    /// none.
    pub disk_roots: Vec<PathBuf>,
    /// What stays free where snapshots are, unless a schedule says otherwise.
    pub min_free: Option<MinFree>,
    /// Whether anything may be written: registrations of older versions are moved when one is met.
    pub may_write: bool,
}

/// The local engine.
#[derive(Debug)]
pub struct Local {
    instances: Instances,
    surveys: Surveys,
    data_dir: PathBuf,
    state_dir: PathBuf,
    journal: Journal,
    turns: Turns,
    pause_timeout: Duration,
    timeouts: Timeouts,
    server: ServerPresence,
    instance_timeout: Option<Duration>,
    disk_roots: Vec<PathBuf>,
    min_free: Option<MinFree>,
    progress: Progress,
}

impl Local {
    /// An engine on these directories, none of which is looked at yet, that shows its `progress` and leaves running
    /// instances of hypeman's to `server`.
    pub fn new(settings: LocalSetup, server: ServerPresence, progress: Progress) -> Self {
        Self {
            instances: Instances::new(&settings.state_dir, &settings.data_dir, settings.may_write),
            surveys: Surveys::default(),
            data_dir: settings.data_dir,
            journal: Journal::new(&settings.state_dir),
            turns: Turns::new(&settings.state_dir),
            state_dir: settings.state_dir,
            pause_timeout: settings.pause_timeout,
            timeouts: Timeouts {
                request: REQUEST_TIMEOUT,
                watch: Watch::unlimited(),
            },
            server,
            instance_timeout: settings.instance_timeout,
            disk_roots: settings.disk_roots,
            min_free: settings.min_free,
            progress,
        }
    }

    /// What the instance does now. The VMM of an instance that a hypeman server runs is not asked.
    fn derive(&self, metadata: &Metadata) -> Result<Derived, EngineError> {
        self.derive_since(metadata, None)
    }

    /// The same, by what was found out of the host at `since` or later.
    fn derive_since(
        &self,
        metadata: &Metadata,
        since: Option<Instant>,
    ) -> Result<Derived, EngineError> {
        if state::only_vmm_can_tell(metadata) {
            if let Some(claim) = ownership::claim(metadata, &self.server)? {
                return Ok(Derived::unknown(claim));
            }
        }
        let guest_dir = self.instances.guest_dir(metadata)?;
        let guest_dir = guest_dir.as_deref();
        let objection = || off::objection(metadata, guest_dir, &self.surveys, since);
        Ok(state::derive(
            metadata,
            guest_dir,
            self.timeouts,
            &objection,
        ))
    }

    /// The time-outs for work on one instance that begins now.
    fn timeouts_from_now(&self) -> Timeouts {
        Timeouts {
            watch: Watch::begin(self.instance_timeout),
            ..self.timeouts
        }
    }

    fn capture(
        &self,
        metadata: &Metadata,
        staging: &Staging,
        request: &CreateRequest<'_>,
        timeouts: Timeouts,
    ) -> Result<Captured, EngineError> {
        let guest_dir = self.instances.guest_dir(metadata)?;
        let guest_dir = guest_dir.as_deref();
        let around = Surroundings {
            store: &self.instances.store()?,
            room: &self.room(request),
            disk_roots: &self.disk_roots,
            journal: &self.journal,
            turns: &self.turns,
            timeouts,
            pause_timeout: self.pause_timeout,
            instances: &self.instances,
            progress: &self.progress,
        };
        match request.instance.state {
            State::Running => capture::running(&around, metadata, guest_dir, staging, request),
            at_rest @ (State::Stopped | State::Standby) => {
                let restored = metadata
                    .restored_memory()
                    .filter(|_| at_rest == State::Standby && request.kind == Kind::Standby);
                let before = off::files(metadata, guest_dir).map_err(EngineError::instance)?;
                if before.is_empty() {
                    return Err(EngineError::instance(off::nothing_to_copy(metadata)));
                }
                self.require_rest(metadata, at_rest, None)?;
                let mut captured = rest::at_rest(
                    &around,
                    metadata,
                    guest_dir,
                    restored,
                    request.kind,
                    staging,
                )?;
                self.require_rest(metadata, at_rest, Some(Instant::now()))?;
                if off::files(metadata, guest_dir).as_ref() != Ok(&before) {
                    return Err(did_not_stay(at_rest, Some("its files changed")));
                }
                captured.warnings.extend(self.surveys.blind_spot());
                Ok(captured)
            }
            other @ (State::Created
            | State::Initializing
            | State::Paused
            | State::Shutdown
            | State::Unknown) => Err(EngineError::instance(format!(
                "can't snapshot an instance in state {other}"
            ))),
        }
    }

    /// The digests of memory and state, which were just written. The snapshot is good without them: when time is over, there
    /// are none.
    fn digests(
        &self,
        name: &str,
        staging: &Staging,
        manifest: &Manifest,
        timeouts: Timeouts,
    ) -> Result<Vec<FileDigests>, EngineError> {
        let of_hypeman = Path::new(payload::STATE_DIR);
        let state_dir = manifest.state_dir().unwrap_or(of_hypeman);
        if !staging.guest().join(state_dir).is_dir() {
            return Ok(Vec::new());
        }
        let step = self.progress.begin(name, "reading memory back", None);
        // The guest runs, and nobody waits for this.
        let _idle = IdleDisk::begin();
        match reading::of_state(staging.dir(), state_dir, timeouts.watch, &step) {
            Ok(digests) => Ok(digests),
            Err(_) if timeouts.watch.is_over() => Ok(Vec::new()),
            Err(error) => Err(EngineError::caused("can't read the memory back", error)),
        }
    }

    fn room(&self, request: &CreateRequest<'_>) -> Room<'_> {
        Room {
            state_dir: &self.state_dir,
            min_free: request.storing.min_free.or(self.min_free),
        }
    }

    /// Remembers where the snapshots of a registered VM are. The snapshot is good without it: what can't be kept is said.
    fn remember_store(&self, id: &InstanceId) -> Option<String> {
        let here = std::path::absolute(&self.data_dir).ok();
        let kept = self
            .instances
            .learn(id, |learnt| learnt.snapshots_in = here);
        kept.err().map(|error| crate::error::in_words(&error))
    }

    /// Refuses a copy of a guest that was started, resumed or changed: its files belong to no one instant. What is known of
    /// the host was found out at `since` or later.
    fn require_rest(
        &self,
        before: &Metadata,
        state: State,
        since: Option<Instant>,
    ) -> Result<(), EngineError> {
        let after = self.instances.find(&before.id)?;
        if after.as_ref() != Some(before) {
            return Err(did_not_stay(state, Some("what is known of it changed")));
        }
        let derived = self.derive_since(before, since)?;
        if derived.state == state {
            return Ok(());
        }
        Err(did_not_stay(state, derived.note.as_deref()))
    }
}

fn did_not_stay(state: State, why: Option<&str>) -> EngineError {
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    EngineError::instance(format!(
        "the instance did not stay {state} while its files were copied{why}; the next run tries again"
    ))
}

impl Engine for Local {
    fn instances(&self) -> Result<Vec<InstanceRef>, EngineError> {
        self.instances.list()
    }

    fn find(&self, id: &InstanceId) -> Presence {
        let found = self.instances.find(id).and_then(|found| {
            let with_state = |metadata: Metadata| {
                let derived = self.derive(&metadata)?;
                Ok(Instance {
                    id: metadata.id,
                    name: metadata.name,
                    state: derived.state,
                    state_note: derived.note,
                })
            };
            found.map(with_state).transpose()
        });
        found.into()
    }

    fn create(&self, request: &CreateRequest<'_>) -> Result<Created, EngineError> {
        let timeouts = self.timeouts_from_now();
        let instance = request.instance;
        let metadata = self
            .instances
            .find(&instance.id)?
            .ok_or_else(|| EngineError::instance(format!("instance {} is gone", instance.id)))?;
        let consistency = Consistency::of(request.kind, instance.state);
        if let Some(refusal) = metadata.refusal(consistency, instance.state) {
            return Err(EngineError::instance(refusal));
        }
        if let Some(elsewhere) =
            ownership::socket_elsewhere(&metadata, self.instances.guest_dir(&metadata)?.as_deref())
        {
            return Err(EngineError::instance(elsewhere));
        }
        if instance.state == State::Running {
            if let Some(claim) = ownership::claim(&metadata, &self.server)? {
                return Err(EngineError::instance(claim));
            }
        }
        let store = self.instances.store()?;
        let staging = Staging::create(&store, &SnapshotStore::new_id()?)?;
        let captured = self.capture(&metadata, &staging, request, timeouts)?;
        let mut stored_metadata = metadata.for_snapshot(instance.state, request.now);
        if consistency == Consistency::Crash {
            metadata::without_memory(&mut stored_metadata);
        }
        guest_files::write_metadata(staging.dir(), &stored_metadata)?;
        let snapshot = Snapshot {
            id: staging.id().clone(),
            name: request.name.to_owned(),
            kind: request.kind,
            consistency,
            tags: request.tags.clone(),
            source_instance_id: metadata.id.to_string(),
            source_instance_name: metadata.name.clone(),
            source_hypervisor: metadata.hypervisor.clone(),
            created_at: request.now,
            size_bytes: 0,
            disk_bytes: None,
            unusable: None,
            verified_at: None,
            rehearsed: None,
        };
        let digests = self.digests(&metadata.name, &staging, &captured.manifest, timeouts)?;
        let _step = self.progress.begin(&metadata.name, "writing out", None);
        let snapshot = staging.publish(snapshot, &stored_metadata, captured.manifest, digests)?;
        let mut warnings = captured.warnings;
        if let Some(next) = captured.next {
            if let Err(error) = next.keep(&self.state_dir, &metadata.id, &snapshot.id) {
                warnings.push(format!(
                    "the next snapshot saves all of the memory: {error}"
                ));
            }
        }
        warnings.extend(self.remember_store(&metadata.id));
        Ok(Created {
            snapshot,
            pause: captured.pause,
            warnings,
        })
    }

    fn foresee_room(&self, request: &CreateRequest<'_>) -> Result<(), EngineError> {
        let Some(metadata) = self.instances.find(&request.instance.id)? else {
            return Ok(());
        };
        let store = self.instances.store()?;
        let store = store.directory();
        let guest_dir = self.instances.guest_dir(&metadata)?;
        let needed = needs::bytes(
            request,
            &metadata,
            guest_dir.as_deref(),
            store,
            self.timeouts,
        );
        self.room(request).require(store, None, needed?)
    }

    fn compress(&self, wanted: &Compress<'_>) -> Result<Compressed, EngineError> {
        priority::idle_processor();
        let _idle = IdleDisk::begin();
        let room = Room {
            state_dir: &self.state_dir,
            min_free: wanted.min_free.or(self.min_free),
        };
        compress::Compressor {
            store: &self.instances.store()?,
            markers: &compress::markers(&self.state_dir),
            room: &room,
            progress: &self.progress,
        }
        .compress(wanted)
    }

    fn stores_on_this_host(&self) -> bool {
        true
    }

    fn list(&self) -> Result<Listing, EngineError> {
        self.instances.store()?.list()
    }

    fn occupied(&self, id: &SnapshotId) -> Occupied {
        let store = self.instances.store();
        let looked = store.and_then(|store| restore::occupied(&store, id));
        looked
            .inspect_err(|error| log::warn!("{}", crate::error::in_words(error)))
            .unwrap_or_default()
    }

    fn disk_bytes(&self, ids: &[&SnapshotId]) -> Vec<Option<u64>> {
        let told = |error: &EngineError| log::warn!("{}", crate::error::in_words(error));
        let Ok(store) = self.instances.store().inspect_err(told) else {
            return vec![None; ids.len()];
        };
        let of_one = |id: &&SnapshotId| store.disk_usage(id).inspect_err(told).ok();
        ids.iter().map(of_one).collect()
    }

    fn delete(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let _step = self
            .progress
            .begin(id.as_str(), "removing the snapshot", None);
        self.instances.store()?.delete(id)
    }
}
