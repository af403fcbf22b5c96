//! What QEMU says of disks, and what becomes of it. The answers are QEMU 7.2's own, shortened.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A node of `format` over `file`, writable, 8 MiB.
fn node(name: &str, format: &str, file: &str) -> Value {
    json!({
        "device": "", "qdev": "/machine/peripheral/x", "removable": false, "locked": false,
        "inserted": {
            "node-name": name, "drv": format, "ro": false, "file": file, "encrypted": false,
            "image": {
                "filename": file, "format": format, "virtual-size": 8_388_608, "actual-size": 4096,
                "dirty-flag": false,
            },
        },
    })
}

fn parse(answer: Value) -> serde_json::Result<Vec<Drive>> {
    serde_json::from_value::<AtMost<MAX_DISKS, Drive>>(answer).map(AtMost::into_vec)
}

fn drives(answer: Vec<Value>) -> Vec<Drive> {
    parse(Value::Array(answer)).unwrap()
}

/// What `list` says of a single drive.
fn judge(drive: Value) -> Result<Vec<Disk>, String> {
    list(&drives(vec![drive])).map_err(|error| error.to_string())
}

fn file(directory: &TempDir, name: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, "").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn disks_are_found_behind_plain_names_protocols_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "disk: 1");
    let names = [
        path.clone(),
        format!("file:{path}"),
        json!({"driver": "raw", "file": {"driver": "file", "filename": &path}}).to_string(),
        json!({"driver": "qcow2", "file": {"driver": "host_device", "filename": &path}})
            .to_string(),
    ];
    for (index, name) in names.into_iter().enumerate() {
        let name = if name.starts_with('{') {
            format!("json:{name}")
        } else {
            name
        };
        let format = if index == 3 { "qcow2" } else { "raw" };
        let disks = judge(node("#block123", format, &name)).unwrap();
        let expected = Disk {
            name: "#block123".to_owned(),
            path: PathBuf::from(&path),
            format: Some(format.to_owned()),
            is_read_only: false,
            backing: None,
        };
        assert_eq!(disks, [expected], "{name}");
    }
}

#[test]
fn a_filter_is_looked_through() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "disk.qcow2");
    let name = json!({
        "throttle-group": "tg", "driver": "throttle",
        "file": {"driver": "qcow2", "file": {"driver": "file", "filename": &path}},
    });
    let mut drive = node("thr", "throttle", &format!("json:{name}"));
    drive["inserted"]["image"]["backing-image"] = json!({
        "filename": &path, "format": "qcow2", "virtual-size": 8_388_608, "actual-size": 200_704, "cluster-size": 131_072,
        "format-specific": {"type": "qcow2", "data": {
            "compat": "1.1", "lazy-refcounts": true, "bitmaps": [{"name": "b", "granularity": 65_536, "flags": ["auto"]}],
        }},
        "snapshots": [{"id": "1", "name": "s", "vm-state-size": 0}],
        "backing-image": {
            "filename": "/images/base.raw", "format": "raw", "virtual-size": 4_194_304,
            "actual-size": 1_048_576,
        },
    });
    let disks = judge(drive.clone()).unwrap();
    assert_eq!(disks[0].format.as_deref(), Some("qcow2"));
    assert_eq!(disks[0].path, PathBuf::from(&path));
    assert_eq!(disks[0].backing, Some(PathBuf::from("/images/base.raw")));
    let expected = Source {
        node: "thr".to_owned(),
        format: "qcow2".to_owned(),
        virtual_bytes: 8_388_608,
        used_bytes: 200_704 + 1_048_576,
        layout: Layout {
            cluster_size: Some(131_072),
            compat: Some("1.1".to_owned()),
            lazy_refcounts: Some(true),
            ..Layout::default()
        },
        has_backing: true,
        lost: Some("internal snapshots (s) and persistent bitmaps (b)".to_owned()),
    };
    assert_eq!(source(&drives(vec![drive]), "thr"), Some(expected));
}

