//! Compiles the published `.proto` with a Rust protobuf compiler, so that no external `protoc` is needed,
//! and leaves the descriptor set beside the generated code for gRPC reflection.

#![allow(clippy::print_stdout)] // how a build script talks to cargo

use std::error::Error;
use std::path::PathBuf;

const PROTO: &str = "proto/swd/v1/swd.proto";
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("swd.v1.descriptor"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
