//! `contrib/systemd` under systemd itself: the units are valid and confined, and in a throw-away copy of this machine, booted
//! with systemd, the confined service does all that it is there for.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::fake_hypeman::{FakeHypeman, KEY};
use support::fake_vmm::{Dialect, FakeVmm, Fault, Guest, Request};
use support::guests::write_stopped;
use support::linux_guest::LinuxGuest;
use support::skip::skipped;
use support::throwaway::{Throwaway, text};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn unit(name: &str) -> PathBuf {
    Path::new(PROJECT).join("contrib/systemd").join(name)
}

/// Runs systemd-analyze; nothing where there is none.
fn analyze(args: &[&str]) -> Option<Output> {
    let output = Command::new("systemd-analyze").args(args).output();
    if output.is_err() {
        skipped("the units: install the Debian package systemd");
    }
    output.ok()
}

fn is_silent(output: &Output) -> bool {
    output.stdout.is_empty() && output.stderr.is_empty()
}

#[test]
fn units_are_valid() {
    // A root directory with systemd's own units, ours, and the program, so that what is installed here does not count.
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("usr/bin");
    let units = root.path().join("etc/systemd/system");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&units).unwrap();
    fs::write(bin.join("hypeman-snap"), "").unwrap();
    fs::set_permissions(bin.join("hypeman-snap"), fs::Permissions::from_mode(0o755)).unwrap();
    let names = [
        "hypeman-snap.service",
        "hypeman-snap.timer",
        "hypeman-snap-rehearse.service",
        "hypeman-snap-rehearse.timer",
    ];
    for name in names {
        fs::copy(unit(name), units.join(name)).unwrap();
    }
    let own = Path::new("usr/lib/systemd/system");
    fs::create_dir_all(root.path().join(own)).unwrap();
    for entry in fs::read_dir(Path::new("/").join(own)).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), root.path().join(own).join(entry.file_name())).unwrap();
        }
    }
    let root = format!("--root={}", root.path().display());
    let verify = [&["verify", "--man=no", &root], &names[..]].concat();
    let Some(output) = analyze(&verify) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    // What it ignores, such as a setting that it does not know, it only warns of.
    assert!(is_silent(&output), "{}", text(&output));
}

#[test]
fn services_are_exposed_to_3_2_and_4_2_at_most() {
    for (name, most) in [("hypeman-snap", 32), ("hypeman-snap-rehearse", 42)] {
        let service = unit(&format!("{name}.service"));
        let service = service.to_str().unwrap();
        let most = format!("--threshold={most}");
        let Some(output) = analyze(&["security", "--offline=true", &most, service]) else {
            return;
        };
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}

/// The words behind `ExecStart=` and the like, without the program.
fn arguments(setting: &str) -> Vec<String> {
    let service = fs::read_to_string(unit("hypeman-snap.service")).unwrap();
    let line = service
        .lines()
        .find_map(|line| line.strip_prefix(setting)?.strip_prefix('='))
        .unwrap();
    let mut words = line.split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("hypeman-snap"));
    words.collect()
}

#[test]
fn command_lines_of_the_service_work_as_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_stopped(&data, "web0", "web");
    let tool = |args: &[String]| {
        let output = Command::new(TOOL)
            .args(args)
            .env("HYPEMAN_SNAP_STATE_DIR", dir.path().join("state"))
            .env("HYPEMAN_SNAP_DATA_DIR", &data)
            .env("HYPEMAN_SNAP_ENGINE", "local")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        output
    };
    let set = ["set", "web", "--interval", "1h", "--max-count", "1"];
    tool(&set.map(str::to_owned));
    for setting in ["ExecStart", "ExecStopPost"] {
        let output = tool(&arguments(setting));
        assert!(is_silent(&output), "nothing was due: {}", text(&output));
    }
}

