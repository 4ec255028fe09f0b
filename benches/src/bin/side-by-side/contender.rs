//! The switches that are compared, each set up the way its users would, with TAP or veth pods.

use lab::kernel::{KernelBridge, VxlanOptions};
use lab::ovs::{Encap, Ovs};
use lab::probe::{self, IperfOptions};
use lab::wire::{Offloads, Underlay, WireOptions};
use lab::{Lab, Pod, Result};
use std::net::IpAddr;

/// Programs the comparison runs, apart from our own.
pub const TOOLS: &[&str] = &[
    "ip",
    "bridge",
    "ethtool",
    "ping",
    "iperf3",
    "ovs-vswitchd",
    "ovsdb-server",
    "ovsdb-tool",
    "ovs-vsctl",
    "ovs-appctl",
];

/// A switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// Ours, with guard and counters on.
    Swd,
    /// Kernel bridge over veth; across nodes with a VXLAN device.
    Kernel,
    /// Open vSwitch, `datapath_type=netdev`, TAP ports.
    Ovs,
}

const ADDRESSES: [&str; 2] = ["10.1.1.2/24", "10.1.1.3/24"];
const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 1, 3));

impl Contender {
    /// All of them, in the order of a round.
    pub const ALL: [Self; 3] = [Self::Swd, Self::Kernel, Self::Ovs];

    /// Name in tables.
    pub const fn name(self, across: bool) -> &'static str {
        match (self, across) {
            (Self::Swd, false) => "swd",
            (Self::Swd, true) => "swd, VXLAN",
            (Self::Kernel, false) => "kernel bridge",
            (Self::Kernel, true) => "kernel bridge and VXLAN",
            (Self::Ovs, false) => "Open vSwitch userspace",
            (Self::Ovs, true) => "Open vSwitch userspace, VXLAN",
        }
    }

    /// Sets up two pods, on one node or on two, and measures TCP with each number of streams. Gbit/s.
    pub fn measure(self, across: bool, streams: &[u32], seconds: u32) -> Result<Vec<f64>> {
        // Open vSwitch reads its uplink with packet sockets and needs complete checksums there.
        let offloads = if self == Self::Ovs { Offloads::None } else { Offloads::Veth };
        let wire = WireOptions { offloads, ..WireOptions::default() };
        let lab = Lab::new("sbs").node("a").node("b").underlay(Underlay::Veth(wire)).build()?;
        let pods = [lab.pod("p")?, lab.pod("q")?];
        match self {
            Self::Swd => swd(&lab, &pods, across)?,
            Self::Kernel => return kernel(&lab, &pods, across, || iperf(&pods, streams, seconds)),
            Self::Ovs => return ovs(&lab, &pods, across, || iperf(&pods, streams, seconds)),
        }
        iperf(&pods, streams, seconds)
    }
}

fn iperf(pods: &[Pod; 2], streams: &[u32], seconds: u32) -> Result<Vec<f64>> {
    probe::ping(pods[0].ns(), FAR)?;
    streams
        .iter()
        .map(|&streams| {
            let options = IperfOptions { seconds, streams, ..IperfOptions::default() };
            Ok(probe::iperf(pods[0].ns(), pods[1].ns(), FAR, &options)?.bits_per_second / 1e9)
        })
        .collect()
}

fn swd(lab: &Lab, pods: &[Pod; 2], across: bool) -> Result<()> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let nodes = if across { [a, b] } else { [a, a] };
    for (node, other) in [(a, b), (b, a)] {
        node.start_swd(&[])?;
        node.swctl_text(&[
            "network",
            "add",
            "pods",
            "--vni",
            "1",
            "--subnet",
            "10.1.1.0/24",
            "--gateway",
            "10.1.1.1",
        ])?;
        node.add_peer(other, false, &[])?;
    }
    for ((node, pod), address) in nodes.into_iter().zip(pods).zip(ADDRESSES) {
        node.add_port(pod, "pods", &[address])?;
    }
    Ok(())
}

fn kernel<T>(lab: &Lab, pods: &[Pod; 2], across: bool, then: impl FnOnce() -> Result<T>) -> Result<T> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    if !across {
        let bridge = KernelBridge::plain(a.ns(), 1500)?;
        for (pod, address) in pods.iter().zip(ADDRESSES) {
            bridge.attach(pod, &[address], &[])?;
        }
        return then();
    }
    let options = VxlanOptions::new(1);
    let bridges = [KernelBridge::vxlan(a, &options)?, KernelBridge::vxlan(b, &options)?];
    for (bridge, remote) in bridges.iter().zip([b, a]) {
        bridge.flood_to(remote.underlay4().into())?;
    }
    for ((bridge, pod), address) in bridges.iter().zip(pods).zip(ADDRESSES) {
        bridge.attach(pod, &[address], &[])?;
    }
    then()
}

fn ovs<T>(lab: &Lab, pods: &[Pod; 2], across: bool, then: impl FnOnce() -> Result<T>) -> Result<T> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    if !across {
        let ovs = Ovs::start(a.ns(), &a.dir().join("ovs"))?;
        for (pod, address) in pods.iter().zip(ADDRESSES) {
            ovs.attach_tap(pod, &[address], &[], 1500)?;
        }
        return then();
    }
    let switches = [Ovs::start_on(a)?, Ovs::start_on(b)?];
    for ((ovs, remote), (pod, address)) in switches.iter().zip([b, a]).zip(pods.iter().zip(ADDRESSES)) {
        ovs.add_tunnel("tun0", Encap::Vxlan, remote.underlay4().into(), 1)?;
        ovs.attach_tap(pod, &[address], &[], 1450)?;
    }
    then()
}
