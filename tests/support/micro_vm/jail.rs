//! A jail as Firecracker's jailer makes one: a root directory with the VMM, what it needs and nothing else, owned by a
//! user that has no rights outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user in the jail; it need not exist.
const USER: u32 = 61_234;

/// Fills the directory `jail` with `binary`, its libraries, /dev/kvm and copies of `files`, gives all of it to the user in
/// the jail, and returns the command that runs the VMM there with its socket at `/vmm.sock`.
pub(super) fn enter(jail: &Path, binary: &Path, files: &[(&Path, &str)], args: &[&str]) -> Command {
    copy(binary, jail, "firecracker");
    for library in libraries(binary) {
        copy(&library, jail, library.to_str().expect("a path in UTF-8"));
    }
    for (from, name) in files {
        copy(from, jail, name);
    }
    let devices = jail.join("dev");
    fs::create_dir(&devices).expect("/dev of the jail");
    run(Command::new("cp")
        .args(["--archive", "/dev/kvm"])
        .arg(&devices));
    let owner = format!("{USER}:{USER}");
    run(Command::new("chown")
        .arg("--recursive")
        .arg(&owner)
        .arg(jail));
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={owner}")).arg(jail);
    command
        .args(["/firecracker", "--no-seccomp", "--api-sock", "/vmm.sock"])
        .args(args);
    command
}

/// The shared libraries that `binary` loads; none for one that is linked statically.
fn libraries(binary: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(binary).output().expect("ldd");
    let text = String::from_utf8(output.stdout).expect("ldd's output in UTF-8");
    let words = text.split_ascii_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn copy(from: &Path, jail: &Path, name: &str) {
    let to = jail.join(name.trim_start_matches('/'));
    fs::create_dir_all(to.parent().expect("a parent")).expect("a directory in the jail");
    fs::copy(from, &to)
        .unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
    fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).expect("a mode");
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}
