//! The port to whoever takes and keeps snapshots, and its adapters.
//!
//! The scheduler knows an engine by this trait only. An adapter must answer "the instance is gone" ([`Presence::Gone`]) only on positive knowledge, never because something could not be read or reached.

pub mod hypeman;
pub mod local;
pub mod registrar;
pub mod rehearser;
pub mod restorer;
pub mod verifier;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::finding::Finding;
use crate::instance::{Instance, InstanceId, InstanceRef};
use crate::interrupt::{Over, Watch};
use crate::snapshot::storing::{Method, MinFree, Storing};
use crate::snapshot::{Kind, Occupied, Snapshot, SnapshotId};
use crate::vmm::VmmError;
use registrar::Registrar;
use rehearser::Rehearser;
use restorer::Restorer;
use verifier::Verifier;

/// What went wrong in an engine. Every variant's text is complete: it names the thing, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine as a whole can't be used: the data directory or the server. It says nothing about any instance.
    #[error("{message}")]
    Unavailable {
        /// What can't be used, and what to do.
        message: String,
        /// The cause underneath.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// This instance's request failed; others may succeed.
    #[error("{message}")]
    Instance {
        /// What failed, and what to do.
        message: String,
        /// The cause underneath.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// It would not fit; nothing was paused for it.
    #[error("{message}")]
    NoRoom {
        /// What is missing where, and what to do.
        message: String,
        /// What is missing, in bytes.
        missing_bytes: u64,
    },
    /// The snapshot is being read, as by a restore, or deleted by somebody else: it can't be deleted now.
    #[error("snapshot {0} is in use")]
    InUse(SnapshotId),
    /// A creation ended without a clear answer: the snapshot may still turn up. The next attempt must look for it by
    /// its name, and use that name again, so that there are never two.
    #[error("{message}")]
    Unclear {
        /// What happened, and what was found so far.
        message: String,
    },
    /// There is no snapshot although its guest was paused for one.
    #[error("no snapshot was made, and the guest was paused for {:.1} s", pause.as_secs_f64())]
    AfterPause {
        /// How long the guest was paused.
        pause: Duration,
        /// What went wrong.
        #[source]
        error: Box<EngineError>,
    },
    /// The process was asked to stop; the guest runs again and nothing is left behind.
    #[error("interrupted by a signal")]
    Interrupted,
}

impl From<VmmError> for EngineError {
    fn from(error: VmmError) -> Self {
        if let VmmError::Over(over) = error {
            return over.into();
        }
        Self::caused("the VMM's part of the snapshot failed", error)
    }
}

impl From<Over> for EngineError {
    fn from(over: Over) -> Self {
        match over {
            Over::Signal => Self::Interrupted,
            Over::Time { .. } => Self::caused("the snapshot was given up", over),
        }
    }
}

impl EngineError {
    /// How long the guest was paused before this, if it was and the engine can tell.
    pub fn pause(&self) -> Option<Duration> {
        if let Self::AfterPause { pause, .. } = self {
            return Some(*pause);
        }
        None
    }

    /// An [`EngineError::Unavailable`] without a cause underneath.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            source: None,
        }
    }

    /// An [`EngineError::Instance`] without a cause underneath.
    pub fn instance(message: impl Into<String>) -> Self {
        Self::Instance {
            message: message.into(),
            source: None,
        }
    }

    /// An [`EngineError::Instance`] that wraps its cause.
    pub fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Instance {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

/// One snapshot to take.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The instance, with the state that `kind` was chosen from.
    pub instance: &'a Instance,
    /// What to take.
    pub kind: Kind,
    /// The snapshot's name; unique among the instance's snapshots.
    pub name: &'a str,
    /// The snapshot's tags, markers included.
    pub tags: &'a BTreeMap<String, String>,
    /// A snapshot that is foreseen to pause the guest for longer is refused before it begins; `None` means no limit.
    pub max_pause: Option<Duration>,
    /// How it is stored.
    pub storing: &'a Storing,
    /// When the snapshot counts as taken.
    pub now: DateTime<Utc>,
}

/// One snapshot whose memory is to be compressed.
#[derive(Debug)]
pub struct Compress<'a> {
    /// The snapshot.
    pub id: &'a SnapshotId,
    /// How.
    pub method: Method,
    /// What stays free; `None` for what holds for the host.
    pub min_free: Option<MinFree>,
    /// How long it may take.
    pub watch: Watch,
}

