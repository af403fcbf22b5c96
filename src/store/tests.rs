//! Facts about the store: what it lists, what it writes and what it leaves alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use chrono::DateTime;

use super::*;
use crate::schedule::validate::{Input, declaration};

fn id(id: &str) -> InstanceId {
    id.parse().unwrap()
}

fn schedule(instance: &str) -> Schedule {
    let input = Input {
        interval: Some("1h".to_owned()),
        max_count: Some(7),
        ..Input::default()
    };
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    Schedule::new(id(instance), declaration(input).unwrap(), now)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("state"));
    (dir, store)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_missing_directory_holds_no_schedules_and_is_not_created() {
    let (dir, store) = store();
    assert_eq!(store.ids().unwrap(), (vec![], vec![]));
    assert!(store.load(&id("vm-1")).unwrap().is_none());
    assert!(store.times(&id("vm-1")).unwrap().is_none());
    assert!(!store.remove(&id("vm-1")).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_was_saved_is_there_until_it_is_removed() {
    let (_dir, store) = store();
    let schedule = schedule("vm-1");
    store.save(&schedule).unwrap();
    assert_eq!(store.ids().unwrap().0, [id("vm-1")]);
    assert_eq!(store.load(&id("vm-1")).unwrap().as_ref(), Some(&schedule));
    assert_eq!(store.times(&id("vm-1")).unwrap(), Some(schedule.times()));
    assert!(store.remove(&id("vm-1")).unwrap());
    assert!(!store.remove(&id("vm-1")).unwrap());
    assert_eq!(store.load(&id("vm-1")).unwrap(), None);
}

#[test]
fn only_plain_json_names_are_schedules() {
    let (_dir, store) = store();
    for name in ["vm-2", "a.b", "vm-1"] {
        store.save(&schedule(name)).unwrap();
    }
    let touch = |name: &[u8]| {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
        fs::write(store.schedules.join(name), "").unwrap();
    };
    touch(b".vm-3.json.tmp");
    touch(b".vm-4.json");
    touch(b".json");
    touch(b"vm-5.json~");
    touch(b"vm-6");
    touch(b"-x.json");
    touch(b"a b.json");
    touch(b"\xff.json");
    let (ids, problems) = store.ids().unwrap();
    assert_eq!(ids, [id("a.b"), id("vm-1"), id("vm-2")]);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let at = |name: &str| store.schedules.join(name).display().to_string();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].starts_with(&format!("{} is no schedule: ", at("-x.json"))));
    assert!(texts[1].starts_with(&format!("{} is no schedule: ", at("a b.json"))));
    assert!(texts[2].contains("not UTF-8"), "{texts:?}");
    for problem in &problems {
        assert!(problem.path.exists());
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_no_empty_store() {
    let (dir, store) = store();
    fs::write(dir.path().join("state"), "").unwrap();
    let error = store.ids().unwrap_err();
    assert!(error.to_string().starts_with("can't list "), "{error}");
    let error = store.load(&id("vm-1")).unwrap_err();
    assert!(error.to_string().starts_with("can't read "), "{error}");
    let error = store.save(&schedule("vm-1")).unwrap_err();
    assert!(error.to_string().starts_with("can't write "), "{error}");
    assert!(store.lock(&id("vm-1"), std::time::Duration::ZERO).is_err());
}

#[test]
fn new_files_and_directories_are_the_owners_alone() {
    let (dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    let _lock = store.try_lock(&id("vm-1")).unwrap().unwrap();
    let state = dir.path().join("state");
    for (name, expected) in [
        ("", 0o700),
        ("snapshot-schedules", 0o700),
        ("snapshot-schedules/vm-1.json", 0o600),
        ("locks", 0o700),
        ("locks/vm-1.lock", 0o600),
    ] {
        assert_eq!(mode(&state.join(name)), expected, "{name:?}");
    }
}

#[test]
fn a_rewritten_file_keeps_its_mode() {
    let (_dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    let path = store.path(&id("vm-1"));
    for bits in [0o644, 0o640, 0o600, 0o664] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        store.save(&schedule("vm-1")).unwrap();
        assert_eq!(mode(&path), bits);
    }
}

#[test]
fn a_rewritten_file_keeps_its_owner_where_that_may_be_set() {
    let (_dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    let path = store.path(&id("vm-1"));
    let own = fs::metadata(&path).unwrap();
    // Only root may give files away; anybody else keeps what is his own.
    let (uid, gid) = if own.uid() == 0 {
        (12_345, 23_456)
    } else {
        (own.uid(), own.gid())
    };
    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
    store.save(&schedule("vm-1")).unwrap();
    let rewritten = fs::metadata(&path).unwrap();
    assert_eq!((rewritten.uid(), rewritten.gid()), (uid, gid));
    assert_ne!(rewritten.ino(), own.ino());
}

#[test]
fn saving_never_writes_through_a_link() {
    let (dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    let path = store.path(&id("vm-1"));
    let victim = dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for link in [path.clone(), store.schedules.join(".vm-1.json.tmp")] {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        store.save(&schedule("vm-1")).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(mode(&path), 0o600);
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read_dir(&store.schedules).unwrap().count(), 1);
}

#[test]
fn a_failed_save_leaves_the_old_file_and_nothing_else() {
    let (_dir, store) = store();
    let path = store.path(&id("vm-1"));
    // A directory in its place: the rename fails, as the last step before the end.
    fs::create_dir_all(&path).unwrap();
    let error = store.save(&schedule("vm-1")).unwrap_err();
    assert_eq!(error.to_string(), format!("can't write {}", path.display()));
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(&store.schedules).unwrap().count(), 1);
}

#[test]
fn a_reader_never_sees_a_half_written_file() {
    let (_dir, store) = store();
    let (a, mut b) = (schedule("vm-1"), schedule("vm-1"));
    b.declaration.name_prefix = Some("longer-than-before".to_owned());
    store.save(&a).unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                store.save(&b).unwrap();
                store.save(&a).unwrap();
            }
            is_done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !is_done.load(std::sync::atomic::Ordering::SeqCst) {
            let bytes = fs::read(store.path(&id("vm-1"))).unwrap();
            let seen = format::decode(&bytes, &id("vm-1")).unwrap();
            assert!(seen == a || seen == b);
        }
    });
}

#[test]
fn one_bad_file_is_an_error_of_its_own() {
    let (_dir, store) = store();
    store.save(&schedule("good")).unwrap();
    let bad = store.path(&id("bad"));
    fs::write(&bad, "{").unwrap();
    assert_eq!(store.ids().unwrap().0, [id("bad"), id("good")]);
    for error in [
        store.load(&id("bad")).unwrap_err(),
        store.times(&id("bad")).unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            format!(
                "{} is not a schedule; correct it, or remove it and set the schedule again",
                bad.display()
            )
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("line 1 column 1"), "{cause}");
    }
    assert!(store.load(&id("good")).unwrap().is_some());
}

