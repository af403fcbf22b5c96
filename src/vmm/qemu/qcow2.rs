//! How a qcow2 image is laid out, so that QEMU's copy of it is like it, and what such a copy lacks. Only calculates.

use serde_json::{Map, Value, json};

/// QEMU's default size of a cluster, in bytes.
const CLUSTER: u64 = 64 << 10;
/// What a cluster takes at most in the tables of an image, in bytes: an extended entry and its reference count.
const ENTRY: u64 = 32;
/// What a small image begins with, in bytes.
const HEAD: u64 = 4 << 20;
/// So many names are told, each up to so many characters.
const NAMES: usize = 5;
const NAME_CHARS: usize = 40;

/// What `qemu-img create -o` sets, as far as QEMU tells it of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// In bytes.
    pub cluster_size: Option<u64>,
    /// `0.10` for version 2, `1.1` for version 3.
    pub compat: Option<String>,
    /// `zlib` or `zstd`.
    pub compression_type: Option<String>,
    /// Whether reference counts may be written late.
    pub lazy_refcounts: Option<bool>,
    /// Whether a cluster has parts.
    pub extended_l2: Option<bool>,
    /// The width of a reference count.
    pub refcount_bits: Option<u64>,
}

impl Layout {
    /// The options of `blockdev-create` for an image of `size` bytes like this one. What QEMU did not tell of the image, it
    /// may not know of.
    pub fn options(&self, file: &str, size: u64) -> Value {
        let mut options = Map::from_iter([
            ("driver".to_owned(), json!("qcow2")),
            ("file".to_owned(), json!(file)),
            ("size".to_owned(), json!(size)),
        ]);
        let mut add = |name: &str, value: Option<Value>| {
            options.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("cluster-size", self.cluster_size.map(Value::from));
        let version = match self.compat.as_deref() {
            Some("0.10") => Some("v2"),
            Some("1.1") => Some("v3"),
            Some(_) | None => None,
        };
        add("version", version.map(Value::from));
        add(
            "compression-type",
            self.compression_type.clone().map(Value::from),
        );
        add("lazy-refcounts", self.lazy_refcounts.map(Value::from));
        add("extended-l2", self.extended_l2.map(Value::from));
        add("refcount-bits", self.refcount_bits.map(Value::from));
        Value::Object(options)
    }

    /// The most that such an image of `size` bytes can take with `used` bytes of data in it; `is_scattered` if they come from
    /// an image with other clusters.
    pub fn most_bytes(&self, size: u64, used: u64, is_scattered: bool) -> u64 {
        let cluster = self.cluster_size.unwrap_or(CLUSTER).max(ENTRY);
        let spread = if is_scattered {
            cluster.div_ceil(CLUSTER)
        } else {
            1
        };
        let tables = size / (cluster / ENTRY);
        used.saturating_mul(spread)
            .min(size)
            .saturating_add(tables)
            .saturating_add(HEAD)
    }
}

/// What QEMU's copy of an image with these snapshots and bitmaps lacks, as a part of a sentence.
pub(super) fn lost(snapshots: &[&str], bitmaps: &[&str]) -> Option<String> {
    let list = |what: &str, names: &[&str]| {
        let first = names.iter().take(NAMES);
        let mut text: Vec<String> = first
            .map(|name| name.chars().take(NAME_CHARS).collect())
            .collect();
        if names.len() > NAMES {
            text.push(format!("{} more", names.len() - NAMES));
        }
        (!names.is_empty()).then(|| format!("{what} ({})", text.join(", ")))
    };
    let all: Vec<String> = [
        list("internal snapshots", snapshots),
        list("persistent bitmaps", bitmaps),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_with_what_is_known_of_the_image_and_nothing_else() {
        let known = Layout {
            cluster_size: Some(131_072),
            compat: Some("1.1".to_owned()),
            compression_type: Some("zstd".to_owned()),
            lazy_refcounts: Some(true),
            extended_l2: Some(false),
            refcount_bits: Some(16),
        };
        assert_eq!(
            known.options("f", 7),
            json!({
                "driver": "qcow2", "file": "f", "size": 7, "cluster-size": 131_072, "version": "v3",
                "compression-type": "zstd", "lazy-refcounts": true, "extended-l2": false, "refcount-bits": 16,
            })
        );
        assert_eq!(
            Layout::default().options("f", 7),
            json!({"driver": "qcow2", "file": "f", "size": 7})
        );
    }

    #[test]
    fn room_is_enough_for_small_and_for_scattered_large_clusters() {
        let most = |cluster_size, used, is_scattered| {
            let layout = Layout {
                cluster_size,
                ..Layout::default()
            };
            layout.most_bytes(1 << 30, used, is_scattered) >> 20
        };
        assert_eq!(most(None, 100 << 20, false), 104);
        assert_eq!(most(Some(512), 100 << 20, false), 168);
        assert_eq!(most(Some(2 << 20), 10 << 20, false), 14);
        assert_eq!(most(Some(2 << 20), 10 << 20, true), 324);
        assert_eq!(most(Some(2 << 20), 100 << 20, true), 1028);
        // A VMM's word.
        assert!(most(Some(0), u64::MAX, true) >= 1028);
    }

    #[test]
    fn what_is_lost_is_named_and_the_names_are_bounded() {
        assert_eq!(lost(&[], &[]), None);
        assert_eq!(
            lost(&["before"], &["b0", "b1"]).unwrap(),
            "internal snapshots (before) and persistent bitmaps (b0, b1)"
        );
        let long = "x".repeat(1000);
        let many = lost(&[long.as_str(); 100], &[]).unwrap();
        assert!(many.len() < 300 && many.contains("95 more"), "{many}");
    }
}
