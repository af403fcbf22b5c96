//! Files: durable writes, reflink and sparse copies, sizes and free space. Knows nothing of instances or snapshots.

pub mod absence;
pub mod beneath;
pub mod bounded;
pub mod copy;
pub mod dead_socket;
pub mod digest;
pub mod durable;
pub mod extents;
pub mod frame;
pub mod given;
pub mod lock;
pub mod open_files;
pub mod punch;
pub mod remove;
pub mod seal;
pub mod shared;
pub mod space;
pub mod tree;
pub mod trust;
pub mod walk;

#[cfg(test)]
mod mounted_tests;
