//! Whether two directories, which need not exist, are one: also by another name, through a symbolic link or a mount.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Whether schedules that are kept below the one are below the other as well.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let schedules = |directory: &Path| directory.join("snapshot-schedules");
    are_one(one, other) || are_one(&schedules(one), &schedules(other))
}

fn are_one(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|it| (it.dev(), it.ino())).ok();
    resolved(one) == resolved(other) || inode(one).is_some_and(|it| inode(other) == Some(it))
}

/// The path without symbolic links as far as it exists, and without dots behind that.
fn resolved(path: &Path) -> PathBuf {
    let existing = path
        .ancestors()
        .find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let Some((ancestor, mut resolved)) = existing else {
        return path.to_owned();
    };
    for component in path.strip_prefix(ancestor).unwrap_or(path).components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Normal(name) => resolved.push(name),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn one_directory_is_known_by_all_its_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("real/data")).unwrap();
        fs::create_dir_all(at("state")).unwrap();
        symlink(at("real"), at("link")).unwrap();
        for (one, other, same) in [
            ("state", "real/data", false),
            ("real", "real/data", false),
            ("real/data", "link/data", true),
            ("real/data", "link/../real/./data/", true),
            // Neither exists yet.
            ("real/new", "link/new", true),
            ("real/new/deep", "link/other/../new/deep", true),
            ("real/new", "real/newer", false),
        ] {
            assert_eq!(is_same(&at(one), &at(other)), same, "{one} {other}");
            assert_eq!(is_same(&at(other), &at(one)), same, "{other} {one}");
        }
        fs::create_dir(at("real/data/snapshot-schedules")).unwrap();
        symlink(
            at("real/data/snapshot-schedules"),
            at("state/snapshot-schedules"),
        )
        .unwrap();
        assert!(is_same(&at("state"), &at("link/data")));
    }
}
