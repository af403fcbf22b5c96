//! Whether a snapshot is what it was: its files by their metadata and their first bytes, or every byte of them by its
//! digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::digests::{Digests, DigestsError, FileDigests};
use super::packed::Packed;
use super::record::{RECORD, Record};
use super::verdict::Verdict;
use super::{Local, look, manifest, packed, payload, reading};
use crate::engine::EngineError;
use crate::engine::verifier::Verifier;
use crate::fs::beneath::Beneath;
use crate::fs::{bounded, frame, lock};
use crate::interrupt::Watch;
use crate::progress::Step;
use crate::snapshot::manifest::{FILE_NAME as MANIFEST, Manifest};
use crate::snapshot::{Snapshot, Verified};

/// Larger records and manifests are none.
const SMALL_MAX_BYTES: u64 = 16 << 20;
/// A verdict names so many differences at most.
const NAMED_MAX: usize = 3;
/// What QEMU's memory file begins with (`migration/qemu-file-types.h`, `QEMU_VM_FILE_MAGIC`).
const QEMU_MEMORY: [u8; 4] = *b"QEVM";
/// What a qcow2 image begins with (`docs/interop/qcow2.rst`).
const QCOW2: [u8; 4] = *b"QFI\xfb";

/// What was found so far.
#[derive(Default)]
struct Found {
    damaged: Vec<String>,
    unknown: Vec<String>,
    first_read: usize,
}

impl Found {
    /// Notes what came of a file.
    fn take(&mut self, path: &Path, result: io::Result<Option<String>>) {
        match result {
            Ok(difference) => self.damaged.extend(difference),
            Err(error) if is_about_the_file(&error) => {
                self.damaged.push(format!("{}: {error}", path.display()));
            }
            Err(error) => self.unknown.push(format!("{}: {error}", path.display())),
        }
    }
}

/// Whether an error says that a file is not what it was, rather than that it can't be read now.
fn is_about_the_file(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof,
    };
    let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    let kinds = [
        InvalidData,
        InvalidInput,
        IsADirectory,
        NotADirectory,
        NotFound,
        UnexpectedEof,
    ];
    is_link || kinds.contains(&error.kind())
}

impl Verifier for Local {
    fn verify(
        &self,
        snapshot: &Snapshot,
        reads: bool,
        now: DateTime<Utc>,
    ) -> Result<Verified, EngineError> {
        let directory = self.instances.store()?.snapshot_dir(&snapshot.id);
        let failed = |error: io::Error| {
            EngineError::caused(format!("can't look into {}", directory.display()), error)
        };
        let held = match File::open(&directory) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verified::Gone),
            Err(error) => return Ok(Verified::Unknown(vec![error.to_string()])),
        };
        if !lock::try_share(&held).map_err(failed)? {
            return Ok(Verified::Gone);
        }
        let watch = self.timeouts.watch;
        let what = if reads { "reading" } else { "looking at" };
        let total = reads.then_some(snapshot.size_bytes);
        let step = self.progress.begin(&snapshot.name, what, total);
        let mut found = Found::default();
        let digests = look_at(snapshot, &directory, &held, reads, watch, &step, &mut found);
        watch.check()?;
        // It took a while: somebody else may have found something meanwhile.
        let verdict = Verdict::read(&held);
        let keep = |verdict: Verdict| {
            verdict.write(&directory).map_err(|error| {
                let what = format!("can't keep what was found in {}", directory.display());
                EngineError::caused(what, error)
            })
        };
        if !found.damaged.is_empty() {
            keep(verdict.damaged(in_words(&found.damaged), now))?;
            return Ok(Verified::Damaged(found.damaged));
        }
        if !found.unknown.is_empty() {
            return Ok(Verified::Unknown(found.unknown));
        }
        if !reads {
            // What reading it found, only reading it takes back.
            return Ok(match verdict.flaw {
                Some(flaw) => Verified::Damaged(vec![flaw]),
                None => Verified::Sound {
                    is_read: false,
                    first_read: 0,
                },
            });
        }
        if let Some(digests) = digests.filter(|_| found.first_read > 0) {
            digests.write(&directory).map_err(|error| {
                let what = format!("can't keep the digests in {}", directory.display());
                EngineError::caused(what, error)
            })?;
        }
        keep(verdict.sound(now))?;
        Ok(Verified::Sound {
            is_read: true,
            first_read: found.first_read,
        })
    }
}

/// Looks at the snapshot in the open directory `held`; the digests are those to be kept.
fn look_at(
    snapshot: &Snapshot,
    directory: &Path,
    held: &File,
    reads: bool,
    watch: Watch,
    step: &Step,
    found: &mut Found,
) -> Option<Digests> {
    let root = match Beneath::open(directory) {
        Ok(root) => root,
        Err(error) => {
            found.unknown.push(error.to_string());
            return None;
        }
    };
    let record = match small(&root, Path::new(RECORD)) {
        Ok(record) => record,
        Err(error) => {
            found.take(Path::new(RECORD), Err(error));
            return None;
        }
    };
    match serde_json::from_slice::<Record>(&record) {
        Err(error) => {
            let line = format!("{RECORD} can't be parsed: {error}");
            found.damaged.push(line);
        }
        Ok(record) => match look::live_flaw(held, record, snapshot.id.as_str()) {
            Ok(flaw) => found.damaged.extend(flaw),
            Err(error) => found.unknown.push(error.to_string()),
        },
    }
    let guest = match root.open_dir("guest") {
        Ok(guest) => guest,
        Err(error) => {
            found.take(Path::new("guest"), Err(error));
            return None;
        }
    };
    let manifest_bytes = small(&guest, Path::new(MANIFEST)).ok();
    let mut digests = match Digests::read(held, &snapshot.id) {
        Ok(digests) => {
            let differences = digests.differences(&record, manifest_bytes.as_deref());
            found.damaged.extend(differences);
            digests
        }
        Err(DigestsError::None) => Digests::first(&snapshot.id),
        Err(error @ DigestsError::Damaged(_)) => {
            found.damaged.push(error.to_string());
            return None;
        }
        Err(error @ DigestsError::Io(_)) => {
            found.unknown.push(error.to_string());
            return None;
        }
    };
    if let Ok(manifest) = manifest::read(&guest) {
        headers(snapshot, &guest, &manifest, found);
    }
    if reads {
        read(&guest, &mut digests, watch, step, found);
    }
    Some(digests)
}