/// What came of it. Whatever it is, the snapshot is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compressed {
    /// There is no memory in it that could be compressed, it was given up before, or it is gone.
    Nothing,
    /// It is compressed now.
    Done {
        /// How long the memory was.
        raw_bytes: u64,
        /// How long it is now.
        packed_bytes: u64,
    },
    /// It can't be done now, for this reason.
    Later(String),
    /// It will not be done, for this reason, and the snapshot says so.
    Never(String),
    /// The process was asked to stop.
    Interrupted,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Created {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How long the guest was paused; `None` where it did not run, or where the engine can't tell.
    pub pause: Option<Duration>,
    /// What the user should know although the snapshot is good, such as a pause that a better file system would shorten.
    pub warnings: Vec<String>,
}

/// Everything in the snapshot store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The whole snapshots, in no particular order.
    pub snapshots: Vec<Snapshot>,
    /// What is in the store and is no whole snapshot: a record that can't be parsed, a directory without a record.
    /// Never deleted; each is one line to report.
    pub problems: Vec<String>,
}

/// Whether an instance is there, by an engine's word.
pub type Presence<I = Instance> = crate::instance::Presence<I, EngineError>;

/// Who takes, lists and deletes snapshots.
pub trait Engine: Send + Sync {
    /// Every instance by id and name, without asking any VMM.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the list can't be had.
    fn instances(&self) -> Result<Vec<InstanceRef>, EngineError>;

    /// One instance and its state now.
    fn find(&self, id: &InstanceId) -> Presence;

    /// Takes a snapshot. The caller holds the instance's lock. When it returns, with or without an error, the guest
    /// is as it was before; on an error there is no snapshot of that name made by this call, unless the error is
    /// [`EngineError::Unclear`].
    ///
    /// # Errors
    /// When there is no whole snapshot.
    fn create(&self, request: &CreateRequest<'_>) -> Result<Created, EngineError>;

    /// Whether the snapshot would fit, as far as that can be told without the VMM.
    ///
    /// # Errors
    /// [`EngineError::NoRoom`] when it would not, and what keeps that from being told.
    fn foresee_room(&self, _request: &CreateRequest<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    /// Compresses the memory of a snapshot, at the lowest priority. An engine whose server does that does nothing.
    ///
    /// # Errors
    /// When something can't be read or written; the snapshot is as whole as it was.
    fn compress(&self, _wanted: &Compress<'_>) -> Result<Compressed, EngineError> {
        Ok(Compressed::Nothing)
    }

    /// Whether it stores snapshots on this host itself, so that what only this tool can do is possible.
    fn stores_on_this_host(&self) -> bool {
        false
    }

    /// Everything in the store; costs O(snapshots), so callers ask once per run.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the store can't be read.
    fn list(&self) -> Result<Listing, EngineError>;

    /// What each of these listed snapshots occupies on disk, in bytes; `None` where the engine can't tell. Looks at each
    /// of their files, so that only who shows it asks.
    fn disk_bytes(&self, ids: &[&SnapshotId]) -> Vec<Option<u64>> {
        vec![None; ids.len()]
    }

    /// What of a listed snapshot's files is whose. Looks at each piece of each of them, so that only who shows it asks.
    fn occupied(&self, _id: &SnapshotId) -> Occupied {
        Occupied::default()
    }

    /// Deletes a snapshot so that it stops being listed first; one that is gone already is no error.
    ///
    /// # Errors
    /// When it may still be there.
    fn delete(&self, id: &SnapshotId) -> Result<(), EngineError>;
}

/// Finds out what snapshots occupy on disk, where that is not known.
pub fn measure(engine: &dyn Engine, snapshots: &mut [Snapshot]) {
    let ids: Vec<&SnapshotId> = snapshots.iter().map(|it| &it.id).collect();
    let measured = engine.disk_bytes(&ids);
    for (snapshot, bytes) in snapshots.iter_mut().zip(measured) {
        snapshot.disk_bytes = snapshot.disk_bytes.or(bytes);
    }
}

/// Puts right what runs that died left behind. An engine that keeps nothing on this host has nothing to do.
pub trait Recovery: Send + Sync {
    /// Instances that an earlier run left in mid-snapshot: [`Recovery::recover`] wants to be called for them. Cheap: it
    /// is asked in every run.
    ///
    /// # Errors
    /// When the journals can't be listed.
    fn unfinished(&self) -> Result<Vec<InstanceId>, EngineError> {
        Ok(Vec::new())
    }

    /// Puts right what a run that died left behind for this instance: resumes the guest if that run had paused it,
    /// cancels what it left in the VMM, removes its staging. The caller holds the instance's lock. Returns what was
    /// done, a line each; nothing when there was nothing to do.
    ///
    /// # Errors
    /// When something is still left; the next call tries again.
    fn recover(&self, _id: &InstanceId) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    /// Removes staging that nobody works on any more and finishes deletions that were cut short. Returns a line for each.
    ///
    /// # Errors
    /// When something could not be removed.
    fn sweep(&self) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }
}

/// Says how an engine and its surroundings are. Changes nothing.
pub trait Diagnose: Send + Sync {
    /// Looks at everything that the engine needs, for `doctor`. What does not answer costs its own time-out at most. An
    /// instance that `is_busy` names is being worked on by a run: it is left alone, because a VMM may have only one
    /// client.
    fn examine(&self, is_busy: &(dyn Fn(&InstanceId) -> bool + Sync)) -> Vec<Finding>;

