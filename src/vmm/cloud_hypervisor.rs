//! Cloud Hypervisor over its HTTP API.
