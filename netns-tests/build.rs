//! Compiles our part of the container runtime interface with a Rust protobuf compiler, so that no
//! external `protoc` is needed.

#![allow(clippy::print_stdout)] // how a build script talks to cargo

use std::error::Error;

const PROTO: &str = "proto/runtime/v1/cri.proto";
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?;
    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
