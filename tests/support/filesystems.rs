//! File systems of a test's own: XFS and btrfs (reflink) from a file through a loop device, and a small tmpfs that
//! fills up. Mounts only on a directory that it made itself, and unmounts it. Needs root; where that or loop devices
//! are missing, says so and gives nothing, and the test says that it was skipped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::skip::skipped;

/// The kind of a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XFS with reflinks.
    Xfs,
    /// btrfs.
    Btrfs,
    /// In memory; reflinks are not possible, and it fills up.
    Tmpfs,
}

/// A mounted file system; dropping it unmounts it and removes what was on it.
#[derive(Debug)]
pub struct Mount {
    // Holds the mount point and, for loop mounts, the image beside it.
    dir: TempDir,
}

impl Mount {
    /// Makes and mounts one of `size_mib` MiB (sparse; XFS needs 300, btrfs 128), or says on stderr why it is not
    /// possible here.
    ///
    /// # Panics
    /// When there is no directory for it.
    pub fn create(kind: Kind, size_mib: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return no_mount(kind, "mounting needs root");
        }
        let dir = tempfile::Builder::new()
            .prefix("fs-")
            .tempdir_in("/tmp")
            .expect("a directory for a mount");
        let mount = Self { dir };
        std::fs::create_dir(mount.path()).expect("a mount point");
        match mount.make(kind, size_mib) {
            Ok(()) => Some(mount),
            Err(reason) => no_mount(kind, &reason),
        }
    }

    fn make(&self, kind: Kind, size_mib: u64) -> Result<(), String> {
        let image = self.dir.path().join("image");
        let (program, options): (_, &[&str]) = match kind {
            Kind::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Kind::Btrfs => ("mkfs.btrfs", &["-q"]),
            Kind::Tmpfs => {
                let options = format!("size={size_mib}m,mode=0755");
                return run(Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                    .arg(self.path()));
            }
        };
        File::create(&image)
            .and_then(|file| file.set_len(size_mib << 20))
            .map_err(|error| error.to_string())?;
        run(Command::new(program).args(options).arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(self.path()))
    }

    /// The root of the file system.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mount_point(&self.path()) {
            // A process that still holds a file must not keep the mount in sight; lazily, it goes with that process.
            let _ = run(Command::new("umount").arg("-l").arg(self.path()));
        }
    }
}

fn is_mount_point(path: &Path) -> bool {
    run(Command::new("mountpoint").arg("-q").arg(path)).is_ok()
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    // mkfs and mount are not on every user's path.
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = command
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn no_mount(kind: Kind, reason: &str) -> Option<Mount> {
    skipped(&format!("no {kind:?} mount: {reason}"));
    None
}
