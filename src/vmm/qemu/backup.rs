//! Copies of disks by QEMU's own backup jobs, as of the instant of the pause, while the guest goes on.
//!
//! Each target is a file of ours that QEMU gets as a descriptor. Its room is reserved before the pause: a target that
//! fills up would make the guest's own writes fail, since QEMU saves old data before it lets the guest overwrite it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::super::{Deadline, DiskCopy, VmmError};
use super::dirty_bitmap::DirtyBitmap;
use super::disks::{self, Drive, Source};
use super::extents::Extents;
use super::qmp::Qmp;
use super::wire::Version;
use super::{PREFIX, files, jobs};

/// Bytes per second of a job that shall wait: the least that QEMU takes.
const CRAWL: u64 = 1;
/// No limit, as QEMU spells it.
const UNLIMITED: u64 = 0;
/// Bytes per second of a job that copies many pieces at once: it pauses in each tenth of a second.
const LIMIT: u64 = 256 << 20;
/// What the size of a disk is a multiple of, in bytes.
const SECTOR: u64 = 512;
/// The argument by which a job copies one piece at a time.
const WORKERS: &str = "x-perf";
/// Since this version a target that fails breaks the copy and not the guest's write, if asked to.
const ON_CBW_ERROR_SINCE: Version = Version {
    major: 10,
    minor: 1,
    micro: 0,
};

/// How a job leaves the guest its share. At QEMU's own pace, up to 64 pieces at once without limit, it keeps QEMU's main
/// loop from everything else for seconds (seen with 7.2 and 10.0), and a guest that waits for a device does nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// One piece after the other.
    OneByOne,
    /// Many at once, with a limit.
    Limited,
}

/// One disk and the job that copies it.
#[derive(Debug)]
pub(super) struct Backup {
    /// The job's id.
    pub job: String,
    /// The disk, for messages.
    pub disk: String,
    source: Source,
    /// The disk's own file, for reading.
    origin: Arc<File>,
    target: String,
    /// What to copy; without one, all.
    bitmap: Option<DirtyBitmap>,
    file: Arc<File>,
}

