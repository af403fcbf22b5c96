//! The Debian package: what is in it, what lintian says of it, and that it comes and goes cleanly in a throw-away copy of
//! this machine. The program in it is the one under test, so that nothing has to be built here.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::skip::skipped;
use support::throwaway::{Throwaway, text};
use tempfile::TempDir;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The package, built once by `contrib/package.sh` around the program under test.
fn package() -> Option<PathBuf> {
    static PACKAGE: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let built = PACKAGE.get_or_init(|| {
        if !is_there("dpkg-shlibdeps") {
            skipped("the Debian package: install the Debian package dpkg-dev");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new(top().join("contrib/package.sh"))
            .args(["--binary", env!("CARGO_BIN_EXE_hypeman-snap"), "--output"])
            .arg(dir.path())
            // Compressing well takes most of the time.
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "0")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        let deb = PathBuf::from(said.lines().last().unwrap());
        assert!(deb.is_file(), "{said}");
        Some((dir, deb))
    });
    built.as_ref().map(|(_, deb)| deb.clone())
}

/// What `dpkg-deb` says of the package.
fn dpkg_deb(args: &[&str], deb: &Path, operands: &[&str]) -> String {
    let output = Command::new("dpkg-deb")
        .args(args)
        .arg(deb)
        .args(operands)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn package_holds_what_a_host_needs() {
    let Some(deb) = package() else { return };
    let listing = dpkg_deb(&["--contents"], &deb, &[]);
    let files: Vec<&str> = listing
        .lines()
        .filter(|line| line.starts_with('-'))
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    for expected in [
        "usr/bin/hypeman-snap",
        "usr/lib/systemd/system/hypeman-snap.service",
        "usr/lib/systemd/system/hypeman-snap.timer",
        "usr/lib/systemd/system/hypeman-snap-rehearse.service",
        "usr/lib/systemd/system/hypeman-snap-rehearse.timer",
        "etc/default/hypeman-snap",
        "usr/share/bash-completion/completions/hypeman-snap",
        "usr/share/zsh/vendor-completions/_hypeman-snap",
        "usr/share/fish/vendor_completions.d/hypeman-snap.fish",
        "usr/libexec/hypeman-snap/hooks/mail",
        "usr/libexec/hypeman-snap/hooks/restic",
        "usr/share/doc/hypeman-snap/README.Debian",
        "usr/share/doc/hypeman-snap/changelog.gz",
        "usr/share/doc/hypeman-snap/changelog.Debian.gz",
        "usr/share/doc/hypeman-snap/copyright",
        "usr/share/doc/hypeman-snap/examples/hypeman-snap.cron",
        "usr/share/doc/hypeman-snap/examples/hypeman-snap.rules.yml",
    ] {
        let path = format!("./{expected}");
        assert!(files.contains(&path.as_str()), "{expected}: {listing}");
    }
    for page in fs::read_dir(top().join("man")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        if let Some((_, section)) = name.rsplit_once('.') {
            let path = format!("./usr/share/man/man{section}/{name}.gz");
            assert!(files.contains(&path.as_str()), "{path}: {listing}");
        }
    }
    // The crontab is an example, or two things would start the tool.
    assert!(!listing.contains("etc/cron.d"), "{listing}");
}

/// What apt, debsums and the admin's own edits of configuration go by.
#[test]
fn package_describes_itself() {
    let Some(deb) = package() else { return };
    let field = |name| dpkg_deb(&["--field"], &deb, &[name]).trim().to_owned();
    assert!(field("Homepage").starts_with("https://"));
    assert!(field("Depends").contains("libc6 (>= "));
    let installed_kib: u64 = field("Installed-Size").parse().unwrap();
    assert!(installed_kib > 1000, "{installed_kib} KiB");

    let control = tempfile::tempdir().unwrap();
    let info = |name| dpkg_deb(&["--info"], &deb, &[name]);
    assert_eq!(info("conffiles"), "/etc/default/hypeman-snap\n");
    // md5sum checks them against what the package installs.
    let root = control.path().join("root");
    dpkg_deb(&["--extract"], &deb, &[root.to_str().unwrap()]);
    fs::write(control.path().join("md5sums"), info("md5sums")).unwrap();
    let output = Command::new("md5sum")
        .args(["--check", "--strict", "../md5sums"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let checked = String::from_utf8(output.stdout).unwrap().lines().count();
    let listing = dpkg_deb(&["--contents"], &deb, &[]);
    let files = listing.lines().filter(|line| line.starts_with('-')).count();
    // The configuration file is the admin's to change.
    assert_eq!(checked + 1, files, "{listing}");
}

#[test]
fn version_is_that_of_the_crate_in_both_change_logs() {
    let version = env!("CARGO_PKG_VERSION");
    let debian = fs::read_to_string(top().join("contrib/debian/changelog")).unwrap();
    assert!(debian.starts_with(&format!("hypeman-snap ({version}-1) ")));
    let log = fs::read_to_string(top().join("contrib/CHANGELOG.md")).unwrap();
    let heading = log
        .lines()
        .find(|line| line.starts_with("## ") && *line != "## Unreleased")
        .unwrap();
    assert!(heading.starts_with(&format!("## {version} (")), "{heading}");
    if let Some(deb) = package() {
        let field = dpkg_deb(&["--show", "--showformat=${Version}"], &deb, &[]);
        assert_eq!(field, format!("{version}-1"));
    }
}

#[test]
fn lintian_finds_no_errors_and_no_warnings() {
    let Some(deb) = package() else { return };
    if !is_there("lintian") {
        skipped("no lintian to check the Debian package: install the Debian package lintian");
        return;
    }
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .arg(deb)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Installs, uses, upgrades, removes and purges; `/host` holds the package. Each step says what it expects by failing.
const LIFE: &str = r#"
deb=$(echo $SHARED/*.deb)
names() { find /etc /usr /var -xdev -name '*hypeman*' | sort; }
state() { dpkg-query --show --showformat='${db:Status-Status}' hypeman-snap 2>/dev/null || true; }
names >$SHARED/before

dpkg --install "$deb"
[ "$(state)" = installed ]
[ "$(command -v hypeman-snap)" = /usr/bin/hypeman-snap ]
hypeman-snap --version
# Nothing runs by itself.
[ "$(systemctl --root=/ is-enabled hypeman-snap.timer)" = disabled ]
[ ! -e /etc/cron.d/hypeman-snap ]
[ ! -e /var/lib/hypeman-snap ]

# The admin's choices survive an upgrade without a question.
systemctl --root=/ enable hypeman-snap.timer
echo HYPEMAN_SNAP_DATA_DIR=/srv/data >>/etc/default/hypeman-snap
dpkg --install "$deb" </dev/null
grep -q /srv/data /etc/default/hypeman-snap
[ "$(systemctl --root=/ is-enabled hypeman-snap.timer)" = enabled ]

mkdir -p /srv/data/guests /srv/vms && echo disk >/srv/vms/db.raw
export HYPEMAN_SNAP_DATA_DIR=/srv/data
hypeman-snap register db --hypervisor qemu --socket /run/db.sock --disk /srv/vms/db.raw
hypeman-snap set db --interval 1h --max-count 2
hypeman-snap run-due --force

# Removed: the configuration stays.
dpkg --remove hypeman-snap
[ "$(state)" = config-files ]
[ ! -e /usr/bin/hypeman-snap ]
grep -q /srv/data /etc/default/hypeman-snap

# Purged: only data is left.
dpkg --purge hypeman-snap
[ -z "$(state)" ] || [ "$(state)" = not-installed ]
[ -e /var/lib/hypeman-snap/snapshot-schedules/db.json ]
[ "$(ls -A /srv/data/snapshots | wc -l)" = 1 ]
rm -r /var/lib/hypeman-snap /srv/data
names >$SHARED/after
"#;

#[test]
fn package_comes_and_goes_without_a_trace_but_data() {
    let Some(deb) = package() else { return };
    let machine = Throwaway::create();
    fs::copy(&deb, machine.shared().join("hypeman-snap.deb")).unwrap();
    let Some(output) = machine.run(&format!("set -x\n{LIFE}")) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let read = |name: &str| fs::read_to_string(machine.shared().join(name)).unwrap();
    assert_eq!(read("before"), read("after"));
}
