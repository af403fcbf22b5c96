//! Cloud Hypervisor from a snapshot: `--restore` of the saved state with a configuration that names the disks where they
//! are now, or the same configuration to boot from (docs/snapshot_restore.md and vmm/src/vm_config.rs in its sources).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::rehearsal::Tap;
use super::{IsSame, Method, Moved, Moves, Request, Unlaunchable, kept, options};

/// Options of the process itself that a copy gets as well.
const KEPT: [&str; 4] = ["--seccomp", "-v", "-vv", "-vvv"];
/// Options with files of the VM's own.
const KEPT_IN_PLACE: [&str; 2] = ["--event-monitor", "--log-file"];
/// Where a guest's words go.
const CONSOLES: [&str; 3] = ["serial", "console", "debug_console"];
/// Devices that live in another process whatever they say.
const ELSEWHERE: [&str; 3] = ["fs", "generic_vhost_user", "user_devices"];

/// What of a configuration is the guest's alone, or is made so for a copy beside it.
const HARMLESS: [&str; 25] = [
    "balloon",
    "console",
    "cpus",
    "debug_console",
    "disks",
    "gdb",
    "iommu",
    "landlock_enable",
    "landlock_rules",
    "memory",
    "net",
    "numa",
    "payload",
    "pci_segments",
    "platform",
    "pmem",
    "pvmemcontrol",
    "pvpanic",
    "rate_limit_groups",
    "rng",
    "rtc",
    "serial",
    "tpm",
    "vsock",
    "watchdog",
];

/// The saved configuration with the disks where they are now. For a copy, `own` is its directory: what the first VM goes
/// on using gets a place there. Nothing else is changed: Cloud Hypervisor does not hold it against the saved state.
///
/// # Errors
/// When a copy can't be started with it.
pub fn configuration(
    saved: &Value,
    disks: &[Moved],
    is_same: IsSame<'_>,
    own: Option<&Path>,
) -> Result<Value, Unlaunchable> {
    let mut config = saved.clone();
    let list = |config: &Value, key: &str| config[key].as_array().cloned().unwrap_or_default();
    for (number, net) in list(&config, "net").iter().enumerate() {
        if !net["fds"].is_null() {
            let id = net["id"].as_str();
            return Err(Unlaunchable::Descriptor(
                id.map_or_else(|| format!("net{number}"), str::to_owned),
            ));
        }
    }
    if own.is_some() {
        let served = |key: &str| list(&config, key).iter().any(|it| it["vhost_user"] == true);
        let elsewhere = ["disks", "net"].into_iter().find(|key| served(key));
        let elsewhere = elsewhere
            .or_else(|| (ELSEWHERE.into_iter()).find(|key| !list(&config, key).is_empty()));
        let elsewhere = elsewhere.or_else(|| config["tpm"].is_object().then_some("tpm"));
        if let Some(key) = elsewhere {
            return Err(Unlaunchable::Elsewhere(key.to_owned()));
        }
    }
    let mut moves = Moves::new(disks, is_same);
    for (list, key) in [("disks", "path"), ("pmem", "file")] {
        let entries = config.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(path) = entry.get_mut(key) {
                moves.apply(path);
            }
        }
    }
    moves.finish()?;
    if let Some(own) = own {
        move_own(&mut config, own);
    }
    Ok(config)
}

fn move_own(config: &mut Value, own: &Path) {
    let place = |name: String| Value::String(own.join(name).display().to_string());
    for console in CONSOLES {
        if let Some(it) = config.get_mut(console) {
            if it["mode"] == "File" && it["file"].is_string() {
                it["file"] = place(console.to_owned());
            }
            if it["socket"].is_string() {
                it["socket"] = place(format!("{console}.sock"));
            }
        }
    }
    if let Some(vsock) = config.get_mut("vsock").filter(|it| it.is_object()) {
        vsock["socket"] = place("vsock.sock".to_owned());
    }
}

/// What a throw-away copy has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// The files that its guest's words go to.
    pub consoles: Vec<PathBuf>,
    /// Taps that it expects.
    pub taps: Vec<Tap>,
    /// How much memory its guest has, in bytes.
    pub memory_bytes: u64,
}

