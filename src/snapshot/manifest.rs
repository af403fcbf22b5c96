//! `guest/hypeman-snap.json`: what a person, a script or a restore needs to start a VM from a snapshot without hypeman, and
//! which files are there (hypeman-snap(5)). When it is read it is a stranger's: no path in it is used before
//! [`Manifest::check`] has seen it, and what the VMM said in it stays the VMM's word.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::snapshot::{Consistency, SnapshotId};

/// The manifest's file name in the snapshot's `guest/`.
pub const FILE_NAME: &str = "hypeman-snap.json";
/// The version that is written. Version 1 has no `files`.
const VERSION: u32 = 2;
/// More files than this are no guest's.
pub const FILES_MAX: usize = 4096;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    version: u32,
    /// The snapshot that it was written for; absent in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    /// The VMM's version when the snapshot was taken; a restore wants the same or a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vmm_version: Option<String>,
    /// The directory with memory and device state, relative to `guest/`; absent in a snapshot of disks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    /// At which moment of the guest's life it was taken; absent in those of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consistency: Option<Consistency>,
    /// How long the guest was paused, in milliseconds; absent if it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause_ms: Option<f64>,
    /// The VMM's process; absent if no VMM ran, or the kernel could not tell which one it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vmm: Option<Vmm>,
    /// What the guest had besides memory and disks, by the VMM's word; absent if no VMM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devices: Option<Devices>,
    /// The host that it ran on; absent if no VMM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Host>,
    /// Disk copies whose place or format is not the original's, and all those of a running guest.
    #[serde(default)]
    pub disks: Vec<DiskEntry>,
    /// Disks that the guest can't write to, and of which there is no copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    read_only_disks: Vec<ReadOnlyDisk>,
    /// Every file below `guest/` but `metadata.json` and the manifest itself; empty in version 1.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// The process of a VMM, as the kernel knows it (proc(5)). What could not be found out is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vmm {
    /// Its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// Its command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// The user and the groups that it reaches files as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Its primary group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Its other groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// Its working directory, as it sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Where it looks for libraries before all others (`LD_LIBRARY_PATH`, ld.so(8)): all that is kept of its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library_path: Option<String>,
    /// Its root directory, where that is another one than the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
}

/// What a guest has besides memory and disks. All of it is the VMM's word.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Devices {
    /// The CPU model that was asked for, such as `host`; absent where that was the VMM's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// The names of its tap interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<String>,
    /// Its vsock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Firecracker's whole configuration (`GET /vm/config`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}

/// A guest's vsock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u64,
    /// The socket on the host, where it is not the kernel's own vsock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// A host. What could not be found out is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The processor's model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
}

/// One disk copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// The VMM's name for the disk; absent if no VMM ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the disk was.
    pub source: PathBuf,
    /// Which file that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Where its copy is, relative to `guest/`.
    pub file: PathBuf,
    /// The image format, where the VMM told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The file that the copy still refers to for unchanged data and that is not part of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<PathBuf>,
    /// What that file was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<Stamp>,
}

/// A disk without a copy, and the file that a restore needs unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyDisk {
    /// The VMM's name for it.
    pub name: String,
    /// Where it was, in the VMM's words.
    pub source: PathBuf,
    /// Which file that was; absent where the VMM's process does not have it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What that file was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The image format, where the VMM told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// A file, whatever leads to it: `st_dev` and `st_ino`, or the number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The device that holds the file, or the block device.
    pub device: u64,
    /// The inode; absent for a block device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

/// What tells a file that was changed from one that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written.
    pub modified_at: DateTime<Utc>,
}

/// One file of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where it is, relative to `guest/`.
    pub path: PathBuf,
    /// Its length, holes included.
    pub size_bytes: u64,
}

/// What no manifest says.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// A path that leads elsewhere.
    #[error("it names {0:?}, which is not a plain path below the snapshot's guest/")]
    Path(PathBuf),
    /// Too long a list.
    #[error("it lists {0} files, and {FILES_MAX} are allowed")]
    TooMany(usize),
}

/// What was found out about a running VMM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Running {
    /// Its version.
    pub version: String,
    /// Its process.
    pub vmm: Option<Vmm>,
    /// What its guest has.
    pub devices: Devices,
    /// Its host.
    pub host: Host,
    /// The disks that its guest can't write to.
    pub read_only_disks: Vec<ReadOnlyDisk>,
}

