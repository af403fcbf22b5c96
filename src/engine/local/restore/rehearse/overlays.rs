//! Disks of a throw-away copy that are images of what changes alone, where a file system can't share blocks: qcow2, by
//! qemu-img(1), over the snapshot's own files, which QEMU gets as descriptors and can only read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::stored::Stored;
use crate::engine::EngineError;
use crate::fs::copy;
use crate::instance::Hypervisor;
use crate::snapshot::manifest::{DiskEntry, Manifest};
use crate::vmm::launch::rehearsal::backing_of;

/// The program that makes them.
const QEMU_IMG: &str = "qemu-img";
/// Where a qcow2 image says how large its disk is (docs/interop/qcow2.rst in QEMU's sources).
const QCOW2_SIZE_AT: u64 = 24;

/// Whether the disks of such a VM in `directory` are to be images of what changes.
pub(super) fn are_wanted(
    stored: &Stored,
    manifest: Option<&Manifest>,
    hypervisor: &str,
    directory: &Path,
) -> bool {
    let is_qemu = matches!(
        hypervisor.parse(),
        Ok(Hypervisor::Qemu | Hypervisor::QemuMicrovm)
    );
    let Some(manifest) = manifest.filter(|_| is_qemu) else {
        return false;
    };
    let is_known = |disk: &DiskEntry| matches!(disk.format.as_deref(), Some("raw" | "qcow2"));
    manifest.disks.iter().all(is_known)
        && !copy::can_reflink(&stored.directory, directory).unwrap_or(false)
        && Command::new(QEMU_IMG)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Makes the images in `own`, as the user that `as_user` runs programs as, and gives the files that they are over, in the
/// order of their descriptors.
///
/// # Errors
/// When one can't be made.
pub(super) fn make(
    stored: &Stored,
    manifest: &Manifest,
    own: &Path,
    as_user: &[String],
) -> Result<Vec<File>, EngineError> {
    let made = |(number, disk): (usize, &DiskEntry)| {
        let shown = disk.file.display().to_string();
        let failed = |error| EngineError::caused(format!("can't use {shown}"), error);
        let file = stored.guest.open_file(&disk.file).map_err(failed)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let format = disk.format.as_deref().unwrap_or("raw");
        let size = if format == "raw" {
            file.metadata().map_err(failed)?.len()
        } else {
            let mut size = [0; 8];
            file.read_exact_at(&mut size, QCOW2_SIZE_AT)
                .map_err(failed)?;
            u64::from_be_bytes(size)
        };
        let image = own.join(&disk.file);
        // It can't be opened where it is: that is only known once QEMU has it.
        let words = ["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b"];
        let program = QEMU_IMG.to_owned();
        let (first, rest) = match as_user.split_first() {
            Some((first, rest)) => (first, [rest, &[program]].concat()),
            None => (&program, Vec::new()),
        };
        let output = Command::new(first)
            .args(rest)
            .args(words)
            .arg(backing_of(number))
            .arg(&image)
            .arg(size.to_string())
            .stdin(Stdio::null())
            .output()
            .map_err(failed)?;
        if !output.status.success() {
            return Err(EngineError::instance(format!(
                "qemu-img can't make {}: {}",
                image.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        Ok(file)
    };
    manifest.disks.iter().enumerate().map(made).collect()
}