/// Makes the configuration one that may be started beside the first VM, for a copy in the directory `own`: what its guest
/// says goes into files, and a disk is written only if it is one of the copies.
///
/// # Errors
/// When it has what reaches beyond the guest.
pub fn quieten(config: &mut Value, disks: &[Moved], own: &Path) -> Result<Quiet, Unlaunchable> {
    let entries = |list: &str| config[list].as_array().cloned().unwrap_or_default();
    let is_there = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) | Value::Object(_) => true,
    };
    let all = config.as_object().into_iter().flatten();
    let beyond = all.filter(|(key, value)| !HARMLESS.contains(&key.as_str()) && is_there(value));
    let mut refused: Vec<String> = beyond.map(|(key, _)| key.clone()).collect();
    for (list, key) in [("disks", "readonly"), ("pmem", "discard_writes")] {
        for entry in entries(list) {
            let path = entry["path"].as_str().or_else(|| entry["file"].as_str());
            let is_copy = path.is_some_and(|path| disks.iter().any(|it| it.to == Path::new(path)));
            if !is_copy && entry[key] != true {
                refused.push(format!(
                    "{list} {} (it is not in the snapshot)",
                    path.unwrap_or("?")
                ));
            }
        }
    }
    if !refused.is_empty() {
        return Err(Unlaunchable::Unknown(refused));
    }
    let taps = entries("net").into_iter().filter_map(|net| {
        let name = net["tap"].as_str()?.to_owned();
        let is_multi_queue = net["num_queues"].as_u64().is_some_and(|count| count > 2);
        Some(Tap {
            name,
            is_multi_queue,
        })
    });
    let taps = taps.collect();
    let sizes = |value: &Value| {
        ["size", "hotplugged_size"]
            .iter()
            .filter_map(|key| value[*key].as_u64())
            .fold(0_u64, u64::saturating_add)
    };
    let memory = &config["memory"];
    let zones = memory["zones"].as_array().map_or(&[][..], Vec::as_slice);
    let memory_bytes = zones
        .iter()
        .map(sizes)
        .fold(sizes(memory), u64::saturating_add);
    if let Some(memory) = config.get_mut("memory").filter(|it| it.is_object()) {
        anonymous(memory);
        let zones = memory.get_mut("zones").and_then(Value::as_array_mut);
        zones.into_iter().flatten().for_each(anonymous);
    }
    let mut consoles = Vec::new();
    for console in CONSOLES {
        let Some(it) = config.get_mut(console) else {
            continue;
        };
        if it.is_object() && it["mode"] != "Off" {
            let path = own.join(format!("{console}.log"));
            it["mode"] = Value::from("File");
            it["file"] = Value::from(path.display().to_string());
            it["socket"] = Value::Null;
            consoles.push(path);
        }
    }
    Ok(Quiet {
        consoles,
        taps,
        memory_bytes,
    })
}

/// Makes memory its own: no file of the host, which the first VM may go on writing to, and none of its huge pages.
fn anonymous(memory: &mut Value) {
    for (key, value) in [
        ("file", Value::Null),
        ("hugepages", false.into()),
        ("hugepage_size", Value::Null),
    ] {
        if let Some(it) = memory.get_mut(key) {
            *it = value;
        }
    }
}

/// What makes it write what happens to a file.
///
/// # Errors
/// When the path can't be written.
pub fn events_to(file: &Path) -> Result<[String; 2], Unlaunchable> {
    let file = plain(file)?;
    Ok(["--event-monitor".to_owned(), format!("path={file}")])
}

/// What loads a guest from the directory `state`: it waits to be told to go on.
///
/// # Errors
/// When the path can't be written.
pub fn restore(state: &Path) -> Result<Request, Unlaunchable> {
    let body = json!({"source_url": format!("file://{}", plain(state)?)});
    Ok(Request::new(Method::Put, "/api/v1/vm.restore", Some(body)))
}

/// The command line, without the program's name. With `state`, the guest is loaded from that directory and waits to be
/// told to go on; else it waits for a configuration. `is_copy` says whether the first VM goes on using its files.
///
/// # Errors
/// When nothing was recorded, or a path can't be written.
pub fn arguments(
    recorded: &[String],
    socket: &Path,
    state: Option<&Path>,
    is_copy: bool,
) -> Result<Vec<String>, Unlaunchable> {
    let options = options(recorded)?;
    let in_place = if is_copy { &[][..] } else { &KEPT_IN_PLACE[..] };
    let mut arguments = kept(&options, &[&KEPT, in_place]);
    arguments.push("--api-socket".to_owned());
    arguments.push(format!("path={}", plain(socket)?));
    if let Some(state) = state {
        arguments.push("--restore".to_owned());
        arguments.push(format!("source_url=file://{}", plain(state)?));
    }
    Ok(arguments)
}

/// A path as it stands in an option.
fn plain(path: &Path) -> Result<String, Unlaunchable> {
    path.to_str()
        .filter(|text| !text.contains([',', '"', '[', ']']))
        .map(str::to_owned)
        .ok_or_else(|| Unlaunchable::AwkwardPath(path.to_owned()))
}

/// What boots a guest with this configuration.
pub fn boot(config: Value) -> Vec<Request> {
    vec![
        Request::new(Method::Put, "/api/v1/vm.create", Some(config)),
        Request::new(Method::Put, "/api/v1/vm.boot", None),
    ]
}

