//! Tells QEMU which parts of a raw disk hold data, so that a backup job leaves the holes alone: it would write each of
//! them out, as zeros that take up room, and keep QEMU's main loop from everything else meanwhile.
//!
//! It is a dirty bitmap of the disk's node. QEMU keeps it up to date while the guest writes; what the disk's file
//! held before is merged into it, from a bitmap that comes in an image of our own making.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;
use serde::Deserialize;
use serde_json::json;

use super::super::VmmError;
use super::extents::{CLUSTER, Extents};
use super::qmp::Qmp;
use super::{PREFIX, bitmap_image, files};

/// The data of one disk, in QEMU.
#[derive(Debug)]
pub(super) struct DirtyBitmap {
    /// The bitmap's name.
    pub name: String,
    index: usize,
    node: String,
}

impl DirtyBitmap {
    /// Makes a bitmap of the node `node` that is empty but for what the guest writes from now on.
    ///
    /// # Errors
    /// What QEMU refuses.
    pub fn begin(qmp: &mut Qmp, index: usize, node: &str) -> Result<Self, VmmError> {
        let name = format!("{PREFIX}-bitmap{index}");
        qmp.execute(
            "block-dirty-bitmap-add",
            &json!({"node": node, "name": &name, "granularity": CLUSTER, "persistent": false}),
        )?;
        Ok(Self {
            name,
            index,
            node: node.to_owned(),
        })
    }

    /// Adds what the disk's file held: `extents` were looked up after [`DirtyBitmap::begin`], so that nothing is missed.
    ///
    /// # Errors
    /// [`VmmError::File`] when the image can't be made; else what QEMU refuses, or when its bitmap lacks something.
    pub fn add(&self, qmp: &mut Qmp, extents: &Extents) -> Result<(), VmmError> {
        let image = image(extents, &self.name).map_err(|source| VmmError::File {
            what: "can't make a file in memory".to_owned(),
            source,
        })?;
        let opaque = json!({"opaque": format!("{PREFIX}-image{}", self.index)});
        let set = files::add(qmp, &opaque, &image)?;
        let node = format!("{PREFIX}-image{}", self.index);
        qmp.execute(
            "blockdev-add",
            &json!({
                "driver": "qcow2", "node-name": &node, "read-only": true,
                "file": {
                    "driver": "file", "filename": format!("/dev/fdset/{set}"), "read-only": true,
                    "locking": "off",
                },
            }),
        )?;
        qmp.execute(
            "block-dirty-bitmap-merge",
            &json!({
                "node": &self.node, "target": &self.name,
                "bitmaps": [{"node": &node, "name": &self.name}],
            }),
        )?;
        qmp.execute("blockdev-del", &json!({"node-name": &node}))?;
        qmp.execute("remove-fd", &json!({"fdset-id": set}))?;
        self.check(qmp, extents)
    }

    /// A bitmap in which something is missing would make a copy in which it is missing.
    fn check(&self, qmp: &mut Qmp, extents: &Extents) -> Result<(), VmmError> {
        let nodes = nodes(qmp)?;
        let marked = bitmaps(&nodes)
            .find(|(node, bitmap)| *node == self.node && bitmap.name.as_ref() == Some(&self.name))
            .map(|(_, bitmap)| bitmap.count);
        if marked.is_some_and(|marked| marked >= extents.bytes()) {
            return Ok(());
        }
        Err(VmmError::Protocol {
            request: "block-dirty-bitmap-merge".to_owned(),
            detail: format!("of {} bytes with data it marks {marked:?}", extents.bytes()),
        })
    }
}

/// Removes all maps of ours.
///
/// # Errors
/// What QEMU refuses.
pub(super) fn remove_all(qmp: &mut Qmp) -> Result<(), VmmError> {
    let nodes = nodes(qmp)?;
    for (node, bitmap) in bitmaps(&nodes) {
        if let Some(name) = bitmap.name.as_ref().filter(|it| it.starts_with(PREFIX)) {
            qmp.execute(
                "block-dirty-bitmap-remove",
                &json!({"node": node, "name": name}),
            )?;
        }
    }
    Ok(())
}

/// An entry of `query-named-block-nodes`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Node {
    /// Its name.
    pub node_name: Option<String>,
    #[serde(default)]
    dirty_bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Deserialize)]
struct Bitmap {
    name: Option<String>,
    /// How much is marked, in bytes.
    count: u64,
}

/// All nodes of QEMU's.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn nodes(qmp: &mut Qmp) -> Result<Vec<Node>, VmmError> {
    qmp.query("query-named-block-nodes", &json!({"flat": true}))
}

/// All bitmaps, each with its node.
fn bitmaps(nodes: &[Node]) -> impl Iterator<Item = (&str, &Bitmap)> {
    nodes.iter().flat_map(|node| {
        let name = node.node_name.as_deref();
        name.into_iter()
            .flat_map(|name| node.dirty_bitmaps.iter().map(move |bitmap| (name, bitmap)))
    })
}

/// The image in a file in memory, for reading alone: QEMU demands that a descriptor allows just what it is opened for.
fn image(extents: &Extents, name: &str) -> io::Result<File> {
    let (length, pieces) = bitmap_image::image(extents, name);
    let memory = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    memory.set_len(length)?;
    for (at, bytes) in pieces {
        memory.write_all_at(&bytes, at)?;
    }
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}
