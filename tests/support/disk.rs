//! Disk images for the test guest, raw and qcow2, made and read without `qemu-img`: tests read the guest's counter
//! straight from the image that a snapshot holds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the guest keeps its counter on each disk, in bytes (`guest/counter.c`: the fixed sector).
const COUNTER_OFFSET: u64 = 2048 * 512;
/// qcow2 cluster size that [`DiskFormat::create`] uses, in bytes.
const CLUSTER: u64 = 65536;

/// The format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// The file is the disk.
    Raw,
    /// QEMU's own format, version 2, without backing file.
    Qcow2,
}

impl DiskFormat {
    /// QEMU's name of the format, which is the file name's suffix too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// Creates an empty, sparse image of `size_mib` MiB.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn create(self, path: &Path, size_mib: u64) {
        let size = size_mib << 20;
        let made = match self {
            Self::Raw => File::create_new(path).and_then(|file| file.set_len(size)),
            Self::Qcow2 => create_qcow2(path, size),
        };
        made.unwrap_or_else(|error| panic!("disk image {}: {error}", path.display()));
    }

    /// The guest's counter in the image at `path`; 0 when the guest has not written yet.
    ///
    /// # Panics
    /// When the image cannot be read.
    pub fn counter(self, path: &Path) -> u64 {
        let read = || {
            let file = File::open(path)?;
            let at = match self {
                Self::Raw => Some(COUNTER_OFFSET),
                Self::Qcow2 => map_qcow2(&file, COUNTER_OFFSET)?,
            };
            at.map_or(Ok(0), |at| read_u64(&file, at).map(u64::swap_bytes))
        };
        read().unwrap_or_else(|error: io::Error| panic!("counter in {}: {error}", path.display()))
    }
}

/// Big-endian, as everything in qcow2.
fn read_u64(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Writes header, refcount table, one refcount block and the first-level table, a cluster each (layout:
/// `docs/interop/qcow2.txt` of QEMU).
fn create_qcow2(path: &Path, size: u64) -> io::Result<()> {
    let second_level_entries = CLUSTER / 8;
    let l1_entries =
        u32::try_from(size.div_ceil(CLUSTER * second_level_entries)).map_err(io::Error::other)?;
    let mut image = vec![0_u8; usize::try_from(4 * CLUSTER).map_err(io::Error::other)?];
    let mut put = |at: u64, bytes: &[u8]| {
        for (into, byte) in image
            .iter_mut()
            .skip(usize::try_from(at).unwrap_or(usize::MAX))
            .zip(bytes)
        {
            *into = *byte;
        }
    };
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes()); // version
    put(20, &16_u32.to_be_bytes()); // cluster bits
    put(24, &size.to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes()); // first-level table
    put(48, &CLUSTER.to_be_bytes()); // refcount table
    put(56, &1_u32.to_be_bytes()); // its clusters
    put(CLUSTER, &(2 * CLUSTER).to_be_bytes()); // refcount block
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    fs::write(path, image)
}

/// Where in the file the guest's byte `offset` is, or nothing when it was never written.
fn map_qcow2(file: &File, offset: u64) -> io::Result<Option<u64>> {
    const ADDRESS: u64 = 0x00ff_ffff_ffff_fe00;
    let l2_entries = CLUSTER / 8;
    let l1_table = read_u64(file, 40)?;
    let l2_table = read_u64(file, l1_table + 8 * (offset / CLUSTER / l2_entries))? & ADDRESS;
    if l2_table == 0 {
        return Ok(None);
    }
    let cluster = read_u64(file, l2_table + 8 * (offset / CLUSTER % l2_entries))? & ADDRESS;
    Ok((cluster != 0).then_some(cluster + offset % CLUSTER))
}
