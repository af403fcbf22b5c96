//! Copies of disks by QEMU's own backup jobs, as of the instant of the pause, while the guest goes on.
//!
//! Each target is a file of ours that QEMU gets as a descriptor. Its room is reserved before the pause: a target that
//! fills up would make the guest's own writes fail, since QEMU saves old data before it lets the guest overwrite it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use serde_json::{Value, json};

use super::super::{Deadline, DiskCopy, VmmError};
use super::disks::{self, Drive, Source};
use super::qmp::Qmp;
use super::wire::Version;
use super::{PREFIX, files, jobs};

/// Bytes per second of a job that shall wait: the least that QEMU takes.
const CRAWL: u64 = 1;
/// No limit, as QEMU spells it.
const FULL_SPEED: u64 = 0;
/// Since this version a target that fails breaks the copy and not the guest's write, if asked to.
const ON_CBW_ERROR_SINCE: Version = Version {
    major: 10,
    minor: 1,
    micro: 0,
};

/// One disk and the job that copies it.
#[derive(Debug)]
pub(super) struct Backup {
    /// The job's id.
    pub job: String,
    /// The disk, for messages.
    pub disk: String,
    source: Source,
    target: String,
    file: File,
}

impl Backup {
    /// Creates the target and hands it to QEMU. The guest runs.
    ///
    /// # Errors
    /// [`VmmError::File`] when the target can't be made or has no room; else what QEMU refuses.
    pub fn prepare(
        qmp: &mut Qmp,
        index: usize,
        copy: &DiskCopy,
        drives: &[Drive],
    ) -> Result<Self, VmmError> {
        let source = disks::source(drives, &copy.disk.name).ok_or_else(|| {
            VmmError::Unsupported(format!(
                "disk {} is gone from the VMM, or is no longer what it was",
                copy.disk.name
            ))
        })?;
        let file = files::create(&copy.target)?;
        let is_raw = source.format == "raw";
        let reserved = if is_raw {
            file.set_len(source.virtual_bytes)
                .and_then(|()| files::reserve_like(&file, &copy.disk.path, source.virtual_bytes))
        } else {
            // Tables take at most one byte in four thousand; the rest is for what a small image begins with.
            let tables = source.virtual_bytes / 4096 + (4 << 20);
            files::reserve(
                &file,
                0,
                source.used_bytes.min(source.virtual_bytes) + tables,
            )
        };
        reserved.map_err(|error| VmmError::File {
            what: format!(
                "can't reserve the room for the copy of disk {} in {}",
                copy.disk.name,
                copy.target.display()
            ),
            source: error,
        })?;
        let mut backup = Self {
            job: format!("{PREFIX}-copy{index}"),
            disk: copy.disk.name.clone(),
            target: format!("{PREFIX}-target{index}"),
            source,
            file,
        };
        backup.attach(qmp, index)?;
        Ok(backup)
    }

    /// What the job is for, as an error says it.
    pub fn purpose(&self) -> String {
        format!("to copy disk {}", self.disk)
    }

