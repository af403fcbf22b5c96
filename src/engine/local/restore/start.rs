//! How a VM is started from what was laid down, and whether it can be. What the manifest says of the old VMM is a process's
//! word: only a program that nobody else can change is run, as the user that ran it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::how::{Alone, Known, Laid, NotStartable};
use super::{checks, each, format};
use crate::engine::restorer::Launch;
use crate::finding::{Finding, Status};
use crate::fs::trust;
use crate::instance::Hypervisor;
use crate::snapshot::manifest::{Manifest, Vmm};
use crate::vmm::launch::Moved;

/// The longest path of a socket, in bytes (unix(7)).
const SOCKET_MAX_BYTES: usize = 107;

/// How the VM is started, and what is to be said of that; else why it can't be. `config` is the configuration that Cloud
/// Hypervisor saved.
pub(super) fn launch(
    manifest: Option<&Manifest>,
    stored: &Path,
    config: Option<&Value>,
    laid: &Laid,
    hypervisor: &str,
    has_memory: bool,
) -> Result<(Launch, Vec<Finding>, Alone), NotStartable> {
    let Ok(hypervisor) = hypervisor.parse::<Hypervisor>() else {
        return Err(NotStartable::Hypervisor(hypervisor.to_owned()));
    };
    let manifest = manifest.ok_or(NotStartable::NoManifest)?;
    let vmm = manifest.vmm().ok_or(NotStartable::NoProcess)?;
    if let Some(root) = &vmm.root {
        return Err(NotStartable::Root(root.clone()));
    }
    let binary = vmm.binary.as_ref().ok_or(NotStartable::NoProgram)?;
    let state = match (has_memory, manifest.state_dir()) {
        (true, Some(dir)) => Some((stored.join(dir), laid.directory.join(dir))),
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
    let (us, our_group) = (rustix::process::geteuid(), rustix::process::getegid());
    let owner = vmm.user.zip(vmm.group);
    let owner = owner.filter(|owner| *owner != (us.as_raw(), our_group.as_raw()));
    if let (false, Some((user, _))) = (us.is_root(), owner) {
        return Err(NotStartable::OtherUser(user));
    }
    let (of_program, version) = program(binary, manifest, vmm, has_memory)?;
    if let (Hypervisor::Firecracker, Some((stored, _)), true) =
        (hypervisor, &state, of_program.status != Status::Ok)
    {
        let words = as_it_ran(binary, vmm);
        let failed = |source| NotStartable::Missing {
            program: binary.clone(),
            source,
        };
        if let Some(why) = format::unfit(&words, owner, &stored.join("state")).map_err(failed)? {
            return Err(NotStartable::Format {
                program: binary.clone(),
                why,
            });
        }
    }
    let known = Known {
        manifest,
        vmm,
        config,
        laid,
        disks: &disks,
        is_same: &is_same,
        state,
        version: &version,
    };
    let how = match hypervisor {
        Hypervisor::Qemu | Hypervisor::QemuMicrovm => each::qemu(&known)?,
        Hypervisor::CloudHypervisor => each::cloud_hypervisor(&known)?,
        Hypervisor::Firecracker => each::firecracker(&known)?,
    };
    if how.monitor.as_os_str().len() > SOCKET_MAX_BYTES {
        return Err(NotStartable::LongSocket(how.monitor));
    }
    let mut argv = match owner {
        Some((user, group)) => as_user(user, group, &vmm.groups),
        None => Vec::new(),
    };
    if laid.throw_away.is_some() {
        argv = ending_with_this_thread(argv);
    }
    argv.extend(with_libraries(vmm));
    argv.push(binary.display().to_string());
    argv.extend(how.arguments);
    let mut findings = vec![of_program];
    findings.extend(checks::processor(manifest));
    if laid.throw_away.is_none() {
        findings.extend(checks::taps(manifest));
    }
    findings.extend(how.findings);
    let sockets = match (hypervisor, laid.own()) {
        (Hypervisor::Firecracker | Hypervisor::CloudHypervisor, None) => {
            let vsock = manifest.vsock_socket().map(|socket| cwd.join(socket));
            std::iter::once(how.monitor.clone()).chain(vsock).collect()
        }
        _ => Vec::new(),
    };
    let launch = Launch {
        sockets,
        hypervisor,
        argv,
        directory: if cwd.is_dir() {
            cwd.clone()
        } else {
            laid.directory.clone()
        },
        log: laid.log.clone(),
        monitor: how.monitor,
        requests: how.requests,
        resume: how.resume,
        rewritten: how.rewritten,
        sets_clock: how.sets_clock,
        owner,
    };
    Ok((launch, findings, how.alone))
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

/// The same for a process that is killed when the thread ends that started it: its user is changed before, since that would
/// undo it (PR_SET_PDEATHSIG(2const)).
fn ending_with_this_thread(as_user: Vec<String>) -> Vec<String> {
    let mut words = if as_user.is_empty() {
        vec!["setpriv".to_owned(), "--".to_owned()]
    } else {
        as_user
    };
    words.splice(1..1, ["--pdeathsig", "KILL"].map(str::to_owned));
    words
}

/// What gives a program the libraries that the VMM had; behind what makes it run as its user, which gets none of them.
fn with_libraries(vmm: &Vmm) -> Vec<String> {
    let set = |path: &String| ["env".to_owned(), format!("LD_LIBRARY_PATH={path}")];
    vmm.library_path.iter().flat_map(set).collect()
}

/// The program is there and is the version that the snapshot was taken with. It was a process's word which one it is, so
/// that only one that nobody else can change is run.
fn program(
    binary: &Path,
    manifest: &Manifest,
    vmm: &Vmm,
    has_memory: bool,
) -> Result<(Finding, Vec<u64>), NotStartable> {
    const CHECK: &str = "program";
    let shown = binary.display();
    let libraries = vmm.library_path.iter().flat_map(|it| it.split(':'));
    for path in std::iter::once(binary).chain(libraries.map(Path::new)) {
        match trust::distrust(path) {
            Ok(None) if path.is_absolute() => {}
            Ok(None) => return Err(NotStartable::RelativeLibraries(binary.to_owned())),
            Ok(Some(distrust)) => {
                return Err(NotStartable::Untrusted {
                    program: binary.to_owned(),
                    place: distrust.place,
                    why: distrust.why,
                });
            }
            Err(error) => {
                return Err(NotStartable::Missing {
                    program: path.to_owned(),
                    source: error,
                });
            }
        }
    }
    let recorded = manifest.vmm_version().unwrap_or_default();
    let now = version(binary, vmm).ok_or_else(|| NotStartable::Silent(binary.to_owned()))?;
    let (then, there) = (numbers(recorded), numbers(&now));
    let finding = match there.cmp(&then) {
        std::cmp::Ordering::Equal => Finding::ok(CHECK, shown, format!("version {now}, as then")),
        std::cmp::Ordering::Less | std::cmp::Ordering::Greater if !has_memory => {
            let detail = format!("version {now}, and the snapshot is of {recorded}: it boots");
            Finding::ok(CHECK, shown, detail)
        }
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
    };
    Ok((finding, there))
}

/// The numbers of a version, such as `v1.17.0-dev`; noughts at its end are none.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.trim_start_matches('v').split('.');
    let mut numbers: Vec<u64> = parts
        .map_while(|part| {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next();
            digits.and_then(|digits| digits.parse().ok())
        })
        .collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    numbers
}

/// What runs the program as the user that ran it: what it says is all that is wanted of it.
fn as_it_ran(binary: &Path, vmm: &Vmm) -> Vec<String> {
    let mut words = Vec::new();
    if let (true, Some((user, group))) = (
        rustix::process::geteuid().is_root(),
        vmm.user.zip(vmm.group),
    ) {
        words.extend(as_user(user, group, &[]));
    }
    words.extend(with_libraries(vmm));
    words.push(binary.display().to_string());
    words
}

fn version(binary: &Path, vmm: &Vmm) -> Option<String> {
    let words = as_it_ran(binary, vmm);
    let (program, arguments) = words.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "QEMU emulator version 7.2.22 (Debian …)", "cloud-hypervisor v54.0.0", "Firecracker v1.17.0".
    let is_version = |word: &&str| {
        let word = word.trim_start_matches('v');
        word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
    };
    let version = text.split_whitespace().find(is_version)?;
    Some(version.trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("10.0.2") > numbers("7.2.22"));
        assert_eq!(numbers("54.0.0"), numbers("v54.0"));
        assert_eq!(numbers("1.17.0-dev"), [1, 17]);
        assert!(numbers("v53.0-12-gabc") < numbers("v54.0.0"));
        assert!(numbers("unknown").is_empty());
    }
}
