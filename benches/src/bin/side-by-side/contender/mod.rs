//! The switches that are compared, each set up the way its users would, in fresh namespaces: two nodes, a wire,
//! two pods on one of the nodes or on both.
//!
//! Every pod has an MTU of [`MTU`], whatever its switch could carry, so that all move the same packets.

mod kernel;
mod ovs;
mod relay;
mod swd;
mod tinc;
mod vde;

use std::any::Any;
use std::net::Ipv4Addr;

use lab::wire::{Offloads, Underlay, WireOptions};
use lab::{Error, Lab, Pod, Result, conserve, probe};

use crate::load::flood::Path;

/// MTU of every pod: what VXLAN leaves of an underlay with 1,500.
const MTU: u32 = 1450;
/// Addresses of the pods in one subnet.
const BRIDGED: [&str; 2] = ["10.1.1.2/24", "10.1.1.3/24"];
/// Addresses of the pods where each node has a subnet of its own.
const ROUTED: [&str; 2] = ["10.1.1.2/24", "10.1.2.2/24"];
/// The gateways of these.
const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 1, 1), Ipv4Addr::new(10, 1, 2, 1)];

/// Where the two pods are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Place {
    /// Both on one node.
    OneNode,
    /// On two nodes.
    Across,
}

/// What joins the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Wire {
    /// A veth pair as the kernel makes it: frames of any size, checksums not computed.
    Veth,
    /// A veth pair on which datagrams cross as standard packets, as on a real wire.
    WireLike,
}

impl Wire {
    pub const ALL: [Self; 2] = [Self::Veth, Self::WireLike];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::WireLike => "wire-like",
        }
    }
}

/// A switch that can be asked for by name.
pub struct Contender {
    /// For `--only`.
    pub name: &'static str,
    /// For people.
    pub label: &'static str,
    pub place: Place,
    /// Others of its group are compared with it.
    pub baseline: bool,
    /// Runs only with `--ablations`.
    pub ablation: bool,
    /// Programs it needs besides those of every run.
    pub tools: &'static [&'static str],
    /// Reads its uplink with packet sockets and believes checksums.
    needs_complete_packets: bool,
    build: Build,
}

/// What a contender has set up.
struct Built {
    /// What runs; it ends when dropped.
    parts: Vec<Box<dyn Any>>,
    /// The processes that switch; none for the kernel.
    pids: Vec<u32>,
    /// Addresses of the pods.
    at: [Ipv4Addr; 2],
    /// Whether the nodes run swd, whose ledger must balance.
    ledger: bool,
}

impl Built {
    /// Of a switch whose pods have these addresses (CIDR).
    fn new(addresses: [&str; 2]) -> Result<Self> {
        let [a, b] = addresses;
        Ok(Self { parts: Vec::new(), pids: Vec::new(), at: [address(a)?, address(b)?], ledger: false })
    }

    fn with(mut self, part: impl Any) -> Self {
        self.parts.push(Box::new(part));
        self
    }
}

fn address(cidr: &str) -> Result<Ipv4Addr> {
    let (text, _) = cidr.split_once('/').ok_or_else(|| Error::failed(format!("{cidr}: no CIDR")))?;
    Ok(text.parse()?)
}

type Build = fn(&Lab, &[Pod; 2]) -> Result<Built>;

/// One that needs nothing special.
const fn plain(place: Place, name: &'static str, label: &'static str, build: Build) -> Contender {
    Contender {
        name,
        label,
        place,
        baseline: false,
        ablation: false,
        tools: &[],
        needs_complete_packets: false,
        build,
    }
}

const fn local(name: &'static str, label: &'static str, build: Build) -> Contender {
    plain(Place::OneNode, name, label, build)
}

const fn across(name: &'static str, label: &'static str, build: Build) -> Contender {
    plain(Place::Across, name, label, build)
}

/// Without a technique that others of its family use.
const fn ablated(contender: Contender) -> Contender {
    Contender { ablation: true, ..contender }
}

/// With programs of others.
const fn with(tools: &'static [&'static str], contender: Contender) -> Contender {
    Contender { tools, ..contender }
}

const fn baseline(contender: Contender) -> Contender {
    Contender { baseline: true, ..contender }
}

const OVS_VXLAN: Contender = Contender {
    needs_complete_packets: true,
    ..across("ovs-vxlan", "Open vSwitch userspace, VXLAN", ovs::across)
};

