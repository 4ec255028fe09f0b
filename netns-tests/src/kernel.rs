//! Peers made of kernel devices alone, to prove that what the switch sends is what others expect:
//! a bridge with a VXLAN device, a VXLAN device that is routed as Flannel does it, and a plain
//! bridge to compare speed with.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::error::{Error, Result};
use crate::lab::Pod;
use crate::netns::{Ns, format_mac};
use crate::node::{Node, quiet};
use crate::wire::{UPLINK, WireOptions, veth};

/// The UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
const BRIDGE: &str = "br0";
const VXLAN: &str = "vx0";

/// Interface names are at most 15 bytes: host ends are numbered.
static NEXT_VETH: AtomicU32 = AtomicU32::new(0);

/// How a kernel VXLAN device is set up.
#[derive(Clone, Copy, Debug)]
pub struct VxlanOptions {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Underlay family.
    pub v6: bool,
    /// MTU of the overlay; what an underlay of 1500 leaves if absent.
    pub mtu: Option<u32>,
    /// Outer UDP checksum: sent, and required on what arrives over IPv6.
    pub checksum: bool,
}

impl VxlanOptions {
    /// The usual port and MTU.
    pub fn new(vni: u32) -> Self {
        Self { vni, port: VXLAN_PORT, v6: false, mtu: None, checksum: true }
    }

    fn mtu(&self) -> u32 {
        self.mtu.unwrap_or(if self.v6 { 1430 } else { 1450 })
    }

    fn link(&self, node: &Node, more: &str) -> String {
        let Self { vni, port, checksum, .. } = *self;
        let checksum = match (self.v6, checksum) {
            (false, true) => "udpcsum",
            (false, false) => "noudpcsum",
            (true, true) => "noudp6zerocsumtx noudp6zerocsumrx",
            (true, false) => "udp6zerocsumtx udp6zerocsumrx",
        };
        let local = node.underlay(self.v6);
        format!(
            "link add {VXLAN} mtu {} type vxlan id {vni} dstport {port} local {local} dev {UPLINK} {checksum} {more}",
            self.mtu()
        )
    }
}

/// A kernel bridge with pods, perhaps with a VXLAN device as one of its ports.
#[derive(Debug)]
pub struct KernelBridge {
    ns: Ns,
    mtu: u32,
    vxlan: bool,
}

impl KernelBridge {
    /// A plain bridge: the kernel's own switch, for comparison.
    pub fn plain(ns: &Ns, mtu: u32) -> Result<Self> {
        ns.ip([format!("link add {BRIDGE} type bridge mcast_snooping 0"), format!("link set {BRIDGE} up")])?;
        Ok(Self { ns: ns.clone(), mtu, vxlan: false })
    }

    /// A bridge joined to other nodes by VXLAN. It learns; floods go to the remotes added.
    pub fn vxlan(node: &Node, options: &VxlanOptions) -> Result<Self> {
        let mut bridge = Self::plain(node.ns(), options.mtu())?;
        node.ns().ip([options.link(node, ""), format!("link set {VXLAN} master {BRIDGE} up")])?;
        bridge.vxlan = true;
        Ok(bridge)
    }

    /// Adds a remote to which unknown and group frames go.
    pub fn flood_to(&self, remote: IpAddr) -> Result<()> {
        self.static_fdb([0; 6], remote)
    }

    /// Adds a static entry: this address is behind that remote.
    pub fn static_fdb(&self, mac: [u8; 6], remote: IpAddr) -> Result<()> {
        if !self.vxlan {
            return Err(Error::failed("this bridge has no VXLAN device"));
        }
        let (mac, remote) = (format_mac(mac), remote.to_string());
        let cmd = self.ns.cmd("bridge").args(["fdb", "append", &mac, "dev", VXLAN, "dst", &remote]);
        cmd.run().map(drop)
    }

    /// Connects a pod by a veth pair as its `eth0`, with addresses (CIDR) and default routes.
    pub fn attach(&self, pod: &Pod, addresses: &[&str], gateways: &[IpAddr]) -> Result<()> {
        let host_end = connect_pod(&self.ns, pod, addresses, gateways, self.mtu)?;
        self.ns.ip([format!("link set {host_end} master {BRIDGE}")])
    }
}

