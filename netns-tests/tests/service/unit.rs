//! The daemon with everything taken away that its systemd unit takes away: pods work, and nothing that it does is
//! refused. What was taken is looked up in `/proc`, so that the claim is about the restricted daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{Mode, Setup, World, note, run};
use crate::process::{device, healthy, next_process, read_log, runs, send, switch_process};
use lab::cmd::{Cmd, Daemon};
use lab::probe::ping;
use lab::{Context, Error, Lab, Node, Pod, Result, ensure, wait};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// `TasksMax=` of the unit.
const TASKS: usize = 64;

/// A line of `/proc/PID/status`.
fn status(pid: u32) -> Result<BTreeMap<String, String>> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(&path)?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

/// What the kernel says about the monitor of a node.
fn is_confined(node: &Node) -> Result<()> {
    let pid = node.swd_pid()?;
    let status = status(pid)?;
    let is = |key: &str, value: &str| match status.get(key) {
        Some(found) if found == value => Ok(()),
        found => Err(Error::failed(format!("{key} is {found:?}, expected {value}"))),
    };
    // NET_BROADCAST 11, NET_ADMIN 12, SYS_ADMIN 21, SYS_PTRACE 19, NET_RAW 13, SETUID 7, SETGID 6, SETPCAP 8, CHOWN 0, KILL 5.
    let bits = [11, 12, 21, 19, 13, 7, 6, 8, 0, 5].iter().fold(0_u64, |set, bit| set | 1 << bit);
    let set = format!("{bits:016x}");
    // Whoever tries another unit sees what becomes of the pods.
    if std::env::var_os("LAB_UNIT").is_none() {
        is("CapBnd", &set)?;
        is("CapEff", &set)?;
    }
    is("NoNewPrivs", "1")?;
    is("Seccomp", "2")?;
    is("Umask", "0077")?;
    // Written from inside: what it sees is what counts.
    let root = format!("/proc/{pid}/root");
    for place in ["/etc/swd-test", "/run/swd-test", "/usr/swd-test", "/proc/sys/kernel/hostname"] {
        let written = std::fs::write(format!("{root}{place}"), "x");
        ensure!(written.is_err(), "{place} is writable for the daemon");
    }
    let devices = std::fs::read_dir(format!("{root}/dev")).context("/dev")?.count();
    ensure!(devices <= 11, "{devices} entries in /dev");
    Ok(())
}

/// Measures of the sandbox that hold.
fn achieved(node: &Node) -> Result<Vec<String>> {
    let status: Value = serde_json::from_str(&node.swctl_output(&["-o", "json", "status"])?.stdout)?;
    let measures = status["sandbox"].as_array().cloned().unwrap_or_default();
    let held = measures.iter().filter(|m| m["achieved"] == true);
    let mut names: Vec<String> = held.filter_map(|m| m["measure"].as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// A process of somebody else in a pod's namespace, as a container has one.
fn resident(pod: &Pod) -> Result<Daemon> {
    let log = std::path::Path::new(lab::enter::LAB_DIR).join("resident.log");
    let words = ["--reuid", "12345", "--regid", "12345", "--clear-groups", "sleep", "1000"];
    Cmd::new("setpriv").args(words).within(pod.ns()).daemon("a process of a pod", &log)
}

pub fn pods_work_under_the_unit() -> Result<()> {
    let setup = Setup::new("unit", Mode::Routed);
    let world = World::build_on(&setup, |lab: &Lab| {
        lab.node("a")?.manage()?;
        lab.node("a")?.confine()
    })?;
    let (a, b) = (world.a()?, world.b()?);
    is_confined(a)?;
    for v6 in [false, true] {
        world.converse(&world.near, &world.far, v6, 2_000_000)?;
        world.converse(&world.far, &world.beside, v6, 2_000_000)?;
        world.converse(&world.near, &world.beside, v6, 2_000_000)?;
    }
    let (held, free) = (achieved(a)?, achieved(b)?);
    ensure!(!held.is_empty() && held == free, "measures under the unit {held:?}, without it {free:?}");

    // A namespace by a process that is somebody else's.
    let pod = world.lab.pod("by-pid")?;
    let process = resident(&pod)?;
    let pid = process.pid();
    let uid = || Ok(status(pid)?.get("Uid").cloned().unwrap_or_default());
    wait::until_ok("the process is somebody else", SOON, || {
        let uid: Result<String> = uid();
        if uid?.starts_with("12345") { Ok(()) } else { Err(Error::failed("not yet")) }
    })?;
    run(a, &format!("port add by-pid --network pods --netns {pid} --ip 10.1.1.9/24"))?;
    a.settle()?;
    ping(world.far.ns(), "10.1.1.9".parse()?)?;

    // The node's own port: devices, routes, sysctls, nftables and conntrack, by programs.
    let forwards = || a.ns().run_in(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"));
    ensure!(forwards()??.trim() == "0", "the node forwards already");
    run(a, "port add node --network pods --node --masquerade")?;
    run(a, "port del near")?;
    world.near.attach(a, &["--publish", "8080:80/udp"])?;
    a.settle()?;
    healthy(a)?;
    ensure!(forwards()??.trim() == "1", "the node does not forward");
    let rules = a.cmd("nft").args(["list", "table", "inet", "swd"]).run()?;
    ensure!(rules.contains("masquerade") && rules.contains("8080"), "{rules}");
    ping(a.ns(), world.near.ip(false))?;

    // Its switch process is somebody else's: it can be ended all the same.
    let hung = switch_process(a)?;
    send(hung, Signal::STOP)?;
    let next = next_process(a, hung)?;
    ensure!(!runs(hung) && runs(next), "process {hung} was not ended");
    healthy(a)?;
    ping(world.far.ns(), world.near.ip(true))?;

    // All of it, and everything comes back from the service manager.
    let before = device(world.near.ns())?;
    a.kill9()?;
    a.restart()?;
    healthy(a)?;
    is_confined(a)?;
    ensure!(device(world.near.ns())? == before, "the device of near has lost its carrier");
    ping(world.far.ns(), world.near.ip(false))?;
    ping(world.far.ns(), "10.1.1.9".parse()?)?;

    let tasks: usize = a
        .swd_pids()?
        .iter()
        .map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count))
        .sum();
    note(format!("{tasks} tasks under the unit, of {TASKS}"));
    ensure!(tasks < TASKS / 2, "{tasks} tasks are close to the unit's limit of {TASKS}");
    ensure!(read_log(a)? == 1, "the log has other ends than the one that was made");
    drop(process);
    lab::conserve::check_node(a, &[])
}
