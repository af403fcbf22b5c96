//! What `doctor` asks of the local engine: the data directory, reflinks, journals that died, and each instance's VMM.
//! Changes nothing, and resumes nobody.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::data_dir::DataDir;
use super::foresight;
use super::instances::Instances;
use super::journal::Journal;
use super::left_behind::{self, JOURNAL};
use super::metadata::Metadata;
use super::off::{self, Surveys};
use super::ownership;
use super::registration;
use super::soundness;
use super::state::{self, Answered, Derived};
use super::store::SnapshotStore;
use super::writers;
use crate::engine::hypeman::ServerPresence;
use crate::engine::registrar::{LIBVIRTS_REMEDY, is_libvirts_own};
use crate::error::in_words;
use crate::finding::{Finding, Status};
use crate::fs::copy;
use crate::host::directory::{self, Missing};
use crate::instance::{InstanceId, InstanceRef, State};
use crate::queue;
use crate::snapshot::Consistency;
use crate::vmm::Timeouts;

/// So many VMMs are asked at once. One that hangs holds up nobody until as many hang.
const MAX_AT_ONCE: usize = 128;
const INSTANCE: &str = "instance";

/// An examination of one data directory.
pub(super) struct Examination<'a> {
    /// hypeman's data directory.
    pub(super) data_dir: &'a Path,
    /// The instances in it, and those that are registered.
    pub(super) instances: &'a Instances,
    /// Looks at who uses their disks.
    pub(super) surveys: &'a Surveys,
    /// The journals.
    pub(super) journal: &'a Journal,
    /// How long a VMM may take to answer.
    pub(super) timeouts: Timeouts,
    /// The server that running instances of hypeman's are left to.
    pub(super) server: &'a ServerPresence,
    /// Whether a run works on an instance now.
    pub(super) is_busy: &'a (dyn Fn(&InstanceId) -> bool + Sync),
}

