//! The file that takes memory and device state, and how much room it needs.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::super::{Process, VmmError};
use super::foreign::Property;
use super::qmp::Qmp;
use super::{MEMORY_FD, files, migration};
use crate::fs::beneath::Beneath;

/// The file's name in the state directory, as hypeman has it (contract, section 4).
pub(super) const NAME: &str = "memory";
/// What the devices' state and their own memory (video, firmware) take at most, in bytes.
const DEVICES: u64 = 64 << 20;
/// What a page takes in the file beyond its content, as a part of the memory's size.
const HEADERS: u64 = 256;

/// The file, and what was reserved for it.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    path: PathBuf,
    /// Where a save that fails does harm: whose room must be there before it begins.
    claim: Option<Claim>,
    /// What was reserved, in bytes.
    reserved: u64,
}

/// What decides how much room a guest's memory may need.
#[derive(Debug)]
struct Claim {
    /// The size of the guest's memory, in bytes.
    size: u64,
    /// The QEMU whose use of memory tells how much of that the guest has touched; `None` where any page may hold
    /// something, touched or not.
    process: Option<Process>,
}

impl Memory {
    /// Creates the file in `directory` and gives it to QEMU. Where a save that fails does harm, its room is reserved.
    ///
    /// # Errors
    /// [`VmmError::File`] when there is no room; else what QEMU refuses.
    pub fn prepare(
        qmp: &mut Qmp,
        directory: &Beneath,
        process: Option<&Process>,
    ) -> Result<Self, VmmError> {
        let path = directory.path().join(NAME);
        let file = directory
            .create_file(NAME)
            .map_err(|source| VmmError::File {
                what: format!("can't create {}", path.display()),
                source,
            })?;
        let claim = if migration::fails_cleanly(qmp.version()) {
            None
        } else {
            let is_mapped_from_file = is_mapped_from_file(qmp)?;
            Some(Claim {
                size: size_bytes(qmp)?,
                process: process.filter(|_| !is_mapped_from_file).cloned(),
            })
        };
        let mut memory = Self {
            file,
            path,
            claim,
            reserved: 0,
        };
        // Until the pause the guest goes on taking memory.
        let bound = memory.bound();
        memory.reserve(bound.saturating_add(bound / 16))?;
        memory.pass(qmp)?;
        Ok(memory)
    }

    /// Reserves what the guest has come to need since the preparation. It is paused now.
    ///
    /// # Errors
    /// [`VmmError::File`] when there is no room.
    pub fn top_up(&mut self) -> Result<(), VmmError> {
        self.reserve(self.bound())
    }

    /// Gives QEMU the file; a save takes the descriptor away when it begins.
    fn pass(&self, qmp: &mut Qmp) -> Result<(), VmmError> {
        let name = json!({"fdname": MEMORY_FD});
        qmp.query_with_fd::<IgnoredAny>("getfd", &name, self.file.as_fd())
            .map(drop)
    }

    /// Makes the file as good as new after a save that failed, and gives it to QEMU again.
    ///
    /// # Errors
    /// [`VmmError::File`], or what QEMU refuses.
    pub fn pass_again(&mut self, qmp: &mut Qmp) -> Result<(), VmmError> {
        self.reserved = 0;
        self.file
            .set_len(0)
            // QEMU's descriptor shares the offset with ours.
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|source| VmmError::File {
                what: format!("can't empty {}", self.path.display()),
                source,
            })?;
        self.pass(qmp)
    }

    /// Gives back what was reserved and not needed.
    ///
    /// # Errors
    /// [`VmmError::File`].
    pub fn release(&self) -> Result<(), VmmError> {
        files::release(&self.file).map_err(|source| VmmError::File {
            what: format!("can't give back unused room of {}", self.path.display()),
            source,
        })
    }

    /// Has its file system write out what it still holds, so that a save in the pause does not have to wait for that.
    pub fn write_out(&self) {
        // What failed before is not this snapshot's.
        if let Err(error) = rustix::fs::syncfs(&self.file) {
            log::debug!("syncfs for {}: {error}", self.path.display());
        }
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), VmmError> {
        if bytes <= self.reserved {
            return Ok(());
        }
        files::reserve(&self.file, 0, bytes).map_err(|source| VmmError::File {
            what: format!(
                "can't reserve the room that the guest's memory may need, {} MiB, for {}",
                bytes >> 20,
                self.path.display()
            ),
            source,
        })?;
        self.reserved = bytes;
        Ok(())
    }

    /// The most that the file can need now, in bytes. Pages that the guest never touched take next to nothing.
    fn bound(&self) -> u64 {
        let Some(Claim { size, process }) = &self.claim else {
            return 0;
        };
        let touched = process.as_ref().and_then(Process::memory_bytes);
        let content = touched.map_or(*size, |touched| touched.min(*size));
        content.saturating_add(size / HEADERS + DEVICES)
    }
}

/// The answer to `query-memory-size-summary`, in bytes.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    base_memory: u64,
    plugged_memory: Option<u64>,
}

/// The size of the guest's memory, in bytes.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn size_bytes(qmp: &mut Qmp) -> Result<u64, VmmError> {
    let summary: Summary = qmp.query("query-memory-size-summary", &json!({}))?;
    let plugged = summary.plugged_memory.unwrap_or(0);
    Ok(summary.base_memory.saturating_add(plugged))
}

/// What a save of the guest's memory takes at most, in bytes: QEMU writes no pages of zeros, and nobody has touched more
/// than what its process holds. What is mapped from files or shared with other processes may hold more than that shows.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn most_bytes(qmp: &mut Qmp, process: Option<&Process>) -> Result<u64, VmmError> {
    let size = size_bytes(qmp)?;
    let touched = process.and_then(Process::memory_bytes);
    let content = match touched {
        Some(touched) if !is_mapped_from_file(qmp)? => touched.min(size),
        Some(_) | None => size,
    };
    Ok(content.saturating_add(size / HEADERS))
}

/// Whether any of the guest's memory is mapped from a file, so that a page may hold something that nobody has touched.
///
/// # Errors
/// When QEMU can't be asked.
fn is_mapped_from_file(qmp: &mut Qmp) -> Result<bool, VmmError> {
    let objects: Vec<Property> = qmp.query("qom-list", &json!({"path": "/objects"}))?;
    Ok(objects
        .iter()
        .any(|object| object.kind == "child<memory-backend-file>"))
}