/// The environment file is documentation of what it may set: all that the tool knows, and nothing else.
#[test]
fn environment_file_names_the_variables_that_the_tool_knows() {
    let help = Command::new(TOOL).args(["run-due", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    // Long lines are wrapped.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut known: Vec<&str> = help
        .split("[env: ")
        .skip(1)
        .map(|rest| rest.split(']').next().unwrap())
        .collect();
    // These have no flag of run-due; the key itself belongs in no file that others read.
    known.extend([
        "HYPEMAN_API_KEY_FILE",
        "HYPEMAN_SNAP_DISK_ROOTS",
        "HYPEMAN_SNAP_MIN_FREE",
    ]);
    known.sort_unstable();
    let file = fs::read_to_string(Path::new(PROJECT).join("contrib/default/hypeman-snap")).unwrap();
    let mut named: Vec<&str> = file
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("HYPEMAN_"))
        .collect();
    named.sort_unstable();
    assert_eq!(named, known);
}

/// Installs the tool and the units as they stand.
const INSTALL: &str = r#"
install -m 0755 "$SHARED/hypeman-snap" /usr/local/bin/hypeman-snap
install -m 0644 "$PROJECT"/contrib/systemd/hypeman-snap* /etc/systemd/system/
rm -rf /etc/default/hypeman-snap /etc/credstore /var/lib/hypeman /var/lib/hypeman-snap
systemctl daemon-reload

schedules=/var/lib/hypeman-snap/snapshot-schedules
# schedule INSTANCE FLAG…: gives it a schedule that is due.
schedule() {
  hypeman-snap set "$1" --interval 1h --max-count 3 "${@:2}" >&2
  sed -i 's/"next_run_at": "[^"]*"/"next_run_at": "2026-01-01T00:00:00Z"/' "$schedules"/*.json
}
service() { systemctl "$@" hypeman-snap.service; }
property() { service show --property="$1" --value; }
is_at_rest() { case $(property ActiveState) in inactive | failed) ;; *) return 1 ;; esac; }
# eventually COMMAND…: waits until it succeeds, for longer than a timer's minute.
eventually() {
  for _ in $(seq 900); do
    ! "$@" || return 0
    sleep 0.1
  done
  echo "did not happen: $*" >&2
  journal >&2
  return 1
}
journal() { journalctl --sync; journalctl --unit=hypeman-snap.service --output=cat "$@"; }
"#;

fn machine() -> Throwaway {
    let machine = Throwaway::create();
    machine.share(Path::new(TOOL), "hypeman-snap");
    machine
}

/// Boots it with tool and units installed and runs the script, which must succeed; nothing where that is not possible.
fn boot(machine: &Throwaway, script: &str) -> Option<String> {
    let output = machine.boot(&format!("{INSTALL}{script}"))?;
    assert!(output.status.success(), "{}", text(&output));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn timer_lets_the_service_take_a_due_snapshot_within_a_minute() {
    let machine = machine();
    write_stopped(&machine.shared().join("data"), "web0", "web");
    let Some(said) = boot(
        &machine,
        r#"
        cp -r "$SHARED/data" /var/lib/hypeman
        sed -i "s,$SHARED/data,/var/lib/hypeman," /var/lib/hypeman/guests/*/metadata.json
        # What is not given to every service: a hook, and a directory that is there on hosts with node-exporter.
        mkdir -p /var/lib/prometheus/node-exporter
        metrics=/var/lib/prometheus/node-exporter/hypeman-snap.prom
        echo "HYPEMAN_SNAP_METRICS_FILE=$metrics" >/etc/default/hypeman-snap
        schedule web --pre-hook "sh -c 'cat /proc/self/oom_score_adj >/var/lib/hypeman/hooked'"
        systemctl enable --now hypeman-snap.timer
        has_run() { [ "$(property ExecMainStartTimestampMonotonic)" != 0 ]; }
        eventually has_run
        eventually is_at_rest
        property Result
        hypeman-snap snapshots --output json | grep -c source_instance_id
        stat --format=%a /var/lib/hypeman-snap
        cat /var/lib/hypeman/hooked
        property MemoryMax
        grep -c '^# TYPE hypeman_snap_' "$metrics" >"$SHARED/metrics"
        journal >"$SHARED/journal"
        # A minute in which nothing is due leaves no trace.
        systemctl stop hypeman-snap.timer
        service start
        journal | cmp - "$SHARED/journal"
        "#,
    ) else {
        return;
    };
    // The kernel spares no run for which it would kill a VM, and no run takes all of the memory.
    assert_eq!(said, "success\n1\n700\n0\n2147483648\n");
    let journal = machine.read("journal");
    assert!(journal.contains("web"), "{journal}");
    assert!(!journal.contains("Starting"), "{journal}");
}

