//! tinc 1.0 as a rival across nodes: a daemon with one TAP (`Mode = switch`) and UDP to the others, one system
//! call per frame. Without cipher, digest and compression, so that what is compared is the switching.
//!
//! The pod's interface is the daemon's TAP itself, moved into the pod, as with the other rivals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cmd::{Cmd, Daemon};
use crate::error::{Context, Result};
use crate::kernel::address_pod;
use crate::lab::Pod;
use crate::node::{Node, quiet};
use crate::wait;

/// Programs that are run.
pub const TOOLS: &[&str] = &["tincd"];

const LIMIT: Duration = Duration::from_secs(10);
const TAP: &str = "tinc0";

/// A running daemon.
#[derive(Debug)]
pub struct Tinc {
    daemon: Daemon,
}

/// A node's directory of configuration before its daemon runs.
#[derive(Debug)]
struct Config {
    name: String,
    dir: PathBuf,
}

impl Config {
    /// Writes it, with a fresh key pair.
    fn write(node: &Node, other: &Node) -> Result<Self> {
        let dir = node.dir().join("tinc");
        let hosts = dir.join("hosts");
        std::fs::create_dir_all(&hosts).context(hosts.display())?;
        let (name, connect) = (node.name(), other.name());
        // Without path MTU discovery: its outcome takes seconds, and until then frames go by TCP. With an MTU
        // of 1,450 in the pods every frame fits the underlay.
        put(
            &dir.join("tinc.conf"),
            &format!(
                "Name = {name}\nAddressFamily = ipv4\nMode = switch\nDeviceType = tap\nInterface = {TAP}\n\
                 ConnectTo = {connect}\nBindToAddress = {}\nPMTUDiscovery = no\n",
                node.underlay4()
            ),
        )?;
        put(
            &hosts.join(name),
            &format!(
                "Address = {}\nCipher = none\nDigest = none\nCompression = 0\nPMTUDiscovery = no\n",
                node.underlay4()
            ),
        )?;
        Cmd::new("tincd").arg("-c").arg(&dir).arg("-K2048").run()?;
        Ok(Self { name: name.to_owned(), dir })
    }

    fn host_file(&self) -> PathBuf {
        self.dir.join("hosts").join(&self.name)
    }

    /// Makes a node known to this one.
    fn learn(&self, other: &Self) -> Result<()> {
        let to = self.dir.join("hosts").join(&other.name);
        std::fs::copy(other.host_file(), &to).map(drop).context(to.display())
    }
}

impl Tinc {
    /// Starts a daemon on each of two nodes and gives each pod the TAP of its node as `eth0`.
    pub fn join(nodes: [&Node; 2], pods: &[Pod; 2], addresses: [&str; 2], mtu: u32) -> Result<[Self; 2]> {
        crate::install::need(TOOLS)?;
        let [a, b] = nodes;
        let configs = [Config::write(a, b)?, Config::write(b, a)?];
        let [first, second] = &configs;
        first.learn(second)?;
        second.learn(first)?;
        Ok([
            Self::start(a, first, &pods[0], addresses[0], mtu)?,
            Self::start(b, second, &pods[1], addresses[1], mtu)?,
        ])
    }

    fn start(node: &Node, config: &Config, pod: &Pod, address: &str, mtu: u32) -> Result<Self> {
        let pid_file = config.dir.join("tinc.pid");
        let mut daemon = node
            .cmd("tincd")
            .arg("-c")
            .arg(&config.dir)
            .arg("-D")
            .arg(format!("--pidfile={}", pid_file.display()))
            .daemon(&format!("tincd on {}", node.name()), &config.dir.join("tincd.log"))?;
        wait::until("tincd makes its TAP", LIMIT, || {
            let there = node.ns().ip_json(&["link", "show", "dev", TAP]).is_ok();
            (there || daemon.check_running().is_err()).then_some(())
        })?;
        daemon.check_running()?;
        quiet(pod.ns())?;
        node.ns().ip([format!("link set {TAP} netns {} name eth0", pod.ns().name())])?;
        pod.ns().ip([format!("link set eth0 mtu {mtu} up")])?;
        address_pod(pod, "eth0", &[address], &[])?;
        Ok(Self { daemon })
    }

    /// Process id, for measurements of its load.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(path.display())
}