#[test]
fn a_file_of_another_instance_is_refused() {
    let (_dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    fs::copy(store.path(&id("vm-1")), store.path(&id("vm-2"))).unwrap();
    for error in [
        store.load(&id("vm-2")).unwrap_err(),
        store.times(&id("vm-2")).unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("instance_id \"vm-1\""),
            "{error}"
        );
    }
}

#[test]
fn the_longest_id_still_makes_file_names() {
    let (_dir, store) = store();
    let longest = "x".repeat(200);
    store.save(&schedule(&longest)).unwrap();
    let _lock = store.try_lock(&id(&longest)).unwrap().unwrap();
    assert!(store.load(&id(&longest)).unwrap().is_some());
}

#[test]
fn hooks_run_only_from_a_file_that_nobody_else_can_write() {
    let (_dir, store) = store();
    let with_hooks = |name: &str| {
        let mut schedule = schedule(name);
        schedule.declaration.hooks.post = vec!["/bin/true".to_owned()];
        store.save(&schedule).unwrap();
        store.path(&id(name))
    };
    let path = with_hooks("vm-1");
    for (mode, is_trusted) in [
        (0o600, true),
        (0o644, true),
        (0o664, false),
        (0o646, false),
        (0o666, false),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = store.load_to_run(&id("vm-1"));
        assert_eq!(loaded.is_ok(), is_trusted, "{mode:o}");
        if let Err(error) = loaded {
            let error = error.to_string();
            assert!(
                error.contains(&format!("has mode 0{mode:o}")) && error.contains("chmod go-w"),
                "{error}"
            );
        }
        // Whoever runs nothing may read it all the same.
        assert!(store.load(&id("vm-1")).is_ok());
    }
    if rustix::process::geteuid().is_root() {
        let path = with_hooks("vm-2");
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let error = store.load_to_run(&id("vm-2")).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
    }
}

#[test]
fn a_file_without_hooks_may_belong_to_anybody() {
    let (_dir, store) = store();
    store.save(&schedule("vm-1")).unwrap();
    let path = store.path(&id("vm-1"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(store.load_to_run(&id("vm-1")).unwrap().is_some());
    assert!(store.load_to_run(&id("vm-2")).unwrap().is_none());
}
