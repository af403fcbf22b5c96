//! Firecracker from a snapshot: a fresh process that is asked to load the saved state and told where the disks are now,
//! or to boot with the configuration that it told at capture (docs/snapshotting/snapshot-support.md and
//! src/firecracker/swagger/firecracker.yaml in its sources).

use std::path::Path;

use serde_json::{Value, json};

use super::rehearsal::Tap;
use super::{IsSame, Method, Moved, Moves, Request, Unlaunchable, kept, options};

/// Options of the process itself that a copy gets as well.
const KEPT: [&str; 9] = [
    "--http-api-max-payload-size",
    "--id",
    "--level",
    "--mmds-size-limit",
    "--module",
    "--no-seccomp",
    "--seccomp-filter",
    "--show-level",
    "--show-log-origin",
];
/// Options that make up the guest: a saved one has them already.
const KEPT_AT_BOOT: [&str; 2] = ["--enable-pci", "--metadata"];
/// Options with files of the VM's own.
const KEPT_IN_PLACE: [&str; 2] = ["--log-path", "--metrics-path"];
/// What takes no value, so that the word behind it is none.
const ALONE: [&str; 4] = [
    "--enable-pci",
    "--no-seccomp",
    "--show-level",
    "--show-log-origin",
];
/// The first version that can be told another place of the vsock, and to set the guest's clock.
const OVERRIDES: [u64; 2] = [1, 16];
/// What of the configuration is one thing, and where it is put.
const SINGLE: [(&str, &str); 8] = [
    ("boot-source", "/boot-source"),
    ("machine-config", "/machine-config"),
    ("cpu-config", "/cpu-config"),
    ("vsock", "/vsock"),
    ("balloon", "/balloon"),
    ("entropy", "/entropy"),
    ("mmds-config", "/mmds/config"),
    ("memory-hotplug", "/hotplug/memory"),
];
/// What of it is a list, and where each is put, behind its id.
const LISTS: [(&str, &str, &str); 3] = [
    ("drives", "/drives", "drive_id"),
    ("network-interfaces", "/network-interfaces", "iface_id"),
    ("pmem", "/pmem", "id"),
];

/// What a version can be told while it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrides {
    /// Another place of the vsock, and to set the guest's clock by the host's.
    pub are_known: bool,
}

impl Overrides {
    /// Those of the version with these numbers.
    pub fn of(version: &[u64]) -> Self {
        Self {
            are_known: version >= &OVERRIDES[..],
        }
    }
}

/// The command line, without the program's name. `boots` says whether the guest is not loaded from its memory, `is_copy`
/// whether the first VM goes on using its files.
///
/// # Errors
/// When nothing was recorded.
pub fn arguments(
    recorded: &[String],
    socket: &Path,
    boots: bool,
    is_copy: bool,
) -> Result<Vec<String>, Unlaunchable> {
    let options: Vec<_> = options(recorded)?
        .into_iter()
        .map(|(name, value)| (name, value.filter(|_| !ALONE.contains(&name))))
        .collect();
    let at_boot = if boots { &KEPT_AT_BOOT[..] } else { &[] };
    let in_place = if is_copy { &[][..] } else { &KEPT_IN_PLACE };
    let mut arguments = kept(&options, &[&KEPT, at_boot, in_place]);
    arguments.push("--api-sock".to_owned());
    arguments.push(socket.display().to_string());
    Ok(arguments)
}

/// What loads a guest from `state` and `memory`: it waits to be told to go on. For a copy, `own` is its directory, and its
/// disks are elsewhere now.
///
/// # Errors
/// When it can't be told where something is.
pub fn load(
    config: Option<&Value>,
    (state, memory): (&Path, &Path),
    disks: &[Moved],
    is_same: IsSame<'_>,
    own: Option<&Path>,
    overrides: Overrides,
) -> Result<Vec<Request>, Unlaunchable> {
    let section = |key: &str| config.map_or(&Value::Null, |config| &config[key]);
    let huge_pages = section("machine-config")["huge_pages"].as_str();
    if huge_pages.is_some_and(|size| size != "None") {
        return Err(Unlaunchable::HugePages);
    }
    let mut body = json!({
        "snapshot_path": state,
        "mem_backend": {"backend_type": "File", "backend_path": memory},
        "resume_vm": false,
    });
    if overrides.are_known {
        body["clock_realtime"] = json!(cfg!(target_arch = "x86_64"));
    }
    if let (true, true, Some(own)) = (overrides.are_known, section("vsock").is_object(), own) {
        body["vsock_override"] = json!({"uds_path": own.join("vsock.sock")});
    }
    let mut requests = vec![Request::new(Method::Put, "/snapshot/load", Some(body))];
    if own.is_some() {
        let config = config.ok_or(Unlaunchable::NoConfiguration)?;
        let entries = |list: &str| config[list].as_array().map_or(&[][..], Vec::as_slice);
        for disk in disks {
            let is_it = |entry: &&Value| {
                let path = entry["path_on_host"].as_str();
                path.is_some_and(|path| is_same(path, &disk.from))
            };
            if let Some(pmem) = entries("pmem").iter().find(is_it) {
                let id = pmem["id"].as_str().unwrap_or("pmem");
                return Err(Unlaunchable::Immovable(id.to_owned()));
            }
            let drive = entries("drives").iter().find(is_it);
            let id = drive.and_then(|drive| drive["drive_id"].as_str());
            let id = id.ok_or_else(|| Unlaunchable::UnnamedDisk(disk.from.clone()))?;
            let body = json!({"drive_id": id, "path_on_host": disk.to});
            let path = format!("/drives/{id}");
            requests.push(Request::new(Method::Patch, &path, Some(body)));
        }
    }
    Ok(requests)
}