/// A veth pair from a node to a pod, addressed in the pod; gives the node's end.
pub fn connect_pod(
    node: &Ns,
    pod: &Pod,
    addresses: &[&str],
    gateways: &[IpAddr],
    mtu: u32,
) -> Result<String> {
    quiet(pod.ns())?;
    let host_end = format!("p{}", NEXT_VETH.fetch_add(1, Relaxed));
    veth(node, &host_end, pod.ns(), "eth0", &WireOptions { mtu, ..WireOptions::default() })?;
    address_pod(pod, "eth0", addresses, gateways)?;
    Ok(host_end)
}

/// Addresses and default routes of a pod's interface.
pub(crate) fn address_pod(pod: &Pod, interface: &str, addresses: &[&str], gateways: &[IpAddr]) -> Result<()> {
    let mut lines: Vec<String> = addresses
        .iter()
        .map(|a| format!("addr add {a} dev {interface}{}", if a.contains(':') { " nodad" } else { "" }))
        .collect();
    lines.extend(gateways.iter().map(|g| match g {
        IpAddr::V4(g) => format!("route add 0.0.0.0/0 via {g}"),
        IpAddr::V6(g) => format!("route add ::/0 via {g}"),
    }));
    pod.ns().ip(lines)
}

/// A node that routes pods' packets into a VXLAN device, one host entry per remote node: Flannel's
/// way. No learning, no flooding.
#[derive(Debug)]
pub struct RoutedVxlan {
    ns: Ns,
    mtu: u32,
    mac: [u8; 6],
}

/// Another node as this one sees it.
#[derive(Clone, Debug)]
pub struct Remote<'a> {
    /// Its underlay address.
    pub underlay: IpAddr,
    /// The MAC address of its router (of its VXLAN device).
    pub router_mac: [u8; 6],
    /// The subnets of its pods (CIDR, the address part being the network's own address, as
    /// Flannel has it: it serves as the next hop).
    pub pod_cidrs: &'a [&'a str],
}

impl RoutedVxlan {
    /// Makes the device with its own addresses (one per family, with prefix length 32 or 128) and
    /// a bridge with these gateway addresses (CIDR) for the node's pods.
    pub fn new(node: &Node, options: &VxlanOptions, own: &[&str], gateways: &[&str]) -> Result<Self> {
        let ns = node.ns();
        // Before any address exists: turning it on later resets IPv6 settings of interfaces.
        ns.sysctl("net.ipv4.ip_forward", "1")?;
        ns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        ns.ip([options.link(node, "nolearning")])?;
        let mtu = options.mtu();
        let mut lines = vec![
            format!("link set {VXLAN} up"),
            format!("link add {BRIDGE} mtu {mtu} type bridge mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ];
        for (device, addresses) in [(VXLAN, own), (BRIDGE, gateways)] {
            lines.extend(addresses.iter().map(|a| {
                format!("addr add {a} dev {device}{}", if a.contains(':') { " nodad" } else { "" })
            }));
        }
        ns.ip(lines)?;
        Ok(Self { ns: ns.clone(), mtu, mac: ns.mac(VXLAN)? })
    }

    /// The MAC address that the other nodes must send to.
    pub fn router_mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Adds routes, a neighbour entry and a forwarding entry for another node.
    pub fn add_remote(&self, remote: &Remote<'_>) -> Result<()> {
        let mac = format_mac(remote.router_mac);
        let mut lines = Vec::new();
        for cidr in remote.pod_cidrs {
            let (hop, _) = cidr.split_once('/').ok_or_else(|| Error::failed(format!("{cidr}: no CIDR")))?;
            lines.push(format!("neigh replace {hop} lladdr {mac} dev {VXLAN} nud permanent"));
            lines.push(format!("route replace {cidr} via {hop} dev {VXLAN} onlink"));
        }
        self.ns.ip(lines)?;
        let underlay = remote.underlay.to_string();
        self.ns.cmd("bridge").args(["fdb", "replace", &mac, "dev", VXLAN, "dst", &underlay]).run().map(drop)
    }

    /// Connects a pod by a veth pair to the node's bridge.
    pub fn attach(&self, pod: &Pod, addresses: &[&str], gateways: &[IpAddr]) -> Result<()> {
        let host_end = connect_pod(&self.ns, pod, addresses, gateways, self.mtu)?;
        self.ns.ip([format!("link set {host_end} master {BRIDGE}")])
    }
}
