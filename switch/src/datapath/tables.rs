//! The published tables: everything the data path reads and never writes.
//!
//! A [`Tables`] is immutable. The control thread builds a new one for each change, sharing the parts that did
//! not change (`Arc<Network>`), and hands it to the workers between batches: all frames of a batch see one
//! generation. Flood lists are computed here, when tables are built, not per frame.

use super::hash::{Map, State};
use super::lpm::Lpm;
use super::verdict::{Egress, NetId, PeerId, PortId};
use ipnet::IpNet;
use packet::{MacAddr, Vni};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tunnel::Encap;

/// Everything one generation says.
#[derive(Clone, Default)]
pub struct Tables {
    /// Rises by one with every change.
    pub generation: u64,
    /// By [`PortId`]; `None` for free numbers.
    pub ports: Vec<Option<Arc<Port>>>,
    /// By [`PeerId`].
    pub peers: Vec<Option<Arc<Peer>>>,
    /// By [`NetId`].
    pub networks: Vec<Option<Arc<Network>>>,
    /// VNI to network.
    pub by_vni: Map<u32, NetId>,
    /// Outer source address to peer: the one for all networks, or any of those for one network each.
    pub by_remote: Map<IpAddr, PeerId>,
    /// Peers that are limited to one network.
    pub by_remote_network: Map<(IpAddr, NetId), PeerId>,
    /// This node.
    pub node: Node,
}

/// What concerns the node as a whole.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Underlay address, if there is an underlay.
    pub underlay: Option<IpAddr>,
    /// MAC that peers send routed frames to; derived from the underlay address, see [`router_mac`].
    pub router_mac: MacAddr,
    /// UDP ports that carry tunnels, here and at peers; a packet to one of them inside the tunnel is nested.
    pub tunnel_ports: Vec<u16>,
}

/// How strictly a port's frames are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Sends with its declared MAC and addresses only.
    Declared,
    /// Any source; MACs are learned, up to the port's quota.
    Learning,
    /// The node's own port ([`Network::node`]): its own MAC, any source address that no pod of this node declares, and
    /// in ARP and neighbour discovery its declared addresses only.
    Node,
}

/// A port, as the data path needs it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its network.
    pub network: NetId,
    /// MAC of the pod's interface.
    pub mac: MacAddr,
    /// Source checks.
    pub guard: Guard,
    /// Declared IPv4 addresses.
    pub v4: Vec<Ipv4Addr>,
    /// Declared IPv6 addresses, the link-local one included.
    pub v6: Vec<Ipv6Addr>,
    /// MTU of the pod's interface: largest IP packet in bytes.
    pub mtu: u32,
    /// How many MACs may be learned behind it.
    pub mac_limit: u32,
}

/// A remote node.
#[derive(Clone)]
pub struct Peer {
    /// Its VTEP.
    pub remote: IpAddr,
    /// UDP port it listens on.
    pub port: u16,
    /// Encapsulation towards it.
    pub encap: Encap,
    /// Non-zero outer UDP checksum.
    pub checksum: bool,
    /// MAC for routed frames to it.
    pub router_mac: MacAddr,
    /// Largest inner IP packet that fits the underlay, in bytes.
    pub mtu: u32,
    /// The one network it takes part in; `None` for all.
    pub network: Option<NetId>,
    /// If set, inner sources must be inside.
    pub sources: Option<Arc<Sources>>,
}

/// Prefixes an inner source address may come from.
#[derive(Clone, Default)]
pub struct Sources {
    v4: Lpm<4>,
    v6: Lpm<16>,
}

impl Sources {
    /// Collects prefixes.
    #[must_use]
    pub fn new(prefixes: &[IpNet]) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(p) => v4.push((p.network().octets(), p.prefix_len(), 0)),
                IpNet::V6(p) => v6.push((p.network().octets(), p.prefix_len(), 0)),
            }
        }
        Self { v4: Lpm::new(v4), v6: Lpm::new(v6) }
    }

    /// Is the address inside one of the prefixes?
    #[inline]
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.lookup(ip.octets()).is_some(),
            IpAddr::V6(ip) => self.v6.lookup(ip.octets()).is_some(),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// The destination is on this network: resolve it.
    Connected,
    /// Resolve this address instead.
    NextHop(IpAddr),
    /// Through the tunnel to that node's router MAC.
    Peer(PeerId),
    /// To this node itself, by its own port: addresses of the node, and whatever its kernel is to forward.
    Node,
    /// Drop silently.
    Blackhole,
    /// Drop and tell the source.
    Unreachable,
}

/// Longest-prefix tables of a network.
///
/// Prefixes are many, kinds of routes are few: the tries hold the number of a kind, and all kinds stay in the cache.
#[derive(Clone, Default)]
pub struct Fib {
    v4: Lpm<4>,
    v6: Lpm<16>,
    /// What a route says: prefix length and target.
    kinds: Vec<(u8, Target)>,
}

impl Fib {
    /// Builds both tables. A later route for the same prefix replaces an earlier one.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = (IpNet, Target)>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        let mut kinds = Vec::new();
        let mut numbers: Map<(u8, Target), u32> = Map::default();
        for (prefix, target) in routes {
            let kind = (prefix.prefix_len(), target);
            let number = *numbers.entry(kind).or_insert_with(|| {
                kinds.push(kind);
                (kinds.len() - 1) as u32
            });
            match prefix {
                IpNet::V4(p) => v4.push((p.network().octets(), p.prefix_len(), number)),
                IpNet::V6(p) => v6.push((p.network().octets(), p.prefix_len(), number)),
            }
        }
        Self { v4: Lpm::new(v4), v6: Lpm::new(v6), kinds }
    }

    /// Longest match: prefix length and target.
    #[inline]
    #[must_use]
    pub fn lookup(&self, ip: IpAddr) -> Option<(u8, Target)> {
        let number = match ip {
            IpAddr::V4(ip) => self.v4.lookup(ip.octets())?,
            IpAddr::V6(ip) => self.v6.lookup(ip.octets())?,
        };
        self.kinds.get(number as usize).copied()
    }

    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// No route at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A neighbour known from the configuration: a declared address of a local port, or a static entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adjacency {
    /// Its MAC.
    pub mac: MacAddr,
    /// Where that MAC is, when the FDB has it as a static entry as well.
    pub egress: Option<Egress>,
}

