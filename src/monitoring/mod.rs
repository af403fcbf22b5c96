//! What monitoring systems are told of the snapshots: how each instance is, the metrics file and the heartbeat.

pub mod health;
pub mod heartbeat;
pub mod metrics;
