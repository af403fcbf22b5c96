//! Facts about reading one file: what is waited for, and what is refused.

use std::cell::Cell;
use std::fs;
use std::time::SystemTime;

use super::*;
use crate::schedule::validate::InvalidSchedule;

const WHOLE: &str = "{\"a\": 1}";

/// Takes what is JSON, and no zeros.
fn parse(bytes: &[u8]) -> Result<serde_json::Value, Refusal> {
    let value: serde_json::Value = serde_json::from_slice(bytes)?;
    if value == serde_json::json!(0) {
        return Err(Refusal::Invalid(InvalidSchedule::NoLimit));
    }
    Ok(value)
}

/// Writes `bytes` as a file that nobody is writing any more.
fn settled(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    settled(&path("target"), WHOLE.as_bytes());
    std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for (name, found) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("directory", "a directory"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
    ] {
        let error = read(&path(name), |_| Ok(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is {found} and no regular file; remove it, then set the schedule again",
                path(name).display()
            )
        );
    }
    let device = read(Path::new("/dev/zero"), |_| Ok(())).unwrap_err();
    assert!(device.to_string().contains("a device"), "{device}");
}

#[test]
fn a_fifo_that_somebody_writes_to_is_refused_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Read and write: opening it this way waits for nobody.
    let _writer = File::options().read(true).write(true).open(&path).unwrap();
    let error = read(&path, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("a FIFO"), "{error}");
}

#[test]
fn a_file_over_a_mebibyte_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let padded = |size: usize| {
        let mut bytes = WHOLE.as_bytes().to_vec();
        bytes.resize(size, b' ');
        settled(&path, &bytes);
        read(&path, parse)
    };
    assert!(padded(1 << 20).unwrap().is_some());
    let error = padded((1 << 20) + 1).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::TooLarge {
                size_bytes: 1_048_577,
                ..
            }
        ),
        "{error}"
    );
    // A sparse file costs nothing to make; reading it would cost everything.
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = read(&path, parse).unwrap_err();
    assert!(
        error.to_string().contains("has 1099511627776 bytes"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_being_overwritten_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "").unwrap();
    let waits = Cell::new(0);
    let schedule = read_patiently(&path, parse, |_| {
        waits.set(waits.get() + 1);
        let end = if waits.get() < 3 { 4 } else { WHOLE.len() };
        fs::write(&path, &WHOLE[..end]).unwrap();
    });
    assert_eq!(
        schedule.unwrap().map(|(schedule, _)| schedule),
        Some(parse(WHOLE.as_bytes()).ok().unwrap())
    );
    assert_eq!(waits.get(), 3);
}

#[test]
fn a_file_that_vanishes_meanwhile_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "").unwrap();
    let schedule = read_patiently(&path, parse, |_| fs::remove_file(&path).unwrap());
    assert!(schedule.unwrap().is_none());
}

#[test]
fn patience_ends_soon_and_is_for_fresh_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let waited = |bytes: &[u8], write: fn(&Path, &[u8])| {
        write(&path, bytes);
        let waited = Cell::new(Duration::ZERO);
        let result = read_patiently(&path, parse, |pause| waited.set(waited.get() + pause));
        let error = result.unwrap_err();
        assert!(
            error.to_string().starts_with(&path.display().to_string()),
            "{error}"
        );
        waited.get()
    };
    let fresh: fn(&Path, &[u8]) = |path, bytes| fs::write(path, bytes).unwrap();
    assert_eq!(waited(b"{", fresh), Duration::from_millis(75));
    assert_eq!(waited(b"{", settled), Duration::ZERO);
    // A broken rule does not mend itself.
    assert_eq!(waited(b"0", fresh), Duration::ZERO);
}