impl Manifest {
    /// The manifest of a guest that ran.
    pub fn of_running(
        running: Running,
        disks: Vec<DiskEntry>,
        state_dir: Option<&str>,
        pause: Duration,
    ) -> Self {
        Self {
            vmm_version: Some(running.version),
            state_dir: state_dir.map(str::to_owned),
            pause_ms: Some(pause.as_secs_f64() * 1000.0),
            vmm: running.vmm,
            devices: Some(running.devices),
            host: Some(running.host),
            read_only_disks: running.read_only_disks,
            ..Self::at_rest(disks)
        }
    }

    /// The manifest of a guest that did not run.
    pub const fn at_rest(disks: Vec<DiskEntry>) -> Self {
        Self {
            version: VERSION,
            snapshot_id: None,
            vmm_version: None,
            state_dir: None,
            consistency: None,
            pause_ms: None,
            vmm: None,
            devices: None,
            host: None,
            disks,
            read_only_disks: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Says at which moment of the guest's life the snapshot was taken.
    pub const fn set_consistency(&mut self, consistency: Consistency) {
        self.consistency = Some(consistency);
    }

    /// Adds what is in `guest/` of the snapshot `id`.
    pub fn complete(&mut self, id: &SnapshotId, files: Vec<FileEntry>) {
        self.snapshot_id = Some(id.to_string());
        self.files = files;
    }

    /// Whether it may have been written for the snapshot `id`. hypeman restores ours with their manifests and copies
    /// those into its own later snapshots of that instance, about which they say nothing.
    pub fn is_of(&self, id: &SnapshotId) -> bool {
        !self.lists_files() || self.snapshot_id.as_deref() == Some(id.as_str())
    }

    /// Checks that its paths are plain ones below `guest/`, and its lists short.
    ///
    /// # Errors
    /// When it says what no manifest says.
    pub fn check(&self) -> Result<(), Unfit> {
        let count = self.files.len().max(self.disks.len());
        if count > FILES_MAX {
            return Err(Unfit::TooMany(count));
        }
        let files = self.files.iter().map(|entry| entry.path.as_path());
        let disks = self.disks.iter().map(|entry| entry.file.as_path());
        let mut paths = files.chain(disks).chain(self.state_dir());
        paths
            .find(|path| !is_plain(path))
            .map_or(Ok(()), |path| Err(Unfit::Path(path.to_owned())))
    }

    /// The directory with memory and device state, where the manifest says it.
    pub fn state_dir(&self) -> Option<&Path> {
        self.state_dir.as_deref().map(Path::new)
    }

    /// How long a file was when it was listed; `None` if it was not.
    pub fn size_of(&self, path: &Path) -> Option<u64> {
        let entry = self.files.iter().find(|entry| entry.path == path);
        entry.map(|entry| entry.size_bytes)
    }

    /// The same with the VMM's process of another snapshot; `None` if that is not known, or had other disks.
    pub fn with_process_of(&self, other: &Self) -> Option<Self> {
        let sources = |it: &Self| -> BTreeSet<PathBuf> {
            it.disks.iter().map(|disk| disk.source.clone()).collect()
        };
        let is_fit = other.vmm.is_some() && sources(self) == sources(other);
        is_fit.then(|| Self {
            vmm: other.vmm.clone(),
            vmm_version: other.vmm_version.clone(),
            devices: other.devices.clone(),
            host: other.host.clone(),
            ..self.clone()
        })
    }

    /// The same with the memory of another snapshot, and what is known of how that was made.
    pub fn with_state_of(&self, other: &Self) -> Self {
        Self {
            vmm_version: other.vmm_version.clone(),
            state_dir: other.state_dir.clone(),
            vmm: other.vmm.clone(),
            devices: other.devices.clone(),
            host: other.host.clone(),
            read_only_disks: other.read_only_disks.clone(),
            ..self.clone()
        }
    }

    /// The VMM's process; `None` if no VMM ran, or it is not known.
    pub const fn vmm(&self) -> Option<&Vmm> {
        self.vmm.as_ref()
    }

    /// The VMM's version.
    pub fn vmm_version(&self) -> Option<&str> {
        self.vmm_version.as_deref()
    }

    /// What the guest had besides memory and disks.
    pub const fn devices(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    /// The socket of its vsock on the host, where it has one.
    pub fn vsock_socket(&self) -> Option<&Path> {
        self.devices.as_ref()?.vsock.as_ref()?.socket.as_deref()
    }

    /// The host that it ran on.
    pub const fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Disks of which there is no copy.
    pub fn read_only_disks(&self) -> &[ReadOnlyDisk] {
        &self.read_only_disks
    }

    /// Whether the manifest lists the snapshot's files.
    pub const fn lists_files(&self) -> bool {
        self.version >= VERSION
    }
}

impl Devices {
    /// What QEMU's command line says (qemu(1)): `-cpu`, `-netdev tap` and `-nic tap` with `ifname`, `vhost-vsock`.
    pub fn of_qemu_argv(argv: &[String]) -> Self {
        let mut devices = Self::default();
        for (option, value) in argv.iter().zip(argv.iter().skip(1)) {
            let mut parts = value.split(',');
            let kind = parts.next().unwrap_or_default();
            let of = |key: &str| {
                value
                    .split(',')
                    .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
            };
            match option.trim_start_matches('-') {
                "cpu" => devices.cpu_model = Some(value.clone()),
                "netdev" | "nic" if kind == "tap" => {
                    devices.taps.extend(of("ifname").map(str::to_owned));
                }
                "device" if kind.starts_with("vhost-vsock") => {
                    let cid = of("guest-cid").and_then(|cid| cid.parse().ok());
                    devices.vsock = cid.map(|cid| Vsock { cid, socket: None });
                }
                _ => {}
            }
        }
        devices
    }
}

/// Whether a path leads from a directory downwards and nowhere else.
fn is_plain(path: &Path) -> bool {
    let is_below = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    is_below && !path.as_os_str().is_empty() && !path.as_os_str().as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 0.1.0 wrote it.
    const OLD: &str = r#"{
      "version": 1, "vmm_version": "7.2.22", "state_dir": "snapshots/snapshot-latest", "pause_ms": 11.5,
      "disks": [{"name": "d0", "source": "/srv/a.raw", "file": "disks/0-a.raw", "format": "raw"}]
    }"#;

    #[test]
    fn an_old_manifest_is_read_and_what_is_not_known_is_absent() {
        let old: Manifest = serde_json::from_str(OLD).unwrap();
        old.check().unwrap();
        assert!(!old.lists_files() && old.vmm.is_none() && old.disks[0].identity.is_none());
        let mut new = Manifest::at_rest(old.disks);
        new.complete(&"s1".parse().unwrap(), Vec::new());
        let text = serde_json::to_string(&new).unwrap();
        for absent in ["vmm", "devices", "host", "identity", "null"] {
            assert!(!text.contains(absent), "{text}");
        }
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), new);
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for bad in ["/etc/shadow", "../x", "a/../../x", "", ".", "a\\u0000b"] {
            let text = OLD.replace("disks/0-a.raw", bad);
            let manifest: Manifest = serde_json::from_str(&text).unwrap();
            assert!(matches!(manifest.check(), Err(Unfit::Path(_))), "{bad}");
        }
    }

    #[test]
    fn the_command_line_of_qemu_tells_taps_vsock_and_cpu() {
        let argv = "qemu-system-x86_64 -cpu host,+invtsc -netdev tap,id=n0,ifname=tap7,script=no -netdev user,id=n1 \
                    -nic tap,model=e1000 -device vhost-vsock-pci,id=v,guest-cid=5 --netdev tap,id=n2,fd=33 -m 1G";
        let argv: Vec<String> = argv.split_whitespace().map(str::to_owned).collect();
        let expected = Devices {
            cpu_model: Some("host,+invtsc".to_owned()),
            taps: vec!["tap7".to_owned()],
            vsock: Some(Vsock {
                cid: 5,
                socket: None,
            }),
            config: None,
        };
        assert_eq!(Devices::of_qemu_argv(&argv), expected);
        assert_eq!(Devices::of_qemu_argv(&[]), Devices::default());
    }
}
