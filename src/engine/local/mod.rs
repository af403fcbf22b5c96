//! hypeman's data directory as an engine: instances, VMM sockets and the snapshot store of this host.

pub mod data_dir;
mod json;
pub mod metadata;
pub mod record;
pub mod registration;
pub mod staging;
pub mod state;
pub mod store;
mod sweep;