    /// Makes a node of the target file. It is sparse where the source is, and QEMU does not sync it: the caller does.
    fn attach(&mut self, qmp: &mut Qmp, index: usize) -> Result<(), VmmError> {
        let opaque = json!({"opaque": format!("{PREFIX}-disk{index}")});
        let added = qmp.execute_with_fd("add-fd", &opaque, self.file.as_fd())?;
        let set = added
            .get("fdset-id")
            .and_then(Value::as_u64)
            .ok_or_else(|| VmmError::Protocol {
                request: "add-fd".to_owned(),
                detail: "it has no fdset-id".to_owned(),
            })?;
        let file_node = format!("{PREFIX}-file{index}");
        let cache = json!({"no-flush": true});
        qmp.execute(
            "blockdev-add",
            &json!({
                "driver": "file", "node-name": &file_node, "filename": format!("/dev/fdset/{set}"),
                "discard": "unmap", "cache": &cache,
            }),
        )?;
        if self.source.format == "qcow2" {
            let job = format!("{PREFIX}-create{index}");
            let options = json!({
                "driver": "qcow2", "file": &file_node, "size": self.source.virtual_bytes,
            });
            qmp.execute(
                "blockdev-create",
                &json!({"job-id": &job, "options": options}),
            )?;
            let deadline = Deadline::after(qmp.limit());
            if !jobs::conclude(qmp, &job, "to format the copy of a disk", deadline)? {
                return Err(qmp.timed_out("blockdev-create", deadline.limit()));
            }
            jobs::dismiss(qmp, &job)?;
        }
        qmp.execute(
            "blockdev-add",
            &json!({
                "driver": &self.source.format, "node-name": &self.target, "file": &file_node,
                "discard": "unmap", "detect-zeroes": "unmap", "cache": &cache,
            }),
        )?;
        if self.source.format == "raw" {
            self.target = keep_holes(qmp, index, &self.target)?.unwrap_or(self.target.clone());
        }
        Ok(())
    }

    /// Gives back what was reserved and not needed, once QEMU has let go of the target.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn release(&self) -> io::Result<()> {
        files::release(&self.file)
    }
}

/// Makes a node on top of the raw node `below`, through which holes stay holes; `None` where QEMU lacks what it takes.
///
/// A backup job writes the holes of its source as zeros that must take up room, and a raw file can't leave them out. The
/// filter answers that it can't write zeros, whereupon QEMU writes a buffer of zeros, and `below` detects those and
/// makes a hole of them. (`blkdebug` is QEMU's filter for giving chosen answers; 95 is `EOPNOTSUPP`.)
fn keep_holes(qmp: &mut Qmp, index: usize, below: &str) -> Result<Option<String>, VmmError> {
    let name = format!("{PREFIX}-sparse{index}");
    let answer =
        json!({"event": "none", "iotype": "write-zeroes", "errno": 95, "immediately": true});
    let added = qmp.execute(
        "blockdev-add",
        &json!({
            "driver": "blkdebug", "node-name": &name, "image": below, "inject-error": [answer],
            "discard": "unmap", "cache": {"no-flush": true},
        }),
    );
    match added {
        Ok(_) => Ok(Some(name)),
        Err(VmmError::Refused { message, .. }) => {
            log::debug!("a copy will not be sparse: {message}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Starts all jobs at one instant, at which the guest stands still. They crawl, unless they are `urgent`.
///
/// # Errors
/// What QEMU refuses; then no job runs.
pub(super) fn start(
    qmp: &mut Qmp,
    backups: &[Backup],
    urgent: bool,
    deadline: Deadline,
) -> Result<(), VmmError> {
    let has_on_cbw_error = *qmp.version() >= ON_CBW_ERROR_SINCE;
    let actions: Vec<Value> = backups
        .iter()
        .map(|backup| {
            let mut data = json!({
                "job-id": &backup.job, "device": &backup.source.node, "target": &backup.target,
                "sync": "full", "auto-dismiss": false,
                "speed": if urgent { FULL_SPEED } else { CRAWL },
            });
            if let (true, Some(data)) = (has_on_cbw_error, data.as_object_mut()) {
                data.insert("on-cbw-error".to_owned(), json!("break-snapshot"));
            }
            json!({"type": "blockdev-backup", "data": data})
        })
        .collect();
    qmp.execute_by("transaction", &json!({"actions": actions}), deadline)
        .map(drop)
}

/// Lets the jobs copy as fast as they can. One that has ended already is no error here.
///
/// # Errors
/// When the connection fails.
pub(super) fn hurry(qmp: &mut Qmp, backups: &[Backup]) -> Result<(), VmmError> {
    for backup in backups {
        let speed = json!({"device": &backup.job, "speed": FULL_SPEED});
        match qmp.execute("block-job-set-speed", &speed) {
            Ok(_) | Err(VmmError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
