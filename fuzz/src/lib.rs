//! Fuzz targets: every place where bytes of strangers enter, each with the properties that must hold for all
//! bytes, not only the absence of a panic.
//!
//! [`run`] is the one entry, shared by the built-in driver (`cargo run --release -p fuzz`), by the replay of
//! corpora in `cargo test`, and by the coverage-guided targets in `libfuzzer/`. A target is a pure function of
//! its input: no clock, no randomness, and state that is the same for every call. It returns a *signature*, a
//! coarse description of what happened, by which the driver tells new behaviour from old.
//!
//! Limit: inputs of at most [`MAX_INPUT`] bytes; what is longer is cut.
// A broken property is a panic here: that is what a fuzz target reports by.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

pub mod corpus;
pub mod drive;
pub mod input;
pub mod mutate;
pub mod seeds;
mod targets;

/// Longest input in bytes. Longer ones find nothing more and cost more.
pub const MAX_INPUT: usize = 32 * 1024;

/// The names of all targets.
pub const TARGETS: &[&str] = &["headers", "vxlan", "geneve", "vnet", "process", "api", "state", "memory"];

/// Runs one input through one target; returns the signature of what happened.
///
/// # Panics
/// When a property does not hold, or the name is no target.
pub fn run(target: &str, data: &[u8]) -> u64 {
    let data = &data[..data.len().min(MAX_INPUT)];
    match target {
        "headers" => targets::headers::run(data),
        "vxlan" => targets::tunnel::run(tunnel::Encap::Vxlan, data),
        "geneve" => targets::tunnel::run(tunnel::Encap::Geneve, data),
        "vnet" => targets::vnet::run(data),
        "process" => targets::process::run(data),
        "api" => targets::api::run(data),
        "state" => targets::state::run(data),
        "memory" => targets::memory::run(data),
        other => panic!("`{other}` is no target: expected one of {TARGETS:?}"),
    }
}
