//! Firecracker over the HTTP API of its control socket.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::interrupt::Watch;
use crate::snapshot::manifest::{Devices, Vsock};
use crate::vmm::bounded::AtMost;
use crate::vmm::handover::Handover;
use crate::vmm::http::HttpSocket;
use crate::vmm::pause::PauseClock;
use crate::vmm::stages::{Prepared, Saved, Stages};
use crate::vmm::{
    Deadline, Disk, DisksSettle, MAX_DISKS, Method as SaveMethod, Outlook, Process, SavePlan,
    Timeouts, Vmm, VmmError, VmmState,
};

/// Names of the saved state's files, as hypeman has them (contract, section 4).
const STATE: &str = "state";
const MEMORY: &str = "memory";

const CREATE: &str = "/snapshot/create";
/// The field of a save that says whether its files are synced before it is answered.
const SYNC: &str = "sync_snapshot_files";

/// What the state file may need at most, in bytes; 14 kB were seen for a guest with two disks.
const STATE_MAX_BYTES: u64 = 4 << 20;

/// A configuration that is longer is kept in no manifest; 2 kB were seen for a guest with two disks.
const CONFIG_MAX_BYTES: usize = 128 << 10;

/// A Firecracker process.
#[derive(Debug)]
pub struct Firecracker {
    http: HttpSocket,
    pause_clock: PauseClock,
}

/// The answer to `GET /`.
#[derive(Deserialize)]
struct Info {
    state: String,
}

/// The answer to `GET /version`.
#[derive(Deserialize)]
struct Version {
    firecracker_version: String,
}

/// The part of `GET /vm/config` that is needed here.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    drives: AtMost<MAX_DISKS, Drive>,
    // Since 1.14: files that the guest maps as persistent memory.
    #[serde(default)]
    pmem: AtMost<MAX_DISKS, Pmem>,
    #[serde(rename = "machine-config")]
    machine: Machine,
}

#[derive(Deserialize)]
struct Drive {
    drive_id: String,
    path_on_host: Option<PathBuf>,
    // Absent for a drive that another process serves.
    is_read_only: Option<bool>,
}

#[derive(Deserialize)]
struct Pmem {
    id: String,
    path_on_host: PathBuf,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
struct Machine {
    mem_size_mib: u64,
    #[serde(default)]
    track_dirty_pages: bool,
}

impl Firecracker {
    /// Connects to the Firecracker that listens at `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, VmmError> {
        Ok(Self {
            http: HttpSocket::connect(socket, timeouts)?,
            pause_clock: PauseClock::new(timeouts.request),
        })
    }

    fn config(&self) -> Result<Config, VmmError> {
        self.http.get("/vm/config")
    }

