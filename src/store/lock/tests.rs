//! Facts about locks, with real `flock`s: each lock opens the file anew, as another process would.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use rustix::fs::Mode;

use super::*;

fn id(id: &str) -> InstanceId {
    id.parse().unwrap()
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().to_owned());
    (dir, store)
}

#[test]
fn a_held_lock_is_not_had_twice_and_free_when_dropped() {
    let (dir, store) = store();
    let lock = store.try_lock(&id("vm-1")).unwrap().unwrap();
    assert!(store.try_lock(&id("vm-1")).unwrap().is_none());
    drop(lock);
    let _again = store.try_lock(&id("vm-1")).unwrap().unwrap();
    assert!(dir.path().join("locks/vm-1.lock").is_file());
}

#[test]
fn one_instances_lock_never_blocks_another() {
    let (_dir, store) = store();
    let _one = store.try_lock(&id("vm-1")).unwrap().unwrap();
    let _other = store.try_lock(&id("vm-2")).unwrap().unwrap();
}

#[test]
fn waiting_ends_with_the_time_out_and_says_so() {
    let (dir, store) = store();
    let _held = store.try_lock(&id("vm-1")).unwrap().unwrap();
    let begin = Instant::now();
    let timeout = Duration::from_millis(120);
    let error = store.lock(&id("vm-1"), timeout).unwrap_err();
    assert!(begin.elapsed() >= timeout);
    assert!(matches!(error, LockError::Held { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "another run works on instance vm-1 and held {} for longer than 120ms; try again later, or raise --lock-timeout",
            dir.path().join("locks/vm-1.lock").display()
        )
    );
}

#[test]
fn waiting_ends_when_the_lock_is_released() {
    let (_dir, store) = store();
    let held = store.try_lock(&id("vm-1")).unwrap().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.send(()).unwrap();
            drop(store.lock(&id("vm-1"), Duration::from_secs(60)).unwrap());
        });
        receiver.recv().unwrap();
        drop(held);
    });
    assert!(store.try_lock(&id("vm-1")).unwrap().is_some());
}

#[test]
fn never_two_at_once() {
    let (_dir, store) = store();
    let is_taken = AtomicBool::new(false);
    let rounds = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let _lock = store.lock(&id("vm-1"), Duration::from_secs(60)).unwrap();
                assert!(!is_taken.swap(true, Ordering::SeqCst));
                std::thread::yield_now();
                rounds.fetch_add(1, Ordering::SeqCst);
                assert!(is_taken.swap(false, Ordering::SeqCst));
            });
        }
    });
    assert_eq!(rounds.into_inner(), 8);
}

#[test]
fn a_child_never_inherits_a_lock() {
    let (_dir, store) = store();
    let _lock = store.try_lock(&id("vm-1")).unwrap().unwrap();
    // Otherwise a child that outlives a killed run would keep the instance locked.
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    assert!(files.contains("/proc/"), "{files}");
    assert!(!files.contains("vm-1.lock"), "{files}");
}

#[test]
fn what_is_no_regular_file_is_no_lock() {
    let (dir, store) = store();
    let locks = dir.path().join("locks");
    std::fs::create_dir(&locks).unwrap();
    std::os::unix::fs::symlink("elsewhere", locks.join("link.lock")).unwrap();
    std::fs::create_dir(locks.join("dir.lock")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        locks.join("fifo.lock"),
        fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    for name in ["link", "dir", "fifo"] {
        let error = store.try_lock(&id(name)).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
        let begin = format!(
            "can't lock {}",
            locks.join(format!("{name}.lock")).display()
        );
        assert_eq!(error.to_string(), begin);
    }
    assert!(!locks.join("elsewhere").exists());
}

#[test]
fn who_only_looks_sees_a_lock_and_creates_none() {
    let (dir, store) = store();
    assert!(!store.is_busy(&id("vm-1")));
    assert!(!dir.path().join("locks").exists());
    let lock = store.try_lock(&id("vm-1")).unwrap().unwrap();
    assert!(store.is_busy(&id("vm-1")));
    drop(lock);
    assert!(!store.is_busy(&id("vm-1")));
}

#[test]
fn only_a_held_flock_of_the_file_counts() {
    let locks = "1: POSIX  ADVISORY  WRITE 7 fd:00:12 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 8 fd:00:1234 0 EOF\n\
                 2: -> FLOCK  ADVISORY  WRITE 9 fd:00:55 0 EOF\n";
    assert_eq!(holder_of(locks, 1234), Some(8));
    for other in [12, 34, 55] {
        assert_eq!(holder_of(locks, other), None, "{other}");
    }
}
