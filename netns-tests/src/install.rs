//! Gets the programs that the lab uses but does not bring: installs missing Debian packages when
//! root, otherwise says which are missing and how to get them.
//!
//! It must run outside the sandbox (inside, /run is private and there is no network). Installing
//! never starts a service, and services of the machine (Open vSwitch) are never used.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// Program and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ping", "iputils-ping"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("ovsdb-server", "openvswitch-switch"),
    ("ovsdb-tool", "openvswitch-common"),
    ("ovs-vsctl", "openvswitch-switch"),
    ("ovs-appctl", "openvswitch-common"),
    // Rivals of the side-by-side measurements.
    ("vde_switch", "vde2"),
    ("vde_plug", "vdeplug"),
    ("tincd", "tinc"),
    ("nsenter", "util-linux"),
    // What the daemon runs for the node's own port.
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    // Judges the unit of the daemon, and knows what its groups of system calls stand for.
    ("systemd-analyze", "systemd"),
    // Container runtimes. Without recommended packages: netavark among them would make podman leave CNI.
    ("podman", "podman"),
    ("conmon", "conmon"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("busybox", "busybox-static"),
    // Counts the instructions of the hot path.
    ("valgrind", "valgrind"),
];

/// The directories searched: PATH, and those of system programs, which users often lack in PATH.
pub(crate) fn directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    std::env::split_paths(&path).chain(system.iter().map(PathBuf::from)).collect()
}

/// Where a program is, if it is there.
pub fn find(program: &str) -> Option<PathBuf> {
    directories().into_iter().map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// How to get a program: "apt-get install PACKAGE".
pub fn hint(program: &str) -> String {
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some((_, package)) => format!("to get it: apt-get install {package}"),
        None => "is it built?".to_owned(),
    }
}

/// Fails with kind Missing if one of the programs is not there. For use inside the sandbox.
pub fn need(programs: &[&str]) -> Result<()> {
    match programs.iter().find(|p| find(p).is_none()) {
        None => Ok(()),
        Some(program) => Err(Error::missing(format!("{program} is not installed ({})", hint(program)))),
    }
}

/// Every program that the lab and its suites may run.
pub fn all() -> Vec<&'static str> {
    PACKAGES.iter().map(|(program, _)| *program).collect()
}

/// Makes sure that the programs are there: as root installs the missing packages, otherwise fails
/// with the command to type.
pub fn ensure_tools(programs: &[&str]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for program in programs.iter().filter(|p| find(p).is_none()) {
        let Some((_, package)) = PACKAGES.iter().find(|(name, _)| name == program) else {
            return Err(Error::missing(format!(
                "{program} is not installed, and no package is known for it"
            )));
        };
        if !packages.contains(package) {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !rustix::process::getuid().is_root() {
        return Err(Error::missing(format!("not installed: {}; as root: {by_hand}", packages.join(", "))));
    }
    if find("apt-get").is_none() {
        return Err(Error::missing(format!(
            "not installed: {}, and there is no apt-get",
            packages.join(", ")
        )));
    }
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&packages);
    apt(&args)?;
    need(programs).context(format!("after {by_hand}"))
}

/// apt-get may take minutes on a slow line; it has its own time limits per connection.
fn apt(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Debian's service scripts honour this: nothing is started by an installation.
        .env("RUNLEVEL", "1")
        .env("SYSTEMD_OFFLINE", "1")
        .stdin(Stdio::null())
        .output()
        .context("apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failed(format!("apt-get {}: {}", args.join(" "), said.trim())));
    }
    Ok(())
}
