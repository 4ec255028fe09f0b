//! The underlay: what joins the nodes of a lab to each other.
//!
//! Each node has one uplink, [`UPLINK`], with the addresses 192.168.77.N/24 and fd77::N/64. Two
//! nodes may be joined by a plain veth pair; any number by a kernel bridge in a namespace of its
//! own or by an impaired wire in this process.

use crate::error::{Error, Result};
use crate::impair::{ImpairedWire, Impairment};
use crate::netns::{Netns, Ns};

/// The name of every node's underlay interface.
pub const UPLINK: &str = "uplink0";

/// Which offloads the ends of a veth wire have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// As the kernel makes veth pairs: frames of any size, checksums not computed. Faster than any
    /// real wire.
    #[default]
    Veth,
    /// Datagrams cross as standard packets, as on a real wire: no UDP and no tunnel segmentation
    /// across the pair, receive offload on.
    WireLike,
    /// Nothing: checksums are computed before frames cross. Needed where an end reads frames
    /// with packet sockets and believes the checksums, as Open vSwitch does.
    None,
}

/// How a veth wire is set up.
#[derive(Clone, Copy, Debug)]
pub struct WireOptions {
    /// MTU of both ends.
    pub mtu: u32,
    /// Length of the transmit queue of both ends.
    pub txqueuelen: u32,
    /// Offloads of both ends.
    pub offloads: Offloads,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self { mtu: 1500, txqueuelen: 1000, offloads: Offloads::default() }
    }
}

/// The kinds of underlay.
#[derive(Clone, Debug)]
pub enum Underlay {
    /// One veth pair between exactly two nodes.
    Veth(WireOptions),
    /// A kernel bridge in a namespace of its own, any number of nodes.
    Bridge(WireOptions),
    /// TAP uplinks joined by a thread that impairs frames (see [`crate::impair`]).
    Impaired {
        /// What happens to frames at first.
        impairment: Impairment,
        /// Seed of all random decisions.
        seed: u64,
        /// MTU of the uplinks.
        mtu: u32,
    },
}

impl Default for Underlay {
    fn default() -> Self {
        Self::Veth(WireOptions::default())
    }
}

/// A built underlay; it goes when dropped.
#[derive(Debug)]
pub enum Wire {
    /// Lives in the nodes' namespaces.
    Veth,
    /// The namespace with the bridge.
    Bridge(Netns),
    /// The thread between the TAPs.
    Impaired(ImpairedWire),
}

impl Wire {
    /// Joins the namespaces: afterwards each has an uplink that is up, without addresses.
    /// `prefix` names the bridge's namespace.
    pub fn build(underlay: &Underlay, nodes: &[&Ns], prefix: &str) -> Result<Self> {
        match underlay {
            Underlay::Veth(options) => {
                match nodes {
                    [a, b] => veth(a, UPLINK, b, UPLINK, options)?,
                    [] | [_] => {}
                    _ => return Err(Error::failed("a veth wire has two ends; use Underlay::Bridge")),
                }
                Ok(Self::Veth)
            }
            Underlay::Bridge(options) => {
                let ns = Netns::create(&format!("{prefix}wire"))?;
                // No multicast snooping: a hub with memory is all that is wanted.
                ns.ip(["link add br0 type bridge mcast_snooping 0", "link set br0 up"])?;
                for (i, node) in nodes.iter().enumerate() {
                    let end = format!("to{i}");
                    veth(node, UPLINK, &ns, &end, options)?;
                    ns.ip([format!("link set {end} master br0")])?;
                }
                Ok(Self::Bridge(ns))
            }
            Underlay::Impaired { impairment, seed, mtu } => {
                let wire = ImpairedWire::join(nodes, UPLINK, impairment.clone(), *seed)?;
                for node in nodes {
                    node.ip([format!("link set {UPLINK} mtu {mtu} up")])?;
                }
                Ok(Self::Impaired(wire))
            }
        }
    }
}

/// A veth pair between two namespaces, both ends up. Addresses are the caller's business.
pub fn veth(a: &Ns, a_name: &str, b: &Ns, b_name: &str, options: &WireOptions) -> Result<()> {
    let (mtu, queue) = (options.mtu, options.txqueuelen);
    a.ip([format!(
        "link add {a_name} txqueuelen {queue} mtu {mtu} type veth peer name {b_name} txqueuelen {queue} \
         mtu {mtu} netns {}",
        b.name()
    )])?;
    for (ns, name) in [(a, a_name), (b, b_name)] {
        match options.offloads {
            Offloads::Veth => {}
            Offloads::WireLike => ns.ethtool(
                name,
                &[
                    ("tx-udp-segmentation", false),
                    // Without and with an outer checksum these are two features.
                    ("tx-udp_tnl-segmentation", false),
                    ("tx-udp_tnl-csum-segmentation", false),
                    ("gro", true),
                ],
            )?,
            Offloads::None => {
                ns.ethtool(name, &[("tx", false), ("sg", false), ("gro", false)])?;
            }
        }
        ns.ip([format!("link set {name} up")])?;
    }
    Ok(())
}
