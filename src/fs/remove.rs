//! Removing whole directories, durably. Never follows a symlink.

use std::io;
use std::path::Path;

use super::durable;

/// Removes `directory` with everything below it and says whether it was there. A symlink of that name is removed
/// itself; what it points to is not touched.
///
/// # Errors
/// When something can't be removed; what stood before it in the directory's order is gone by then.
pub fn tree(directory: &Path) -> io::Result<bool> {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    if let Some(parent) = directory.parent() {
        durable::sync_dir(parent)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_symlink_points_to_survives() {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("precious"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        let doomed = root.path().join("doomed");
        fs::create_dir_all(doomed.join("sub")).unwrap();
        symlink(elsewhere.path(), doomed.join("sub/link")).unwrap();
        assert!(tree(&doomed).unwrap());
        assert!(!doomed.exists());
        assert!(elsewhere.path().join("precious").exists());

        let link = root.path().join("link");
        symlink(elsewhere.path(), &link).unwrap();
        assert!(tree(&link).unwrap());
        assert!(link.symlink_metadata().is_err());
        assert!(elsewhere.path().join("precious").exists());
    }

    #[test]
    fn what_is_gone_already_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(!tree(&root.path().join("missing")).unwrap());
    }

    #[test]
    fn a_file_of_that_name_is_an_error_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(tree(&file).is_err());
        assert!(file.exists());
    }
}
