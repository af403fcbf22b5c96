//! Cloud Hypervisor over the HTTP API of its control socket.

mod migration;
mod wire;

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::fs::beneath::Beneath;
use crate::interrupt::Watch;
use crate::snapshot::manifest::{Devices, Vsock};
use crate::vmm::handover::Handover;
use crate::vmm::http::HttpSocket;
use crate::vmm::pause::PauseClock;
use crate::vmm::stages::{Prepared, Saved, Stages};
use crate::vmm::{
    Deadline, Disk, DisksSettle, Method as SaveMethod, Outlook, Process, SavePlan, Timeouts, Vmm,
    VmmError, VmmState,
};
use migration::Migration;
use wire::{Config, DiskConfig, GuestState, Info, Ping};

/// The version whose migrations were tried.
const MIGRATES: &str = "54";
/// Names of the saved state's files, which Cloud Hypervisor gives them and hypeman expects (contract, section 4).
const STATE_FILES: [&str; 3] = ["config.json", "state.json", "memory-ranges"];

/// What configuration and device state may need at most, in bytes; 46 kB were seen for a guest with two disks.
const STATE_MAX_BYTES: u64 = 8 << 20;

const INFO: &str = "/api/v1/vm.info";
const PAUSE: &str = "/api/v1/vm.pause";
const PING: &str = "/api/v1/vmm.ping";
const RESUME: &str = "/api/v1/vm.resume";
const SNAPSHOT: &str = "/api/v1/vm.snapshot";

/// A Cloud Hypervisor process.
#[derive(Debug)]
pub struct CloudHypervisor {
    http: HttpSocket,
    pause_clock: PauseClock,
    timeouts: Timeouts,
}

impl CloudHypervisor {
    /// Connects to the Cloud Hypervisor that listens at `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, VmmError> {
        Ok(Self {
            http: HttpSocket::connect(socket, timeouts)?,
            pause_clock: PauseClock::new(timeouts.request),
            timeouts,
        })
    }

    fn info(&self) -> Result<Info, VmmError> {
        self.http.get(INFO)
    }

    fn put(&self, path: &str, limit: Duration) -> Result<(), VmmError> {
        self.http.call(&Method::PUT, path, None, limit).map(drop)
    }

    fn resume_now(&mut self) -> Result<(), VmmError> {
        match self.put(RESUME, self.pause_clock.resume_limit()) {
            // That is how it answers when the guest runs already.
            Err(refused @ VmmError::Refused { .. }) => match self.state()? {
                VmmState::Running => Ok(()),
                VmmState::Paused | VmmState::Created | VmmState::Shutdown | VmmState::Other(_) => {
                    Err(refused)
                }
            },
            answered => answered,
        }
    }

    /// Lets the processors go on after a pause that failed half-way.
    ///
    /// Cloud Hypervisor stops the processors first and its devices then; when a device fails it forgets to start the
    /// processors again, says `Running`, and refuses to resume what runs. A second pause, whose remaining half
    /// succeeds, makes it resumable.
    fn undo_half_a_pause(&mut self) -> Result<(), VmmError> {
        self.put(PAUSE, self.http.limit())?;
        self.put(RESUME, self.http.limit())
    }

    fn disk(disk: DiskConfig, number: usize) -> Result<Disk, VmmError> {
        let name = disk.id.unwrap_or_else(|| format!("disk{number}"));
        let Some(path) = disk.path else {
            return Err(VmmError::Unsupported(format!(
                "disk {name} is served by another process (vhost-user), so its contents are not Cloud Hypervisor's to save"
            )));
        };
        let format = disk
            .image_type
            .and_then(|image_type| match image_type.as_str() {
                "Qcow2" => Some("qcow2"),
                "FixedVhd" => Some("vhd"),
                "Vhdx" => Some("vhdx"),
                "FlatVmdk" => Some("vmdk"),
                "Raw" => Some("raw"),
                _ => None,
            });
        Ok(Disk {
            name,
            path,
            format: format.map(str::to_owned),
            is_read_only: disk.readonly,
            backing: None,
        })
    }
}

impl Vmm for CloudHypervisor {
    fn set_watch(&mut self, watch: Watch) {
        self.timeouts.watch = watch;
        self.http.set_watch(watch);
    }

