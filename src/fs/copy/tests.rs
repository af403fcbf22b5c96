//! Single files: holes, zeros, cancelling, sources that change.

use super::*;
use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;

fn never() -> bool {
    false
}

fn held(directory: &Path) -> Beneath {
    Beneath::open(directory).unwrap()
}

/// A new file in `directory` that can be read and written.
fn new_file(directory: &Path, name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(directory.join(name))
        .unwrap()
}

/// A file of 64 MiB with data at its begin, in its middle and at a crooked end, and holes between.
fn holey(directory: &Path) -> File {
    let file = new_file(directory, "holey");
    file.set_len(64 << 20).unwrap();
    for at in [0, 10 << 20, (10 << 20) + 4096, (64 << 20) - 1] {
        file.write_all_at(b"data", at).unwrap();
    }
    // Without this the file system may not have decided yet where the holes are.
    file.sync_all().unwrap();
    file
}

fn blocks_bytes(file: &File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

fn assert_same(source: &File, target: &File) {
    let length = source.metadata().unwrap().len();
    assert_eq!(length, target.metadata().unwrap().len());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < length {
        let read = source.read_at(&mut left, at).unwrap();
        target.read_exact_at(&mut right[..read], at).unwrap();
        assert!(left[..read] == right[..read], "difference behind byte {at}");
        at += read as u64;
    }
}

#[test]
fn a_sparse_copy_has_the_same_content_length_and_holes() {
    let directory = tempfile::tempdir().unwrap();
    let source = holey(directory.path());
    let target = new_file(directory.path(), "copy");
    // What the target held before is in the way of its holes.
    (&target).write_all(&vec![7; 1 << 20]).unwrap();
    let data_bytes = sparse(&source, &target, &never, &|_| {}).unwrap();
    assert_same(&source, &target);
    assert!(data_bytes <= 1 << 20, "{data_bytes} bytes were written");
    assert!(blocks_bytes(&target) <= 1 << 20);
}

#[test]
fn an_empty_file_and_a_single_hole_are_copied_without_any_data() {
    let directory = tempfile::tempdir().unwrap();
    for length in [0, 1, 5 << 20] {
        let source = new_file(directory.path(), &format!("source-{length}"));
        source.set_len(length).unwrap();
        let target = new_file(directory.path(), &format!("target-{length}"));
        assert_eq!(sparse(&source, &target, &never, &|_| {}).unwrap(), 0);
        assert_same(&source, &target);
    }
}

#[test]
fn zeros_become_holes_where_the_source_does_not_tell_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let source = new_file(directory.path(), "dense");
    let mut content = vec![0_u8; (3 << 20) + 777];
    content[4096 * 5] = 1;
    content[4096 * 300..4096 * 303].fill(2);
    let last = content.len() - 1;
    content[last] = 3;
    source.write_all_at(&content, 0).unwrap();
    assert!(blocks_bytes(&source) >= 3 << 20);
    let target = new_file(directory.path(), "copy");
    target.set_len(content.len() as u64).unwrap();
    let mut copy = Copy {
        source: &source,
        target: &target,
        buffer: Vec::new(),
        by_kernel: true,
        skips_zeros: true,
        is_cancelled: &never,
        progress: &|_| {},
        data_bytes: 0,
    };
    copy.extent(0, content.len() as u64).unwrap();
    assert_eq!(copy.data_bytes, 4096 + 3 * 4096 + 777);
    assert_same(&source, &target);
    assert!(blocks_bytes(&target) <= 64 << 10);
}

#[test]
fn a_copy_by_hand_is_the_same_as_one_by_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let source = holey(directory.path());
    let target = new_file(directory.path(), "copy");
    target.set_len(64 << 20).unwrap();
    let mut copy = Copy {
        source: &source,
        target: &target,
        buffer: Vec::new(),
        by_kernel: false,
        skips_zeros: false,
        is_cancelled: &never,
        progress: &|_| {},
        data_bytes: 0,
    };
    copy.extent(0, 11 << 20).unwrap();
    copy.extent((64 << 20) - 5, (64 << 20) + 3).unwrap();
    assert_same(&source, &target);
}

#[test]
fn a_cancelled_copy_ends_within_its_next_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let source = new_file(directory.path(), "source");
    source.write_all_at(&vec![7; 40 << 20], 0).unwrap();
    let target = new_file(directory.path(), "copy");
    let asked = Cell::new(0);
    let second_time = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let error = sparse(&source, &target, &second_time, &|_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    assert!(blocks_bytes(&target) <= 3 * CHUNK_BYTES);
}

#[test]
fn a_source_that_shrinks_is_an_error_and_no_endless_loop() {
    let directory = tempfile::tempdir().unwrap();
    let source = new_file(directory.path(), "source");
    source.write_all_at(&vec![7; 20 << 20], 0).unwrap();
    let target = new_file(directory.path(), "copy");
    let asked = Cell::new(0);
    let shrink_on_the_way = || {
        asked.set(asked.get() + 1);
        if asked.get() == 3 {
            source.set_len(9 << 20).unwrap();
        }
        false
    };
    let error = sparse(&source, &target, &shrink_on_the_way, &|_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
}

#[test]
fn a_file_is_copied_whether_the_file_system_knows_reflinks_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let source = holey(directory.path());
    let target = new_file(directory.path(), "copy");
    let can = try_reflink(&source, &held(directory.path()))
        .unwrap()
        .is_some();
    let copied = file(&source, &target, &never, &|_| {}).unwrap();
    assert_eq!(copied == 0, can);
    assert_same(&source, &target);
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 2, "the trial left something behind");
}

#[test]
fn between_two_file_systems_there_are_no_reflinks_but_copies() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: /dev/shm is no second file system here"
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let source = holey(directory.path());
    assert!(
        try_reflink(&source, &held(memory.path()))
            .unwrap()
            .is_none()
    );
    let target = new_file(memory.path(), "copy");
    let copied = file(&source, &target, &never, &|_| {}).unwrap();
    assert!((1..=1 << 20).contains(&copied), "{copied}");
    assert_same(&source, &target);
    assert!(blocks_bytes(&target) <= 1 << 20);
}

#[test]
fn a_trial_of_two_directories_says_what_a_trial_with_a_file_says_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    let source = new_file(directory.path(), "source");
    source.write_all_at(b"data", 0).unwrap();
    let expected = try_reflink(&source, &held(&other)).unwrap().is_some();
    let before = fs::metadata(&other).unwrap().modified().unwrap();
    match can_reflink(directory.path(), &other) {
        Ok(can) => assert_eq!(can, expected),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    assert_eq!(fs::metadata(&other).unwrap().modified().unwrap(), before);
    assert!(can_reflink(&directory.path().join("missing"), &other).is_err());
}
