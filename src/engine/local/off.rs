//! Whether a guest is off. That nobody serves its socket proves nothing: the socket may have been removed, or be out of
//! this process's sight, while the VM runs on. So nobody may write to its disks either: neither who has one open, nor who
//! holds the locks of a writer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};

use super::guest_files;
use super::metadata::Metadata;
use super::processes;
use super::resting::RestingFile;
use crate::fs::open_files::Survey;

/// How old a look at the whole host may be before a copy.
const RECENT: Duration = Duration::from_secs(1);

/// Looks at the whole host, shared by all who need one at about the same time.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    last: Mutex<Option<(Instant, Arc<Survey>)>>,
}

impl Surveys {
    /// One that began at `moment` or later; without one, one that is recent enough to begin with.
    fn since(&self, moment: Option<Instant>) -> io::Result<Arc<Survey>> {
        let now = Instant::now();
        let moment = moment.or(now.checked_sub(RECENT)).unwrap_or(now);
        // Who comes while another looks waits for that look, and then most likely can use it.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, survey)) = last.as_ref().filter(|(began, _)| *began >= moment) {
            return Ok(Arc::clone(survey));
        }
        let began = Instant::now();
        let survey = Arc::new(Survey::take()?);
        *last = Some((began, Arc::clone(&survey)));
        Ok(survey)
    }

    /// What the last look could not see, in words for the user.
    pub(super) fn blind_spot(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, survey) = last.as_ref()?;
        let unreadable = survey.unreadable();
        (unreadable > 0).then(|| {
            format!(
                "{unreadable} processes could not be looked into, so that one of them may have written to a disk while it \
                 was copied; run this as root, with CAP_SYS_PTRACE"
            )
        })
    }
}

/// The files of a guest at rest.
///
/// # Errors
/// When one can't be looked at, with its path in words.
pub(super) fn files(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
) -> Result<Vec<RestingFile>, String> {
    let mut paths = Vec::new();
    if let Some(guest_dir) = guest_dir {
        let walked = walk(guest_dir, Path::new(""), &mut paths);
        walked.map_err(|error| format!("can't look into {}: {error}", guest_dir.display()))?;
    }
    let disks = metadata.disks_at_rest();
    paths.extend(disks.iter().map(|disk| disk.path().to_owned()));
    let look = |path: PathBuf| {
        RestingFile::at(&path).map_err(|error| {
            format!(
                "can't look at {}: {error}; if that is no disk of the VM any more, `hypeman-snap register` it again",
                path.display()
            )
        })
    };
    paths.into_iter().map(look).collect()
}

/// What speaks against taking the guest for off although its VMM can't be asked, in words: who may be writing to one of its
/// files, or why that can't be told.
pub(super) fn objection(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    surveys: &Surveys,
    since: Option<Instant>,
) -> Option<String> {
    let files = match files(metadata, guest_dir) {
        Ok(files) => files,
        Err(error) => return Some(error),
    };
    let found = surveys
        .since(since)
        .and_then(|survey| in_use(&files, &survey));
    found.unwrap_or_else(|error| {
        Some(format!(
            "who uses its disks can't be told from /proc: {error}"
        ))
    })
}

/// Why a guest at rest without any file is not snapshotted.
pub(super) fn nothing_to_copy(metadata: &Metadata) -> String {
    let what = if metadata.is_registered() {
        "no disk of it is known, so that a snapshot would hold nothing: name its disks with `hypeman-snap register --disk`, \
         or register it again while it runs"
    } else {
        "its directory holds no disk, so that a snapshot would hold nothing: look where its files are, or remove its \
         schedule"
    };
    format!("{} is off and {what}", metadata.id)
}

fn in_use(files: &[RestingFile], survey: &Survey) -> io::Result<Option<String>> {
    for file in files {
        let shown = file.path().display();
        if let Some(pid) = survey.writers(file.id()).first() {
            return Ok(Some(format!(
                "{} has {shown} open for writing",
                processes::in_words(*pid)
            )));
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let open = rustix::fs::openat(CWD, file.path(), flags, Mode::empty())?;
        if survey.is_locked_for_writing(&open)? {
            return Ok(Some(format!(
                "somebody holds a writer's lock on {shown} (lslocks shows who)"
            )));
        }
    }
    Ok(None)
}

/// The regular files below `directory` that belong to a snapshot, except for those that describe the guest: hypeman
/// writes them at any time.
fn walk(root: &Path, relative: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(relative))? {
        let entry = entry?;
        let inside = relative.join(entry.file_name());
        let kind = entry.file_type()?;
        if guest_files::is_left_out(&inside) {
            continue;
        }
        if kind.is_dir() {
            walk(root, &inside, found)?;
        } else if kind.is_file() && inside.extension().is_none_or(|it| it != "json") {
            found.push(root.join(inside));
        }
    }
    Ok(())
}
