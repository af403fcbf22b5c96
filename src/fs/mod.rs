//! Files: durable writes, reflink and sparse copies, free space. Knows nothing of instances or snapshots.

pub mod copy;
pub mod durable;