    /// A second scheduler that snapshots this instance as well, in a sentence for the user; `None` when there is none.
    ///
    /// # Errors
    /// When the engine can't tell; it says nothing about the instance.
    fn second_scheduler(&self, id: &InstanceId) -> Result<Option<String>, EngineError>;
}

/// One engine by its ports.
pub struct Ports {
    /// Takes, lists and deletes snapshots.
    pub engine: Arc<dyn Engine>,
    /// Puts right what runs that died left behind.
    pub recovery: Arc<dyn Recovery>,
    /// Says how it is.
    pub diagnosis: Arc<dyn Diagnose>,
    /// Keeps VMs that hypeman does not run; `None` where only a server's own instances are served.
    pub registrar: Option<Arc<dyn Registrar>>,
    /// Gives snapshots back.
    pub restorer: Arc<dyn Restorer>,
    /// Tells whether they are what they were; `None` where a server keeps them.
    pub verifier: Option<Arc<dyn Verifier>>,
    /// Starts throw-away VMs from the snapshots, where they are on this host.
    pub rehearser: Option<Arc<dyn Rehearser>>,
}

impl Ports {
    /// The ports of an engine that serves the instances of a server.
    pub fn of<E: Engine + Recovery + Diagnose + Restorer + 'static>(engine: E) -> Self {
        let engine = Arc::new(engine);
        Self {
            engine: Arc::clone(&engine) as _,
            recovery: Arc::clone(&engine) as _,
            diagnosis: Arc::clone(&engine) as _,
            registrar: None,
            restorer: engine,
            verifier: None,
            rehearser: None,
        }
    }

    /// The ports of an engine that keeps snapshots on this host, also of VMs which were registered with it.
    pub fn on_this_host<E>(engine: E) -> Self
    where
        E: Engine + Recovery + Diagnose + Registrar + Restorer + Verifier + Rehearser + 'static,
    {
        let engine = Arc::new(engine);
        Self {
            engine: Arc::clone(&engine) as _,
            recovery: Arc::clone(&engine) as _,
            diagnosis: Arc::clone(&engine) as _,
            registrar: Some(Arc::clone(&engine) as _),
            restorer: Arc::clone(&engine) as _,
            rehearser: Some(Arc::clone(&engine) as _),
            verifier: Some(engine),
        }
    }
}

/// The instances that an engine lists, for whoever asks after many: whether one is there costs no question to its VMM.
pub struct Inventory {
    engine: Arc<dyn Engine>,
    names: BTreeMap<InstanceId, String>,
}

impl Inventory {
    /// Asks for the list.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when it can't be had.
    pub fn take(engine: &Arc<dyn Engine>) -> Result<Self, EngineError> {
        let instances = engine.instances()?;
        let names = instances.into_iter().map(|it| (it.id, it.name)).collect();
        Ok(Self {
            engine: Arc::clone(engine),
            names,
        })
    }

    /// Whether the instance is there. One that is not listed need not be gone: it is asked for by its id.
    pub fn presence(&self, id: &InstanceId) -> Presence<InstanceRef> {
        if let Some(name) = self.names.get(id) {
            return Presence::Here(InstanceRef {
                id: id.clone(),
                name: name.clone(),
            });
        }
        match self.engine.find(id) {
            Presence::Here(Instance { id, name, .. }) => Presence::Here(InstanceRef { id, name }),
            Presence::Gone => Presence::Gone,
            Presence::Unknown(error) => Presence::Unknown(error),
        }
    }

    /// The names of all that are listed, empty where one has none.
    pub const fn names(&self) -> &BTreeMap<InstanceId, String> {
        &self.names
    }

    /// The instance's name, if it is listed and has one.
    pub fn name(&self, id: &InstanceId) -> Option<&str> {
        let name = self.names.get(id)?;
        (!name.is_empty()).then_some(name)
    }
}
