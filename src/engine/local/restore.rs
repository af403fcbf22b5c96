//! Giving a snapshot back into a directory of its own, and starting a VM from that.

mod checks;
mod start;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Local, manifest};
use crate::engine::EngineError;
use crate::engine::restorer::{Launch, Preflight, Restorer, Wanted};
use crate::error::in_words;
use crate::finding::Finding;
use crate::fs::beneath::Beneath;
use crate::fs::{bounded, durable, lock, remove, seal, space, tree};
use crate::instance::Hypervisor;
use crate::interrupt::Deadline;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::{Kind, Snapshot};
use crate::vmm::{self, VmmState};

/// How long a VM may take until its guest runs, besides what reading its memory takes.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const PER_GIB: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of what it said is told when it does not run.
const SAID_MAX_BYTES: u64 = 4 << 20;
const SAID_MAX_LINES: usize = 3;

/// What a stored snapshot holds, held: it can't be deleted as long as this is there.
struct Stored {
    guest: Beneath,
    directory: PathBuf,
    manifest: Option<Manifest>,
    _reading: File,
}

impl Restorer for Local {
    fn preflight(&self, wanted: &Wanted<'_>) -> Result<Preflight, EngineError> {
        let stored = self.stored(wanted)?;
        let mut preflight = Preflight::default();
        let snapshot = wanted.snapshot;
        preflight.findings.push(match &snapshot.unusable {
            None => Finding::ok(
                "snapshot",
                &snapshot.id,
                format!("{} is usable", snapshot.name),
            ),
            Some(flaw) => Finding::broken(
                "snapshot",
                &snapshot.id,
                format!("nothing can be restored from it: {flaw}"),
                "take another one: hypeman-snap snapshots",
            ),
        });
        preflight.findings.extend(checks::target(wanted.to));
        preflight
            .findings
            .push(checks::room(&stored.directory, wanted.to));
        if let Some(manifest) = &stored.manifest {
            preflight.findings.extend(checks::others(manifest));
        }
        preflight.has_memory = snapshot.kind == Kind::Standby && !wanted.disks_only;
        // Memory fits only the very devices that it was saved with.
        let borrowed = if preflight.has_memory {
            None
        } else {
            self.with_known_process(snapshot, stored.manifest.as_ref())?
        };
        let manifest = match &borrowed {
            Some((manifest, from)) => {
                preflight.findings.push(Finding::ok(
                    "command line",
                    &from.id,
                    format!(
                        "it did not run; how it is started is known from {}",
                        from.name
                    ),
                ));
                Some(manifest)
            }
            None => stored.manifest.as_ref(),
        };
        match start::launch(manifest, &stored.directory, wanted, preflight.has_memory) {
            Ok((launch, findings)) => {
                preflight.findings.extend(findings);
                preflight.launch = Some(launch);
            }
            Err(why) => preflight.findings.push(if wanted.starts {
                Finding::broken(
                    "start",
                    &snapshot.source_instance_name,
                    why.to_string(),
                    "leave --start out",
                )
            } else {
                Finding::ok(
                    "start",
                    &snapshot.source_instance_name,
                    format!("by hand, from the files: {why}"),
                )
            }),
        }
        Ok(preflight)
    }

    fn lay_down(&self, wanted: &Wanted<'_>, preflight: &Preflight) -> Result<(), EngineError> {
        let stored = self.stored(wanted)?;
        let failed = |what: &str, error: io::Error| {
            EngineError::caused(format!("can't {what} {}", wanted.to.display()), error)
        };
        let parent = wanted.to.parent().unwrap_or(Path::new("/"));
        let name = wanted.to.file_name().unwrap_or(OsStr::new("restored"));
        let mut hidden = OsStr::new(".").to_owned();
        hidden.push(name);
        hidden.push(format!(".restoring-{}", std::process::id()));
        let hidden = parent.join(hidden);
        let mut made = std::fs::DirBuilder::new();
        made.mode(0o700)
            .create(&hidden)
            .map_err(|error| failed("make a directory beside", error))?;
        let laid = self
            .fill(&stored, wanted, &hidden, preflight)
            .and_then(|()| {
                // An empty directory of that name is replaced, anything else is an error.
                std::fs::rename(&hidden, wanted.to).map_err(|error| failed("make", error))?;
                durable::sync_dir(parent).map_err(|error| failed("make", error))
            });
        if laid.is_err() {
            // What could not be written may not be removable either; the error says enough.
            let _ = remove::tree(&hidden);
        }
        laid
    }

