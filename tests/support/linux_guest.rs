//! The real Linux guest beside the counting one: Debian's cloud kernel with busybox and a program that writes to an SQLite
//! database and a log of its own on ext4 all the time (`guest/linux/`). A test VM runs it with `VmOptions::linux`.
//!
//! It prints `tick N` as the counting guest does, and obeys what is typed on its second serial port: `sync`, `check` (database, log,
//! files and RAM must agree, read from the disk), `poweroff`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::disk::DiskFormat;
use super::skip::skipped;

/// What `build.sh` ends with when Debian's packages can't be had.
const NOT_POSSIBLE: i32 = 77;

/// What the kernel says when what it has in RAM does not fit its disk, or it is damaged itself.
const KERNEL_COMPLAINTS: [&str; 6] = [
    "EXT4-fs error",
    "I/O error",
    "Call Trace",
    "Kernel panic",
    "BUG:",
    "Oops",
];

/// The files of the guest, built.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    dir: PathBuf,
}

/// Where the counters stood on a disk at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtRest {
    /// Transactions in the database.
    pub database: u64,
    /// Lines of the log: as many, or one less.
    pub log: u64,
}

impl LinuxGuest {
    /// What its kernel is told.
    pub const OPTIONS: &str = "console=ttyS0 quiet panic=-1";

    /// The guest, built on first use below the build directory; says that it is skipped where Debian's packages can't be
    /// had.
    ///
    /// # Panics
    /// When it can't be built from them.
    pub fn build() -> Option<Self> {
        static BUILT: OnceLock<Option<LinuxGuest>> = OnceLock::new();
        BUILT
            .get_or_init(|| {
                if let Some(missing) = ["mkfs.ext4", "qemu-img"].iter().find(|it| !is_there(it)) {
                    skipped(&format!(
                        "the real Linux guest: no {missing}, install e2fsprogs and qemu-utils"
                    ));
                    return None;
                }
                let test = std::env::current_exe().expect("path of the test");
                // target/<profile>/deps/<test>
                let target = test.ancestors().nth(3).expect("the target directory");
                let dir = target.join("linux-guest");
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/linux/build.sh");
                let output = run(Command::new(script).arg(&dir));
                if output.status.code() == Some(NOT_POSSIBLE) {
                    let reason = String::from_utf8_lossy(&output.stderr);
                    let reason = reason.lines().last().unwrap_or_default();
                    skipped(&format!("the real Linux guest: {reason}"));
                    return None;
                }
                assert!(output.status.success(), "{}", text(&output));
                Some(Self { dir })
            })
            .clone()
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// Its first file system.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs")
    }

    /// Makes a disk with an empty ext4.
    ///
    /// # Panics
    /// When that can't be made.
    pub fn create_disk(path: &Path, format: DiskFormat, size_mib: u64) {
        let raw = match format {
            DiskFormat::Raw => path.to_owned(),
            DiskFormat::Qcow2 => path.with_extension("empty"),
        };
        DiskFormat::Raw.create(&raw, size_mib);
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&raw));
        if format == DiskFormat::Qcow2 {
            convert(&raw, path, format);
            std::fs::remove_file(raw).expect("the empty disk goes");
        }
    }

    /// Holds the disk of a guest that was shut down against what it must be: a clean file system, an intact database, and a
    /// log that agrees with it. The disk itself is only read.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_shut_down_cleanly(&self, disk: &Path, format: DiskFormat) -> AtRest {
        let scratch = tempfile::tempdir().expect("a directory for a copy");
        let copy = scratch.path().join("disk.raw");
        convert_from(disk, format, &copy);
        succeed(Command::new("e2fsck").arg("-fn").arg(&copy));
        self.read(&copy, scratch.path())
    }

    /// The same for the disk of a guest that was not shut down: once the journal of the file system was replayed, as a boot
    /// does it.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_survives_a_crash(&self, disk: &Path, format: DiskFormat) -> AtRest {
        let scratch = tempfile::tempdir().expect("a directory for a copy");
        let copy = scratch.path().join("disk.raw");
        convert_from(disk, format, &copy);
        // Replays the journal and touches nothing else; 1 says that it did something.
        let replayed = run(Command::new("e2fsck")
            .args(["-E", "journal_only", "-p"])
            .arg(&copy));
        assert!(
            matches!(replayed.status.code(), Some(0 | 1)),
            "{}",
            text(&replayed)
        );
        succeed(Command::new("e2fsck").arg("-fn").arg(&copy));
        self.read(&copy, scratch.path())
    }

    /// Takes the files out of the file system and lets the guest's own program look at them.
    fn read(&self, raw: &Path, scratch: &Path) -> AtRest {
        let files = scratch.join("files");
        std::fs::create_dir(&files).expect("a directory for files");
        succeed(
            Command::new("debugfs")
                .arg("-R")
                .arg(format!("rdump / {}", files.display()))
                .arg(raw),
        );
        let said = succeed(
            Command::new(self.dir.join("writer"))
                .arg("check")
                .arg(&files),
        );
        let number = |name: &str| {
            said.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {said}"))
        };
        AtRest {
            database: number("database="),
            log: number("log="),
        }
    }
}

/// What the kernel complained of on a console.
pub fn complaints(serial: &str) -> Vec<String> {
    serial
        .lines()
        .filter(|line| KERNEL_COMPLAINTS.iter().any(|it| line.contains(it)))
        .map(str::to_owned)
        .collect()
}

fn convert(raw: &Path, to: &Path, format: DiskFormat) {
    succeed(
        Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format.name()])
            .args([raw, to]),
    );
}

fn convert_from(disk: &Path, format: DiskFormat, raw: &Path) {
    succeed(
        Command::new("qemu-img")
            .args(["convert", "-f", format.name(), "-O", "raw"])
            .args([disk, raw]),
    );
}

// mkfs.ext4 and its like are not on every user's path.
fn path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn is_there(program: &str) -> bool {
    path()
        .split(':')
        .any(|dir| Path::new(dir).join(program).is_file())
}

fn run(command: &mut Command) -> Output {
    command
        .env("PATH", path())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