/// Whether files begin as what they are.
fn headers(snapshot: &Snapshot, guest: &Beneath, manifest: &Manifest, found: &mut Found) {
    let mut expected: Vec<(PathBuf, [u8; 4], &str)> = manifest
        .disks
        .iter()
        .filter(|disk| disk.format.as_deref() == Some("qcow2"))
        .map(|disk| (disk.file.clone(), QCOW2, "a qcow2 image"))
        .collect();
    let is_qemu = snapshot.source_hypervisor.starts_with("qemu");
    if let (true, Some(state_dir)) = (is_qemu, manifest.state_dir()) {
        expected.push((state_dir.join("memory"), QEMU_MEMORY, "memory of QEMU"));
    }
    let packed = packed::among(&payload::list(guest).unwrap_or_default());
    for it in packed {
        found.take(&it.form, frame_header(guest, &it, manifest));
    }
    for (path, magic, what) in expected {
        let Ok(Some(mut file)) = guest.open_file(&path) else {
            // That it is missing, or compressed, is seen elsewhere.
            continue;
        };
        let mut begin = [0; 4];
        let result = file.read_exact(&mut begin).map(|()| {
            (begin != magic).then(|| format!("{} does not begin as {what} does", path.display()))
        });
        found.take(&path, result);
    }
}

/// What is wrong with the header of compressed memory, if anything.
fn frame_header(
    guest: &Beneath,
    packed: &Packed,
    manifest: &Manifest,
) -> io::Result<Option<String>> {
    let file = guest.open_file(&packed.form)?;
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    let told = frame::content_bytes(&file, packed.format)?;
    let then = manifest.size_of(&packed.raw);
    Ok(told
        .zip(then)
        .filter(|(told, then)| told != then)
        .map(|(told, then)| {
            let shown = packed.form.display();
            format!("{shown} holds {told} bytes of memory, and there were {then}")
        }))
}

/// Reads every file, and compares it with its digests; those of files that have none are added. Memory that was compressed
/// since counts as what it holds.
fn read(guest: &Beneath, digests: &mut Digests, watch: Watch, step: &Step, found: &mut Found) {
    let mut files = match payload::list(guest) {
        Ok(files) => files,
        Err(error) => {
            found.unknown.push(error.to_string());
            return;
        }
    };
    let mut packed = packed::among(&files);
    packed.retain(|it| digests.of(&it.form).is_none());
    // A compressed form beside the raw one is of no account: whoever made it died over it.
    files.retain(|file| packed::raw_of(&file.path).is_none() || digests.of(&file.path).is_some());
    let mut first: Vec<FileDigests> = Vec::new();
    let of_packed = packed.iter().map(|it| {
        let longest = digests.of(&it.raw).map(|then| then.size_bytes);
        (
            &it.form,
            reading::of_packed(guest, it, longest, watch, step),
        )
    });
    let of_files = files
        .iter()
        .map(|file| (&file.path, reading::of_file(guest, &file.path, watch, step)));
    for (path, result) in of_packed.chain(of_files) {
        match result {
            Ok(now) => match digests.of(&now.path) {
                Some(then) => found.damaged.extend(then.difference(&now)),
                None => first.push(now),
            },
            Err(_) if watch.is_over() => return,
            Err(error) => found.take(path, Err(error)),
        }
    }
    for then in &digests.files {
        let path = &then.path;
        let is_there = files.iter().any(|file| file.path == *path);
        let is_packed = packed.iter().any(|it| it.raw == *path);
        // Its digests are of the frame, and it was unpacked since.
        let is_unpacked =
            packed::raw_of(path).is_some_and(|(raw, _)| files.iter().any(|file| file.path == raw));
        if !is_there && !is_packed && !is_unpacked {
            found.damaged.push(format!("{} is missing", path.display()));
        }
    }
    found.first_read = first.len();
    digests.files.extend(first);
}

fn small(directory: &Beneath, path: &Path) -> io::Result<Vec<u8>> {
    let file = directory.open_file(path)?.ok_or(io::ErrorKind::NotFound)?;
    bounded::read(file, SMALL_MAX_BYTES)
}

/// The first differences, and how many more there are.
fn in_words(differences: &[String]) -> String {
    let named = differences.iter().take(NAMED_MAX).cloned();
    let named: Vec<String> = named.collect();
    match differences.len().checked_sub(NAMED_MAX) {
        None | Some(0) => named.join("; "),
        Some(more) => format!("{}; and {more} more", named.join("; ")),
    }
}
