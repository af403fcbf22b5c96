//! The place where a VMM of another user hands its saved state over lies where others can write: what they put there is
//! neither removed nor given away, and what the VMM says of its size is not believed.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::canary::Canary;
use support::cli::{Host, Said};
use support::hostile::{Act, Hostile, NOBODY, Place, Program, Script};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
/// The VMMs that write files by themselves.
const PROGRAMS: [Program; 2] = [Program::Firecracker, Program::CloudHypervisor];
/// The tool's directory beside the VMM's socket.
const NAME: &str = ".hypeman-snap";

/// Registers and schedules a VMM that does everything right but for what `change` makes of its script.
fn add(
    host: &Host,
    id: &str,
    program: Program,
    change: impl FnOnce(Script) -> Script,
) -> Option<Hostile> {
    let place = Place::new("a handover of a hostile VMM")?;
    let disk: PathBuf = place.disk("disk.raw", "the disk");
    let vmm = Hostile::start(place, &change(Script::well_behaved(program, &[disk])));
    host.register(id, program.hypervisor(), &vmm.socket());
    Some(vmm)
}

/// Runs `run-due --force`, in which the instance `bad` fails and `good` does not.
fn run(host: &Host) -> Said {
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
    let results = said.json()["results"].clone();
    let outcome = |id: &str| -> Value {
        let results = results.as_array().unwrap();
        let result = results.iter().find(|it| it["instance_id"] == id);
        result.unwrap()["outcome"].clone()
    };
    assert_eq!(outcome("bad"), "failed", "{said:?}");
    assert_eq!(outcome("good"), "snapshotted", "{said:?}");
    said
}

#[test]
fn what_others_put_in_its_place_is_neither_removed_nor_given_away() {
    for program in PROGRAMS {
        let canary = Canary::new();
        type Trick = fn(&Path, &Canary);
        let tricks: [(&str, Trick); 4] = [
            ("holds something else", |own, _| {
                fs::create_dir(own).unwrap();
                fs::write(own.join("precious"), "x").unwrap();
            }),
            ("belongs to user 65534", |own, _| {
                fs::create_dir_all(own.join("saved-state")).unwrap();
                fs::write(own.join("saved-state/precious"), "x").unwrap();
                chown(own, Some(NOBODY), Some(NOBODY)).unwrap();
            }),
            ("others can write to it", |own, _| {
                fs::create_dir_all(own.join("saved-state")).unwrap();
                fs::write(own.join("saved-state/precious"), "x").unwrap();
                fs::set_permissions(own, fs::Permissions::from_mode(0o777)).unwrap();
            }),
            ("is no directory", |own, canary| {
                symlink(canary.path(), own).unwrap();
            }),
        ];
        for (reason, trick) in tricks {
            let host = Host::new(TOOL);
            let Some(bad) = add(&host, "bad", program, |script| script) else {
                return;
            };
            let _good = add(&host, "good", program, |script| script).unwrap();
            let own = bad.dir().join(NAME);
            trick(&own, &canary);
            let before = fs::symlink_metadata(&own).unwrap();
            run(&host).complains(&[NAME, reason, "remove or rename it"]);
            let after = fs::symlink_metadata(&own).unwrap();
            assert_eq!(
                (before.ino(), before.uid(), before.mode()),
                (after.ino(), after.uid(), after.mode()),
                "{reason}"
            );
            for name in ["precious", "saved-state/precious"] {
                let path = own.join(name);
                assert!(!path.exists() || fs::read_to_string(path).unwrap() == "x");
            }
            assert_eq!(
                fs::read_dir(&own).unwrap().count(),
                if own.is_symlink() { 4 } else { 1 }
            );
            // The guest was never paused for it.
            assert_eq!(bad.count("Paused") + bad.count("vm.pause"), 0, "{reason}");
        }
    }
}

#[test]
fn a_vmm_that_swaps_the_directory_in_the_save_loses_its_own_snapshot_alone() {
    for program in PROGRAMS {
        let canary = Canary::new();
        let host = Host::new(TOOL);
        let save = match program {
            Program::Firecracker => "mem_file_path",
            Program::CloudHypervisor | Program::Qemu => "PUT /api/v1/vm.snapshot ",
        };
        // It can rename what stands in its directory, and not what the tool holds.
        let swap = format!("mv {NAME} aside; ln -s {} {NAME}", canary.path().display());
        let Some(bad) = add(&host, "bad", program, |script| {
            script.on(&[save], &[Act::Run(swap), Act::Http(204, String::new())])
        }) else {
            return;
        };
        let _good = add(&host, "good", program, |script| script).unwrap();
        run(&host);
        canary.assert_untouched();
        assert!(bad.dir().join("aside").is_dir());
        assert!(bad.dir().join(NAME).is_symlink());
        assert_eq!(host.snapshots().len(), 1);
    }
}

#[test]
fn a_memory_size_that_no_memory_has_is_refused_before_the_pause() {
    let host = Host::new(TOOL);
    for size in [1_u64 << 44, u64::MAX] {
        let Some(bad) = add(&host, "bad", Program::Firecracker, |script| {
            let config = json!({"drives": [], "machine-config": {"mem_size_mib": size}});
            script.on(&["GET /vm/config "], &[Act::Http(200, config.to_string())])
        }) else {
            return;
        };
        let good = add(&host, "good", Program::Firecracker, |script| script);
        run(&host).complains(&["MiB of memory"]);
        assert_eq!(bad.count("Paused"), 0);
        drop(good);
        for id in ["bad", "good"] {
            host.run(&["unregister", id]).exits(0);
        }
    }
}
