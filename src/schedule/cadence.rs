//! When a schedule runs.