/// The taps that a guest expects.
pub fn taps(config: Option<&Value>) -> Vec<Tap> {
    let nets = config.and_then(|config| config["network-interfaces"].as_array());
    let names = nets.into_iter().flatten();
    let names = names.filter_map(|net| net["host_dev_name"].as_str());
    let tap = |name: &str| Tap {
        name: name.to_owned(),
        is_multi_queue: false,
    };
    names.map(tap).collect()
}

/// How much memory a guest has, in bytes; 0 where that is not known.
pub fn memory_bytes(config: Option<&Value>) -> u64 {
    let mib = config.and_then(|config| config["machine-config"]["mem_size_mib"].as_u64());
    mib.unwrap_or(0).saturating_mul(1 << 20)
}

/// Requires that a copy beside the first VM writes to none of its disks.
///
/// # Errors
/// When there is no copy of a disk that it writes to.
pub fn require_copies(
    config: Option<&Value>,
    disks: &[Moved],
    is_same: IsSame<'_>,
) -> Result<(), Unlaunchable> {
    let config = config.ok_or(Unlaunchable::NoConfiguration)?;
    let entries = |list: &str| config[list].as_array().map_or(&[][..], Vec::as_slice);
    let mut refused = Vec::new();
    for (list, key) in [("drives", "is_read_only"), ("pmem", "read_only")] {
        for entry in entries(list) {
            let path = entry["path_on_host"].as_str();
            let is_copy =
                path.is_some_and(|path| disks.iter().any(|disk| is_same(path, &disk.from)));
            if !is_copy && entry[key] != true {
                let path = path.unwrap_or("that another process serves");
                refused.push(format!("{list} {path} (it is not in the snapshot)"));
            }
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Unlaunchable::Unknown(refused))
}

/// What lets a loaded guest go on.
pub fn resume() -> Request {
    let body = json!({"state": "Resumed"});
    Request::new(Method::Patch, "/vm", Some(body))
}

/// What boots a guest with the configuration that Firecracker told, with the disks where they are now.
///
/// # Errors
/// When that is not known, or does not name a disk.
pub fn boot(
    config: Option<&Value>,
    disks: &[Moved],
    is_same: IsSame<'_>,
    own: Option<&Path>,
) -> Result<Vec<Request>, Unlaunchable> {
    let mut config = config.ok_or(Unlaunchable::NoConfiguration)?.clone();
    let kernel = config["boot-source"]["kernel_image_path"].as_str();
    // One that was itself loaded from a snapshot does not know what it was booted from.
    if kernel.is_none_or(str::is_empty) {
        return Err(Unlaunchable::NoConfiguration);
    }
    let mut moves = Moves::new(disks, is_same);
    for list in ["drives", "pmem"] {
        let entries = config.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(path) = entry.get_mut("path_on_host") {
                moves.apply(path);
            }
        }
    }
    moves.finish()?;
    if let Some(own) = own {
        if let Some(vsock) = config.get_mut("vsock").filter(|it| it.is_object()) {
            vsock["uds_path"] = json!(own.join("vsock.sock"));
        }
    }
    let mut requests = Vec::new();
    for (key, path) in SINGLE {
        if !config[key].is_null() {
            requests.push(Request::new(Method::Put, path, Some(config[key].clone())));
        }
    }
    for (key, path, id) in LISTS {
        for entry in config[key].as_array().into_iter().flatten() {
            let name = entry[id].as_str().ok_or(Unlaunchable::NoConfiguration)?;
            let path = format!("{path}/{name}");
            requests.push(Request::new(Method::Put, &path, Some(entry.clone())));
        }
    }
    let start = json!({"action_type": "InstanceStart"});
    requests.push(Request::new(Method::Put, "/actions", Some(start)));
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({
            "balloon": null,
            "boot-source": {"kernel_image_path": "/k"},
            "drives": [{"drive_id": "root", "path_on_host": "a.raw"}],
            "machine-config": {"vcpu_count": 1, "huge_pages": "None"},
            "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}],
            "pmem": [],
            "vsock": {"guest_cid": 3, "uds_path": "/srv/v.sock"},
            "logger": null,
        })
    }

    fn disk() -> Vec<Moved> {
        vec![Moved {
            from: "/srv/a.raw".into(),
            to: "/r/a.raw".into(),
        }]
    }

    fn is_same(typed: &str, disk: &Path) -> bool {
        Path::new("/srv").join(typed) == disk
    }

    fn loaded(version: &[u64], own: Option<&Path>) -> Vec<Request> {
        let files = (Path::new("/r/state"), Path::new("/r/memory"));
        let overrides = Overrides::of(version);
        load(Some(&config()), files, &disk(), &is_same, own, overrides).unwrap()
    }

    #[test]
    fn a_copy_is_told_where_its_disks_are_before_it_goes_on() {
        let requests = loaded(&[1, 17, 0], Some(Path::new("/r")));
        let body = requests[0].body.as_ref().unwrap();
        assert_eq!(
            (&body["resume_vm"], &body["vsock_override"]["uds_path"]),
            (&json!(false), &json!("/r/vsock.sock"))
        );
        assert_eq!(body["clock_realtime"], cfg!(target_arch = "x86_64"));
        assert_eq!(
            (requests[1].method, requests[1].path.as_str()),
            (Method::Patch, "/drives/root")
        );
        assert_eq!(
            requests[1].body.as_ref().unwrap()["path_on_host"],
            "/r/a.raw"
        );
        assert_eq!(requests.len(), 2);
    }

    #[test]
    fn what_a_version_does_not_know_is_not_said_to_it_and_in_place_nothing_moves() {
        let old = loaded(&[1, 15, 1], Some(Path::new("/r")));
        let body = old[0].body.as_ref().unwrap();
        assert!(body.get("vsock_override").is_none() && body.get("clock_realtime").is_none());
        let in_place = loaded(&[2], None);
        assert_eq!(in_place.len(), 1);
        let body = in_place[0].body.as_ref().unwrap();
        assert!(body.get("vsock_override").is_none());
    }

    #[test]
    fn a_boot_puts_each_part_of_the_configuration_and_starts_it() {
        let requests = boot(Some(&config()), &disk(), &is_same, Some(Path::new("/r"))).unwrap();
        let paths: Vec<&str> = requests.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/boot-source",
                "/machine-config",
                "/vsock",
                "/drives/root",
                "/network-interfaces/eth0",
                "/actions"
            ]
        );
        assert_eq!(
            requests[3].body.as_ref().unwrap()["path_on_host"],
            "/r/a.raw"
        );
        assert_eq!(
            requests[2].body.as_ref().unwrap()["uds_path"],
            "/r/vsock.sock"
        );
    }

    #[test]
    fn what_can_not_be_told_or_is_not_known_is_an_error() {
        let files = (Path::new("/s"), Path::new("/m"));
        let own = Some(Path::new("/r"));
        let known = Overrides { are_known: true };
        let mut pmem = config();
        pmem["pmem"] = json!([{"id": "p0", "path_on_host": "a.raw"}]);
        let error = load(Some(&pmem), files, &disk(), &is_same, own, known);
        assert_eq!(error, Err(Unlaunchable::Immovable("p0".to_owned())));
        let mut huge = config();
        huge["machine-config"]["huge_pages"] = json!("2M");
        let error = load(Some(&huge), files, &[], &is_same, own, known);
        assert_eq!(error, Err(Unlaunchable::HugePages));
        let error = boot(None, &[], &is_same, own);
        assert_eq!(error, Err(Unlaunchable::NoConfiguration));
        let mut loaded = config();
        loaded["boot-source"]["kernel_image_path"] = json!("");
        let error = boot(Some(&loaded), &disk(), &is_same, own);
        assert_eq!(error, Err(Unlaunchable::NoConfiguration));
        let mut other = config();
        other["drives"][0]["path_on_host"] = json!("/b.raw");
        let error = boot(Some(&other), &disk(), &is_same, own);
        assert_eq!(error, Err(Unlaunchable::UnnamedDisk("/srv/a.raw".into())));
    }

    #[test]
    fn the_process_gets_its_own_options_again_and_none_of_the_guests() {
        let recorded = "fc --no-seccomp --api-sock /run/s --id vm-a --config-file /c --enable-pci --log-path /l";
        let words: Vec<String> = recorded.split_whitespace().map(str::to_owned).collect();
        let line = |boots, is_copy| {
            arguments(&words, Path::new("/r/s"), boots, is_copy)
                .unwrap()
                .join(" ")
        };
        assert_eq!(line(false, true), "--no-seccomp --id vm-a --api-sock /r/s");
        assert_eq!(
            line(true, false),
            "--no-seccomp --id vm-a --enable-pci --log-path /l --api-sock /r/s"
        );
    }
}