/// All of them, in the order of a round.
pub const ALL: &[Contender] = &[
    baseline(local("kernel-bridge", "kernel bridge", kernel::bridge)),
    with(ovs::TOOLS, local("ovs", "Open vSwitch userspace", ovs::one_node)),
    with(lab::vde::TOOLS, local("vde", "VDE", vde::one_node)),
    local("relay", "bare relay", relay::one_node),
    local("swd", "swd", swd::one_node),
    ablated(local("relay-no-merge", "bare relay, no merging", relay::one_node_no_merge)),
    ablated(local("relay-no-offload", "bare relay, no TAP offloads", relay::one_node_no_offload)),
    ablated(local("swd-no-offload", "swd, no port offloads", swd::one_node_no_offload)),
    across("kernel-routing", "kernel routing, no tunnel", kernel::routing),
    baseline(across("kernel-vxlan", "kernel VXLAN, bridged", kernel::vxlan_bridged)),
    across("kernel-vxlan-routed", "kernel VXLAN, routed", kernel::vxlan_routed),
    with(ovs::TOOLS, OVS_VXLAN),
    with(lab::vde::TOOLS, across("vde-cable", "VDE, UDP cable", vde::across)),
    with(lab::tinc::TOOLS, across("tinc", "tinc, no cipher", tinc::across)),
    across("relay-tunnel", "bare relay, tunnel", relay::across),
    across("swd-bridged", "swd, bridged", swd::bridged),
    across("swd-routed", "swd, routed", swd::routed),
    ablated(across("relay-tunnel-no-merge", "bare relay, tunnel, no merging", relay::across_no_merge)),
    ablated(across("relay-tunnel-no-udp-gro", "bare relay, tunnel, no UDP_GRO", relay::across_no_gro)),
    ablated(across(
        "relay-tunnel-no-udp-segment",
        "bare relay, tunnel, no UDP_SEGMENT",
        relay::across_no_segment,
    )),
    ablated(across(
        "relay-tunnel-no-offload",
        "bare relay, tunnel, no TAP offloads",
        relay::across_no_offload,
    )),
    ablated(across("swd-bridged-no-offload", "swd, bridged, no port offloads", swd::bridged_no_offload)),
];

impl Contender {
    /// Does a word of `--only` mean it? `kernel` means every contender whose name begins with `kernel-`.
    pub fn is(&self, word: &str) -> bool {
        self.name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Sets it up.
    pub fn build(&self, wire: Wire) -> Result<Stand> {
        lab::install::need(self.tools)?;
        let offloads = match (wire, self.needs_complete_packets && self.place == Place::Across) {
            (Wire::Veth, false) => Offloads::Veth,
            (Wire::WireLike, false) => Offloads::WireLike,
            // The nearest to a wire that it can live with.
            (Wire::WireLike, true) => Offloads::None,
            (Wire::Veth, true) => {
                return Err(Error::missing(
                    "reads its uplink with packet sockets and drops packets whose checksum is left to the \
                     device; it runs over the wire-like underlay, there without any offload",
                ));
            }
        };
        let options = WireOptions { offloads, ..WireOptions::default() };
        let lab = Lab::new("sbs").node("a").node("b").underlay(Underlay::Veth(options)).build()?;
        let pods = [lab.pod("p")?, lab.pod("q")?];
        let built = (self.build)(&lab, &pods)?;
        let stand = Stand { built, pods, lab };
        // Neighbours are known before anything is measured, in both directions.
        let [a, b] = stand.built.at;
        probe::ping(stand.pods[0].ns(), b.into())?;
        probe::ping(stand.pods[1].ns(), a.into())?;
        Ok(stand)
    }
}

/// A contender that is set up. Fields are in the order in which things must go away.
pub struct Stand {
    built: Built,
    pods: [Pod; 2],
    lab: Lab,
}

impl Stand {
    /// From the first pod to the second.
    pub fn there(&self) -> Path<'_> {
        Path { from: self.pods[0].ns(), to: self.pods[1].ns(), at: self.built.at[1] }
    }

    /// From the second pod to the first.
    pub fn back(&self) -> Path<'_> {
        Path { from: self.pods[1].ns(), to: self.pods[0].ns(), at: self.built.at[0] }
    }

    /// The processes that switch.
    pub fn pids(&self) -> &[u32] {
        &self.built.pids
    }

    /// Fails if a frame that came into swd neither left nor was dropped for a reason. Drops are no failure: these
    /// runs overload.
    pub fn conserved(&self) -> Result<()> {
        if self.built.ledger {
            for node in self.lab.nodes() {
                conserve::Ledger::read(node)?.balanced()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_select_families() {
        let chosen = |word: &str| ALL.iter().filter(|c| c.is(word)).count();
        assert!(
            ALL.iter().all(|c| ALL.iter().filter(|d| d.name == c.name || d.label == c.label).count() == 1)
        );
        assert_eq!((chosen("kernel"), chosen("tinc"), chosen("swd"), chosen("sw")), (4, 1, 5, 0));
        for place in [Place::OneNode, Place::Across] {
            assert_eq!(ALL.iter().filter(|c| c.place == place && c.baseline).count(), 1);
        }
    }
}