impl Backup {
    /// Reserves the target's room and hands it to QEMU. The guest runs.
    ///
    /// # Errors
    /// [`VmmError::File`] when there is no room; else what QEMU refuses.
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
        let mut backup = Self {
            job: format!("{PREFIX}-copy{index}"),
            disk: copy.disk.name.clone(),
            target: format!("{PREFIX}-target{index}"),
            bitmap: None,
            source,
            origin: Arc::clone(&copy.source),
            file: Arc::clone(&copy.target),
        };
        if backup.source.format == "raw" {
            backup.reserve_extents(qmp, index, copy)?;
        } else {
            backup.reserve_used(copy)?;
        }
        backup.attach(qmp, index)?;
        Ok(backup)
    }

    /// Reserves what a raw disk's file holds, at the same places, and maps it if it has holes.
    fn reserve_extents(
        &mut self,
        qmp: &mut Qmp,
        index: usize,
        copy: &DiskCopy,
    ) -> Result<(), VmmError> {
        let length = self.source.virtual_bytes;
        let no_room = |error| no_room(copy, error);
        // QEMU rounds up to whole sectors.
        let held = (&*self.origin).seek(SeekFrom::End(0)).map_err(no_room)?;
        if length > held.saturating_add(SECTOR) {
            return Err(VmmError::Protocol {
                request: "query-block".to_owned(),
                detail: format!(
                    "disk {} has {length} bytes in it, and its file {held}",
                    self.disk
                ),
            });
        }
        let metadata = self.origin.metadata().map_err(no_room)?;
        // The unit of `st_blocks` is 512 bytes, whatever the file system's is (stat(2)).
        let has_holes = metadata.is_file() && metadata.blocks() * 512 < length;
        // First the bitmap and then the look, so that what the guest writes in between is not missed.
        if has_holes {
            self.bitmap = Some(DirtyBitmap::begin(qmp, index, &self.source.node)?);
        }
        self.file.set_len(length).map_err(no_room)?;
        let extents = Extents::of(&self.origin, length).map_err(no_room)?;
        for (start, end) in extents.ranges() {
            files::reserve(&self.file, *start, end - start).map_err(no_room)?;
        }
        match &self.bitmap {
            Some(bitmap) => bitmap.add(qmp, &extents),
            None => Ok(()),
        }
    }

    /// Reserves what a copy-on-write image and all that it stands on hold, behind the end of the file.
    fn reserve_used(&self, copy: &DiskCopy) -> Result<(), VmmError> {
        let Source {
            virtual_bytes,
            used_bytes,
            has_backing,
            ref layout,
            ..
        } = self.source;
        let most = layout.most_bytes(virtual_bytes, used_bytes, has_backing);
        files::reserve(&self.file, 0, most).map_err(|error| no_room(copy, error))
    }

    /// What the copy lacks, in a sentence for the user.
    pub fn lacks(&self) -> Option<String> {
        let lost = self.source.lost.as_ref()?;
        Some(format!(
            "QEMU's copy of disk {} is without its {lost}, which a reflink would keep: have the disk and the data directory \
             on one XFS or btrfs file system",
            self.disk
        ))
    }

    /// What the job is for, as an error says it.
    pub fn purpose(&self) -> String {
        format!("to copy disk {}", self.disk)
    }

    /// Makes a node of the target file. It is sparse where the source is, and QEMU does not sync it: the caller does.
    fn attach(&self, qmp: &mut Qmp, index: usize) -> Result<(), VmmError> {
        let opaque = json!({"opaque": format!("{PREFIX}-disk{index}")});
        let set = files::add(qmp, &opaque, &self.file)?;
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
            let options = self
                .source
                .layout
                .options(&file_node, self.source.virtual_bytes);
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
        )
    }

    /// Writes out what the host still holds of the disk, so that QEMU need not when it stops the guest.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_out(&self) -> io::Result<()> {
        self.origin.sync_data()
    }

    /// What starts the job within a transaction.
    fn action(&self, pace: Pace, urgent: bool, has_on_cbw_error: bool) -> Value {
        let mut data = json!({
            "job-id": &self.job, "device": &self.source.node, "target": &self.target,
            "auto-dismiss": false, "speed": if urgent { UNLIMITED } else { CRAWL },
        });
        match &self.bitmap {
            Some(bitmap) => {
                data["sync"] = json!("bitmap");
                data["bitmap"] = json!(&bitmap.name);
                data["bitmap-mode"] = json!("never");
            }
            None => data["sync"] = json!("full"),
        }
        if pace == Pace::OneByOne {
            data[WORKERS] = json!({"max-workers": 1});
        }
        if has_on_cbw_error {
            data["on-cbw-error"] = json!("break-snapshot");
        }
        json!({"type": "blockdev-backup", "data": data})
    }

    /// Gives back what was reserved and not needed, once QEMU has let go of the target.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn release(&self) -> io::Result<()> {
        files::release(&self.file)
    }
}

fn no_room(copy: &DiskCopy, source: io::Error) -> VmmError {
    VmmError::File {
        what: format!(
            "can't reserve the room for the copy of disk {} in {}",
            copy.disk.name,
            copy.target_path.display()
        ),
        source,
    }
}

/// Starts all jobs at one instant, at which the guest is paused. They crawl, unless they are `urgent`.
///
/// # Errors
/// What QEMU refuses; then no job runs.
pub(super) fn start(
    qmp: &mut Qmp,
    backups: &[Backup],
    urgent: bool,
    deadline: Deadline,
) -> Result<Pace, VmmError> {
    let has_on_cbw_error = *qmp.version() >= ON_CBW_ERROR_SINCE;
    let mut begin = |pace| {
        let actions: Vec<Value> = backups
            .iter()
            .map(|backup| backup.action(pace, urgent, has_on_cbw_error))
            .collect();
        qmp.query_by::<IgnoredAny>("transaction", &json!({"actions": actions}), deadline)
    };
    match begin(Pace::OneByOne) {
        // It is marked as unstable: a QEMU may lack it, or be told to refuse what is unstable.
        Err(VmmError::Refused { message, .. }) if message.contains(WORKERS) => {
            begin(Pace::Limited)?;
            Ok(Pace::Limited)
        }
        other => other.map(|_| Pace::OneByOne),
    }
}

/// Lets the jobs copy at their pace. One that has ended already is no error here.
///
/// # Errors
/// When the connection fails.
pub(super) fn speed_up(qmp: &mut Qmp, backups: &[Backup], pace: Pace) -> Result<(), VmmError> {
    let speed = match pace {
        Pace::OneByOne => UNLIMITED,
        Pace::Limited => LIMIT,
    };
    for backup in backups {
        let arguments = json!({"device": &backup.job, "speed": speed});
        match qmp.execute("block-job-set-speed", &arguments) {
            Ok(()) | Err(VmmError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
