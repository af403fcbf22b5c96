//! Who can change what a path leads to, for programs that run with this process's rights.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What everybody may write to but where nobody can rename or remove what belongs to somebody else, such as /tmp.
const STICKY: u32 = 0o1000;
/// Write permission for others than the owner.
const OTHERS_WRITE: u32 = 0o022;

/// A place on the way to a file where others than root and this user can put something else, and why they can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// The file, or one of the directories that it is in.
    pub place: PathBuf,
    /// Who can write there, as `belongs to user 1000`.
    pub why: String,
}

/// The first place where others can change what `path` leads to, links included; `None` when nobody can.
///
/// # Errors
/// When the path leads nowhere, or a place can't be looked at.
pub fn distrust(path: &Path) -> io::Result<Option<Distrust>> {
    let user = rustix::process::geteuid().as_raw();
    // The name that is used, with the link itself, and what it leads to.
    for file in [path.to_owned(), path.canonicalize()?] {
        for place in file.ancestors() {
            let metadata = if place == file.as_path() {
                place.symlink_metadata()?
            } else {
                place.metadata()?
            };
            // A link has no permissions of its own.
            let mode = if metadata.is_symlink() {
                0
            } else {
                metadata.mode()
            };
            if let Some(why) = who_writes(metadata.uid(), mode, metadata.is_dir(), user) {
                return Ok(Some(Distrust {
                    place: place.to_owned(),
                    why,
                }));
            }
        }
    }
    Ok(None)
}

fn who_writes(owner: u32, mode: u32, is_dir: bool, user: u32) -> Option<String> {
    if owner != 0 && owner != user {
        return Some(format!("belongs to user {owner}"));
    }
    let is_sticky = is_dir && mode & STICKY != 0;
    (mode & OTHERS_WRITE != 0 && !is_sticky).then(|| format!("has mode {:04o}", mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_user_are_trusted() {
        for (owner, mode, is_dir, user, is_trusted) in [
            (0, 0o755, false, 0, true),
            (0, 0o755, false, 7, true),
            (7, 0o755, false, 7, true),
            (7, 0o755, false, 0, false),
            (0, 0o775, true, 0, false),
            (0, 0o757, true, 0, false),
            (0, 0o1777, true, 0, true),
            (7, 0o1777, true, 0, false),
            (0, 0o1777, false, 0, false),
        ] {
            let why = who_writes(owner, mode, is_dir, user);
            assert_eq!(
                why.is_none(),
                is_trusted,
                "{owner} {mode:o} {is_dir} {user}: {why:?}"
            );
        }
    }
}
