//! A file of a guest at rest as it is at one moment, to be compared with what it is later.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::open_files::FileId;

/// A file that must not change, and what tells whether it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestingFile {
    path: PathBuf,
    #[serde(flatten)]
    id: FileId,
    size_bytes: u64,
    /// When it was last written, in seconds and nanoseconds.
    modified: (i64, i64),
    /// When it or what describes it last changed: nobody can set that.
    changed: (i64, i64),
}

impl RestingFile {
    /// The file at `path` as it is now.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            id: FileId::at(path)?,
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Whether it is what it was, as far as the file system tells. The number of its device may be another one since the
    /// host was booted.
    pub(super) fn is_unchanged(&self) -> bool {
        Self::at(&self.path).is_ok_and(|now| {
            now.id.is_same_inode(self.id)
                && (now.size_bytes, now.modified, now.changed)
                    == (self.size_bytes, self.modified, self.changed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whatever_is_done_to_a_file_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(&path, "longer than before").unwrap(),
            &|| fs::write(&path, "b").unwrap(),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| {
                fs::write(dir.path().join("other"), "a").unwrap();
                fs::rename(dir.path().join("other"), &path).unwrap();
            },
        ];
        for change in changes {
            fs::write(&path, "a").unwrap();
            let before = RestingFile::at(&path).unwrap();
            let kept: RestingFile =
                serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
            assert!(kept.is_unchanged());
            fs::read(&path).unwrap();
            assert!(kept.is_unchanged());
            // The times of the file system are as coarse as the kernel's tick.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            assert!(!kept.is_unchanged());
        }
        fs::remove_file(&path).unwrap();
        assert!(RestingFile::at(&path).is_err());
    }
}
