//! Open vSwitch with its userspace datapath as a peer and as a rival: no kernel module, private
//! database, sockets and processes, never the machine's own Open vSwitch.
//!
//! For tunnels the node's uplink becomes a port of the bridge br-phy, which takes over the
//! underlay addresses; pods are on br-int. Open vSwitch reads the uplink with packet sockets and
//! believes checksums, so the wire must have no offloads ([`crate::wire::Offloads::None`]) at both
//! ends, or it drops every datagram whose checksum is left to the device.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::cmd::{Cmd, Daemon};
use crate::error::{Context, Error, Result};
use crate::kernel::address_pod;
use crate::lab::Pod;
use crate::netns::Ns;
use crate::node::{Node, quiet};
use crate::wait;
use crate::wire::{Offloads, UPLINK, WireOptions, veth};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const LIMIT: Duration = Duration::from_secs(15);
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

/// A tunnel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// VXLAN, port 4789.
    Vxlan,
    /// Geneve, port 6081.
    Geneve,
}

impl Encap {
    /// The name both Open vSwitch and `swctl peer add --encap` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// A running Open vSwitch. Dropping it ends its processes, the switch before the database.
#[derive(Debug)]
pub struct Ovs {
    vswitchd: Daemon,
    _database: Daemon,
    ns: Ns,
    dir: PathBuf,
}

impl Ovs {
    /// Starts one in a namespace, with the empty bridge br-int. `dir` takes its files.
    pub fn start(ns: &Ns, dir: &Path) -> Result<Self> {
        crate::install::need(&["ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovsdb-tool", "ovs-appctl"])?;
        std::fs::create_dir_all(dir).context(dir.display())?;
        let own = |cmd: Cmd| {
            let mut cmd = cmd.within(ns);
            for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
                cmd = cmd.env(variable, dir);
            }
            cmd
        };
        let (db, socket) = (dir.join("conf.db"), dir.join("db.sock"));
        Cmd::new("ovsdb-tool").arg("create").arg(&db).arg(SCHEMA).run()?;
        let mut database = own(Cmd::new("ovsdb-server").arg(&db))
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg(format!("--unixctl={}", dir.join("db.ctl").display()))
            .daemon("ovsdb-server", &dir.join("ovsdb-server.log"))?;
        wait::until("ovsdb-server listens", LIMIT, || {
            (crate::swd::is_socket(&socket) || database.check_running().is_err()).then_some(())
        })?;
        database.check_running()?;
        let remote = format!("unix:{}", socket.display());
        Cmd::new("ovs-vsctl")
            .arg(format!("--db={remote}"))
            .args(["--timeout=10", "--no-wait", "init"])
            .run()?;
        let vswitchd = own(Cmd::new("ovs-vswitchd").arg(&remote))
            .arg(format!("--unixctl={}", dir.join("vswitchd.ctl").display()))
            .daemon("ovs-vswitchd", &dir.join("ovs-vswitchd.log"))?;
        let ovs = Self { vswitchd, _database: database, ns: ns.clone(), dir: dir.to_owned() };
        // Waits until the switch has done it, so afterwards everything is running.
        ovs.vsctl(&["add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev"])?;
        ovs.ns.ip(["link set br-int up"])?;
        Ok(ovs)
    }

    /// Starts one as a node's switch with the node's uplink under br-phy, ready for tunnels.
    pub fn start_on(node: &Node) -> Result<Self> {
        let ovs = Self::start(node.ns(), &node.dir().join("ovs"))?;
        // The kernel sees what arrives on the uplink, too. So that it does not answer a second
        // time, the uplink has no addresses, answers no ARP for those of br-phy, and has another
        // MAC address than br-phy.
        ovs.ns.ip([format!("addr flush dev {UPLINK}")])?;
        ovs.ns.sysctl(&format!("net.ipv4.conf.{UPLINK}.arp_ignore"), "1")?;
        ovs.ns.sysctl(&format!("net.ipv6.conf.{UPLINK}.disable_ipv6"), "1")?;
        let mac = format!("other_config:hwaddr=02:4f:56:53:00:{:02x}", node.index());
        ovs.vsctl(&["add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev", &mac])?;
        ovs.vsctl(&["add-port", "br-phy", UPLINK])?;
        ovs.ns.ip(["link set br-phy up"])?;
        node.address_uplink("br-phy")?;
        Ok(ovs)
    }

    /// Runs `ovs-vsctl`, which waits until the switch has done it.
    pub fn vsctl(&self, args: &[&str]) -> Result<String> {
        let remote = format!("--db=unix:{}", self.dir.join("db.sock").display());
        Cmd::new("ovs-vsctl").args([remote.as_str(), "--timeout=10"]).args(args).run()
    }

    /// Runs `ovs-appctl` on the switch.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let target = format!("--target={}", self.dir.join("vswitchd.ctl").display());
        Cmd::new("ovs-appctl").arg(target).args(args).run()
    }

    /// Adds a tunnel port to br-int.
    pub fn add_tunnel(&self, name: &str, encap: Encap, remote: IpAddr, vni: u32) -> Result<()> {
        let kind = format!("type={}", encap.name());
        let (remote, key) = (format!("options:remote_ip={remote}"), format!("options:key={vni}"));
        // A checksum in the outer UDP header, as swd sends.
        let args = ["add-port", "br-int", name, "--", "set", "interface", name, &kind, &remote, &key];
        self.vsctl(&args)?;
        self.vsctl(&["set", "interface", name, "options:csum=true"])?;
        self.check_port(name)
    }

    /// Connects a pod by a veth pair that Open vSwitch reads with packet sockets. The pod's end
    /// computes its checksums itself.
    pub fn attach_veth(&self, pod: &Pod, addresses: &[&str], gateways: &[IpAddr], mtu: u32) -> Result<()> {
        quiet(pod.ns())?;
        let port = next_port("ov");
        let options = WireOptions { mtu, offloads: Offloads::None, ..WireOptions::default() };
        veth(&self.ns, &port, pod.ns(), "eth0", &options)?;
        self.ns.sysctl(&format!("net.ipv6.conf.{port}.disable_ipv6"), "1")?;
        address_pod(pod, "eth0", addresses, gateways)?;
        self.vsctl(&["add-port", "br-int", &port])?;
        self.check_port(&port)
    }

    /// Connects a pod by a TAP (an internal port moved into the pod): Open vSwitch's fastest way
    /// without special hardware, and the one comparable to ours.
    pub fn attach_tap(&self, pod: &Pod, addresses: &[&str], gateways: &[IpAddr], mtu: u32) -> Result<()> {
        quiet(pod.ns())?;
        let port = next_port("ot");
        self.vsctl(&["add-port", "br-int", &port, "--", "set", "interface", &port, "type=internal"])?;
        self.check_port(&port)?;
        self.ns.ip([format!("link set {port} netns {} name eth0", pod.ns().name())])?;
        pod.ns().ip([format!("link set eth0 mtu {mtu} up")])?;
        address_pod(pod, "eth0", addresses, gateways)
    }

    /// Process id of the switch, for measurements of its load.
    pub fn pid(&self) -> u32 {
        self.vswitchd.pid()
    }

    fn check_port(&self, name: &str) -> Result<()> {
        let error = self.vsctl(&["get", "interface", name, "error"])?;
        match error.trim() {
            "" | "[]" => Ok(()),
            text => Err(Error::failed(format!("Open vSwitch port {name}: {text}"))),
        }
    }
}

fn next_port(prefix: &str) -> String {
    format!("{prefix}{}", NEXT_PORT.fetch_add(1, Relaxed))
}
