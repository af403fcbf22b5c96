//! Whether something is there. Only a clear "no" is one: an error of another kind says nothing.

use std::io;
use std::path::Path;

/// Whether an error says that there is nothing of that name.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether anything is at `path`, a symlink that leads nowhere included.
///
/// # Errors
/// When it can't be told.
pub fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
