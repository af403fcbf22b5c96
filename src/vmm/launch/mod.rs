//! How a VMM is started from a snapshot: command lines, made from the one that was recorded at capture. Pure.

pub mod qemu;

use std::path::PathBuf;

/// Why a recorded command line can't start a copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unlaunchable {
    /// It says nothing.
    #[error("its command line was not recorded")]
    NoCommandLine,
    /// What it was given can't be given again.
    #[error("{0:?} hands the VMM an open file of whoever started it, such as libvirt")]
    Descriptor(String),
    /// A disk that no option names, such as one that was plugged in later.
    #[error("its command line does not name the disk {}: it was plugged in later, or is written in a way that is not known", .0.display())]
    UnnamedDisk(PathBuf),
}
