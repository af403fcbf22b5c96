//! What `register` and `unregister` take.

use std::path::PathBuf;

use clap::Args;

use crate::instance::{Hypervisor, InstanceId};

#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// The id to give it; a plain file name [default with --libvirt: the domain's name]
    #[arg(required_unless_present = "libvirt")]
    pub id: Option<InstanceId>,

    /// What runs it: cloud-hypervisor, firecracker, qemu or qemu-microvm
    #[arg(long, required_unless_present = "libvirt")]
    pub hypervisor: Option<Hypervisor>,

    /// The VMM's control socket
    #[arg(long, value_name = "PATH", required_unless_present = "libvirt")]
    pub socket: Option<PathBuf>,

    /// A domain of libvirt's: its monitor and its disks are read through virsh
    ///
    /// Where it has no monitor beside libvirt's own, it is said how to give it one.
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["hypervisor", "socket", "disk"])]
    pub libvirt: Option<String>,

    /// The libvirt to ask [default: virsh's own]
    #[arg(long, value_name = "URI", requires = "libvirt")]
    pub connect: Option<String>,

    /// A name to call it by [default: the id]
    #[arg(long)]
    pub name: Option<String>,

    /// A disk of the VM, by its path; may be given several times
    ///
    /// Those of a VM that runs are learnt from its VMM, now and with each snapshot, and needed here only for a VM that is
    /// off and never answered.
    #[arg(long, value_name = "PATH")]
    pub disk: Vec<PathBuf>,

    /// A directory in which the VM's disks live; its VMM's disks elsewhere are refused. May be given several times
    ///
    /// Where none is given, those of the host count, which the environment of run-due names, separated by colons.
    /// [env: HYPEMAN_SNAP_DISK_ROOTS]
    #[arg(long, value_name = "DIR")]
    pub disk_root: Vec<PathBuf>,

    /// Register a VM whose socket nobody serves and of which no disk is known
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct UnregisterArgs {
    /// The id that it was registered with
    pub id: InstanceId,
}
