//! How a VM is started from what was laid down, and whether it can be. What the manifest says of the old VMM is a process's
//! word: only a program that nobody else can change is run, as the user that ran it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::checks;
use crate::engine::restorer::Launch;
use crate::finding::Finding;
use crate::fs::trust;
use crate::snapshot::manifest::{Manifest, Vmm};
use crate::vmm::launch::Unlaunchable;
use crate::vmm::launch::qemu::{Monitors, Moved, arguments};

/// The memory file of a QEMU guest in its state directory.
const MEMORY: &str = "memory";
/// The restored VM's monitor and log, in its directory.
const MONITOR: &str = "qmp.sock";
const LOG: &str = "vm.log";

/// Why a VM can't be started by this tool.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStartable {
    #[error("VMs of {0:?} are started by hand (hypeman-snap(5))")]
    Hypervisor(String),
    #[error("it has no manifest of this tool")]
    NoManifest,
    #[error(
        "its command line was not recorded, because it did not run or this user could not look"
    )]
    NoProcess,
    #[error("its VMM ran with the root directory {}", .0.display())]
    Root(PathBuf),
    #[error("its program was not recorded")]
    NoProgram,
    #[error("its manifest names no memory")]
    NoMemory,
    #[error(
        "its memory is compressed: a hypeman server restores it, or unpack it first (zstd, lz4)"
    )]
    Packed,
    #[error(transparent)]
    Arguments(#[from] Unlaunchable),
    #[error("it ran as user {0}, and only root can start it as another user")]
    OtherUser(u32),
    #[error("its program {} is not run, because {} {why}", program.display(), place.display())]
    Untrusted {
        program: PathBuf,
        place: PathBuf,
        why: String,
    },
    #[error("its program {}: {source}", program.display())]
    Missing { program: PathBuf, source: io::Error },
    #[error("{} does not say its version", .0.display())]
    Silent(PathBuf),
    #[error("{} has version {now}, and the snapshot is of {then}, which is newer", program.display())]
    Older {
        program: PathBuf,
        now: String,
        then: String,
    },
}

/// Where everything is that a VM is started from, once the snapshot is laid down.
#[derive(Debug)]
pub(super) struct Laid {
    /// The directory of its state and of what goes with it.
    pub(super) directory: PathBuf,
    /// Its disks, as the manifest lists them.
    pub(super) disks: Vec<PathBuf>,
    /// Where its own monitor is; `None` for a monitor that is made in the directory, instead of its own ones.
    pub(super) monitor: Option<PathBuf>,
    /// Where what it says goes.
    pub(super) log: PathBuf,
}

impl Laid {
    /// In a directory of its own.
    pub(super) fn beside(directory: &Path, manifest: Option<&Manifest>) -> Self {
        let disks = manifest.map_or(&[][..], |it| &it.disks);
        Self {
            directory: directory.to_owned(),
            disks: disks
                .iter()
                .map(|disk| directory.join(&disk.file))
                .collect(),
            monitor: None,
            log: directory.join(LOG),
        }
    }
}

