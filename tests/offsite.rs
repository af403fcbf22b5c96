//! `contrib/hooks/restic` with the real restic: what a post-hook took off the host comes back, listed and bootable, after
//! the store was lost; and nothing takes the snapshot away while it is read.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::cli::Host;
use support::manual::examples;
use support::skip::skipped;
use support::throwaway::text;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn hook() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/hooks/restic")
}

/// A restic repository that is empty; nothing where there is no restic.
struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn create() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let repository = Self { dir };
        if Command::new("restic").arg("version").output().is_err() {
            skipped("backups with restic: install the Debian package restic");
            return None;
        }
        repository.restic(&["init"]);
        Some(repository)
    }

    /// Gives `command` what the hook hands on to restic.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("RESTIC_REPOSITORY", self.dir.path().join("repository"))
            .env("RESTIC_CACHE_DIR", self.dir.path().join("cache"))
            .env("RESTIC_PASSWORD", "sesame")
    }

    fn restic(&self, args: &[&str]) -> String {
        let output = self
            .environment(&mut Command::new("restic"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn snapshot_of_a_running_guest_comes_back_from_restic() {
    let Some(repository) = Repository::create() else {
        return;
    };
    let host = VmHost::boot(TOOL, &std::env::temp_dir(), |options| {
        options.ram_mib = 64;
        options.disk_mib = 8;
        options.guest.window_mib = 4;
    });
    let hook = hook();
    let set = ["set", ID, "--interval", "1h", "--max-count", "1"];
    let hooks = [
        "--post-hook",
        hook.to_str().unwrap(),
        "--hook-timeout",
        "10m",
    ];
    host.tool_ok(&[&set[..], &hooks].concat());
    let mut ids = Vec::new();
    for _ in 0..2 {
        let output = repository
            .environment(&mut host.command())
            .args(["-o", "json", "run-due", "--force"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        ids.push(
            report["results"][0]["snapshot_id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    // Retention has removed the first one here; the repository has both, by the instance's tag.
    assert_eq!(host.store_names(), ids[1..]);
    let backups: serde_json::Value =
        serde_json::from_str(&repository.restic(&["snapshots", "--json", "--tag", ID])).unwrap();
    assert_eq!(backups.as_array().unwrap().len(), 2, "{backups}");

    // The host's store is lost. Restored beside it and renamed into place, so that no half of one is ever listed.
    fs::remove_dir_all(host.snapshot_dir(&ids[1])).unwrap();
    let as_printed = |example: &str| {
        let script = example.replace("/var/lib/hypeman", host.data_dir().to_str().unwrap());
        let mut shell = Command::new("sh");
        host.environment(&mut shell);
        let tool = Path::new(TOOL).parent().unwrap().display();
        let output = repository
            .environment(&mut shell)
            .env("PATH", format!("{tool}:/usr/bin:/bin"))
            .args(["-euc", &script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
    };
    for (id, backup) in ids.iter().zip(backups.as_array().unwrap()) {
        let script = script_of_the_page("restic restore");
        let backup = backup["id"].as_str().unwrap();
        as_printed(&script.replace("BACKUP", backup).replace("SNAPSHOT", id));
    }
    // Both are of today.
    as_printed(&script_of_the_page("restic forget"));
    let kept: serde_json::Value =
        serde_json::from_str(&repository.restic(&["snapshots", "--json"])).unwrap();
    assert_eq!(kept.as_array().unwrap().len(), 1, "{kept}");
    let listed: Vec<String> = host
        .snapshots()
        .iter()
        .map(|snapshot| {
            assert!(snapshot["unusable"].is_null(), "{snapshot}");
            snapshot["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(listed, ids);
    for id in &ids {
        host.assert_goes_on(id);
    }
}

/// Without a repository: what restic says is the run's error, the failed run keeps its snapshot.
#[test]
fn backup_that_fails_is_the_error_of_the_run() {
    let Some(repository) = Repository::create() else {
        return;
    };
    fs::remove_dir_all(repository.dir.path().join("repository")).unwrap();
    let host = Host::with_two_instances(TOOL);
    let hook = hook();
    host.run(&[
        "set",
        "web-a",
        "--interval",
        "1h",
        "--max-count",
        "1",
        "--post-hook",
        hook.to_str().unwrap(),
    ])
    .exits(0);
    let output = repository
        .environment(&mut host.std_command())
        .args(["run-due", "--force"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("unable to open config file"),
        "{}",
        text(&output)
    );
    assert_eq!(host.snapshots().len(), 1);
}

/// A hook that reads for long: neither this run's retention nor a prune by hand removes the snapshot meanwhile.
#[test]
fn snapshot_stays_while_its_post_hook_reads_it() {
    let host = Host::with_two_instances(TOOL);
    // With two that retention would remove, and one that is new.
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "1"])
        .exits(0);
    host.run(&["run-due", "--force", "--instance", "web-a"])
        .exits(0);
    let tool = TOOL;
    let script = format!(
        "ls $HYPEMAN_SNAP_DATA_DIR/snapshots >{0}/before; {tool} --lock-timeout 100ms prune web-a; echo $? >{0}/code; \
         ls $HYPEMAN_SNAP_DATA_DIR/snapshots >{0}/after",
        host.dir().display()
    );
    host.run(&[
        "set",
        "web-a",
        "--interval",
        "1h",
        "--max-count",
        "1",
        "--post-hook",
        &format!("sh -c '{script}'"),
    ])
    .exits(0);
    host.run(&["run-due", "--force", "--instance", "web-a"])
        .exits(0);
    let read = |name: &str| fs::read_to_string(host.dir().join(name)).unwrap();
    assert_eq!(read("code"), "4\n");
    assert_eq!(read("before").lines().count(), 2);
    assert_eq!(read("before"), read("after"));
    assert_eq!(host.snapshots().len(), 1);
}

/// The example of hypeman-snap-offsite(7) that has these words in it: what is typed, or else the text of the file.
fn script_of_the_page(words: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/hypeman-snap-offsite.7");
    let page = fs::read_to_string(page).unwrap();
    examples(&page)
        .into_iter()
        .filter(|example| example.needs.as_deref() == Some("another host"))
        .map(|example| match example.script.as_str() {
            "" => example.shown.join("\n"),
            _ => example.script,
        })
        .find(|script| script.contains(words))
        .unwrap_or_else(|| panic!("no example with {words:?}"))
}

fn write_program(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The scripts as they are printed, but for directories of this host; another host is a directory that `ssh` runs in.
#[test]
fn scripts_of_the_manual_page_copy_a_snapshot_that_is_the_same() {
    for (program, words, prepare, back) in [
        (
            "borg",
            "exec borg",
            "borg init --encryption repokey ssh://backup@vault.example.com/./vms",
            "cd back && borg extract --sparse ::$(borg list --short)",
        ),
        ("rclone", "exec rclone", "", "cp -r vault/vms/$ID/. back"),
        (
            "rsync",
            "rsync --archive",
            "mkdir -p vault/vms",
            "cp -r vault/vms/$ID/. back",
        ),
    ] {
        if Command::new(program).arg("--version").output().is_err() {
            skipped(&format!(
                "copies with {program}: install its Debian package"
            ));
            continue;
        }
        let host = Host::with_two_instances(TOOL);
        let at = |name: &str| host.dir().join(name);
        for name in ["bin", "vault", "back", "cache"] {
            fs::create_dir(at(name)).unwrap();
        }
        write_program(
            &at("bin/ssh"),
            "#!/bin/sh\nwhile :; do case $1 in -[lop]) shift 2 ;; -*) shift ;; *) break ;; esac; done\n\
             shift; cd \"$VAULT\" && exec sh -c \"$*\"\n",
        );
        fs::write(at("borg-password"), "sesame").unwrap();
        fs::write(
            at("rclone.conf"),
            format!(
                "[vault]\ntype = alias\nremote = {}\n",
                at("vault").display()
            ),
        )
        .unwrap();
        let dir = host.dir().to_str().unwrap();
        let script = script_of_the_page(words)
            .replace("/var/lib/hypeman", host.data_dir().to_str().unwrap())
            .replace("/etc/credstore", dir)
            .replace("/etc", dir)
            .replace("/var/cache/borg", &format!("{dir}/cache"));
        write_program(&at("hook"), &script);
        let environment = |command: &mut Command| {
            command
                .current_dir(dir)
                .env("PATH", format!("{dir}/bin:/usr/bin:/bin"))
                .env("VAULT", at("vault"))
                .env("BORG_REPO", "ssh://backup@vault.example.com/./vms")
                .env("BORG_PASSPHRASE", "sesame")
                .env("BORG_BASE_DIR", at("cache"));
        };
        let shell = |script: &str, id: &str| {
            let mut command = Command::new("sh");
            environment(&mut command);
            let output = command
                .args(["-euc", script])
                .env("ID", id)
                .output()
                .unwrap();
            assert!(output.status.success(), "{program}: {}", text(&output));
        };
        shell(prepare, "");
        host.run(&[
            "set",
            "web-a",
            "--interval",
            "1h",
            "--max-count",
            "2",
            "--post-hook",
            at("hook").to_str().unwrap(),
        ])
        .exits(0);
        let mut command = host.std_command();
        environment(&mut command);
        let output = command.args(["run-due", "--force"]).output().unwrap();
        assert!(output.status.success(), "{program}: {}", text(&output));
        let id = host.snapshots().remove(0);
        shell(back, &id);
        let stored = host.data_dir().join("snapshots").join(&id);
        shell(&format!("diff -r back {}", stored.display()), &id);
    }
}
