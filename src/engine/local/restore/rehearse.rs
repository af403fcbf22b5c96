//! Rehearsal: a throw-away VM from a snapshot, which is watched for a while.

mod life;
mod overlays;
mod place;
mod process;

pub(in crate::engine::local) use place::sweep;

use std::fs::File;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::directory::Content;
use super::how::{Alone, Laid, ThrowAway};
use super::running::{self, Awaited};
use super::stored::Stored;
use super::{Borrowed, backing, checks, start};
use crate::engine::EngineError;
use crate::engine::local::Local;
use crate::engine::local::verdict::Verdict;
use crate::engine::rehearser::{Rehearser, Terms};
use crate::engine::restorer::{Launch, usable};
use crate::error::in_words;
use crate::finding::{Finding, Status};
use crate::fs::beneath::Beneath;
use crate::instance::Hypervisor;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Kind, Rehearsal, Rehearsed, Snapshot};
use life::Life;
use place::Place;
use process::{Running, as_user, begin, require_entry};

/// The least share of a guest's memory that must be available besides it: one part in so many.
const SPARE_PART: u64 = 10;
/// vsock numbers from here on are nobody's: such as are given by hand are small.
const FIRST_CID: u32 = 0x4000_0000;
const LAST_CID: u32 = 0x7fff_ffff;
/// What keeps a rehearsal from being one.
pub(super) enum Obstacle {
    /// It can't be done here: that says nothing of the snapshot.
    Reason(String),
    /// Something went wrong that is no fault of the guest's.
    Error(EngineError),
}

impl From<EngineError> for Obstacle {
    fn from(error: EngineError) -> Self {
        Self::Error(error)
    }
}

impl Rehearser for Local {
    fn rehearse(
        &self,
        snapshot: &Snapshot,
        terms: Terms<'_>,
        clock: &dyn Fn() -> DateTime<Utc>,
    ) -> Result<Rehearsed, EngineError> {
        sweep(&self.data_dir)?;
        if let Finding {
            status: Status::Broken,
            detail,
            ..
        } = usable(snapshot)
        {
            return Ok(Rehearsed::Impossible(detail));
        }
        let store = self.instances.store()?;
        let stored = Stored::hold(&store, &snapshot.id)?;
        let dead = match self.watch(snapshot, &stored, terms) {
            Ok(dead) => dead,
            Err(Obstacle::Reason(why)) => return Ok(Rehearsed::Impossible(why)),
            Err(Obstacle::Error(error)) => return Err(error),
        };
        let directory = store.snapshot_dir(&snapshot.id);
        let rehearsal = Rehearsal {
            at: clock(),
            dead: dead.clone(),
        };
        let failed = |error| {
            EngineError::caused(
                format!("can't keep the outcome in {}", directory.display()),
                error,
            )
        };
        let held = File::open(&directory).map_err(failed)?;
        let verdict = Verdict::read(&held).rehearsed(rehearsal);
        verdict.write(&directory).map_err(failed)?;
        Ok(dead.map_or(Rehearsed::Alive, Rehearsed::Dead))
    }
}

impl Local {
    /// Why the guest is dead; `None` if it lives.
    fn watch(
        &self,
        snapshot: &Snapshot,
        stored: &Stored,
        terms: Terms<'_>,
    ) -> Result<Option<String>, Obstacle> {
        let has_memory = snapshot.kind == Kind::Standby;
        let place = Place::make(&self.data_dir)?;
        let manifest = stored.manifest.as_ref();
        let hypervisor = &snapshot.source_hypervisor;
        let has_overlays = overlays::are_wanted(stored, manifest, hypervisor, place.path());
        let laid = Laid {
            // Nobody else writes there.
            log: place.path().join("vm.log"),
            throw_away: Some(ThrowAway {
                cid: fastrand::u32(FIRST_CID..=LAST_CID),
                has_overlays,
            }),
            ..Laid::beside(&place.of_vm(), manifest)
        };
        let (launch, alone) = self.start_alone(snapshot, stored, &laid, has_memory)?;
        if terms.expected.is_some() && alone.consoles.is_empty() && !writes_to_its_log(&launch) {
            return Err(Obstacle::Reason(
                "its guest has no serial line or console whose words could be expected".to_owned(),
            ));
        }
        let memory_bytes = memory_bytes(stored, &alone);
        require_memory(memory_bytes)?;
        let is_over = |path: &Path| {
            let disks = manifest.filter(|_| has_overlays).map(|it| &it.disks);
            disks.is_some_and(|disks| disks.iter().any(|disk| disk.file == path))
        };
        self.lay_down_alone(snapshot, stored, &place, &launch, &alone, &is_over)?;
        require_entry(&launch, &place)?;
        let under = match manifest.filter(|_| has_overlays) {
            Some(manifest) => overlays::make(stored, manifest, &laid.directory, as_user(&launch))?,
            None => Vec::new(),
        };
        let failed = |error| EngineError::caused("can't make the log of its VMM", error);
        let log = running::new_log(&launch.log).map_err(failed)?;
        let mut child = Running(begin(stored, &place, &launch, &alone, &log, under)?);
        let mut has_begun = false;
        let step = self
            .progress
            .begin(&snapshot.source_instance_name, "rehearsing", None);
        let awaited = Awaited {
            launch: &launch,
            // So does QEMU also before it boots: nothing of what befalls its guest is missed.
            waits: has_memory || is_qemu(&launch),
            loads: alone.memory.is_some(),
            memory_bytes,
        };
        let vmm =
            running::wait_until_it_runs(self.timeouts, &mut child.0, &awaited, &mut has_begun);
        let dead = match vmm {
            Ok(vmm) => {
                let own = Beneath::open(&laid.directory).map_err(failed)?;
                let life = Life::of(vmm, &launch, &alone, &own, &log, snapshot.kind);
                life.watch(&mut child.0, terms, self.timeouts.watch)?
            }
            Err(error) => {
                self.timeouts.watch.check().map_err(EngineError::from)?;
                let said = format!("{}{}", in_words(&error), running::said(&log));
                if !has_begun {
                    return Err(Obstacle::Reason(format!("the VMM does not start: {said}")));
                }
                Some(format!("it does not run: {said}"))
            }
        };
        drop(step);
        child.end()?;
        place.remove()?;
        Ok(dead)
    }