/// What lets a loaded guest go on.
pub fn resume() -> Request {
    Request::new(Method::Put, "/api/v1/vm.resume", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(typed: &str, disk: &Path) -> bool {
        Path::new("/srv").join(typed) == disk
    }

    fn disk() -> Vec<Moved> {
        vec![Moved {
            from: "/srv/a.raw".into(),
            to: "/r/disks/0-a.raw".into(),
        }]
    }

    fn saved() -> Value {
        json!({
            "cpus": {"boot_vcpus": 1},
            "disks": [{"id": "d0", "path": "a.raw", "vhost_user": false}, {"id": "d1", "path": "/srv/ro.raw"}],
            "net": [{"id": "n0", "tap": "tap0", "vhost_user": false, "fds": null}],
            "serial": {"mode": "File", "file": "/srv/serial", "socket": null},
            "console": {"mode": "Tty", "file": null},
            "vsock": {"cid": 3, "socket": "/srv/v.sock"},
            "fs": null, "tpm": null,
        })
    }

    #[test]
    fn a_copy_has_its_disks_and_what_can_not_be_shared_and_the_rest_stays() {
        let now = configuration(&saved(), &disk(), &is_same, Some(Path::new("/r"))).unwrap();
        let mut expected = saved();
        expected["disks"][0]["path"] = json!("/r/disks/0-a.raw");
        expected["serial"]["file"] = json!("/r/serial");
        expected["vsock"]["socket"] = json!("/r/vsock.sock");
        assert_eq!(now, expected);
        let in_place = [Moved {
            from: "/srv/a.raw".into(),
            to: "a.raw".into(),
        }];
        let now = configuration(&saved(), &in_place, &is_same, None).unwrap();
        assert_eq!(now, saved());
    }

    #[test]
    fn a_throw_away_copy_has_nothing_of_the_hosts_and_writes_to_copies_alone() {
        let own = Path::new("/r");
        let mut config = saved();
        config["memory"] = json!({"size": 1 << 30, "hugepages": true, "shared": true, "zones": [
            {"id": "m0", "size": 1 << 29, "file": "/dev/hugepages", "hugepages": true, "hugepage_size": 1 << 30},
        ]});
        config["net"][0]["num_queues"] = json!(4);
        config["devices"] = json!([]);
        config["disks"][1]["readonly"] = json!(true);
        let mut config = configuration(&config, &disk(), &is_same, Some(own)).unwrap();
        let quiet = quieten(&mut config, &disk(), own).unwrap();
        assert_eq!(
            quiet.consoles,
            ["/r/serial.log", "/r/console.log"].map(PathBuf::from)
        );
        assert_eq!(quiet.memory_bytes, (1 << 30) + (1 << 29));
        assert_eq!(
            (quiet.taps[0].name.as_str(), quiet.taps[0].is_multi_queue),
            ("tap0", true)
        );
        assert_eq!(config["console"]["mode"], "File");
        let zone = &config["memory"]["zones"][0];
        assert_eq!(
            (&zone["file"], &zone["hugepages"]),
            (&Value::Null, &json!(false))
        );
        for (key, value) in [
            ("ivshmem", json!({"path": "/dev/shm/x", "size": 1})),
            (
                "devices",
                json!([{"path": "/sys/bus/pci/devices/0000:01:00.0"}]),
            ),
            ("vdpa", json!([{"path": "/dev/vhost-vdpa-0"}])),
            ("made_up", json!(true)),
        ] {
            let mut config = config.clone();
            config[key] = value;
            let error = quieten(&mut config, &disk(), own).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        config["disks"][1]["readonly"] = json!(false);
        let error = quieten(&mut config, &disk(), own).unwrap_err().to_string();
        assert!(
            error.contains("/srv/ro.raw (it is not in the snapshot)"),
            "{error}"
        );
    }

    #[test]
    fn what_can_not_be_given_again_is_an_error_that_names_it() {
        let own = Some(Path::new("/r"));
        let cases: [(&str, Value, &str); 5] = [
            (
                "/net/0/fds",
                json!([-1]),
                "\"n0\" hands the VMM an open file",
            ),
            ("/net/0/vhost_user", json!(true), "its net is served"),
            ("/fs", json!([{"tag": "x"}]), "its fs is served"),
            ("/tpm", json!({"socket": "/x"}), "its tpm is served"),
            (
                "/disks/0/path",
                json!("b.raw"),
                "does not name the disk /srv/a.raw",
            ),
        ];
        for (at, value, part) in cases {
            let mut config = saved();
            *config.pointer_mut(at).unwrap() = value;
            let error = configuration(&config, &disk(), &is_same, own).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let error = arguments(&["ch".to_owned()], Path::new("/a,b/s"), None, true).unwrap_err();
        assert!(error.to_string().contains("/a,b/s"), "{error}");
        let nothing = arguments(&[], Path::new("/s"), None, true);
        assert_eq!(nothing, Err(Unlaunchable::NoCommandLine));
    }

    #[test]
    fn the_process_gets_its_own_options_again_and_none_of_the_guests() {
        let recorded = "ch --api-socket path=/run/s --seccomp=log -v --kernel /k --disk path=a path=b --log-file /l \
                        --restore source_url=file:///old --serial tty";
        let words: Vec<String> = recorded.split_whitespace().map(str::to_owned).collect();
        let line = |state, is_copy| {
            arguments(&words, Path::new("/r/s"), state, is_copy)
                .unwrap()
                .join(" ")
        };
        assert_eq!(
            line(Some(Path::new("/r/state")), true),
            "--seccomp log -v --api-socket path=/r/s --restore source_url=file:///r/state"
        );
        assert_eq!(
            line(None, false),
            "--seccomp log -v --log-file /l --api-socket path=/r/s"
        );
    }
}