    fn state(&mut self) -> Result<VmmState, VmmError> {
        let answer: GuestState = self.http.get(INFO)?;
        Ok(match answer.state.as_str() {
            "Running" => VmmState::Running,
            "Paused" => VmmState::Paused,
            "Created" => VmmState::Created,
            "Shutdown" => VmmState::Shutdown,
            _ => VmmState::Other(answer.state),
        })
    }

    fn version(&mut self) -> Result<String, VmmError> {
        let ping: Ping = self.http.get(PING)?;
        Ok(ping.version)
    }

    fn process(&self) -> Option<Process> {
        self.http.peer().map(|peer| peer.process.clone())
    }

    fn disks(&mut self) -> Result<Vec<Disk>, VmmError> {
        let config = self.info()?.config;
        let disks = config
            .disks
            .unwrap_or_default()
            .into_vec()
            .into_iter()
            .enumerate();
        let disks = disks.map(|(number, disk)| Self::disk(disk, number));
        let pmem = config
            .pmem
            .unwrap_or_default()
            .into_vec()
            .into_iter()
            .enumerate();
        let pmem = pmem.map(|(number, pmem)| {
            Ok(Disk {
                name: pmem.id.unwrap_or_else(|| format!("pmem{number}")),
                path: pmem.file,
                format: Some("raw".to_owned()),
                is_read_only: pmem.discard_writes,
                backing: None,
            })
        });
        disks.chain(pmem).collect()
    }

    fn devices(&mut self, _: &[String]) -> Result<Devices, VmmError> {
        // The rest is in its own config.json, which is part of the snapshot.
        let config = self.info()?.config;
        let nets = config.net.unwrap_or_default().into_vec();
        Ok(Devices {
            taps: nets.into_iter().filter_map(|net| net.tap).collect(),
            vsock: config.vsock.map(|vsock| Vsock {
                cid: vsock.cid,
                socket: Some(vsock.socket),
            }),
            ..Devices::default()
        })
    }

    fn migrates(&mut self) -> Result<Result<(), String>, VmmError> {
        let version = self.version()?;
        let major = version.trim_start_matches('v').split('.').next();
        if major != Some(MIGRATES) {
            return Ok(Err(format!(
                "it was tried with version {MIGRATES} alone, and this is {version}"
            )));
        }
        let config = self.info()?.config;
        let is_there =
            |list: &Option<Vec<IgnoredAny>>| list.as_ref().is_some_and(|it| !it.is_empty());
        let nets = config.net.as_deref().unwrap_or_default();
        let is_served = nets.iter().any(|net| net.vhost_user);
        if is_served || is_there(&config.fs) || is_there(&config.generic_vhost_user) {
            return Ok(Err(
                "it was not tried with devices that other processes serve (vhost-user)".to_owned(),
            ));
        }
        Ok(Ok(()))
    }

    fn outlook(&mut self) -> Result<Outlook, VmmError> {
        Ok(Outlook {
            method: SaveMethod::InPause { is_synced: false },
            memory: self.info()?.memory_actual_size,
            remedy: None,
        })
    }

    fn memory_bytes(&mut self) -> Result<u64, VmmError> {
        Ok(saved_bytes(&self.info()?))
    }

    fn copies_disks(&self) -> bool {
        false
    }

    fn disks_settle(&self) -> DisksSettle {
        // Not every version waits in its pause for the requests under way, and a refused save needs no copies.
        DisksSettle::BySave
    }

    fn prepare<'v>(&'v mut self, plan: &SavePlan) -> Result<Prepared<'v>, VmmError> {
        let handover = match &plan.state_dir {
            None => None,
            Some(state_dir) => {
                let info = self.info()?;
                refuse_what_a_save_would_lose(&info.config)?;
                let needed_bytes = saved_bytes(&info);
                Some(Handover::open(
                    self.http.peer(),
                    self.http.socket(),
                    state_dir,
                    needed_bytes,
                )?)
            }
        };
        let by_migration = match (&handover, &plan.socket_dir) {
            (Some(handover), Some(socket_dir)) => {
                if handover.direct().is_none() || !migration::fits(socket_dir) {
                    return Err(VmmError::Unsupported(
                        "--method migrate: its VMM can't connect to a socket where the snapshot is staged: it runs in a jail or \
                         as another user, or the path is too long; use --method full"
                            .to_owned(),
                    ));
                }
                Some((socket_dir.clone(), saved_bytes(&self.info()?)))
            }
            (Some(_) | None, _) => None,
        };
        Ok(Prepared::new(Capture {
            vmm: self,
            handover,
            by_migration,
            migration: None,
        }))
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        self.http.ignore_interrupts();
        let resumed = self.resume_now();
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