    fn start(&self, launch: &Launch, has_memory: bool) -> Result<u32, EngineError> {
        let failed = |error: io::Error| {
            let program = launch.argv.first().map_or("", String::as_str);
            EngineError::caused(format!("can't start {program}"), error)
        };
        let log = File::create(&launch.log).map_err(failed)?;
        let Some((program, arguments)) = launch.argv.split_first() else {
            return Err(EngineError::instance("nothing to start"));
        };
        // A session of its own: no terminal's end reaches it.
        let mut command = Command::new("setsid");
        command
            .arg(program)
            .args(arguments)
            .current_dir(&launch.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        let runs = self.wait_until_it_runs(&mut child, launch, has_memory);
        if let Err(error) = runs {
            let _ = child.kill();
            let _ = child.wait();
            return Err(EngineError::instance(format!(
                "the VM does not run: {}{}",
                in_words(&error),
                said(&launch.log)
            )));
        }
        Ok(child.id())
    }
}

impl Local {
    fn stored(&self, wanted: &Wanted<'_>) -> Result<Stored, EngineError> {
        let id = &wanted.snapshot.id;
        let directory = self.instances.store()?.snapshot_dir(id);
        let shown = directory.display();
        let failed =
            |error: io::Error| EngineError::caused(format!("can't open snapshot {shown}"), error);
        let reading = File::open(&directory).map_err(failed)?;
        if !lock::try_share(&reading).map_err(failed)? {
            return Err(EngineError::instance(format!(
                "snapshot {id} is being deleted"
            )));
        }
        let held = Beneath::open(&directory).map_err(failed)?;
        let guest = held.open_dir("guest").map_err(failed)?;
        let manifest = match manifest::read(&guest) {
            Ok(manifest) if manifest.is_of(id) => Some(manifest),
            Ok(_) | Err(_) => None,
        };
        Ok(Stored {
            directory: directory.join("guest"),
            guest,
            manifest,
            _reading: reading,
        })
    }

    /// The manifest of a snapshot at rest with the process of the newest one of the same disks that was taken while the
    /// VM ran, and that one.
    fn with_known_process(
        &self,
        snapshot: &Snapshot,
        manifest: Option<&Manifest>,
    ) -> Result<Option<(Manifest, Snapshot)>, EngineError> {
        let Some(manifest) = manifest.filter(|it| it.vmm().is_none() && !it.disks.is_empty())
        else {
            return Ok(None);
        };
        let store = self.instances.store()?;
        let mut others = store.list()?.snapshots;
        others.retain(|it| {
            it.kind == Kind::Standby && it.source_instance_id == snapshot.source_instance_id
        });
        others.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        for other in others {
            let guest = store.snapshot_dir(&other.id).join("guest");
            let Some(known) = File::open(guest)
                .ok()
                .and_then(|it| manifest::read(it).ok())
            else {
                continue;
            };
            if let Some(with) = manifest.with_process_of(&known) {
                return Ok(Some((with, other)));
            }
        }
        Ok(None)
    }

    fn fill(
        &self,
        stored: &Stored,
        wanted: &Wanted<'_>,
        into: &Path,
        preflight: &Preflight,
    ) -> Result<(), EngineError> {
        let watch = self.timeouts.watch;
        let target = Beneath::open(into).map_err(|error| {
            EngineError::caused(format!("can't open {}", into.display()), error)
        })?;
        let total = wanted.snapshot.size_bytes;
        let name = &wanted.snapshot.source_instance_name;
        let step = self.progress.begin(name, "copying", Some(total));
        let state_dir = stored.manifest.as_ref().and_then(Manifest::state_dir);
        let skip = |path: &Path| !preflight.has_memory && state_dir == Some(path);
        let copied = tree::copy(
            &stored.guest,
            &target,
            &skip,
            &|| watch.is_over(),
            &|bytes| {
                step.advance(bytes);
            },
        );
        if let Err(error) = copied {
            watch.check()?;
            return Err(EngineError::caused("can't copy the snapshot", error));
        }
        seal::seal(into).map_err(|error| EngineError::caused("can't make it durable", error))?;
        if let Some(owner) = preflight.launch.as_ref().and_then(|launch| launch.owner) {
            give(into, owner)
                .map_err(|error| EngineError::caused("can't give it to the VM's user", error))?;
        }
        Ok(())
    }

    /// Waits until the guest's memory is loaded, and lets it go on.
    fn wait_until_it_runs(
        &self,
        child: &mut Child,
        launch: &Launch,
        has_memory: bool,
    ) -> Result<(), EngineError> {
        let memory = launch
            .monitor
            .parent()
            .map(|dir| space::disk_usage(dir).unwrap_or_default());
        let gib = u32::try_from(memory.unwrap_or_default() >> 30).unwrap_or(u32::MAX);
        let deadline = Deadline::after(STARTS_WITHIN.saturating_add(PER_GIB.saturating_mul(gib)));
        loop {
            self.timeouts.watch.check()?;
            if let Some(status) = child
                .try_wait()
                .map_err(|error| EngineError::caused("can't tell whether it runs", error))?
            {
                return Err(EngineError::instance(format!("it ended: {status}")));
            }
            let opened = vmm::open(Hypervisor::Qemu, &launch.monitor, self.timeouts);
            if let Ok(mut vmm) = opened {
                match vmm.state()? {
                    VmmState::Running => return Ok(()),
                    VmmState::Paused | VmmState::Created if has_memory => vmm.resume()?,
                    VmmState::Other(word) if word == "inmigrate" => {}
                    other @ (VmmState::Paused
                    | VmmState::Created
                    | VmmState::Shutdown
                    | VmmState::Other(_)) => {
                        return Err(EngineError::instance(format!("it is {other:?}")));
                    }
                }
            }
            if deadline.has_passed() {
                return Err(EngineError::instance("it did not run in time"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The last lines that the VM said.
fn said(log: &Path) -> String {
    let text = File::open(log).and_then(|file| bounded::read(file, SAID_MAX_BYTES));
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(SAID_MAX_LINES)..];
    if last.is_empty() {
        return String::new();
    }
    format!("; it said: {}", last.join(" / "))
}

/// Gives everything below `directory`, and itself, to its user. Nobody else has had a hand in it yet.
fn give(directory: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), (user, group))?;
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(user), Some(group))?;
        }
    }
    std::os::unix::fs::lchown(directory, Some(user), Some(group))
}
