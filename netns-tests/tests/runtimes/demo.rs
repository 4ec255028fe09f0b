//! `./demo` as the README shows it, and with pods that a runtime starts. The script builds and installs, then runs the
//! program that is run here, in a sandbox of its own within ours.

use std::time::Duration;

use lab::cmd::Cmd;
use lab::{Result, ensure, enter};

use crate::support::Runtime;

/// Two nodes, four pods, and a second of each throughput run take some 15 s, with containers twice that.
const LIMIT: Duration = Duration::from_secs(150);

/// Runs it with these arguments. Whatever does not work is a line with FAIL, and an exit code.
fn shows(arguments: &[&str], parts: &[&str]) -> Result<()> {
    let demo = Cmd::new(env!("CARGO_BIN_EXE_demo")).args(["--seconds", "1"]).args(arguments).timeout(LIMIT);
    let output = demo.env("SWD_BIN_DIR", enter::bin_dir()?).output()?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.code == 0 && said.contains("everything works"), "exit code {}:\n{said}", output.code);
    for part in parts {
        ensure!(said.contains(part), "it does not say `{part}`:\n{said}");
    }
    Ok(())
}

pub fn with_namespaces() -> Result<()> {
    shows(&[], &["36 of 36 pairs of pods reach each other", "a packet to nowhere is explained"])
}

pub fn with_podman() -> Result<()> {
    Runtime::Podman.need()?;
    shows(&["--pods", "podman"], &["36 of 36 pairs", "leaves by the node's own port", "podman run --detach"])
}

pub fn with_containerd() -> Result<()> {
    Runtime::Containerd.need()?;
    shows(&["--pods", "containerd"], &["24 of 24 pairs", "leaves by the node's own port", "RunPodSandbox"])
}
