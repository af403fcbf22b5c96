//! The instances of a host: hypeman's, which are directories of its data directory, and registered ones, which are files
//! of our own state directory. A host may have either or both.
//!
//! "The instance is gone" is said only on positive knowledge: see [`DataDir`] for hypeman's; a registered one is there as
//! long as its registration is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::metadata::Metadata;
use super::peers::Peers;
use super::registration::{self, Learnt, Old, Registration, Registry, Seen};
use super::store::SnapshotStore;
use crate::engine::EngineError;
use crate::instance::{InstanceId, InstanceRef};
use crate::vmm::Vmm;

/// Where the instances are.
#[derive(Debug)]
pub(super) struct Instances {
    pub(super) registry: Registry,
    pub(super) data_dir: PathBuf,
    /// Whether registrations of older versions are moved to the state directory when one is met.
    may_write: bool,
    peers: Peers,
}

impl Instances {
    /// The instances of these directories, none of which is looked at yet.
    pub(super) fn new(state_dir: &Path, data_dir: &Path, may_write: bool) -> Self {
        Self {
            registry: Registry::new(state_dir),
            data_dir: data_dir.to_owned(),
            may_write,
            peers: Peers::default(),
        }
    }

    /// The data directory, whether it is there or not.
    pub(super) fn data_dir(&self) -> Result<DataDir, EngineError> {
        DataDir::at(&self.data_dir)
    }

    /// Every instance by id and name; one that can't be read has no name.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when they can't be listed, or there is no sign of any.
    pub(super) fn list(&self) -> Result<Vec<InstanceRef>, EngineError> {
        let mut all = Vec::new();
        let mut ids = BTreeSet::new();
        if let Some(guests) = self.guests()? {
            for guest in guests.instances()? {
                if self.registry.has(&guest.id)? {
                    continue;
                }
                if self.may_write {
                    if let Err(error) = self.old(&guest.id) {
                        log::debug!(instance = guest.id.as_str(); "{error}");
                    }
                }
                ids.insert(guest.id.clone());
                all.push(guest);
            }
        }
        for id in self.registry.ids()? {
            if !ids.contains(&id) {
                let name = match self.registry.read(&id) {
                    Ok(Some(registration)) => registration.declared.name,
                    Ok(None) => continue,
                    Err(_) => String::new(),
                };
                all.push(InstanceRef { id, name });
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// One instance; `None` only when it is positively gone.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when a directory can't tell; [`EngineError::Instance`] when the instance is there and
    /// can't be read.
    pub(super) fn find(&self, id: &InstanceId) -> Result<Option<Metadata>, EngineError> {
        if let Some(registration) = self.registry.read(id)? {
            return self.registered(registration).map(Some);
        }
        let found = match DataDir::open(&self.data_dir).and_then(|data| data.find(id)) {
            Ok(found) => found,
            // Whatever the data directory is, this one was never in it.
            Err(_) if self.registry.was_unregistered(id)? => None,
            Err(error) => return Err(error),
        };
        match found {
            Some(metadata) if metadata.is_old_registration() => {
                match self.old(id)? {
                    Some(registration) => self.registered(registration).map(Some),
                    // It was moved by somebody else meanwhile.
                    None => match self.registry.read(id)? {
                        Some(registration) => self.registered(registration).map(Some),
                        None => Ok(None),
                    },
                }
            }
            found => Ok(found),
        }
    }

    /// The instance's directory as hypeman keeps one; `None` for a registered VM.
    pub(super) fn guest_dir(&self, metadata: &Metadata) -> Result<Option<PathBuf>, EngineError> {
        if metadata.registration.is_some() {
            return Ok(None);
        }
        Ok(Some(self.data_dir()?.guest_dir(&metadata.id)))
    }

    /// The snapshot store, which need not be there yet.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the data directory has neither instances nor snapshots, and nothing says that
    /// this is as it should be: most likely it is not mounted.
    pub(super) fn store(&self) -> Result<SnapshotStore, EngineError> {
        let store = SnapshotStore::of(&self.data_dir()?);
        if let Err(error) = DataDir::open(&self.data_dir) {
            if store.is_empty()? && !self.registry.is_in_use()? {
                return Err(error);
            }
        }
        if store.directory().is_dir() {
            return Ok(store);
        }
        let here = std::path::absolute(&self.data_dir).ok();
        for id in self.registry.ids()? {
            let learnt = self.registry.read(&id).ok().flatten().map(|it| it.learnt);
            if learnt.is_some_and(|it| it.snapshots_in.is_some() && it.snapshots_in == here) {
                return Err(EngineError::unavailable(format!(
                    "{} does not exist, but snapshots of {id} were written there: most likely the data directory is \
                     not mounted; mount it, or create the directory if the snapshots are gone for good",
                    store.directory().display()
                )));
            }
        }
        Ok(store)
    }

    /// hypeman's instances; `None` where there is no sign of any and this host has registered VMs instead.
    fn guests(&self) -> Result<Option<DataDir>, EngineError> {
        match DataDir::open(&self.data_dir) {
            Ok(data) => Ok(Some(data)),
            Err(error) => {
                if self.registry.is_in_use()? && !DataDir::at(&self.data_dir)?.has_guests()? {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// The registration that an older version wrote into the data directory, moved if this process may write.
    fn old(&self, id: &InstanceId) -> Result<Option<Registration>, EngineError> {
        match registration::find_old(&self.data_dir, id)? {
            Old::Trusted(old) if self.may_write => {
                registration::adopt(&self.registry, &self.data_dir, *old).map(Some)
            }
            Old::Trusted(old) => Ok(Some(*old)),
            Old::Distrusted(why) => Err(EngineError::instance(why)),
            Old::None | Old::Foreign(_) => Ok(None),
        }
    }

    /// Lets `vmm` be captured as the one of `metadata`. Gives its process, where the kernel can tell.
    ///
    /// # Errors
    /// When it runs as another user than before, or serves another instance.
    pub(super) fn admit(
        &self,
        metadata: &Metadata,
        vmm: &dyn Vmm,
    ) -> Result<Option<Seen>, EngineError> {
        self.peers.admit(&self.registry, metadata, vmm)
    }

    /// Changes what is known of a registered VM, and writes it if that makes a difference. Others have nothing to write to.
    /// The caller holds the instance's lock.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub(super) fn learn(
        &self,
        id: &InstanceId,
        change: impl FnOnce(&mut Learnt),
    ) -> Result<(), EngineError> {
        let Some(mut registration) = self.registry.read(id)? else {
            return Ok(());
        };
        let before = registration.learnt.clone();
        change(&mut registration.learnt);
        if registration.learnt == before {
            return Ok(());
        }
        self.registry.write(&registration)
    }

    fn registered(&self, registration: Registration) -> Result<Metadata, EngineError> {
        let guest_dir = self.data_dir()?.guest_dir(&registration.declared.id);
        let id = registration.declared.id.clone();
        Metadata::of_registered(registration, &guest_dir).map_err(|error| {
            EngineError::caused(
                format!("the registration of {id} makes no sense; register it again"),
                error,
            )
        })
    }
}
