//! The capture of a running guest.
//!
//! Everything slow or fallible happens before the guest stops. What happens while it is paused is in
//! [`Session::capture`], and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::local::detach;
use crate::engine::local::differences::{self, Chain, Next};
use crate::engine::local::disks::DiskPlan;
use crate::engine::local::foresight::PauseLimit;
use crate::engine::local::guest_files;
use crate::engine::local::instances::Instances;
use crate::engine::local::journal::{Entry, Journal, Operation, Phase};
use crate::engine::local::metadata::Metadata;
use crate::engine::local::ownership;
use crate::engine::local::processes;
use crate::engine::local::room::Room;
use crate::engine::local::session::{Session, Terms};
use crate::engine::local::staging::Staging;
use crate::engine::local::store::SnapshotStore;
use crate::engine::local::turns::Turns;
use crate::engine::{CreateRequest, EngineError};
use crate::error::in_words;
use crate::fs::beneath::Beneath;
use crate::fs::remove;
use crate::instance::InstanceId;
use crate::interrupt::Watch;
use crate::progress::Progress;
use crate::snapshot::Kind;
use crate::snapshot::manifest::{Manifest, Running};
use crate::snapshot::storing::Saving;
use crate::vmm::disk_files::DiskFiles;
use crate::vmm::{self, Outlook, SavePlan, Saved, Timeouts, VmmState};

/// The saved state's directory in the guest directory (contract, section 4).
const STATE_DIR: &str = "snapshots/snapshot-latest";

/// What a capture can tell.
#[derive(Debug)]
pub(super) struct Captured {
    /// What it put into `guest/`, without the list of files.
    pub(super) manifest: Manifest,
    /// How long the guest was paused; `None` where it did not run.
    pub(super) pause: Option<Duration>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    /// What the next difference is saved onto, once this is published.
    pub(super) next: Option<Next>,
}

/// What the captures of one engine share.
pub(super) struct Surroundings<'a> {
    /// Where snapshots are.
    pub(super) store: &'a SnapshotStore,
    /// Where journals go.
    pub(super) journal: &'a Journal,
    /// Whose turn it is to pause a guest.
    pub(super) turns: &'a Turns,
    /// How long a VMM may take to answer.
    pub(super) timeouts: Timeouts,
    /// How long a guest may be paused.
    pub(super) pause_timeout: Duration,
    /// Where disks may be that the admin has not named, unless a registration says it.
    pub(super) disk_roots: &'a [PathBuf],
    /// What room there is.
    pub(super) room: &'a Room<'a>,
    /// Where it is kept what they teach.
    pub(super) instances: &'a Instances,
    /// Where it is shown how far they are.
    pub(super) progress: &'a Progress,
}

