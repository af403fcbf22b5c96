//! The guest's disks, from QEMU's own description of them. Parses and judges; asks nothing and copies nothing.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::super::bounded::AtMost;
use super::super::{Disk, MAX_DISKS, VmmError};
use super::qcow2::{self, Layout};
use super::qmp::Qmp;

/// Formats that a snapshot can hold.
const FORMATS: [&str; 2] = ["raw", "qcow2"];
/// Drivers that stand on top of a format and don't change the data.
const FILTERS: [&str; 3] = ["throttle", "copy-on-read", "preallocate"];
/// Protocols whose data is one file or block device of this host.
const LOCAL: [&str; 2] = ["file", "host_device"];

/// The longest file name that is looked at, in bytes: several times the longest path.
const MAX_NAME_BYTES: usize = 32 << 10;

/// An entry of `query-block`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Drive {
    /// The name given on the command line; empty for a drive that was made from a named node.
    #[serde(default)]
    device: String,
    /// What is in the drive; nothing in an empty removable one.
    inserted: Option<Box<Inserted>>,
}

/// What is in a drive: the uppermost node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Inserted {
    #[serde(default)]
    node_name: String,
    drv: String,
    ro: bool,
    file: String,
    image: Image,
    #[serde(default)]
    dirty_bitmaps: Vec<Bitmap>,
}

/// A dirty bitmap of a node.
#[derive(Debug, Clone, Deserialize)]
struct Bitmap {
    #[serde(default)]
    name: String,
    #[serde(default)]
    persistent: bool,
}

/// An image and what it stands on.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Image {
    filename: String,
    format: String,
    /// The size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// What it occupies, in bytes; missing where the protocol can't tell.
    actual_size: Option<u64>,
    #[serde(default)]
    encrypted: bool,
    backing_image: Option<Box<Image>>,
    cluster_size: Option<u64>,
    /// Those that are in the image itself.
    #[serde(default)]
    snapshots: Vec<Named>,
    format_specific: Option<FormatSpecific>,
}

/// Something in an image, by its name.
#[derive(Debug, Clone, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct FormatSpecific {
    data: Option<FormatData>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FormatData {
    data_file: Option<IgnoredAny>,
    compat: Option<String>,
    compression_type: Option<String>,
    lazy_refcounts: Option<bool>,
    extended_l2: Option<bool>,
    refcount_bits: Option<u64>,
    /// Those that outlive the process.
    #[serde(default)]
    bitmaps: Vec<Named>,
}

/// A disk as the backup of it needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The uppermost node.
    pub node: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The size that the guest sees, in bytes.
    pub virtual_bytes: u64,
    /// What the image and everything that it stands on occupy, in bytes.
    pub used_bytes: u64,
    /// How the image is laid out; QEMU's defaults for `raw`.
    pub layout: Layout,
    /// Whether it stands on another image.
    pub has_backing: bool,
    /// What is in the image and will not be in QEMU's copy of it, as a part of a sentence.
    pub lost: Option<String>,
}

/// All drives of the guest.
///
/// # Errors
/// When QEMU can't be asked, or answers in another form.
pub(super) fn drives(qmp: &mut Qmp) -> Result<Vec<Drive>, VmmError> {
    let drives: AtMost<MAX_DISKS, Drive> = qmp.query("query-block", &json!({}))?;
    Ok(drives.into_vec())
}

/// The disks in `drives`. Empty drives are left out, and so are read-only disks that
/// are no local files: there is nothing in them that could change.
///
/// # Errors
/// [`VmmError::Unsupported`] for a writable disk that can't be part of a snapshot, with the reason.
pub(super) fn list(drives: &[Drive]) -> Result<Vec<Disk>, VmmError> {
    let mut disks = Vec::new();
    for drive in drives {
        let Some(inserted) = &drive.inserted else {
            continue;
        };
        match describe(inserted) {
            Ok((format, path, backing)) => disks.push(Disk {
                name: inserted.node_name.clone(),
                path,
                format: Some(format),
                is_read_only: inserted.ro,
                backing,
            }),
            Err(_) if inserted.ro => {}
            Err(reason) => {
                return Err(VmmError::Unsupported(format!(
                    "disk {} can't be part of a snapshot: {reason}",
                    drive.title(inserted)
                )));
            }
        }
    }
    Ok(disks)
}

