//! Whether a directory can be worked in by this user, and how much room it has.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;

use crate::finding::Finding;
use crate::fs::space;

/// Below this share of a file system, in percent, its room is running out.
const LOW_PERCENT: u64 = 5;
/// Below this nothing worth keeping fits any more.
const FULL_BYTES: u64 = 16 << 20;
const OTHERS_WRITE: u32 = 0o002;

/// What a directory that is missing means.
#[derive(Debug, Clone, Copy)]
pub enum Missing<'a> {
    /// It is created by the first command that needs it.
    CreatedBy(&'a str),
    /// Nothing works without it; the remedy.
    Broken(&'a str),
}

/// Whether this user can work in `path`: one finding for the directory and, where it is there, one for its room.
pub fn examine(check: &'static str, path: &Path, missing: Missing<'_>) -> Vec<Finding> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            vec![permissions(check, path, &metadata), room(path)]
        }
        Ok(_) => vec![Finding::broken(
            check,
            shown,
            "is not a directory",
            "move what stands there away, or name another directory",
        )],
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            vec![absent(check, path, missing)]
        }
        Err(error) => vec![Finding::broken(
            check,
            shown,
            format!("can't be looked at: {error}"),
            "run this as root, or open the directories above it to this user",
        )],
    }
}

fn absent(check: &'static str, path: &Path, missing: Missing<'_>) -> Finding {
    let creator = match missing {
        Missing::CreatedBy(creator) => creator,
        Missing::Broken(remedy) => {
            return Finding::broken(check, path.display(), "does not exist", remedy);
        }
    };
    let above = path.ancestors().skip(1).find(|above| above.exists());
    match above.map(|above| (above, accessible(above, Access::WRITE_OK | Access::EXEC_OK))) {
        Some((_, Ok(()))) => Finding::ok(
            check,
            path.display(),
            format!("does not exist yet; {creator} creates it"),
        ),
        Some((above, Err(error))) => Finding::broken(
            check,
            path.display(),
            format!(
                "does not exist, and this user can't create it in {}: {error}",
                above.display()
            ),
            "run this as root, or create it for this user",
        ),
        None => Finding::broken(
            check,
            path.display(),
            "does not exist, and nothing above it does",
            "name another directory",
        ),
    }
}

fn accessible(path: &Path, access: Access) -> io::Result<()> {
    rustix::fs::access(path, access).map_err(io::Error::from)
}

fn permissions(check: &'static str, path: &Path, metadata: &Metadata) -> Finding {
    let shown = path.display();
    let user = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    let facts = format!("mode {mode:04o}, owner {}", owner(metadata.uid()));
    let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = accessible(path, wanted) {
        return Finding::broken(
            check,
            path.display(),
            format!("{} can't read and write it ({facts}): {error}", owner(user)),
            if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
                "mount its file system for writing".to_owned()
            } else {
                format!("run this as root or as {}", owner(metadata.uid()))
            },
        );
    }
    if mode & OTHERS_WRITE != 0 {
        return Finding::warning(
            check,
            path.display(),
            format!("every user can write to it ({facts})"),
            format!("chmod o-w {shown}"),
        );
    }
    if user == 0 && metadata.uid() != 0 {
        return Finding::warning(
            check,
            path.display(),
            format!("belongs to another user than root ({facts}), who can change what root does"),
            format!("chown root {shown}, if that user has no business there"),
        );
    }
    Finding::ok(check, shown, facts)
}

/// A user, in words. Ids are not looked up: that may ask a server.
fn owner(id: u32) -> String {
    if id == 0 {
        "root".to_owned()
    } else {
        format!("user {id}")
    }
}

/// How much room `path`'s file system has.
fn room(path: &Path) -> Finding {
    const CHECK: &str = "free space";
    const REMEDY: &str = "make room: lower --max-count or --max-age, then `hypeman-snap prune`";
    let room = match space::room(path) {
        Ok(room) => room,
        Err(error) => {
            return Finding::warning(
                CHECK,
                path.display(),
                format!("can't be asked: {error}"),
                "look with `df`",
            );
        }
    };
    let detail = format!(
        "{} of {} MiB",
        room.free_bytes >> 20,
        room.total_bytes >> 20
    );
    if room.free_bytes < FULL_BYTES {
        return Finding::broken(CHECK, path.display(), detail, REMEDY);
    }
    if room.free_files == Some(0) {
        return Finding::broken(
            CHECK,
            path.display(),
            format!("{detail}, but no inode is free"),
            REMEDY,
        );
    }
    if room.free_bytes / LOW_PERCENT < room.total_bytes / 100 {
        return Finding::warning(CHECK, path.display(), detail, REMEDY);
    }
    Finding::ok(CHECK, path.display(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const CHECK: &str = "state directory";

    fn status(path: &Path, missing: Missing<'_>) -> Status {
        examine(CHECK, path, missing)[0].status
    }

    #[test]
    fn a_private_directory_is_fine_and_has_room() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let findings = examine(CHECK, directory.path(), Missing::Broken("mount it"));
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[0].status, Status::Ok);
        assert!(findings[0].detail.starts_with("mode 0700, owner "));
        assert_eq!(findings[1].check, "free space");
    }

    #[test]
    fn a_missing_directory_is_broken_only_where_nothing_creates_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        assert_eq!(status(&path, Missing::CreatedBy("`set`")), Status::Ok);
        let findings = examine(CHECK, &path, Missing::Broken("mount it"));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].status, Status::Broken);
        assert_eq!(findings[0].remedy.as_deref(), Some("mount it"));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        assert_eq!(status(&path, Missing::CreatedBy("`set`")), Status::Broken);
    }

    #[test]
    fn a_directory_that_everybody_can_write_to_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let findings = examine(CHECK, directory.path(), Missing::Broken("mount it"));
        assert_eq!(findings[0].status, Status::Warning);
        let remedy = findings[0].remedy.as_deref().unwrap();
        assert!(remedy.starts_with("chmod o-w "), "{remedy}");
    }
}