#[test]
fn drives_without_a_medium_are_no_disks() {
    let empty = json!({"device": "cd", "removable": true, "locked": false, "tray_open": false});
    assert_eq!(judge(empty).unwrap(), []);
}

#[test]
fn a_read_only_disk_is_listed_if_it_is_a_local_file_and_otherwise_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "image.iso");
    let read_only = |mut drive: Value| {
        drive["inserted"]["ro"] = json!(true);
        judge(drive).unwrap()
    };
    let disks = read_only(node("cd", "raw", &path));
    assert!(disks[0].is_read_only);
    assert_eq!(read_only(node("net", "raw", "nbd://host/export")), []);
    assert_eq!(read_only(node("vm", "vmdk", &path)), []);
}

#[test]
fn what_a_snapshot_cannot_hold_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "disk");
    let json_name = |options: Value| format!("json:{options}");
    let encrypted = {
        let mut drive = node("enc", "qcow2", &path);
        drive["inserted"]["image"]["encrypted"] = json!(true);
        drive
    };
    let split = {
        let mut drive = node("split", "qcow2", &path);
        drive["inserted"]["image"]["format-specific"] =
            json!({"type": "qcow2", "data": {"data-file": "/images/data"}});
        drive
    };
    let part = json!({
        "driver": "raw", "offset": 512, "file": {"driver": "file", "filename": &path},
    });
    let remote = json!({"driver": "qcow2", "file": {"driver": "rbd", "pool": "p", "image": "i"}});
    for (drive, reason) in [
        (node("d", "vmdk", &path), "vmdk"),
        (node("d", "copy-before-write", &path), "copy-before-write"),
        (node("d", "raw", "nbd://host/export"), "\"nbd\""),
        (node("d", "raw", "rbd:pool/image"), "\"rbd\""),
        (node("d", "raw", "fat:rw:/srv/files"), "\"fat\""),
        (node("d", "raw", &json_name(remote)), "\"rbd\""),
        (node("d", "raw", &json_name(part)), "part of its file"),
        (node("d", "raw", "json:{"), "can't be read"),
        (node("d", "raw", "/dev/fdset/3"), "descriptor"),
        (node("d", "raw", ""), "no name"),
        (encrypted, "encrypted"),
        (split, "data file"),
    ] {
        let error = judge(drive).unwrap_err();
        assert!(error.contains("can't be part of a snapshot"), "{error}");
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_refused_disk_is_named_as_the_user_named_it() {
    let mut drive = node("#block17", "vmdk", "/x");
    drive["device"] = json!("virtio0");
    let error = judge(drive).unwrap_err();
    assert!(error.contains("disk virtio0 "), "{error}");
}

#[test]
fn an_answer_of_another_form_is_an_error() {
    assert!(parse(json!({})).is_err());
    assert!(parse(json!([{"inserted": {"drv": "raw"}}])).is_err());
}

#[test]
fn more_disks_than_anybody_has_are_not_read() {
    let all = |count| Value::Array(vec![node("n", "raw", "/disk"); count]);
    assert_eq!(parse(all(MAX_DISKS)).unwrap().len(), MAX_DISKS);
    let error = parse(all(MAX_DISKS + 1)).unwrap_err().to_string();
    assert!(error.contains("256 entries"), "{error}");
}

#[test]
fn sizes_of_a_chain_do_not_overflow() {
    let mut drive = node("n", "qcow2", "/disk");
    drive["inserted"]["image"]["actual-size"] = json!(u64::MAX);
    drive["inserted"]["image"]["backing-image"] = json!({
        "filename": "/base", "format": "raw", "virtual-size": 1, "actual-size": u64::MAX,
    });
    let source = source(&drives(vec![drive]), "n").unwrap();
    assert_eq!(source.used_bytes, u64::MAX);
}