/// How the VM is started, and what is to be said of that; else why it can't be.
pub(super) fn launch(
    manifest: Option<&Manifest>,
    stored: &Path,
    laid: &Laid,
    hypervisor: &str,
    has_memory: bool,
) -> Result<(Launch, Vec<Finding>), NotStartable> {
    if !matches!(hypervisor, "qemu" | "qemu-microvm") {
        return Err(NotStartable::Hypervisor(hypervisor.to_owned()));
    }
    let manifest = manifest.ok_or(NotStartable::NoManifest)?;
    let vmm = manifest.vmm().ok_or(NotStartable::NoProcess)?;
    if let Some(root) = &vmm.root {
        return Err(NotStartable::Root(root.clone()));
    }
    let binary = vmm.binary.as_ref().ok_or(NotStartable::NoProgram)?;
    let memory = match (has_memory, manifest.state_dir()) {
        (true, Some(dir)) if !stored.join(dir).join(MEMORY).is_file() => {
            return Err(NotStartable::Packed);
        }
        (true, Some(dir)) => Some(laid.directory.join(dir).join(MEMORY)),
        (true, None) => return Err(NotStartable::NoMemory),
        (false, _) => None,
    };
    let disks: Vec<Moved> = manifest
        .disks
        .iter()
        .zip(&laid.disks)
        .map(|(disk, now)| Moved {
            from: disk.source.clone(),
            to: now.clone(),
        })
        .collect();
    let cwd = vmm.directory.clone().unwrap_or_else(|| PathBuf::from("/"));
    let is_same = |typed: &str, disk: &Path| {
        let typed = cwd.join(typed);
        typed == disk || typed.canonicalize().is_ok_and(|real| real == disk)
    };
    let own = laid.directory.join(MONITOR);
    let monitor = match &laid.monitor {
        Some(_) => Monitors::Kept,
        None => Monitors::Only(&own),
    };
    let arguments = arguments(&vmm.argv, &disks, &is_same, monitor, memory.as_deref())?;
    let mut argv = Vec::new();
    let (us, our_group) = (rustix::process::geteuid(), rustix::process::getegid());
    let owner = vmm.user.zip(vmm.group);
    let owner = owner.filter(|owner| *owner != (us.as_raw(), our_group.as_raw()));
    if let Some((user, group)) = owner {
        if !us.is_root() {
            return Err(NotStartable::OtherUser(user));
        }
        argv.extend(as_user(user, group, &vmm.groups));
    }
    argv.push(binary.display().to_string());
    argv.extend(arguments);
    let mut findings = vec![program(binary, manifest, vmm)?];
    findings.extend(checks::processor(manifest));
    let directory = if cwd.is_dir() {
        cwd.clone()
    } else {
        laid.directory.clone()
    };
    let launch = Launch {
        argv,
        directory,
        log: laid.log.clone(),
        monitor: laid.monitor.clone().unwrap_or(own),
        owner,
    };
    Ok((launch, findings))
}

fn as_user(user: u32, group: u32, groups: &[u32]) -> Vec<String> {
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let groups = if groups.is_empty() {
        "--clear-groups".to_owned()
    } else {
        format!("--groups={}", groups.join(","))
    };
    [
        "setpriv".to_owned(),
        format!("--reuid={user}"),
        format!("--regid={group}"),
        groups,
        "--".to_owned(),
    ]
    .into()
}

/// The program is there and is the version that the snapshot was taken with. It was a process's word which one it is, so
/// that only one that nobody else can change is run.
fn program(binary: &Path, manifest: &Manifest, vmm: &Vmm) -> Result<Finding, NotStartable> {
    const CHECK: &str = "program";
    let shown = binary.display();
    match trust::distrust(binary) {
        Ok(None) => {}
        Ok(Some(distrust)) => {
            return Err(NotStartable::Untrusted {
                program: binary.to_owned(),
                place: distrust.place,
                why: distrust.why,
            });
        }
        Err(error) => {
            return Err(NotStartable::Missing {
                program: binary.to_owned(),
                source: error,
            });
        }
    }
    let recorded = manifest.vmm_version().unwrap_or_default();
    let now = version(binary, vmm).ok_or_else(|| NotStartable::Silent(binary.to_owned()))?;
    let numbers = |text: &str| -> Vec<u64> {
        let text = text
            .split(|c: char| c.is_whitespace() || c == '(')
            .next()
            .unwrap_or("");
        text.split('.')
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    let (then, there) = (numbers(recorded), numbers(&now));
    Ok(match there.cmp(&then) {
        std::cmp::Ordering::Equal => Finding::ok(CHECK, shown, format!("version {now}, as then")),
        std::cmp::Ordering::Greater => Finding::warning(
            CHECK,
            shown,
            format!(
                "version {now}, and the snapshot is of {recorded}: a newer one may refuse the memory"
            ),
            "start the old version, or leave the memory out: --disks-only",
        ),
        std::cmp::Ordering::Less => {
            return Err(NotStartable::Older {
                program: binary.to_owned(),
                now,
                then: recorded.to_owned(),
            });
        }
    })
}

fn version(binary: &Path, vmm: &Vmm) -> Option<String> {
    let mut words = Vec::new();
    // As the user that ran it: what it says is all that is wanted of it.
    if let (true, Some((user, group))) = (
        rustix::process::geteuid().is_root(),
        vmm.user.zip(vmm.group),
    ) {
        words.extend(as_user(user, group, &[]));
    }
    words.push(binary.display().to_string());
    let (program, arguments) = words.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("version ").nth(1)?;
    Some(version.split_whitespace().next()?.to_owned())
}
