//! Firecracker over its HTTP API.