/// The node's own port into a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeAttachment {
    /// Its number; the port's guard is [`Guard::Node`].
    pub port: PortId,
    /// MAC of the node's TAP; a static FDB entry names it too.
    pub mac: MacAddr,
}

/// A bridge domain with its gateway.
#[derive(Clone)]
pub struct Network {
    /// Its number.
    pub id: NetId,
    /// VNI on the wire.
    pub vni: Vni,
    /// MAC of the gateway; the same on every node, see [`gateway_mac`].
    pub gateway_mac: MacAddr,
    /// Gateway addresses with the prefix of their subnet.
    pub gateways: Vec<IpNet>,
    /// The node's own port, if it has one here.
    pub node: Option<NodeAttachment>,
    /// The node's addresses on this network. Packets to a gateway address that is among them are the node's, not the
    /// switch's; the others need a route to [`Target::Node`]. Read for packets to the gateway and for ARP and
    /// neighbour discovery, never on the way between pods.
    pub node_ips: Vec<IpAddr>,
    /// Static FDB: MACs of declared ports and entries made by hand.
    pub statics: Map<MacAddr, Egress>,
    /// Static neighbours.
    pub neighbours: Map<IpAddr, Adjacency>,
    /// Routes.
    pub fib: Fib,
    /// Flood list for frames from a port: all ports, then the peers on this segment. The ingress is skipped while iterating.
    pub flood_from_port: Arc<[Egress]>,
    /// Flood list for frames from a peer: all ports and no peer (split horizon).
    pub flood_from_peer: Arc<[Egress]>,
    /// As `flood_from_port`, without the ports whose addresses are declared: nothing unknown can be behind those.
    pub unknown_from_port: Arc<[Egress]>,
    /// As `flood_from_peer`, likewise.
    pub unknown_from_peer: Arc<[Egress]>,
    /// Most MACs learned in this network; `u32::MAX` leaves it to the table's capacity.
    pub fdb_limit: u32,
    /// Is unknown unicast flooded?
    pub flood_unknown: bool,
    /// Learned entries live this long after their last frame, in milliseconds; 0 means for ever.
    pub ageing_ms: u64,
}

impl Network {
    /// Is this one of the gateway's own addresses?
    #[inline]
    #[must_use]
    pub fn is_gateway_ip(&self, ip: IpAddr) -> bool {
        self.gateways.iter().any(|g| g.addr() == ip)
            || matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local() && v6 == self.gateway_mac.link_local_v6())
    }

    /// The gateway's address of one family: the one whose subnet holds `near`, else the first.
    #[must_use]
    pub fn gateway_ip(&self, near: IpAddr) -> Option<IpAddr> {
        let mut family = self.gateways.iter().filter(|g| g.addr().is_ipv4() == near.is_ipv4());
        family.clone().find(|g| g.contains(&near)).or_else(|| family.next()).map(IpNet::addr)
    }
}

impl Tables {
    /// Empty tables whose maps hash with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            by_vni: Map::with_hasher(State::new(seed)),
            by_remote: Map::with_hasher(State::new(seed)),
            by_remote_network: Map::with_hasher(State::new(seed)),
            ..Self::default()
        }
    }

    /// The port with this number.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0 as usize)?.as_deref()
    }

    /// The peer with this number.
    #[inline]
    #[must_use]
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_deref()
    }

    /// Which peer a datagram from `remote` for `network` belongs to, given that `known` is a peer there: itself,
    /// or another entry for the same node that is limited to that network.
    #[inline]
    #[must_use]
    pub fn peer_on(&self, known: PeerId, remote: IpAddr, network: NetId) -> Option<PeerId> {
        match self.peer(known)?.network {
            Some(only) if only != network => self.by_remote_network.get(&(remote, network)).copied(),
            _ => Some(known),
        }
    }

    /// The network with this number.
    #[inline]
    #[must_use]
    pub fn network(&self, id: NetId) -> Option<&Network> {
        self.networks.get(usize::from(id.0))?.as_deref()
    }

    /// Does the port or peer exist?
    #[must_use]
    pub fn exists(&self, egress: Egress) -> bool {
        match egress {
            Egress::Port(id) => self.port(id).is_some(),
            Egress::Peer(id) => self.peer(id).is_some(),
        }
    }
}

/// The gateway MAC of a network: locally administered, the same on every node, derived from the VNI so that
/// nothing needs to be distributed.
#[must_use]
pub fn gateway_mac(vni: Vni) -> MacAddr {
    let [_, a, b, c] = vni.get().to_be_bytes();
    MacAddr([0x0a, 0x53, 0x57, a, b, c])
}

/// The router MAC of a node: locally administered, derived from its underlay address so that peers know it
/// without being told. Kernel peers are told with `--router-mac`.
#[must_use]
pub fn router_mac(underlay: IpAddr) -> MacAddr {
    let tail = match underlay {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let h = packet::flow::mix((bits >> 64) as u64, bits as u64);
            (h ^ h >> 32) as u32
        }
    };
    let [a, b, c, d] = tail.to_be_bytes();
    MacAddr([0x0e, 0x53, a, b, c, d])
}
