//! A map of the clusters that a backup job shall copy, in the form in which QEMU takes one: the dirty bitmap of an
//! otherwise empty qcow2 image (QEMU's `docs/interop/qcow2.txt`, "Bitmaps extension"). Makes bytes, and does no I/O.

use super::extents::{CLUSTER, Extents};

/// The clusters of the image itself have the size of those that it describes.
const CLUSTER_BITS: u32 = 16;
/// One cluster of the bitmap says something of so many bytes: a bit for each cluster.
const COVERAGE: u64 = CLUSTER * 8 * CLUSTER;
/// One entry of the first-level table stands for so many bytes.
const L1_COVERAGE: u64 = CLUSTER / 8 * CLUSTER;
/// The type of the header extension for bitmaps.
const BITMAPS_EXTENSION: u32 = 0x2385_2875;

/// The image with a bitmap of the name `name`, in which the clusters of `extents` are marked. As pieces: offset in bytes
/// and content; in between, and up to the length that comes with them, are zeros.
pub(super) fn image(extents: &Extents, name: &str) -> (u64, Vec<(u64, Vec<u8>)>) {
    let l1_entries = extents.length().div_ceil(L1_COVERAGE).max(1);
    let map_clusters = extents.length().div_ceil(COVERAGE).max(1);
    // Header, refcounts and directory take a cluster each.
    let refcounts_at = CLUSTER;
    let directory_at = 2 * CLUSTER;
    let l1_at = 3 * CLUSTER;
    let table_at = l1_at + (l1_entries * 8).next_multiple_of(CLUSTER);
    let maps_at = table_at + (map_clusters * 8).next_multiple_of(CLUSTER);

    let directory = directory_entry(table_at, map_clusters, name);
    let mut header = Numbers::default();
    header
        .u32(0x5146_49fb) // "QFI\xfb"
        .u32(3) // version
        .u64(0) // no backing file
        .u32(0)
        .u32(CLUSTER_BITS)
        .u64(extents.length())
        .u32(0) // not encrypted
        .u32(low(l1_entries))
        .u64(l1_at)
        .u64(refcounts_at)
        .u32(1) // clusters of the refcount table
        .u32(0) // no snapshots
        .u64(0)
        .u64(0) // no incompatible features
        .u64(0) // no compatible features
        .u64(1) // the bitmaps are up to date
        .u32(4) // 16 bits for a refcount
        .u32(104) // length of the header so far
        .u32(BITMAPS_EXTENSION)
        .u32(24)
        .u32(1) // bitmaps
        .u32(0)
        .u64(directory.len() as u64)
        .u64(directory_at)
        .u64(0); // no more extensions

    let mut table = Numbers::default();
    let mut pieces = vec![(0, header.0), (directory_at, directory)];
    for index in 0..map_clusters {
        let at = maps_at + index * CLUSTER;
        match map_cluster(extents, index * COVERAGE) {
            Some(map) => {
                table.u64(at);
                pieces.push((at, map));
            }
            None => {
                table.u64(0);
            }
        }
    }
    pieces.push((table_at, table.0));
    (maps_at + map_clusters * CLUSTER, pieces)
}

fn directory_entry(table_at: u64, table_entries: u64, name: &str) -> Vec<u8> {
    let mut entry = Numbers::default();
    entry
        .u64(table_at)
        .u32(low(table_entries))
        .u32(0) // neither in use nor recording
        .u32(low(
            1 << 24 | u64::from(CLUSTER_BITS) << 16 | name.len() as u64, // kind, granularity
        ))
        .u32(0); // no extra data
    let mut bytes = entry.0;
    bytes.extend(name.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The cluster of the bitmap that begins with the bit for the data at `base`; `None` when no bit in it is set. The first
/// bit is the lowest of the first byte.
fn map_cluster(extents: &Extents, base: u64) -> Option<Vec<u8>> {
    let first = extents.ranges().partition_point(|(_, end)| *end <= base);
    let mut map: Option<Vec<u8>> = None;
    for (start, end) in extents.ranges().iter().skip(first) {
        if *start >= base + COVERAGE {
            break;
        }
        let map = map.get_or_insert_with(|| vec![0; usize::try_from(CLUSTER).unwrap_or(0)]);
        let from = (start.max(&base) - base) / CLUSTER;
        let to = ((end.min(&(base + COVERAGE))) - base).div_ceil(CLUSTER);
        for bit in from..to {
            let byte = usize::try_from(bit / 8)
                .ok()
                .and_then(|byte| map.get_mut(byte));
            if let Some(byte) = byte {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    map
}

/// The lower half of a number that is small: the sizes here are those of tables.
fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Numbers one after the other, big-endian as everything in qcow2.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }
}
