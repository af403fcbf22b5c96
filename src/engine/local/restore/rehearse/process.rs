//! The VMM of a throw-away VM as a process: in a network and with mounts of its own, last in everything, and gone with this
//! thread.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, geteuid, setpriority_process};

use super::super::how::Alone;
use super::super::stored::Stored;
use super::Obstacle;
use super::place::{MARK, Place};
use crate::engine::EngineError;
use crate::engine::restorer::Launch;
use crate::fs::beneath::Beneath;
use crate::vmm::launch::rehearsal::fd_of;

/// A process that goes before all others when memory is short (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "1000";
/// The lowest priority (setpriority(2)).
const NICE: i32 = 19;
/// What is done in the VM's own namespaces before it starts, with words of `bind FROM AT` and `tap NAME USER [multi_queue]`
/// before the `--`, each of four.
const PRELUDE: &str = r#"set -e
while [ "$1" != -- ]; do
  case $1 in
    bind) mount --bind "$2" "$3" ;;
    tap) ip tuntap add dev "$2" mode tap user "$3" vnet_hdr $4 ;;
  esac
  shift 4
done
shift
exec "$@""#;

/// What makes a program run as the VMM's user.
pub(super) fn as_user(launch: &Launch) -> &[String] {
    let words = launch.argv.split_inclusive(|word| word == "--").next();
    words.unwrap_or_default()
}

/// Requires that the user that the VMM runs as gets to its files.
pub(super) fn require_entry(launch: &Launch, place: &Place) -> Result<(), Obstacle> {
    let Some((user, _)) = launch.owner else {
        return Ok(());
    };
    let Some((program, arguments)) = as_user(launch).split_first() else {
        return Ok(());
    };
    let tried = Command::new(program)
        .args(arguments)
        .args(["test", "-x"])
        .arg(place.path())
        .status();
    if tried.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Obstacle::Reason(format!(
        "its VMM runs as user {user}, who can't get to {}; let others pass through the directories above it (chmod o+x)",
        place.path().display()
    )))
}

/// Starts the VMM, in a network and with mounts of its own, as a process that goes before others in every respect and that
/// ends with this thread.
pub(super) fn begin(
    stored: &Stored,
    place: &Place,
    launch: &Launch,
    alone: &Alone,
    log: &File,
    under: Vec<File>,
) -> Result<Child, Obstacle> {
    let unshare = "unshare: it needs a network of its own, which only root can give it, or whoever may make user \
                   namespaces";
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| EngineError::caused(what.clone(), error)
    };
    let is_root = geteuid().is_root();
    let mut namespaces = vec!["--net"];
    if !alone.in_place_of.is_empty() {
        // What is mounted there is seen by nobody else: that is so by default, and has to be.
        namespaces.extend(["--mount", "--propagation", "private"]);
    }
    if !is_root {
        namespaces.extend(["--user", "--map-root-user"]);
    }
    let tried = Command::new("unshare")
        .args(&namespaces)
        .arg("true")
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            let said = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
            return Err(Obstacle::Reason(format!("{unshare}: {said}")));
        }
        Err(error) => return Err(Obstacle::Reason(format!("{unshare}: {error}"))),
    }
    let mut command = Command::new("setsid");
    command
        .arg("unshare")
        .args(&namespaces)
        .args(["--", "sh", "-c", PRELUDE, "rehearsal"]);
    for (copy, at) in &alone.in_place_of {
        command.arg("bind").arg(copy).arg(at).arg("");
    }
    if let Some((user, _)) = launch.owner.filter(|_| is_root) {
        for tap in &alone.taps {
            let queues = if tap.is_multi_queue {
                "multi_queue"
            } else {
                ""
            };
            command.args(["tap", &tap.name, &user.to_string(), queues]);
        }
    }
    command.arg("--").args(&launch.argv);
    let memory = match &alone.memory {
        Some(path) => {
            let mut file =
                (stored.guest.open_file(path)).map_err(failed("can't open its memory"))?;
            if file.is_none() {
                // It was compressed.
                file = Beneath::open(&place.of_vm())
                    .and_then(|own| own.open_file(path))
                    .map_err(failed("can't open its unpacked memory"))?;
            }
            let missing = || EngineError::instance("its memory is gone");
            Stdio::from(file.ok_or_else(missing)?)
        }
        None => Stdio::null(),
    };
    let mappings = under.into_iter().enumerate().map(|(disk, file)| FdMapping {
        parent_fd: file.into(),
        // There are few.
        child_fd: i32::try_from(fd_of(disk)).unwrap_or(i32::MAX),
    });
    command
        .fd_mappings(mappings.collect())
        .map_err(|error| EngineError::instance(format!("can't pass its disks: {error}")))?;
    let child = command
        .current_dir(&launch.directory)
        .env(MARK, place.path())
        .stdin(memory)
        .stdout(log.try_clone().map_err(failed("can't use its log"))?)
        .stderr(log.try_clone().map_err(failed("can't use its log"))?)
        .spawn()
        .map_err(failed("can't start its VMM"))?;
    let pid = child.id();
    if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE) {
        log::debug!("can't say that the rehearsal is to go first when memory is short: {error}");
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Err(error) = setpriority_process(pid, NICE) {
        log::debug!("can't give the rehearsal the lowest priority: {error}");
    }
    Ok(child)
}

/// A VMM that ends when this is dropped.
pub(super) struct Running(pub(super) Child);

impl Running {
    /// Ends it, and waits for that.
    ///
    /// # Errors
    /// When it can't be ended.
    pub(super) fn end(&mut self) -> Result<(), EngineError> {
        let failed = |error| EngineError::caused("can't end the rehearsal's VMM", error);
        self.0.kill().map_err(failed)?;
        self.0.wait().map(drop).map_err(failed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once it has ended, this does nothing; before, an error is on its way already.
        let _ = self.end();
    }
}