/// The disk with the uppermost node `node`, for its backup.
pub(super) fn source(drives: &[Drive], node: &str) -> Option<Source> {
    let inserted = drives
        .iter()
        .filter_map(|drive| drive.inserted.as_deref())
        .find(|inserted| inserted.node_name == node)?;
    let (format, ..) = describe(inserted).ok()?;
    // A filter's image repeats what it filters.
    let image = inserted.below_filters();
    let chain = std::iter::successors(Some(image), |image| image.backing_image.as_deref());
    let data = image
        .format_specific
        .as_ref()
        .and_then(|it| it.data.as_ref());
    // Those of the running QEMU, and those that are in the image only.
    let persistent = inserted.dirty_bitmaps.iter().filter(|it| it.persistent);
    let mut bitmaps: Vec<&str> = persistent.map(|it| it.name.as_str()).collect();
    bitmaps.extend(data.map_or_else(Vec::new, |data| names(&data.bitmaps)));
    bitmaps.sort_unstable();
    bitmaps.dedup();
    Some(Source {
        node: node.to_owned(),
        format,
        virtual_bytes: image.virtual_size,
        used_bytes: chain
            .map(|image| image.actual_size.unwrap_or(image.virtual_size))
            .fold(0, u64::saturating_add),
        layout: data.map_or_else(Layout::default, |data| Layout {
            cluster_size: image.cluster_size,
            compat: data.compat.clone(),
            compression_type: data.compression_type.clone(),
            lazy_refcounts: data.lazy_refcounts,
            extended_l2: data.extended_l2,
            refcount_bits: data.refcount_bits,
        }),
        has_backing: image.backing_image.is_some(),
        lost: qcow2::lost(&names(&image.snapshots), &bitmaps),
    })
}

fn names(all: &[Named]) -> Vec<&str> {
    all.iter().map(|it| it.name.as_str()).collect()
}

impl Drive {
    fn title<'a>(&'a self, inserted: &'a Inserted) -> &'a str {
        if self.device.is_empty() {
            &inserted.node_name
        } else {
            &self.device
        }
    }
}

impl Inserted {
    /// The image under filters such as `throttle`.
    fn below_filters(&self) -> &Image {
        let mut image = &self.image;
        while let Some(below) = image.backing_image.as_deref() {
            if !FILTERS.contains(&image.format.as_str()) {
                break;
            }
            image = below;
        }
        image
    }
}

/// Why a snapshot can't hold what is in a drive.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("its format is {0}, and only {formats} can be saved", formats = FORMATS.join(" and "))]
    Format(String),
    #[error("it is encrypted by QEMU, and a copy by QEMU would not be")]
    Encrypted,
    #[error("its data is in an external data file")]
    ExternalData,
    #[error("its file name has {0} bytes")]
    LongName(usize),
    #[error("its file name {0:?} can't be read: {1}")]
    Name(String, serde_json::Error),
    #[error("its data is not in a file or block device of this host, but behind {0:?}")]
    Elsewhere(String),
    #[error("it is only a part of its file (raw with offset or size)")]
    Part,
    #[error("its file has no name")]
    Nameless,
    #[error("its file was given to QEMU as a descriptor, without a name")]
    Descriptor,
}

/// Format, file and backing file of what is in a drive; else why a snapshot can't hold it.
fn describe(inserted: &Inserted) -> Result<(String, PathBuf, Option<PathBuf>), Unfit> {
    let image = inserted.below_filters();
    let format = &image.format;
    if !FORMATS.contains(&format.as_str()) {
        return Err(Unfit::Format(format.clone()));
    }
    if image.encrypted {
        return Err(Unfit::Encrypted);
    }
    if image
        .format_specific
        .as_ref()
        .and_then(|specific| specific.data.as_ref()?.data_file.as_ref())
        .is_some()
    {
        return Err(Unfit::ExternalData);
    }
    let name = if FILTERS.contains(&inserted.drv.as_str()) {
        &image.filename
    } else {
        &inserted.file
    };
    let backing = image.backing_image.as_ref().map(|backing| {
        local_file(&backing.filename).unwrap_or_else(|_| (&backing.filename).into())
    });
    Ok((format.clone(), local_file(name)?, backing))
}

/// The local file that QEMU's file name means: a plain path, `file:PATH`, or `json:{…}` with protocol layers. Else why
/// there is none.
fn local_file(name: &str) -> Result<PathBuf, Unfit> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Unfit::LongName(name.len()));
    }
    if let Some(options) = name.strip_prefix("json:") {
        let options: Map<String, Value> =
            serde_json::from_str(options).map_err(|error| Unfit::Name(name.to_owned(), error))?;
        return file_of_options(&options);
    }
    // A protocol ends at the first colon, unless a slash comes first.
    let path = match name.split_once([':', '/']) {
        Some((protocol, rest)) if name.as_bytes().get(protocol.len()) == Some(&b':') => {
            if !LOCAL.contains(&protocol) {
                return Err(Unfit::Elsewhere(protocol.to_owned()));
            }
            rest
        }
        _ => name,
    };
    plain_path(path)
}

/// Goes down from a format's options to the file's.
fn file_of_options(options: &Map<String, Value>) -> Result<PathBuf, Unfit> {
    let driver = options
        .get("driver")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if LOCAL.contains(&driver) {
        let name = options.get("filename").and_then(Value::as_str);
        return plain_path(name.unwrap_or_default());
    }
    if driver == "raw" && (options.contains_key("offset") || options.contains_key("size")) {
        return Err(Unfit::Part);
    }
    match options.get("file") {
        Some(Value::Object(below)) => file_of_options(below),
        _ => Err(Unfit::Elsewhere(driver.to_owned())),
    }
}

fn plain_path(path: &str) -> Result<PathBuf, Unfit> {
    if path.is_empty() {
        return Err(Unfit::Nameless);
    }
    if path.starts_with("/dev/fdset/") {
        return Err(Unfit::Descriptor);
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