    /// How it is started.
    fn start_alone(
        &self,
        snapshot: &Snapshot,
        stored: &Stored,
        laid: &Laid,
        has_memory: bool,
    ) -> Result<(Launch, Alone), Obstacle> {
        let borrowed = if has_memory {
            None
        } else {
            self.with_known_process(snapshot, stored.manifest.as_ref())?
        };
        let own = stored.configuration(stored.manifest.as_ref());
        let (manifest, config) = match &borrowed {
            Some(Borrowed {
                manifest, config, ..
            }) => (Some(manifest), config.as_ref()),
            None => (stored.manifest.as_ref(), own.as_ref()),
        };
        let (launch, findings, alone) = start::launch(
            manifest,
            &stored.directory,
            config,
            laid,
            &snapshot.source_hypervisor,
            has_memory,
        )
        .map_err(|why| Obstacle::Reason(why.to_string()))?;
        let backing = manifest
            .into_iter()
            .flat_map(|manifest| backing::relative(stored, manifest, &laid.directory, true))
            .chain(manifest.into_iter().flat_map(checks::others));
        let is_copied = laid.throw_away.is_some_and(|it| !it.has_overlays);
        let room = laid
            .directory
            .parent()
            .and_then(Path::parent)
            .filter(|_| is_copied);
        let room = room.map(|place| checks::room(stored, place));
        let mut findings = findings.into_iter().chain(backing).chain(room);
        match findings.find(|it| it.status == Status::Broken) {
            Some(broken) => Err(Obstacle::Reason(format!(
                "{} {}: {}",
                broken.check, broken.subject, broken.detail
            ))),
            None => Ok((launch, alone)),
        }
    }

    fn lay_down_alone(
        &self,
        snapshot: &Snapshot,
        stored: &Stored,
        place: &Place,
        launch: &Launch,
        alone: &Alone,
        is_over: &dyn Fn(&Path) -> bool,
    ) -> Result<(), EngineError> {
        let state_dir = stored.manifest.as_ref().and_then(Manifest::state_dir);
        // It goes from the snapshot right to the VMM, if it is not compressed.
        let is_packed = !stored.packed().unwrap_or_default().is_empty();
        let is_passed = snapshot.kind != Kind::Standby || (alone.memory.is_some() && !is_packed);
        let step = self.progress.begin(
            &snapshot.source_instance_name,
            "copying",
            Some(snapshot.size_bytes),
        );
        let content = Content {
            stored,
            skip: &|path| (is_passed && state_dir == Some(path)) || is_over(path),
            rewritten: &launch.rewritten,
            owner: launch.owner,
            watch: self.timeouts.watch,
            step: &step,
        };
        content.make(&place.of_vm())
    }
}

fn is_qemu(launch: &Launch) -> bool {
    matches!(
        launch.hypervisor,
        Hypervisor::Qemu | Hypervisor::QemuMicrovm
    )
}

/// Whether the guest's words go where the VMM's own do (Firecracker).
fn writes_to_its_log(launch: &Launch) -> bool {
    launch.hypervisor == Hypervisor::Firecracker
}

fn memory_bytes(stored: &Stored, alone: &Alone) -> u64 {
    if alone.memory_bytes > 0 {
        return alone.memory_bytes;
    }
    let files = stored.manifest.iter().flat_map(|it| &it.files);
    files.map(|file| file.size_bytes).max().unwrap_or(0)
}

/// A guest that would push others out of memory is not started.
fn require_memory(guest: u64) -> Result<(), Obstacle> {
    use procfs::Current as _;
    let available = procfs::Meminfo::current()
        .ok()
        .and_then(|it| it.mem_available);
    let needed = guest.saturating_add(guest / SPARE_PART);
    match available {
        Some(available) if available < needed => Err(Obstacle::Reason(format!(
            "it needs {} MiB of memory, and only {} MiB are available",
            needed >> 20,
            available >> 20
        ))),
        Some(_) | None => Ok(()),
    }
}
