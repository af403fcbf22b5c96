//! Whether another version of Firecracker can load a saved state, by its own word, before anything is touched.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;

use crate::fs::bounded;

/// The largest saved state that is read; 14 kB were seen for a guest with two disks.
const STATE_MAX_BYTES: u64 = 16 << 20;
/// How much of what it says is read.
const SAID_MAX_BYTES: u64 = 64 << 10;

/// Why it can't; `None` if it can. `words` run the program as its user, `owner` is that user and group.
///
/// # Errors
/// When it can't be asked.
pub(super) fn unfit(
    words: &[String],
    owner: Option<(u32, u32)>,
    state: &Path,
) -> std::io::Result<Option<String>> {
    let known = ask(words, &["--snapshot-version"], Stdio::null())?;
    // The user may not read what is in the store, and opens it by a path, for which it must be the user's.
    let mut copy = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    copy.write_all(&bounded::read(File::open(state)?, STATE_MAX_BYTES)?)?;
    copy.rewind()?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::fchown(&copy, Some(user), Some(group))?;
    }
    let arguments = ["--describe-snapshot", "/proc/self/fd/0"];
    let saved = ask(words, &arguments, copy.into())?;
    Ok(match (numbers(&known), numbers(&saved)) {
        (Some(known), Some(saved)) if known.0 == saved.0 && known.1 >= saved.1 => None,
        (Some(known), Some(saved)) => Some(format!(
            "the format of its saved state is {}.{}, and this version knows {}.{}",
            saved.0, saved.1, known.0, known.1
        )),
        (None, _) => Some("this version does not say which format it knows".to_owned()),
        (_, None) => Some("this version does not know the format of its saved state".to_owned()),
    })
}

fn ask(words: &[String], arguments: &[&str], stdin: Stdio) -> std::io::Result<String> {
    let (program, rest) = words
        .split_first()
        .ok_or_else(|| std::io::Error::other("there is no program"))?;
    let mut child = Command::new(program)
        .args(rest)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(SAID_MAX_BYTES).read_to_end(&mut said)?;
    }
    child.wait()?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Major and minor of a line such as `v11.0.0`, among others.
fn numbers(said: &str) -> Option<(u64, u64)> {
    said.lines().find_map(|line| {
        let (major, rest) = line.trim().strip_prefix('v')?.split_once('.')?;
        let minor = rest.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}
