//! Composition: parse, wire, dispatch, print the error chain, exit code.

mod clock;
mod commands;
mod engine;
mod exit;
mod fs;
mod instance;
mod interrupt;
mod output;
mod retention;
mod run;
mod schedule;
mod snapshot;
mod store;
mod vmm;

fn main() {}