/// What a save writes at most: all of the memory, also what the guest never touched.
const fn saved_bytes(info: &Info) -> u64 {
    info.memory_actual_size.saturating_add(STATE_MAX_BYTES)
}

/// A capture under way.
#[derive(Debug)]
struct Capture<'v> {
    vmm: &'v mut CloudHypervisor,
    /// `None` for disks alone.
    handover: Option<Handover>,
    /// Where a migration's socket is, and how much memory comes by it at most, in bytes; `None` where the VMM saves it.
    by_migration: Option<(Beneath, u64)>,
    migration: Option<Migration>,
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
        let directory = self.handover.as_ref().and_then(Handover::direct);
        if let (Some((socket_dir, memory_bytes)), Some(directory)) = (&self.by_migration, directory)
        {
            let CloudHypervisor { http, timeouts, .. } = &*self.vmm;
            let places = (socket_dir, directory);
            let migration = Migration::receive(http, *timeouts, places, *memory_bytes)?;
            self.vmm.pause_clock.began(migration.paused_at());
            self.migration = Some(migration);
            return Ok(());
        }
        self.vmm.pause_clock.begin();
        let refused = match self.vmm.put(PAUSE, self.vmm.http.limit()) {
            Err(refused @ VmmError::Refused { .. }) => refused,
            answered => return answered,
        };
        match self.vmm.state()? {
            VmmState::Paused => return Err(VmmError::PausedByOthers),
            VmmState::Running => {}
            VmmState::Created | VmmState::Shutdown | VmmState::Other(_) => return Err(refused),
        }
        self.vmm.http.ignore_interrupts();
        let undone = self.vmm.undo_half_a_pause();
        self.vmm.http.heed_interrupts();
        undone?;
        self.vmm.pause_clock.end();
        Err(refused)
    }

    fn save(&mut self, deadline: Deadline) -> Result<(), VmmError> {
        if self.migration.is_some() {
            // What was to come is here.
            return Ok(());
        }
        let Some(handover) = &self.handover else {
            return Ok(());
        };
        let body = json!({ "destination_url": format!("file://{}", handover.seen_as("")?) });
        let limit = deadline.remaining();
        let saved = self
            .vmm
            .http
            .call(&Method::PUT, SNAPSHOT, Some(&body), limit);
        self.vmm.pause_clock.saved(saved, deadline)
    }

    fn resume(&mut self) -> Result<(), VmmError> {
        if let Some(migration) = &mut self.migration {
            migration.refuse()?;
        }
        self.vmm.resume()
    }

    fn finish(&mut self) -> Result<Saved, VmmError> {
        if let (Some(migration), Some(directory)) = (
            self.migration.take(),
            self.handover.as_ref().and_then(Handover::direct),
        ) {
            migration.write(directory)?;
        } else if let Some(handover) = &mut self.handover {
            handover.collect(&STATE_FILES)?;
        }
        Ok(Saved {
            pause: self.vmm.pause_clock.length(),
            warnings: Vec::new(),
        })
    }
}

/// # Errors
/// For a guest whose saved state would look whole and lack something.
fn refuse_what_a_save_would_lose(config: &Config) -> Result<(), VmmError> {
    let passed_through = [&config.devices, &config.user_devices, &config.vdpa];
    if passed_through
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    {
        return Err(VmmError::Unsupported(
            "the guest has passed-through devices, whose state Cloud Hypervisor can't save; detach them or stop the guest"
                .to_owned(),
        ));
    }
    let zones = config
        .memory
        .as_ref()
        .and_then(|memory| memory.zones.as_deref());
    let outside = zones
        .unwrap_or_default()
        .iter()
        .find(|zone| zone.shared && zone.file.is_some());
    outside.map_or(Ok(()), |zone| {
        Err(VmmError::Unsupported(format!(
            "memory zone {} lives in a shared file, which Cloud Hypervisor leaves out of a snapshot; give the zone \
             shared=off or no file",
            zone.id
        )))
    })
}
