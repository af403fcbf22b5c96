//! How a VM of each hypervisor is started from what was laid down.

use std::path::PathBuf;

use super::how::{Alone, How, Known, NotStartable, ThrowAway, require};
use crate::finding::Finding;
use crate::vmm::launch::qemu::Monitors;
use crate::vmm::launch::{Unlaunchable, cloud_hypervisor, firecracker, qemu, rehearsal};

/// The restored VM's monitor, in its directory.
const QMP: &str = "qmp.sock";
const API: &str = "api.sock";
/// QEMU's memory in a saved state.
const MEMORY: &str = "memory";
/// Cloud Hypervisor's configuration in a saved state.
pub(super) const CONFIG: &str = "config.json";

pub(super) fn qemu(known: &Known<'_>) -> Result<How, NotStartable> {
    let memory = match &known.state {
        Some((stored, laid)) => {
            require(stored, &[MEMORY])?;
            Some(laid.join(MEMORY))
        }
        None => None,
    };
    let monitor = known.laid.monitor_or(QMP);
    if let Some(throw_away) = known.laid.throw_away {
        return qemu_alone(known, monitor, throw_away);
    }
    let monitors = match known.laid.own() {
        None => Monitors::Kept,
        Some(_) => Monitors::Only(&monitor),
    };
    let argv = &known.vmm.argv;
    let memory = memory.as_deref();
    let arguments = qemu::arguments(argv, known.disks, known.is_same, monitors, memory)?;
    Ok(How {
        arguments,
        monitor,
        ..How::default()
    })
}

fn qemu_alone(
    known: &Known<'_>,
    monitor: PathBuf,
    throw_away: ThrowAway,
) -> Result<How, NotStartable> {
    let copied = rehearsal::Copied {
        own: &known.laid.directory,
        monitor: &monitor,
        disks: known.disks,
        is_same: known.is_same,
        has_overlays: throw_away.has_overlays,
        has_memory: known.state.is_some(),
        cid: throw_away.cid,
    };
    let started = rehearsal::arguments(&known.vmm.argv, &copied)?;
    let state_dir = known.state.as_ref().and(known.manifest.state_dir());
    Ok(How {
        arguments: started.arguments,
        monitor,
        alone: Alone {
            consoles: started.consoles,
            taps: started.taps,
            memory_bytes: started.memory_bytes,
            memory: state_dir.map(|dir| dir.join(MEMORY)),
            ..Alone::default()
        },
        ..How::default()
    })
}

pub(super) fn cloud_hypervisor(known: &Known<'_>) -> Result<How, NotStartable> {
    let own = known.laid.own();
    let monitor = known.laid.monitor_or(API);
    let saved = known.config.ok_or(Unlaunchable::NoConfiguration)?;
    let mut config = cloud_hypervisor::configuration(saved, known.disks, known.is_same, own)?;
    let mut alone = Alone::default();
    if known.laid.throw_away.is_some() {
        let own = &known.laid.directory;
        let quiet = cloud_hypervisor::quieten(&mut config, known.disks, own)?;
        alone.consoles = quiet.consoles;
        alone.taps = quiet.taps;
        alone.memory_bytes = quiet.memory_bytes;
        alone.events = Some(own.join(EVENTS));
    }
    let laid_state = known.state.as_ref().map(|(_, laid)| laid.as_path());
    // A copy that is thrown away is asked to load, so that a failure of that is told from one before.
    let at_once = laid_state.filter(|_| known.laid.throw_away.is_none());
    let argv = &known.vmm.argv;
    let mut arguments = cloud_hypervisor::arguments(argv, &monitor, at_once, own.is_some())?;
    if let Some(events) = &alone.events {
        arguments.extend(cloud_hypervisor::events_to(events)?);
    }
    let mut how = How {
        arguments,
        monitor,
        findings: own
            .into_iter()
            .filter_map(|_| moved_words(&config))
            .collect(),
        alone,
        ..How::default()
    };
    match &known.state {
        Some((stored, laid)) => {
            require(stored, &[CONFIG, "state.json", "memory-ranges"])?;
            if let Some(own) = own {
                let bytes = serde_json::to_vec_pretty(&config).unwrap_or_default();
                let file = laid.join(CONFIG);
                let file = file.strip_prefix(own).unwrap_or(&file).to_owned();
                how.rewritten.push((file, bytes));
            }
            if known.laid.throw_away.is_some() {
                how.requests = vec![cloud_hypervisor::restore(laid)?];
            }
            how.resume = Some(cloud_hypervisor::resume());
        }
        None => how.requests = cloud_hypervisor::boot(config),
    }
    Ok(how)
}

/// The file for what happens in Cloud Hypervisor.
const EVENTS: &str = "events.json";

/// Where the guest's words go now.
fn moved_words(config: &serde_json::Value) -> Option<Finding> {
    let serial = &config["serial"];
    let file = serial["file"].as_str().filter(|_| serial["mode"] == "File");
    let place = file.or_else(|| serial["socket"].as_str())?;
    Some(Finding::ok("serial line", place, "goes there now"))
}

pub(super) fn firecracker(known: &Known<'_>) -> Result<How, NotStartable> {
    let own = known.laid.own();
    let monitor = known.laid.monitor_or(API);
    let config = known.manifest.devices().and_then(|it| it.config.as_ref());
    let boots = known.state.is_none();
    let argv = &known.vmm.argv;
    let mut how = How {
        arguments: firecracker::arguments(argv, &monitor, boots, own.is_some())?,
        monitor,
        ..How::default()
    };
    if known.laid.throw_away.is_some() {
        how.alone.taps = firecracker::taps(config);
        how.alone.memory_bytes = firecracker::memory_bytes(config);
        firecracker::require_copies(config, known.disks, known.is_same)?;
    }
    let Some((stored, laid)) = &known.state else {
        how.requests = firecracker::boot(config, known.disks, known.is_same, own)?;
        return Ok(how);
    };
    require(stored, &["state", "memory"])?;
    let overrides = firecracker::Overrides::of(known.version);
    if own.is_some() {
        let missing = known.disks.iter().find(|disk| !disk.from.exists());
        if let Some(disk) = missing {
            return Err(NotStartable::OldPlace(disk.from.clone()));
        }
        if let (false, Some(socket)) = (overrides.are_known, known.manifest.vsock_socket()) {
            if known.laid.throw_away.is_some() {
                return Err(Unlaunchable::Immovable("vsock".to_owned()).into());
            }
            how.findings.push(Finding::warning(
                "vsock",
                socket.display(),
                "this version can't be told another place of the socket, and fails if it is there",
                "remove it if nobody uses it, or start a version from 1.16 on",
            ));
        }
    }
    let files = (laid.join("state"), laid.join("memory"));
    let files = (files.0.as_path(), files.1.as_path());
    // A copy that is thrown away sees its disks where the first VM has them.
    let disks = match known.laid.throw_away {
        Some(_) => &[],
        None => known.disks,
    };
    if known.laid.throw_away.is_some() {
        let places = known
            .disks
            .iter()
            .map(|it| (it.to.clone(), it.from.clone()));
        how.alone.in_place_of = places.collect();
    }
    how.requests = firecracker::load(config, files, disks, known.is_same, own, overrides)?;
    how.resume = Some(firecracker::resume());
    how.sets_clock = overrides.are_known && cfg!(target_arch = "x86_64");
    Ok(how)
}