/// A oneshot service is started no second time while it works: its run takes up what becomes due meanwhile, although
/// `--jobs` allows one at a time.
#[test]
fn one_long_run_does_not_stall_the_others() {
    let machine = machine();
    write_stopped(&machine.shared().join("data"), "slow0", "slow");
    write_stopped(&machine.shared().join("data"), "quick0", "quick");
    let Some(said) = boot(
        &machine,
        r#"
        cp -r "$SHARED/data" /var/lib/hypeman
        sed -i "s,$SHARED/data,/var/lib/hypeman," /var/lib/hypeman/guests/*/metadata.json
        mkdir /etc/systemd/system/hypeman-snap.service.d
        printf '[Service]\nExecStart=\nExecStart=/usr/local/bin/hypeman-snap run-due --jobs 1\n' \
          >/etc/systemd/system/hypeman-snap.service.d/jobs.conf
        systemctl daemon-reload
        hook='touch /var/lib/hypeman/began; until [ -e /var/lib/hypeman/over ]; do sleep 0.1; done'
        schedule slow --pre-hook "sh -c '$hook'" --hook-timeout 10m
        service start --no-block
        eventually test -e /var/lib/hypeman/began
        schedule quick
        has_quick() { hypeman-snap snapshots quick --output json | grep --quiet source_instance_id; }
        eventually has_quick
        property ActiveState
        touch /var/lib/hypeman/over
        eventually is_at_rest
        property Result
        hypeman-snap snapshots --output json | grep -c source_instance_id
        "#,
    ) else {
        return;
    };
    assert_eq!(said, "activating\nsuccess\n2\n");
}

/// With QEMU's socket and disks below /run, directories elsewhere than by default, and the override that the environment
/// file asks for then.
#[test]
fn confined_service_snapshots_a_vm_that_runs() {
    let machine = machine();
    if !rustix::process::geteuid().is_root() {
        boot(&machine, "");
        return;
    }
    let host = VmHost::boot(TOOL, machine.shared(), |options| {
        options.ram_mib = 64;
        options.disk_mib = 8;
        options.guest.window_mib = 4;
        options.socket = Some(machine.shared().join("vm.sock"));
    });
    host.schedule(3);
    host.make_due();
    // The machine has process ids of its own, in which the VMM has none: neither which process it is nor that it has the
    // disk open can be seen there, so that the VM is registered there.
    let before = host.vm.traces();
    let directories = format!(
        "STATE={}\nDATA={}\nID={ID}\nSOCKET={}\nDISK={}\n",
        host.state_dir().display(),
        host.data_dir().display(),
        host.vm.socket().display(),
        host.vm.disks()[0].display()
    );
    let script = r#"
        printf 'HYPEMAN_SNAP_STATE_DIR=%s\nHYPEMAN_SNAP_DATA_DIR="%s"\n' "$STATE" "$DATA" >/etc/default/hypeman-snap
        systemctl enable hypeman-snap.timer >&2
        hypeman-snap doctor >"$SHARED/confined" 2>&1 || true
        mkdir /etc/systemd/system/hypeman-snap.service.d
        printf '[Service]\nReadWritePaths=%s\n' "$SHARED" >/etc/systemd/system/hypeman-snap.service.d/paths.conf
        systemctl daemon-reload
        hypeman-snap doctor >"$SHARED/free" 2>&1 || true
        hypeman-snap register "$ID" --hypervisor qemu --socket "$SOCKET" --disk "$DISK" >&2
        service start || { journal >&2; exit 1; }
        journal
        "#;
    let Some(said) = boot(&machine, &format!("{directories}{script}")) else {
        return;
    };
    let confined = machine.read("confined");
    for directory in [host.state_dir(), host.data_dir()] {
        let line = format!("ReadWritePaths={}", directory.display());
        assert!(
            confined.contains(&line) && confined.contains("ProtectSystem=strict"),
            "{confined}"
        );
    }
    let free = machine.read("free");
    assert!(!free.contains("the service can't write"), "{free}");
    assert_eq!(host.read_schedule().get("last_error"), None, "{said}");
    let snapshots = host.snapshots();
    assert_eq!(snapshots.len(), 1, "{said}");
    assert_eq!(snapshots[0]["kind"], "Standby");
    assert_eq!(host.vm.traces(), before);
    assert_eq!(host.vm.pauses_ms().len(), 1);
    host.assert_goes_on(snapshots[0]["id"].as_str().unwrap());
    assert!(said.contains(ID), "{said}");
}

/// The real Linux guest, whose kernel is no file in /tmp.
#[test]
fn confined_rehearsal_starts_a_copy_that_lives() {
    let machine = machine();
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        boot(&machine, "");
        return;
    }
    let host = VmHost::boot(TOOL, machine.shared(), |options| {
        options.linux = Some(linux);
        options.socket = Some(machine.shared().join("vm.sock"));
        options.more = ["-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no"]
            .map(str::to_owned)
            .to_vec();
        options.own_network = true;
    });
    host.schedule(3);
    host.vm.wait_ticks_beyond(20);
    host.snapshot();
    host.tool_ok(&["set", ID, "--update", "--expect", "^tick [0-9]+"]);
    let directories = format!(
        "STATE={}\nDATA={}\n",
        host.state_dir().display(),
        host.data_dir().display(),
    );
    let script = r#"
        printf 'HYPEMAN_SNAP_STATE_DIR=%s\nHYPEMAN_SNAP_DATA_DIR="%s"\n' "$STATE" "$DATA" >/etc/default/hypeman-snap
        [ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }
        systemctl enable hypeman-snap-rehearse.timer >&2
        mkdir /etc/systemd/system/hypeman-snap-rehearse.service.d
        printf '[Service]\nReadWritePaths=%s\n' "$SHARED" >/etc/systemd/system/hypeman-snap-rehearse.service.d/paths.conf
        systemctl daemon-reload
        systemctl start hypeman-snap-rehearse.service || { journalctl --unit=hypeman-snap-rehearse.service >&2; exit 1; }
        journalctl --sync
        journalctl --unit=hypeman-snap-rehearse.service --output=cat
        "#;
    let Some(said) = boot(&machine, &format!("{directories}{script}")) else {
        return;
    };
    assert!(said.contains(": alive"), "{said}");
    assert_eq!(host.snapshots()[0]["rehearsed_alive"], true, "{said}");
    assert!(!host.data_dir().join("rehearsals").exists());
    assert!(host.vm.is_running());
}

#[test]
fn guest_that_a_killed_run_left_paused_goes_on_at_once() {
    let machine = machine();
    let socket = machine.shared().join("vm.sock");
    let vmm = FakeVmm::start(Dialect::CloudHypervisor, &socket, &[]);
    vmm.on(Request::Save, Fault::Hang);
    let shared = machine.shared();
    let said = std::thread::scope(|threads| {
        threads.spawn(|| {
            // When the machine can't be booted there is nothing to wait for, and the script below says so.
            wait_until("a pause, or the end", || {
                vmm.requests().contains(&Request::Save) || shared.join("end").exists()
            });
            fs::write(shared.join("paused"), format!("{:?}", vmm.guest())).unwrap();
            wait_until("the kill, or the end", || {
                shared.join("killed").exists() || shared.join("end").exists()
            });
            vmm.release();
        });
        let said = boot(
            &machine,
            r#"
            hypeman-snap register vm0 --hypervisor cloud-hypervisor --socket "$SHARED/vm.sock" >&2
            schedule vm0
            service start --no-block
            eventually test -e "$SHARED/paused"
            cat "$SHARED/paused" && echo
            service kill --kill-whom=main --signal=KILL
            touch "$SHARED/killed"
            eventually is_at_rest
            property Result
            journal >"$SHARED/journal"
            ls /var/lib/hypeman-snap/journal
            "#,
        );
        fs::write(shared.join("end"), "").unwrap();
        said
    });
    let Some(said) = said else {
        return;
    };
    assert_eq!(said, "Paused\nsignal\n");
    assert_eq!(vmm.guest(), Guest::Running);
    let journal = machine.read("journal");
    assert!(journal.contains("vm0"), "{journal}");
}

/// That a disk is the VMM's own shows in the files that it has open, which root without CAP_SYS_PTRACE is not told of another
/// user's process; nor may it put huge pages together there without CAP_SYS_NICE.
#[test]
fn confined_service_sees_the_disks_and_the_memory_of_a_vmm_of_another_user() {
    let machine = machine();
    let built = Command::new(Path::new(PROJECT).join("tests/support/guest/build.sh"))
        .arg(machine.shared().join("counter.elf"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let Some(said) = boot(
        &machine,
        r#"
        mkdir /run/vm /var/lib/hypeman
        truncate --size=8M /run/vm/disk.raw
        chown -R nobody /run/vm
        # With the capability by which it can save behind its guest, whatever vm.unprivileged_userfaultfd says.
        setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=+sys_ptrace --ambient-caps=+sys_ptrace \
          qemu-system-x86_64 -nodefaults -display none -machine pc -accel tcg -m 64 -kernel "$SHARED/counter.elf" \
          -blockdev file,node-name=file,filename=/run/vm/disk.raw -blockdev raw,node-name=disk,file=file -device ide-hd,drive=disk -qmp unix:/run/vm/qmp,server=on,wait=off >&2 &
        eventually test -S /run/vm/qmp
        hypeman-snap register vm0 --hypervisor qemu --socket /run/vm/qmp >&2
        schedule vm0
        mkdir /etc/systemd/system/hypeman-snap.service.d
        printf '[Service]\nExecStart=\nExecStart=hypeman-snap run-due -vv\nLogLevelMax=debug\n' \
          >/etc/systemd/system/hypeman-snap.service.d/verbose.conf
        systemctl daemon-reload
        service start || { journal >&2; exit 1; }
        hypeman-snap snapshots --output json | sed -n 's/^ *"kind": "\(.*\)".*/\1/p'
        journal
        kill %1
        "#,
    ) else {
        return;
    };
    assert!(said.starts_with("Standby\n"), "{said}");
    assert!(!said.contains("CAP_SYS_NICE"), "{said}");
    // Elsewhere, huge pages are off, or the kernel is too old.
    if !said.contains("huge pages are off") && !said.contains("Linux 6.1") {
        assert!(said.contains("MiB are huge pages"), "{said}");
    }
}

