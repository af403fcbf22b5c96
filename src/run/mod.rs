//! One run: pick what is due, take it through the steps, in parallel over instances, and report.
//!
//! Knows engines by their trait only.

pub mod report;
