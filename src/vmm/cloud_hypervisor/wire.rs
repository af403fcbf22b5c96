//! What Cloud Hypervisor answers, as far as a capture needs it.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::vmm::MAX_DISKS;
use crate::vmm::bounded::AtMost;

/// The answer to `vmm.ping`.
#[derive(Deserialize)]
pub(super) struct Ping {
    pub(super) version: String,
}

/// The state in the answer to `vm.info`.
#[derive(Deserialize)]
pub(super) struct GuestState {
    pub(super) state: String,
}

/// The part of `vm.info` that a capture needs.
#[derive(Deserialize)]
pub(super) struct Info {
    pub(super) config: Config,
    #[serde(default)]
    pub(super) memory_actual_size: u64,
}

#[derive(Deserialize)]
pub(super) struct Config {
    // All lists are left out, or null, when they are empty.
    pub(super) disks: Option<AtMost<MAX_DISKS, DiskConfig>>,
    pub(super) pmem: Option<AtMost<MAX_DISKS, Pmem>>,
    pub(super) memory: Option<Memory>,
    pub(super) net: Option<AtMost<MAX_DISKS, Net>>,
    pub(super) vsock: Option<VsockConfig>,
    pub(super) fs: Option<Vec<IgnoredAny>>,
    pub(super) generic_vhost_user: Option<Vec<IgnoredAny>>,
    pub(super) devices: Option<Vec<IgnoredAny>>,
    pub(super) user_devices: Option<Vec<IgnoredAny>>,
    pub(super) vdpa: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
pub(super) struct DiskConfig {
    pub(super) id: Option<String>,
    // Null for a disk that another process serves.
    pub(super) path: Option<PathBuf>,
    #[serde(default)]
    pub(super) readonly: bool,
    // `Raw`, `Qcow2`, `FixedVhd`, `Vhdx`, `FlatVmdk`, `Unknown`; older versions don't tell.
    pub(super) image_type: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Pmem {
    pub(super) id: Option<String>,
    pub(super) file: PathBuf,
    #[serde(default)]
    pub(super) discard_writes: bool,
}

#[derive(Deserialize)]
pub(super) struct Net {
    // Null for one whose descriptors were passed.
    pub(super) tap: Option<String>,
    #[serde(default)]
    pub(super) vhost_user: bool,
}

#[derive(Deserialize)]
pub(super) struct VsockConfig {
    pub(super) cid: u64,
    pub(super) socket: PathBuf,
}

#[derive(Deserialize)]
pub(super) struct Memory {
    pub(super) zones: Option<AtMost<MAX_DISKS, Zone>>,
}

#[derive(Deserialize)]
pub(super) struct Zone {
    pub(super) id: String,
    pub(super) file: Option<PathBuf>,
    #[serde(default)]
    pub(super) shared: bool,
}
