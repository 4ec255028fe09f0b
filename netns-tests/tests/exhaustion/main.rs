//! What a daemon needs runs out, room on the disk, descriptors, memory, or room for clients that say nothing: pods
//! that have their network keep it and lose no datagram, whoever asks for more is told what is missing and what to do,
//! and all is well again when there is more. The limits are in `docs/limits.md`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../survival/process.rs"]
#[allow(dead_code, reason = "shared with the suite `survival`")]
mod process;
#[path = "../survival/stream.rs"]
#[allow(dead_code, reason = "shared with the suite `survival`")]
mod stream;

mod disk;
mod memory;
mod node;
mod processes;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("a_disk_that_is_full_or_read_only", disk::a_disk_that_is_full_or_read_only),
        ("no_descriptors", processes::no_descriptors),
        ("no_memory", memory::no_memory),
        ("no_more_tasks", processes::no_more_tasks),
    ])
}
