//! VDE (Virtual Distributed Ethernet) as a rival: `vde_switch` with TAP ports, and `vde_plug` as its cable over
//! UDP to another node's switch. It moves one frame per system call and knows no offloads.
//!
//! `vde_switch` ends when its standard input does, unless it goes into the background: it is therefore known by its
//! pid file, and not as a child.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::cmd::Daemon;
use crate::error::{Context, Error, Result};
use crate::kernel::address_pod;
use crate::lab::Pod;
use crate::netns::Ns;
use crate::node::{Node, quiet};
use crate::wait;

/// Programs that are run.
pub const TOOLS: &[&str] = &["vde_switch", "vde_plug"];

const LIMIT: Duration = Duration::from_secs(10);
/// UDP port of the cable, at both ends.
const CABLE_PORT: u16 = 5555;
static NEXT_TAP: AtomicU32 = AtomicU32::new(0);

/// A running switch. Dropping it ends its processes.
#[derive(Debug)]
pub struct Vde {
    cable: Option<Daemon>,
    switch: Pid,
    ns: Ns,
    dir: PathBuf,
    taps: Vec<String>,
}

impl Vde {
    /// Starts a switch in a namespace with so many TAPs to give to pods. `dir` takes its files.
    pub fn start(ns: &Ns, dir: &Path, taps: usize) -> Result<Self> {
        crate::install::need(TOOLS)?;
        std::fs::create_dir_all(dir).context(dir.display())?;
        let names: Vec<String> = (0..taps).map(|_| format!("vd{}", NEXT_TAP.fetch_add(1, Relaxed))).collect();
        let (control, pid_file) = (dir.join("ctl"), dir.join("vde.pid"));
        let mut cmd = ns.cmd("vde_switch").arg("-d").arg("-p").arg(&pid_file).arg("-s").arg(&control);
        for tap in &names {
            cmd = cmd.args(["-t", tap]);
        }
        cmd.run()?;
        let switch = wait::until("vde_switch writes its process id", LIMIT, || {
            let text = std::fs::read_to_string(&pid_file).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        })?;
        let vde = Self { cable: None, switch, ns: ns.clone(), dir: dir.to_owned(), taps: names };
        wait::until("vde_switch listens", LIMIT, || control.join("ctl").exists().then_some(()))?;
        Ok(vde)
    }

    /// Lays a cable from a node's switch to the one of another node.
    pub fn connect(&mut self, node: &Node, other: &Node) -> Result<()> {
        let ends: [Ipv4Addr; 2] = [node.underlay4(), other.underlay4()];
        let url = format!("udp://{}:{CABLE_PORT}->{}:{CABLE_PORT}", ends[0], ends[1]);
        let log = self.dir.join("vde_plug.log");
        let cmd = self.ns.cmd("vde_plug").arg(self.dir.join("ctl")).arg(url);
        self.cable = Some(cmd.daemon("vde_plug", &log)?);
        Ok(())
    }

    /// Gives a pod one of the TAPs as its `eth0`.
    pub fn attach(&mut self, pod: &Pod, addresses: &[&str], mtu: u32) -> Result<()> {
        let tap = self.taps.pop().ok_or_else(|| Error::failed("vde_switch was started with fewer TAPs"))?;
        quiet(pod.ns())?;
        self.ns.ip([format!("link set {tap} netns {} name eth0", pod.ns().name())])?;
        pod.ns().ip([format!("link set eth0 mtu {mtu} up")])?;
        address_pod(pod, "eth0", addresses, &[])
    }

    /// Process ids, for measurements of its load.
    pub fn pids(&self) -> Vec<u32> {
        let switch = self.switch.as_raw_nonzero().get().cast_unsigned();
        std::iter::once(switch).chain(self.cable.as_ref().map(Daemon::pid)).collect()
    }
}

impl Drop for Vde {
    fn drop(&mut self) {
        // Fails only if it is gone already. It is our child where we are the first process of the sandbox, and
        // somebody else's to wait for otherwise.
        let _ = kill_process(self.switch, Signal::KILL);
        let _ = waitpid(Some(self.switch), WaitOptions::empty());
    }
}
