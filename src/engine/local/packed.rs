//! Memory in compressed form (contract, section 5): what it is called, and which form counts where there are two.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::fs::frame::Format;
use crate::snapshot::manifest::FileEntry;

/// What memory can be called (contract, section 4).
pub(super) const MEMORY: [&str; 2] = ["memory", "memory-ranges"];

/// What stands behind the name of a frame in the making.
const UNFINISHED: &str = "tmp";

/// Memory that is there in compressed form only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    /// What it is called unpacked, relative to `guest/`.
    pub(super) raw: PathBuf,
    /// What it is called now, relative to `guest/`.
    pub(super) form: PathBuf,
    /// How it is compressed.
    pub(super) format: Format,
    /// The length of the compressed file.
    pub(super) size_bytes: u64,
}

/// All memory of which `files` has a compressed form alone: where the raw one is there too, that one counts.
pub(super) fn among(files: &[FileEntry]) -> Vec<Packed> {
    let is_there = |path: &Path| files.iter().any(|entry| entry.path == path);
    let mut found: Vec<Packed> = Vec::new();
    for entry in files {
        let Some((raw, format)) = raw_of(&entry.path) else {
            continue;
        };
        if is_there(&raw) || found.iter().any(|other| other.raw == raw) {
            continue;
        }
        found.push(Packed {
            raw,
            form: entry.path.clone(),
            format,
            size_bytes: entry.size_bytes,
        });
    }
    found
}

/// What compressed memory is called unpacked, and how it is compressed; `None` for every other file.
pub(super) fn raw_of(path: &Path) -> Option<(PathBuf, Format)> {
    let name = path.file_name()?.to_str()?;
    Format::ALL.into_iter().find_map(|format| {
        let raw = name.strip_suffix(format.suffix())?.strip_suffix('.')?;
        MEMORY
            .contains(&raw)
            .then(|| (path.with_file_name(raw), format))
    })
}

/// What the memory `raw` is called in that format.
pub(super) fn form_of(raw: &Path, format: Format) -> PathBuf {
    with_suffix(raw, format.suffix())
}

/// What it is called in that format as long as it is not finished.
pub(super) fn unfinished_form_of(raw: &Path, format: Format) -> PathBuf {
    with_suffix(&form_of(raw, format), UNFINISHED)
}

/// Whether a file is memory that is being compressed, or was when somebody died over it.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(UNFINISHED)) && raw_of(&path.with_extension("")).is_some()
}

/// Whether an uncompressed file of that name is a guest's memory.
pub(super) fn is_memory(path: &Path) -> bool {
    MEMORY
        .iter()
        .any(|name| path.file_name() == Some(OsStr::new(name)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(paths: &[&str]) -> Vec<FileEntry> {
        let entry = |path: &&str| FileEntry {
            path: path.into(),
            size_bytes: 5,
        };
        paths.iter().map(entry).collect()
    }

    #[test]
    fn the_raw_file_counts_where_there_are_two_forms() {
        let packed = |files: &[&str]| {
            let found = among(&entries(files));
            found.into_iter().map(|it| it.form).collect::<Vec<_>>()
        };
        assert_eq!(packed(&["a/memory.zst"]), [Path::new("a/memory.zst")]);
        assert!(packed(&["a/memory", "a/memory.zst"]).is_empty());
        let ranges = Path::new("a/memory-ranges.lz4");
        assert_eq!(packed(&["memory", "a/memory-ranges.lz4"]), [ranges]);
        assert_eq!(packed(&["m.lz4", "m.zst"]).len(), 0);
        assert_eq!(packed(&["memory.lz4", "memory.zst"]).len(), 1);
    }

    #[test]
    fn only_memory_has_a_compressed_form() {
        assert_eq!(
            raw_of(Path::new("a/memory.zst")),
            Some(("a/memory".into(), Format::Zstd))
        );
        for other in [
            "memory",
            "disk.zst",
            "memory.zst.tmp",
            "memory.gz",
            "memoryzst",
        ] {
            assert_eq!(raw_of(Path::new(other)), None, "{other}");
        }
        let raw = Path::new("a/memory-ranges");
        for format in Format::ALL {
            assert_eq!(raw_of(&form_of(raw, format)), Some((raw.into(), format)));
            assert!(is_unfinished(&unfinished_form_of(raw, format)));
            assert!(!is_unfinished(&form_of(raw, format)));
        }
    }
}