/// Captures a running guest into `staging`: memory, device state and disks of one instant.
pub(super) fn running(
    around: &Surroundings<'_>,
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    staging: &Staging,
    request: &CreateRequest<'_>,
) -> Result<Captured, EngineError> {
    let hypervisor = metadata
        .hypervisor()
        .map_err(|error| EngineError::instance(error.to_string()))?;
    let mut vmm = vmm::open(hypervisor, &metadata.socket, around.timeouts)?;
    let state = vmm.state()?;
    if state != VmmState::Running {
        return Err(EngineError::instance(format!(
            "the guest does not run any more: its VMM says {state:?}"
        )));
    }
    let with_memory = request.kind == Kind::Standby;
    let harm = if with_memory {
        ownership::harm(metadata, guest_dir, vmm.as_mut())?
    } else {
        None
    };
    if let Some(harm) = harm {
        return Err(EngineError::instance(format!(
            "{harm}; {}",
            ownership::REMEDY
        )));
    }
    let seen = around.instances.admit(metadata, vmm.as_ref())?;
    let version = vmm.version()?;
    let vmm_process = vmm.process().as_ref().and_then(processes::vmm);
    let argv = vmm_process.as_ref().map_or(&[][..], |it| &it.argv);
    let devices = vmm.devices(argv)?;
    let foreseen = if with_memory {
        vmm.foreseen()?
    } else {
        Vec::new()
    };
    let disks = vmm.disks()?;
    let guest = staging.dir();
    let process = vmm.process();
    let named = metadata.named_disks();
    let files = DiskFiles::of(process.as_ref(), named).within(&roots(around, metadata, guest_dir));
    let plan = DiskPlan::make(disks, &files, guest_dir, guest, vmm.copies_disks())?;
    let running = Running {
        version,
        vmm: vmm_process,
        devices,
        host: processes::host(),
        read_only_disks: plan.read_only.clone(),
    };
    let learnt = plan.learnt()?;
    // It runs: memory that a restore laid down was used, or does not go with its disks any more.
    if let Some(used) = metadata.restored_memory() {
        if let Err(error) = remove::tree(&used.directory) {
            log::warn!(
                instance = metadata.id.as_str();
                "can't remove the memory that was restored, in {}: {error}", used.directory.display()
            );
        }
    }
    around.instances.learn(&metadata.id, |all| {
        all.vmm = seen;
        all.disks = learnt;
        all.restored = None;
    })?;
    let chain = if with_memory {
        let memory = Path::new(STATE_DIR).join(differences::MEMORY);
        let wanted = request.storing.saving;
        Chain::begin(
            around.room.state_dir,
            around.store,
            metadata,
            wanted,
            vmm.as_mut(),
            &memory,
        )?
    } else {
        Chain::default()
    };
    let base = chain.base();
    let migrates = match request.storing.saving {
        Some(Saving::Migration) if with_memory => Some(vmm.migrates()?),
        _ => None,
    };
    let by_migration = matches!(migrates, Some(Ok(())));
    let disk_bytes = plan.needed_bytes()?;
    let limit = PauseLimit {
        longest: request.max_pause,
        copied: plan.bytes_in_pause()?,
        by_vmm: disk_bytes,
    };
    if limit.longest.is_some() {
        limit.check(&if with_memory && base.is_none() && !by_migration {
            vmm.outlook()?
        } else {
            Outlook::DISKS
        })?;
    }
    let memory = if with_memory { vmm.memory_bytes()? } else { 0 };
    let needed_bytes = disk_bytes.saturating_add(memory);
    around.room.reserve(staging.path(), needed_bytes)?;
    let watch = around.timeouts.watch.sized(needed_bytes);
    let name = &metadata.name;
    let step = around.progress.begin(name, "copying files", None);
    if let Some(guest_dir) = guest_dir {
        guest_files::copy_beside_disks(guest_dir, guest, &plan, watch, &step)?;
    }
    drop(step);
    let state_dir = if with_memory {
        Some(make_state_dir(guest, guest_dir, watch)?)
    } else {
        None
    };

    let entry = Entry {
        operation: Operation::Capture,
        instance_id: request.instance.id.clone(),
        snapshot_id: staging.id().clone(),
        hypervisor,
        socket: metadata.socket.clone(),
        process: vmm.process(),
        settings: Some(vmm.settings()?),
        no_memory: !with_memory,
        phase: Phase::Preparing,
        began_at: request.now,
    };
    // What the VMM writes is not counted. Older than the session, so that a terminal that blocks can't keep a panic from
    // resuming the guest.
    let total_bytes = plan.copies_in_pause().then_some(disk_bytes);
    let step = around.progress.begin(
        name,
        if with_memory {
            "saving memory and disks"
        } else {
            "saving disks"
        },
        total_bytes,
    );
    let mut session = Session::begin(vmm, around.journal, entry, around.timeouts)?;
    session.set_watch(watch);
    let save_plan = SavePlan {
        state_dir: state_dir.clone(),
        base,
        socket_dir: if by_migration {
            Some(hold(staging.path())?)
        } else {
            None
        },
        disks: plan.by_vmm(),
    };
    let terms = Terms {
        turns: around.turns,
        target: device(guest)?,
        limit,
        timeout: around.pause_timeout,
    };
    let saved = match session.capture(&save_plan, &plan, &terms, &step) {
        Ok(saved) => saved,
        Err(error) => return Err(abandon(session, &metadata.id, error)),
    };
    drop(step);
    session.close()?;
    let step = around.progress.begin(name, "sealing", None);
    let kept_open = detach::all(guest, state_dir.as_ref(), &plan.files_by_vmm(), watch)?;
    drop(step);

    let mut foreseen = [foreseen, kept_open].concat();
    foreseen.extend(limit.exceeded(saved.pause));
    Ok(Captured {
        manifest: Manifest::of_running(
            running,
            plan.entries(),
            with_memory.then_some(STATE_DIR),
            saved.pause,
        ),
        pause: Some(saved.pause),
        warnings: warnings(&plan, foreseen, saved)
            .into_iter()
            .chain(chain.warning())
            .chain(migrates.and_then(Result::err).map(|why| {
                format!("memory was saved in the pause, although --method is migrate: {why}")
            }))
            .collect(),
        next: chain.next(),
    })
}