impl Examination<'_> {
    /// Looks at everything. A data directory that can't be used ends it early, except for the journals.
    pub(super) fn run(&self) -> Vec<Finding> {
        const CHECK: &str = "data directory";
        // A host of registered VMs alone has none before its first snapshot.
        let missing = match self.instances.store() {
            Ok(_) => Missing::CreatedBy("the first snapshot"),
            Err(_) => Missing::Broken(
                "mount it, name the right one with --data-dir, or register a VM with `hypeman-snap register`",
            ),
        };
        let mut findings = directory::examine(CHECK, self.data_dir, missing);
        let is_usable = |findings: &[Finding]| {
            findings
                .iter()
                .all(|it| it.check != CHECK || it.status != Status::Broken)
        };
        if is_usable(&findings) {
            let looked = self
                .instances
                .store()
                .and_then(|_| Ok((self.instances.data_dir()?, self.instances.list()?)));
            match looked {
                Ok((data, instances)) => {
                    findings.extend(self.snapshots_dir(&data));
                    findings.extend(soundness::examine(&SnapshotStore::of(&data)));
                    findings.extend(reflinks(&data));
                    findings.extend(writers::examine(&data, &instances));
                    findings.extend(self.all(&instances));
                }
                Err(error) => findings.push(Finding::broken(
                    CHECK,
                    self.data_dir.display(),
                    in_words(&error),
                    "mount it, or name the directory that hypeman uses with --data-dir",
                )),
            }
        }
        findings.extend(self.journals());
        findings
    }

    /// The directory of the snapshots, which is created when it is needed. Its room is a finding only where it is
    /// another file system.
    fn snapshots_dir(&self, data: &DataDir) -> Vec<Finding> {
        let path = data.snapshots_dir();
        let device = |path: &Path| std::fs::metadata(path).map(|it| it.dev()).ok();
        let mut findings = directory::examine(
            "snapshot directory",
            &path,
            Missing::CreatedBy("the first snapshot"),
        );
        if device(&path) == device(self.data_dir) {
            findings.truncate(1);
        }
        findings
    }

    /// Every instance, all at once: one that hangs costs its own time-out and nobody else's.
    fn all(&self, instances: &[InstanceRef]) -> Vec<Finding> {
        let ids = instances.iter().map(|it| &it.id).collect();
        let panicked = |id: &&InstanceId| {
            Some(Finding::broken(
                INSTANCE,
                id,
                "internal error: looking at it panicked; its message is on stderr",
                "please report it",
            ))
        };
        let found = queue::each(MAX_AT_ONCE, ids, |id| self.instance(id), panicked);
        let mut found: Vec<Finding> = found.into_iter().flatten().collect();
        found.sort_by(|a, b| a.subject.cmp(&b.subject));
        found
    }

    /// One instance; `None` when it has gone since it was listed.
    fn instance(&self, id: &InstanceId) -> Option<Finding> {
        let found = self.instances.find(id).and_then(|found| {
            let Some(metadata) = found else {
                return Ok(None);
            };
            let guest_dir = self.instances.guest_dir(&metadata)?;
            Ok(Some((metadata, guest_dir)))
        });
        let (metadata, guest_dir) = match found {
            Ok(found) => found?,
            Err(error) => {
                return Some(Finding::broken(
                    INSTANCE,
                    id,
                    in_words(&error),
                    "repair its metadata.json, or remove its directory if the instance is gone",
                ));
            }
        };
        if metadata.is_registered() && is_libvirts_own(&metadata.socket) {
            let detail = "its socket is libvirt's own monitor, which serves libvirt alone";
            return Some(Finding::broken(INSTANCE, id, detail, LIBVIRTS_REMEDY));
        }
        let busy = || Finding::ok(INSTANCE, id, "a run works on it at this moment");
        if (self.is_busy)(id) {
            return Some(busy());
        }
        if state::only_vmm_can_tell(&metadata) {
            if let Some(finding) = self.claimed(&metadata) {
                return Some(finding);
            }
        }
        let guest_dir = guest_dir.as_deref();
        let objection = || off::objection(&metadata, guest_dir, self.surveys, None);
        let (derived, met) =
            state::derive_and_meet(&metadata, guest_dir, self.timeouts, &objection);
        if derived.state != State::Running && (self.is_busy)(id) {
            // A run began meanwhile: the guest is paused for it, or its VMM has no time for others.
            return Some(busy());
        }
        let finding = judge(&metadata, &derived, met.as_ref());
        let socket = Some(&metadata.socket).filter(|_| metadata.is_registered());
        Some(
            match socket.and_then(|socket| registration::socket_warning(socket)) {
                Some(why) if finding.status == Status::Ok => Finding::warning(
                    INSTANCE,
                    id,
                    format!("{}; {why}", finding.detail),
                    "move the socket, then `hypeman-snap register` the VM again",
                ),
                Some(_) | None => finding,
            },
        )
    }

    /// An instance whose VMM is not asked, because a hypeman server runs it.
    fn claimed(&self, metadata: &Metadata) -> Option<Finding> {
        match ownership::claim(metadata, self.server) {
            Ok(claim) => claim
                .map(|claim| Finding::warning(INSTANCE, &metadata.id, claim, ownership::REMEDY)),
            Err(error) => Some(Finding::broken(
                INSTANCE,
                &metadata.id,
                in_words(&error),
                "correct --base-url",
            )),
        }
    }

    fn journals(&self) -> Vec<Finding> {
        match self.journal.ids() {
            Ok(ids) => ids.iter().filter_map(|id| self.journal(id)).collect(),
            Err(error) => vec![Finding::broken(
                JOURNAL,
                "all",
                in_words(&error),
                "make the directory readable for this user",
            )],
        }
    }

    /// What a journal means; `None` when its run has ended meanwhile.
    fn journal(&self, id: &InstanceId) -> Option<Finding> {
        let entry = match self.journal.read(id) {
            Ok(entry) => entry?,
            Err(error) => {
                return Some(Finding::broken(
                    JOURNAL,
                    id,
                    in_words(&error),
                    "check that the guest runs, then remove the journal",
                ));
            }
        };
        if (self.is_busy)(id) {
            let detail = "a run is at work at this moment";
            return Some(Finding::ok(JOURNAL, id, detail));
        }
        // Its run may have ended between the two looks; then the journal is gone, or another run's.
        let is_still_there = matches!(self.journal.read(id), Ok(Some(again)) if again == entry);
        is_still_there.then(|| left_behind::finding(&entry))
    }
}

/// Whether disks below the data directory are copied by reflink, found out by a trial that leaves nothing.
fn reflinks(data: &DataDir) -> Option<Finding> {
    const CHECK: &str = "reflink";
    let (guests, snapshots) = (data.guests_dir(), data.snapshots_dir());
    // Disks of registered VMs may be anywhere.
    if !guests.is_dir() {
        return None;
    }
    let target = if snapshots.is_dir() {
        &snapshots
    } else {
        // It will be made here.
        snapshots.parent().unwrap_or(&snapshots)
    };
    let shown = target.display();
    Some(match copy::can_reflink(&guests, target) {
        Ok(true) => Finding::ok(
            CHECK,
            shown,
            "disks are reflinked (tried with a file without a name)",
        ),
        Ok(false) => Finding::warning(
            CHECK,
            shown,
            "disks are copied: snapshots take room and time, and guests without a backup job of their VMM are paused \
             for it (tried with a file without a name)",
            "keep guests and snapshots on one XFS or btrfs file system",
        ),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Finding::ok(
            CHECK,
            shown,
            "not known: this file system can't be tried without leaving a trace",
        ),
        Err(error) => Finding::warning(
            CHECK,
            shown,
            format!("can't be tried: {error}"),
            "look at the directory's permissions and its free space",
        ),
    })
}

