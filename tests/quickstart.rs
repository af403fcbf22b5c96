//! `contrib/lib/deps.sh`, which `quickstart.sh` and `test.sh` install by: what the user has installed stays as it is.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use support::throwaway::text;

/// Writes programs that stand in for those of the machine, by name and script.
fn write_programs(dir: &Path, programs: &[(&str, &str)]) {
    for (name, script) in programs {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// With qemu-utils from backports, apt installs Debian's qemu-system-x86 only with a downgrade of it.
#[test]
fn qemu_utils_of_another_release_is_never_downgraded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // A package whose QEMU says so.
    write_programs(
        &at("package"),
        &[("usr/bin/qemu-system-x86_64", "echo this one runs")],
    );
    fs::create_dir_all(at("package/DEBIAN")).unwrap();
    let control = "Package: qemu-system-x86\nVersion: 1:7.2\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n";
    fs::write(at("package/DEBIAN/control"), control).unwrap();
    let built = Command::new("dpkg-deb")
        .args(["-Znone", "--build", "package", "qemu.deb"])
        .current_dir(dir.path())
        .output();
    let built = built.unwrap();
    assert!(built.status.success(), "{}", text(&built));
    write_programs(
        &at("bin"),
        &[
            (
                "apt-get",
                r#"echo "$*" >>"$DIR/asked"
                case "$*" in
                *--simulate*--allow-downgrades*)
                  echo 'Inst qemu-utils [1:10.0] (1:7.2 Debian:12 [amd64])'
                  echo 'Inst qemu-system-x86 (1:7.2 Debian:12 [amd64])' ;;
                download*qemu-system-x86=1:7.2*) cp "$DIR/qemu.deb" . ;;
                *qemu-system-x86*) exit 100 ;;
                esac"#,
            ),
            (
                "apt-cache",
                r#"echo "  Candidate: 1:7.2"; echo "qemu-utils | 1:7.2 | Debian""#,
            ),
            (
                "dpkg-query",
                r#"case "$*" in *Status*) echo installed ;; *) echo 1:10.0 ;; esac"#,
            ),
            ("sudo", r#"exec "$@""#),
        ],
    );
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg("source contrib/lib/deps.sh; install_packages gcc qemu-system-x86; $TOP/target/qemu/bin/qemu-system-x86_64")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TOP", dir.path())
        .env("DIR", dir.path())
        .env("PATH", format!("{}:{path}", at("bin").display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(output.stdout, b"this one runs\n");
    let said = String::from_utf8(output.stderr).unwrap();
    for words in [
        "qemu-utils 1:10.0 keeps apt from installing qemu-system-x86 1:7.2",
        "It stays as it is",
        "apt-get install --allow-downgrades qemu-utils=1:7.2 qemu-system-x86",
    ] {
        assert!(said.contains(words), "{said}");
    }
    // apt was only asked what it would do; the rest was installed.
    let asked = fs::read_to_string(at("asked")).unwrap();
    for line in asked
        .lines()
        .filter(|line| line.contains("--allow-downgrades"))
    {
        assert!(line.contains("--simulate"), "{asked}");
    }
    let last = asked.lines().last().unwrap();
    assert!(last.contains("install") && last.ends_with("gcc"), "{asked}");
}