/// Makes the directory for memory and device state, with what goes with it.
fn make_state_dir(
    guest: &Beneath,
    guest_dir: Option<&Path>,
    watch: Watch,
) -> Result<Beneath, EngineError> {
    let state_dir = guest.create_dir(STATE_DIR).map_err(|error| {
        let path = guest.path().join(STATE_DIR);
        EngineError::caused(format!("can't create {}", path.display()), error)
    })?;
    if let Some(guest_dir) = guest_dir {
        guest_files::complete_state(guest_dir, &state_dir, watch)?;
    }
    Ok(state_dir)
}

fn hold(directory: &Path) -> Result<Beneath, EngineError> {
    std::path::absolute(directory)
        .and_then(|directory| Beneath::open(&directory))
        .map_err(|error| EngineError::caused(format!("can't open {}", directory.display()), error))
}

/// The file system of a directory, by its device number.
fn device(directory: &Beneath) -> Result<u64, EngineError> {
    let stat = rustix::fs::fstat(directory).map_err(|error| {
        let path = directory.path().display();
        EngineError::caused(format!("can't look at {path}"), error)
    })?;
    Ok(stat.st_dev)
}

/// Where the guest's disks may be. Those of a guest directory may be there, whatever is said of others.
fn roots(around: &Surroundings<'_>, metadata: &Metadata, guest_dir: Option<&Path>) -> Vec<PathBuf> {
    let of_host = || {
        let mut roots = around.disk_roots.to_vec();
        if !roots.is_empty() {
            roots.extend(guest_dir.map(Path::to_owned));
        }
        roots
    };
    match metadata.disk_roots() {
        [] => of_host(),
        declared => declared.to_vec(),
    }
}

/// Ends a failed session; the error says how long the guest was paused, and both if even the end fails.
fn abandon(session: Session<'_>, id: &InstanceId, error: EngineError) -> EngineError {
    match (session.abandon(), error) {
        (Ok(_), EngineError::Interrupted) => EngineError::Interrupted,
        (Err(worse), EngineError::Interrupted) => {
            log::error!(instance = id.as_str(); "{}", in_words(&worse));
            EngineError::Interrupted
        }
        (Ok(Some(pause)), error) => EngineError::AfterPause {
            pause,
            error: Box::new(error),
        },
        (Ok(None), error) => error,
        (Err(worse), error) => EngineError::caused(in_words(&worse), error),
    }
}

fn warnings(plan: &DiskPlan, foreseen: Vec<String>, saved: Saved) -> Vec<String> {
    let mut warnings = foreseen;
    warnings.extend(saved.warnings);
    if plan.copies_in_pause() {
        warnings.push(
            "disks are copied while the guest is paused, because the data directory's file system can't share \
             blocks between files: XFS or btrfs would make that pause milliseconds"
                .to_owned(),
        );
    }
    warnings
}