    /// Whether this version can leave its files unsynced. Found out by a request that every version refuses while it
    /// reads it: for an unknown field, or for the fields that are missing.
    fn knows_sync(&self) -> Result<bool, VmmError> {
        let body = json!({ SYNC: false });
        let limit = self.http.limit();
        match self.http.call(&Method::PUT, CREATE, Some(&body), limit) {
            Err(VmmError::Refused { message, .. }) => Ok(message.contains("missing field")),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_state(&self, state: &str, limit: Duration) -> Result<(), VmmError> {
        let body = json!({ "state": state });
        self.http
            .call(&Method::PATCH, "/vm", Some(&body), limit)
            .map(drop)
    }
}

impl Vmm for Firecracker {
    fn set_watch(&mut self, watch: Watch) {
        self.http.set_watch(watch);
    }

    fn state(&mut self) -> Result<VmmState, VmmError> {
        let info: Info = self.http.get("/")?;
        Ok(match info.state.as_str() {
            "Running" => VmmState::Running,
            "Paused" => VmmState::Paused,
            "Not started" => VmmState::Created,
            _ => VmmState::Other(info.state),
        })
    }

    fn version(&mut self) -> Result<String, VmmError> {
        let version: Version = self.http.get("/version")?;
        Ok(version.firecracker_version)
    }

    fn process(&self) -> Option<Process> {
        self.http.peer().map(|peer| peer.process.clone())
    }

    fn disks(&mut self) -> Result<Vec<Disk>, VmmError> {
        let config = self.config()?;
        let disk = |name: String, path: PathBuf, is_read_only: bool| Disk {
            name,
            path,
            format: Some("raw".to_owned()),
            is_read_only,
            backing: None,
        };
        let drives = config.drives.into_vec().into_iter().map(|drive| match drive.path_on_host {
            Some(path) => Ok(disk(drive.drive_id, path, drive.is_read_only.unwrap_or(false))),
            None => Err(VmmError::Unsupported(format!(
                "drive {} is served by another process (vhost-user), which Firecracker can't save",
                drive.drive_id
            ))),
        });
        let pmem = config.pmem.into_vec().into_iter();
        let pmem = pmem.map(|pmem| Ok(disk(pmem.id, pmem.path_on_host, pmem.read_only)));
        drives.chain(pmem).collect()
    }

    fn devices(&mut self, _: &[String]) -> Result<Devices, VmmError> {
        let config: Value = self.http.get("/vm/config")?;
        let list = |key: &str| config[key].as_array().map_or(&[][..], Vec::as_slice);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Devices {
            cpu_model: text(&config["machine-config"]["cpu_template"]),
            taps: list("network-interfaces")
                .iter()
                .take(MAX_DISKS)
                .filter_map(|interface| text(&interface["host_dev_name"]))
                .collect(),
            vsock: config["vsock"]["guest_cid"].as_u64().map(|cid| Vsock {
                cid,
                socket: text(&config["vsock"]["uds_path"]).map(PathBuf::from),
            }),
            config: Some(config).filter(|it| it.to_string().len() <= CONFIG_MAX_BYTES),
        })
    }

    fn tracks_writes(&mut self) -> Result<bool, VmmError> {
        // Full saves mark every page as clean as well (`snapshot_memory_to_file` in its sources).
        Ok(self.config()?.machine.track_dirty_pages)
    }

    fn saves_differences(&mut self) -> Result<Result<(), &'static str>, VmmError> {
        let version = self.version()?;
        let mut numbers = version.trim_start_matches('v').split(['.', '-']);
        let mut next = || numbers.next().and_then(|it| it.parse::<u64>().ok());
        // Before, those of guests with more than 3 GiB were wrong (its issue 5705).
        if (next(), next()) < (Some(1), Some(15)) {
            return Ok(Err(
                "this version's differences can be wrong; 1.15 and later ones' are not",
            ));
        }
        Ok(if self.tracks_writes()? {
            Ok(())
        } else {
            Err("it does not track dirty pages (track_dirty_pages in its machine configuration)")
        })
    }

    fn outlook(&mut self) -> Result<Outlook, VmmError> {
        let is_synced = !self.knows_sync()?;
        Ok(Outlook {
            method: SaveMethod::InPause { is_synced },
            memory: self.config()?.machine.mem_size_mib.saturating_mul(1 << 20),
            remedy: is_synced.then(|| {
                "a Firecracker that knows sync_snapshot_files, which writes memory without waiting for the disk".to_owned()
            }),
        })
    }

    fn memory_bytes(&mut self) -> Result<u64, VmmError> {
        // It writes all of it, also what the guest never touched.
        let mem_size_mib = self.config()?.machine.mem_size_mib;
        mem_size_mib
            .checked_mul(1 << 20)
            .and_then(|bytes| bytes.checked_add(STATE_MAX_BYTES))
            .ok_or_else(|| VmmError::Protocol {
                request: "GET /vm/config".to_owned(),
                detail: format!("a guest with {mem_size_mib} MiB of memory"),
            })
    }

    fn copies_disks(&self) -> bool {
        false
    }

    fn disks_settle(&self) -> DisksSettle {
        // Its pause stops the processors alone; `prepare_save` in its sources is what waits for the disks.
        DisksSettle::BySave
    }