/// What an instance's state means for its snapshots.
fn judge(metadata: &Metadata, derived: &Derived, met: Option<&Answered>) -> Finding {
    let id = &metadata.id;
    let detail = summary(metadata, derived, met);
    let refusal = metadata.refusal(Consistency::Memory, derived.state);
    match derived.state {
        State::Running | State::Stopped | State::Standby => match (refusal, met) {
            (Some(refusal), _) => Finding::warning(
                INSTANCE,
                id,
                format!("{detail}; {refusal}"),
                "change the instance, or remove its schedule",
            ),
            (
                None,
                Some(Answered {
                    harm: Ok(Some(harm)),
                    ..
                }),
            ) => Finding::warning(INSTANCE, id, format!("{detail}; {harm}"), ownership::REMEDY),
            (
                None,
                Some(Answered {
                    harm: Err(error), ..
                }),
            ) => Finding::broken(
                INSTANCE,
                id,
                format!(
                    "{detail}; whether hypeman saves only changes of its memory is not known: {}",
                    in_words(error)
                ),
                "look at the VMM's log",
            ),
            (
                None,
                Some(Answered {
                    version: Err(error),
                    ..
                }),
            ) => Finding::warning(
                INSTANCE,
                id,
                format!("{detail}; its version is not known: {}", in_words(&error)),
                "look at the VMM's log",
            ),
            (
                None,
                Some(Answered {
                    foreseen: Ok(foreseen),
                    ..
                }),
            ) if !foreseen.is_empty() => Finding::warning(
                INSTANCE,
                id,
                format!("{detail}; {}", foreseen.join("; ")),
                "change how the VM is started",
            ),
            (
                None,
                Some(Answered {
                    foreseen: Err(error),
                    ..
                }),
            ) => Finding::warning(
                INSTANCE,
                id,
                format!(
                    "{detail}; how long a snapshot pauses it is not known: {}",
                    in_words(error)
                ),
                "look at the VMM's log",
            ),
            (None, None) if metadata.has_no_known_disk() => Finding::warning(
                INSTANCE,
                id,
                format!("{detail}; {}", off::nothing_to_copy(metadata)),
                "hypeman-snap register with --disk, or while the VM runs",
            ),
            (None, _) => Finding::ok(INSTANCE, id, detail),
        },
        State::Paused => Finding::warning(
            INSTANCE,
            id,
            format!("{detail}; a paused guest is not snapshotted"),
            "resume it with what paused it; after a run that died: hypeman-snap run-due --recover-only",
        ),
        State::Created | State::Initializing | State::Shutdown => Finding::warning(
            INSTANCE,
            id,
            format!("{detail}; it can't be snapshotted in this state"),
            "wait until it runs, or stop it",
        ),
        State::Unknown => Finding::broken(
            INSTANCE,
            id,
            detail,
            "restart the VM; if it is off, remove the socket that it left",
        ),
    }
}

/// Name, state, VMM and process, as far as they are known.
fn summary(metadata: &Metadata, derived: &Derived, met: Option<&Answered>) -> String {
    let mut text = String::new();
    if !metadata.name.is_empty() && metadata.name != metadata.id.as_str() {
        text.push_str(&metadata.name);
        text.push_str(": ");
    }
    text.push_str(&derived.state.to_string());
    if let Some(met) = met {
        text.push_str(", ");
        text.push_str(&metadata.hypervisor);
        if let Ok(version) = &met.version {
            text.push(' ');
            text.push_str(version);
        }
        text.push_str(" answers");
        if let Some(process) = &met.process {
            text.push_str(&format!(" (process {})", process.pid));
        }
    }
    if let Some(note) = &derived.note {
        text.push_str(": ");
        text.push_str(note);
    }
    if let Some(Ok(outlook)) = met.map(|met| &met.outlook) {
        if derived.state == State::Running {
            text.push_str("; ");
            text.push_str(&foresight::of(outlook));
        }
    }
    text
}
