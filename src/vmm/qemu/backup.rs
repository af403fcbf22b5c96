//! Copies of disks by QEMU's own backup jobs, as of the instant of the pause, while the guest goes on.
//!
//! Each target is a file of ours that QEMU gets as a descriptor. Its room is reserved before the pause: a target that
//! fills up would make the guest's own writes fail, since QEMU saves old data before it lets the guest overwrite it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::super::{Deadline, DiskCopy, VmmError};
use super::PREFIX;
use super::disks::{self, Drive, Source};
use super::jobs;
use super::qmp::{Qmp, Version};

/// Bytes per second of a job that shall wait: the least that QEMU takes.
const CRAWL: u64 = 1;
/// No limit, as QEMU spells it.
const FULL_SPEED: u64 = 0;
/// QEMU copies in pieces of this size, in bytes.
const CLUSTER: u64 = 64 << 10;
/// Data that is less than this apart is reserved in one piece, in bytes.
const GAP: u64 = 1 << 20;
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
        let file = create(&copy.target)?;
        let is_raw = source.format == "raw";
        let reserved = if is_raw {
            file.set_len(source.virtual_bytes)
                .and_then(|()| reserve_like(&file, &copy.disk.path, source.virtual_bytes))
        } else {
            // Tables take at most one byte in four thousand; the rest is for what a small image begins with.
            let tables = source.virtual_bytes / 4096 + (4 << 20);
            reserve(
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
        let backup = Self {
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
    fn attach(&self, qmp: &mut Qmp, index: usize) -> Result<(), VmmError> {
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
        Ok(())
    }

    /// Gives back what was reserved and not needed, once QEMU has let go of the target.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn release(&self) -> io::Result<()> {
        // To cut a file at its own length drops the blocks behind it.
        self.file.set_len(self.file.metadata()?.len())
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

/// A new file that only its owner may read.
///
/// # Errors
/// [`VmmError::File`] with the path.
pub(super) fn create(path: &Path) -> Result<File, VmmError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| VmmError::File {
            what: format!("can't create {}", path.display()),
            source,
        })
}

/// Reserves room in `target` wherever the file `source` holds data now. A source that can't tell where it has holes,
/// such as a block device, gets nothing reserved.
fn reserve_like(target: &File, source: &Path, length: u64) -> io::Result<()> {
    let source = File::open(source)?;
    let mut at = 0;
    while at < length {
        let Some((start, mut end)) = data_from(&source, at)? else {
            break;
        };
        while let Some((next_start, next_end)) = data_from(&source, end)? {
            if next_start > end.saturating_add(GAP) || next_end <= end {
                break;
            }
            end = next_end;
        }
        let start = start / CLUSTER * CLUSTER;
        let end = end.next_multiple_of(CLUSTER).min(length);
        if end <= start {
            break;
        }
        reserve(target, start, end - start)?;
        at = end;
    }
    Ok(())
}

/// Where the next data from `at` on begins and ends.
fn data_from(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        // No more data; not a file that knows holes.
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) if end > start => Ok(Some((start, end))),
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reserves room without changing the file's length. Where the file system can't, the caller's own look at the free
/// space must do.
fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn room_is_reserved_where_the_source_has_data() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("source");
        let source = File::create(&path).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[1; 4096], 3 << 20).unwrap();
        source.write_all_at(&[1; 4096], 40 << 20).unwrap();
        let target = create(&directory.path().join("target")).unwrap();
        target.set_len(64 << 20).unwrap();
        reserve_like(&target, &path, 64 << 20).unwrap();
        let metadata = target.metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 20);
        let reserved = metadata.blocks() * 512;
        assert!((2 * CLUSTER..8 << 20).contains(&reserved), "{reserved}");
    }

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = create(&directory.path().join("target")).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        reserve(&file, 0, 32 << 20).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 32 << 20);
        let backup = Backup {
            job: String::new(),
            disk: String::new(),
            source: Source {
                node: String::new(),
                format: "qcow2".to_owned(),
                virtual_bytes: 0,
                used_bytes: 0,
            },
            target: String::new(),
            file,
        };
        backup.release().unwrap();
        let metadata = backup.file.metadata().unwrap();
        assert_eq!(metadata.len(), 4096);
        assert!(metadata.blocks() * 512 <= 1 << 20);
    }

    #[test]
    fn a_target_is_its_owners_alone_and_never_replaces_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("target");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let error = create(&path).unwrap_err().to_string();
        assert!(error.contains("target"), "{error}");
    }
}