    fn prepare<'v>(&'v mut self, plan: &SavePlan) -> Result<Prepared<'v>, VmmError> {
        let Some(state_dir) = &plan.state_dir else {
            return Ok(Prepared::new(Capture {
                vmm: self,
                handover: None,
                leaves_sync_to_us: false,
                is_difference: false,
            }));
        };
        let needed_bytes = self.memory_bytes()?;
        let handover = Handover::open(
            self.http.peer(),
            self.http.socket(),
            state_dir,
            needed_bytes,
        )?;
        // Onto a file of another length it would write a difference from nothing.
        let memory_bytes = needed_bytes - STATE_MAX_BYTES;
        let is_fit = |base: &File| base.metadata().is_ok_and(|it| it.len() == memory_bytes);
        let is_difference = match plan.base.as_deref().filter(|base| is_fit(base)) {
            Some(base) => handover.lay(MEMORY, base)?,
            None => false,
        };
        Ok(Prepared::new(Capture {
            leaves_sync_to_us: self.knows_sync()?,
            is_difference,
            vmm: self,
            handover: Some(handover),
        }))
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        // Resuming a guest that runs is a success, too.
        self.http.ignore_interrupts();
        let resumed = self.set_state("Resumed", self.pause_clock.resume_limit());
        self.http.heed_interrupts();
        resumed?;
        self.pause_clock.end();
        Ok(())
    }

    fn discard(&mut self, _save_may_have_begun: bool) -> Result<(), VmmError> {
        // A save that is under way can't be cancelled; it ends by itself, in files that have no name any more.
        Handover::clear(self.http.peer(), self.http.socket())
    }
}

/// A capture under way.
#[derive(Debug)]
struct Capture<'v> {
    vmm: &'v mut Firecracker,
    /// `None` for disks alone.
    handover: Option<Handover>,
    /// Whether the save need not sync its files, which the end of the capture does for all files.
    leaves_sync_to_us: bool,
    /// Whether it is written onto the memory of the last snapshot.
    is_difference: bool,
}

impl Stages for Capture<'_> {
    fn other_target(&self) -> Result<Option<u64>, VmmError> {
        self.handover.as_ref().map(Handover::device).transpose()
    }

    fn write_out(&mut self) -> Result<(), VmmError> {
        if let Some(handover) = &self.handover {
            handover.write_out();
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), VmmError> {
        // Firecracker takes a second pause for a success, so this is the only way to see somebody else's.
        match self.vmm.state()? {
            VmmState::Running => {}
            VmmState::Paused => return Err(VmmError::PausedByOthers),
            other @ (VmmState::Created | VmmState::Shutdown | VmmState::Other(_)) => {
                return Err(VmmError::Unsupported(format!(
                    "the guest does not run: its state is {other:?}"
                )));
            }
        }
        self.vmm.pause_clock.begin();
        self.vmm.set_state("Paused", self.vmm.http.limit())
    }

    fn save(&mut self, deadline: Deadline) -> Result<(), VmmError> {
        let Some(handover) = &self.handover else {
            return Ok(());
        };
        let mut body: Value = json!({
            "snapshot_type": if self.is_difference { "Diff" } else { "Full" },
            "snapshot_path": handover.seen_as(STATE)?,
            "mem_file_path": handover.seen_as(MEMORY)?,
        });
        if self.leaves_sync_to_us {
            body[SYNC] = json!(false);
        }
        let limit = deadline.remaining();
        let saved = self.vmm.http.call(&Method::PUT, CREATE, Some(&body), limit);
        self.vmm.pause_clock.saved(saved, deadline)
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        self.vmm.resume()
    }

    fn finish(&mut self) -> Result<Saved, VmmError> {
        if let Some(handover) = &mut self.handover {
            handover.collect(&[STATE, MEMORY])?;
        }
        Ok(Saved {
            pause: self.vmm.pause_clock.length(),
            warnings: Vec::new(),
        })
    }
}
