//! What the integration tests stand on: the test guest and the QEMU that runs it, file systems of a test's own, a fake
//! hypeman server and fake VMMs, and waiting with a deadline. It knows nothing of the tool's inside; a test reaches the tool by its command line.

pub mod ansible;
pub mod canary;
pub mod cli;
pub mod disk;
pub mod fake_hypeman;
pub mod fake_hypeman_routes;
pub mod fake_tls;
pub mod fake_vmm;
pub mod filesystems;
pub mod foreign;
pub mod guests;
pub mod hostile;
pub mod linux_guest;
pub mod manual;
pub mod memory;
pub mod micro_vm;
pub mod qemu;
pub mod qmp;
pub mod skip;
pub mod started;
pub mod terminal;
pub mod throwaway;
pub mod vm_host;
pub mod vm_options;
pub mod wait;
