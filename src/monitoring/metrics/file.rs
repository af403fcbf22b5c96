//! The metrics file: replaced as a whole, by one process at a time, readable by everyone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::fs::lock::{self, Waited};
use crate::fs::{bounded, durable};

/// node-exporter runs as another user.
const MODE: u32 = 0o644;
/// Some hundred thousand instances; what is larger is not ours.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How long to wait for another run that writes the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Replaces the file at `path` by what `make` makes of its content, which is `None` where there is no such file or it
/// is no text. Runs that overlap do so one after the other: `make` is called under the lock that the file `turn` is. It
/// is none of the file's directory, which others can open, and so lock for as long as they like.
///
/// # Errors
/// When the lock can't be had or the file can't be written; then it is as it was.
pub fn update(
    path: &Path,
    turn: &Path,
    make: impl FnOnce(Option<&str>) -> String,
) -> io::Result<()> {
    let _turn = match lock::take(turn, LOCK_TIMEOUT) {
        Ok(Waited::Locked(lock)) => Some(lock),
        Ok(Waited::Held) => {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("another run holds {}", turn.display()),
            ));
        }
        Ok(Waited::Interrupted) => {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "interrupted by a signal",
            ));
        }
        // That the state directory can't be used is what the metrics may be about.
        Err(error) => {
            log::debug!("can't lock {}: {error}", turn.display());
            None
        }
    };
    let old = read(path);
    let text = make(old.as_deref());
    durable::write(path, text.as_bytes(), MODE)
}

/// The file's text. Whatever is in the way of reading it is found out by writing it.
fn read(path: &Path) -> Option<String> {
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    bounded::read_text(file, MAX_BYTES).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn writers_take_turns_and_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.prom");
        let turns = tempfile::tempdir().unwrap();
        let turn = turns.path().join("turn.lock");
        let add_a_line = || {
            update(&path, &turn, |old| {
                format!("{}line\n", old.unwrap_or_default())
            })
            .unwrap();
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| add_a_line()));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "line\n".repeat(20));
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_text_of_ours_is_replaced_unread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.prom");
        std::fs::write(&path, b"\xff").unwrap();
        let turns = tempfile::tempdir().unwrap();
        let turn = turns.path().join("turn.lock");
        update(&path, &turn, |old| {
            assert_eq!(old, None);
            "new\n".to_owned()
        })
        .unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        update(&path, &turn, |old| {
            assert_eq!(old, None);
            "new\n".to_owned()
        })
        .unwrap();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
        assert!(update(Path::new("/nowhere/x.prom"), &turn, |_| String::new()).is_err());
    }
}
