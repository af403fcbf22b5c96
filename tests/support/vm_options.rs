//! How a test VM is made: what its guest does, its disks, and the command line of QEMU that comes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::disk::DiskFormat;
use super::linux_guest::LinuxGuest;

/// What the guest does; see the options in `guest/counter.c`.
#[derive(Clone, Copy, Debug)]
pub struct GuestOptions {
    /// RAM in MiB that the guest counts through, from 16 MiB upwards.
    pub window_mib: u32,
    /// Pages of it written in every iteration.
    pub pages: u32,
    /// Iterations between two `tick` lines.
    pub tick: u32,
    /// Iterations per second; 0 is as fast as it goes, which takes a whole processor.
    pub hz: u32,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            window_mib: 32,
            pages: 32,
            tick: 20,
            hz: 200,
        }
    }
}

/// How the disks are given to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskStyle {
    /// `-blockdev`: named nodes `disk0`, `disk1`, … over `disk0-file`, ….
    Blockdev,
    /// `-drive`: device ids `disk0`, `disk1`, …, and node names that QEMU makes up.
    Drive,
}

/// How a test VM is made.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Where [`TestVm::boot`] makes the disks; it exists and belongs to the caller, who removes it.
    pub dir: PathBuf,
    /// RAM in MiB.
    pub ram_mib: u32,
    /// RAM in shared memory, which QEMU 7.2 cannot background-snapshot.
    pub shared_ram: bool,
    /// RAM in a shared file of `dir`'s file system, which no kernel protects: it can only be saved in the pause.
    pub file_ram: bool,
    /// Number of disks, 1 to 4.
    pub disks: usize,
    /// Size of each disk in MiB, at least 4.
    pub disk_mib: u64,
    /// Format of all disks.
    pub disk_format: DiskFormat,
    /// How the disks are given to QEMU.
    pub disk_style: DiskStyle,
    /// Where the monitor for the tool listens, shorter than 108 bytes; nothing is a path of the VM's own.
    pub socket: Option<PathBuf>,
    /// What the guest does.
    pub guest: GuestOptions,
    /// More arguments for QEMU.
    pub more: Vec<String>,
    /// Whether QEMU runs in a network of its own, where it may make taps.
    pub own_network: bool,
    /// The real Linux guest instead of the counting one. It has one disk, on virtio.
    pub linux: Option<LinuxGuest>,
}

impl VmOptions {
    /// A small VM (256 MiB RAM, one raw disk of 64 MiB) with its disks in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            ram_mib: 256,
            shared_ram: false,
            file_ram: false,
            disks: 1,
            disk_mib: 64,
            disk_format: DiskFormat::Raw,
            disk_style: DiskStyle::Blockdev,
            socket: None,
            guest: GuestOptions::default(),
            more: Vec::new(),
            own_network: false,
            linux: None,
        }
    }

    /// QEMU's arguments but for the disks, the monitors and the character devices `serial` and `commands`: what somebody who
    /// restores by hand repeats.
    pub fn command_line(&self) -> Vec<String> {
        arguments(self, &[])
    }

    pub(crate) fn disk_path(&self, index: usize) -> PathBuf {
        self.dir
            .join(format!("disk{index}.{}", self.disk_format.name()))
    }
}

/// The QEMU under test: `HYPEMAN_SNAP_TEST_QEMU`, else the one on the path.
pub fn qemu_binary() -> PathBuf {
    std::env::var_os("HYPEMAN_SNAP_TEST_QEMU")
        .map_or_else(|| "qemu-system-x86_64".into(), PathBuf::from)
}

/// Everything but the monitors and the serial file: what a restore must repeat.
pub(crate) fn arguments(options: &VmOptions, disks: &[PathBuf]) -> Vec<String> {
    let GuestOptions {
        window_mib,
        pages,
        tick,
        hz,
    } = options.guest;
    let memory = if options.shared_ram || options.file_ram {
        ",memory-backend=ram"
    } else {
        ""
    };
    let (kernel, guest_options) = match &options.linux {
        Some(linux) => (linux.kernel(), LinuxGuest::OPTIONS.to_owned()),
        None => (
            guest_kernel().to_owned(),
            format!("window={window_mib} pages={pages} tick={tick} hz={hz}"),
        ),
    };
    let mut all = vec![
        "-nodefaults".to_owned(),
        "-no-user-config".to_owned(),
        "-display".to_owned(),
        "none".to_owned(),
        "-machine".to_owned(),
        format!("pc,accel=tcg{memory}"),
        "-m".to_owned(),
        options.ram_mib.to_string(),
        "-kernel".to_owned(),
        kernel.display().to_string(),
        "-append".to_owned(),
        guest_options,
        "-serial".to_owned(),
        "chardev:serial".to_owned(),
        "-serial".to_owned(),
        "chardev:commands".to_owned(),
    ];
    if options.shared_ram {
        all.extend([
            "-object".to_owned(),
            format!(
                "memory-backend-memfd,id=ram,size={}M,share=on",
                options.ram_mib
            ),
        ]);
    }
    if options.file_ram {
        // In a directory it makes a file without a name.
        all.extend([
            "-object".to_owned(),
            format!(
                "memory-backend-file,id=ram,size={}M,share=on,mem-path={}",
                options.ram_mib,
                options.dir.display()
            ),
        ]);
    }
    all.extend(options.more.clone());
    if let Some(linux) = &options.linux {
        all.extend([
            "-initrd".to_owned(),
            linux.initramfs().display().to_string(),
        ]);
    }
    for (index, disk) in disks.iter().enumerate() {
        let id = format!("disk{index}");
        let format = options.disk_format.name();
        let path = disk.display();
        match options.disk_style {
            DiskStyle::Blockdev => all.extend([
                "-blockdev".to_owned(),
                format!("file,node-name={id}-file,filename={path}"),
                "-blockdev".to_owned(),
                format!("{format},node-name={id},file={id}-file"),
            ]),
            DiskStyle::Drive => all.extend([
                "-drive".to_owned(),
                format!("if=none,id={id},format={format},file={path}"),
            ]),
        }
        let (bus, unit) = (index / 2, index % 2);
        all.extend([
            "-device".to_owned(),
            match options.linux {
                Some(_) => format!("virtio-blk-pci,drive={id}"),
                None => format!("ide-hd,drive={id},bus=ide.{bus},unit={unit}"),
            },
        ]);
    }
    all
}

/// The guest, built by the C compiler on first use by this process.
pub fn guest_kernel() -> &'static Path {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let test = std::env::current_exe().expect("path of the test");
        // target/<profile>/deps/<test>: next to the profile's own files, where `cargo clean` finds it.
        let target = test.ancestors().nth(2).expect("the target directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build.sh");
        // Other test processes build it too: each has its own, and the rename makes the last one stand.
        let own = target.join(format!("counter-{}.elf", std::process::id()));
        let built = Command::new(&source)
            .arg(&own)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        assert!(
            built.status.success(),
            "{}: {}",
            source.display(),
            String::from_utf8_lossy(&built.stderr)
        );
        let kernel = target.join("counter.elf");
        fs::rename(&own, &kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.display()));
        kernel
    })
}