/// A failed VM is an error in the journal with its name, and the service has failed, so that OnFailure= does its work.
#[test]
fn failure_is_an_error_in_the_journal_and_starts_what_on_failure_names() {
    let machine = machine();
    let data = machine.shared().join("data");
    write_stopped(&data, "web0", "web");
    write_stopped(&data, "sick0", "sick");
    let Some(said) = boot(
        &machine,
        r#"
            cp -r "$SHARED/data" /var/lib/hypeman
            sed -i "s,$SHARED/data,/var/lib/hypeman," /var/lib/hypeman/guests/*/metadata.json
            # No socket, but somebody who has the disk open: what only a service sees that may look into all processes.
            exec 9>>/var/lib/hypeman/guests/sick0/overlay.raw
            printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo %%i >/run/told"\n' >/etc/systemd/system/tell@.service
            mkdir /etc/systemd/system/hypeman-snap.service.d
            printf '[Unit]\nOnFailure=tell@%%n.service\n' >/etc/systemd/system/hypeman-snap.service.d/tell.conf
            systemctl daemon-reload
            schedule web
            schedule sick
            service start && exit 1
            eventually test -e /run/told
            cat /run/told
            property Result
            journal --priority=err --identifier=hypeman-snap
            "#,
    ) else {
        return;
    };
    let (head, errors) = said.split_once("exit-code\n").expect(&said);
    assert_eq!(head, "hypeman-snap.service\n");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.contains("sick0") && !errors.contains("web0"),
        "{errors}"
    );
    assert!(errors.contains("open for writing"), "{errors}");
}

/// One unit for hosts with the API and for hosts without: the key is a credential where there is one, and none is no error.
#[test]
fn api_key_reaches_the_service_as_a_credential() {
    let machine = machine().with_network();
    let server = FakeHypeman::start();
    server.world().set_state("web0", "Running");
    let url = format!("URL={}\n", server.url());
    let script = r#"
        echo "HYPEMAN_BASE_URL=$URL" >/etc/default/hypeman-snap
        install -d -m 0700 /etc/credstore
        install -m 0600 "$SHARED/key" /etc/credstore/hypeman-api-key
        HYPEMAN_BASE_URL=$URL HYPEMAN_API_KEY_FILE=$SHARED/key schedule web0
        service start || { journal >&2; exit 1; }
        # The key is nowhere but in the credential: not in the environment, not in the journal.
        rm "$SHARED/key"
        ! service show --property=Environment | grep -q sekrit
        ! journal | grep -q sekrit
        # Without it, the service starts all the same, and says what is missing.
        rm /etc/credstore/hypeman-api-key
        sed -i 's/"next_run_at": "[^"]*"/"next_run_at": "2026-01-01T00:00:00Z"/' "$schedules"/*.json
        ! service start 2>/dev/null
        journal --priority=err --identifier=hypeman-snap
        "#;
    fs::write(machine.shared().join("key"), KEY).unwrap();
    let Some(said) = boot(&machine, &format!("{url}{script}")) else {
        return;
    };
    assert_eq!(server.world().snapshots.len(), 1, "{said}");
    assert!(said.contains("HYPEMAN_API_KEY"), "{said}");
}
