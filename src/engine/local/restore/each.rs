//! How a VM of each hypervisor is started from what was laid down.

use super::how::{How, Known, NotStartable, require};
use crate::finding::Finding;
use crate::vmm::launch::qemu::Monitors;
use crate::vmm::launch::{Unlaunchable, cloud_hypervisor, firecracker, qemu};

/// The restored VM's monitor, in its directory.
const QMP: &str = "qmp.sock";
const API: &str = "api.sock";
/// Cloud Hypervisor's configuration in a saved state.
pub(super) const CONFIG: &str = "config.json";

pub(super) fn qemu(known: &Known<'_>) -> Result<How, NotStartable> {
    const MEMORY: &str = "memory";
    let memory = match &known.state {
        Some((stored, laid)) => {
            require(stored, &[MEMORY])?;
            Some(laid.join(MEMORY))
        }
        None => None,
    };
    let monitor = known.laid.monitor_or(QMP);
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

pub(super) fn cloud_hypervisor(known: &Known<'_>) -> Result<How, NotStartable> {
    let own = known.laid.own();
    let monitor = known.laid.monitor_or(API);
    let saved = known.config.ok_or(Unlaunchable::NoConfiguration)?;
    let config = cloud_hypervisor::configuration(saved, known.disks, known.is_same, own)?;
    let laid_state = known.state.as_ref().map(|(_, laid)| laid.as_path());
    let argv = &known.vmm.argv;
    let arguments = cloud_hypervisor::arguments(argv, &monitor, laid_state, own.is_some())?;
    let mut how = How {
        arguments,
        monitor,
        findings: own
            .into_iter()
            .filter_map(|_| moved_words(&config))
            .collect(),
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
            how.resume = Some(cloud_hypervisor::resume());
        }
        None => how.requests = cloud_hypervisor::boot(config),
    }
    Ok(how)
}

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
    how.requests = firecracker::load(config, files, known.disks, known.is_same, own, overrides)?;
    how.resume = Some(firecracker::resume());
    how.sets_clock = overrides.are_known && cfg!(target_arch = "x86_64");
    Ok(how)
}
