//! Between the generated types and the checked ones.
//!
//! Towards the checked types every text is parsed and every object checked by itself, so a server may use
//! the result without looking again. Towards the generated types nothing can fail. Errors name the object
//! and the field.

use std::fmt;

use ipnet::IpNet;
use packet::Vni;

use super::text::{Text, parse_prefix};
use super::{
    Bandwidth, DEFAULT_AGEING_SECONDS, DEFAULT_IFNAME, DEFAULT_NODE_IFNAME, DesiredState, Encap, FdbEntry,
    Neighbour, Network, NodePort, Owner, Peer, Place, Port, PortMapping, Protocol, Route, RouteTarget,
    Settings, Subnet, VERSION,
};
use crate::error::ApiError;
use crate::proto;

type Checked<T> = Result<T, ApiError>;

/// Parses the text of one field of `object`.
///
/// # Errors
/// [`crate::error::Reason::InvalidArgument`], naming the object.
pub fn field<T: Text>(object: impl fmt::Display, text: &str) -> Checked<T> {
    T::parse_text(text).map_err(|e| ApiError::invalid(object, e))
}

fn optional<T: Text>(object: &str, text: &str) -> Checked<Option<T>> {
    if text.is_empty() { Ok(None) } else { field(object, text).map(Some) }
}

fn prefix(object: &str, text: &str) -> Checked<IpNet> {
    parse_prefix(text).map_err(|e| ApiError::invalid(object, e))
}

fn nonzero(v: u32) -> Option<u32> {
    (v != 0).then_some(v)
}

fn small(object: &str, what: &str, v: u32) -> Checked<Option<u16>> {
    match u16::try_from(v) {
        Ok(0) => Ok(None),
        Ok(v) => Ok(Some(v)),
        Err(_) => Err(ApiError::invalid(object, format!("{what} {v} is out of range: at most 65535"))),
    }
}

fn or_default(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

fn list<P, T: TryFrom<P, Error = ApiError>>(items: Vec<P>) -> Checked<Vec<T>> {
    items.into_iter().map(T::try_from).collect()
}

fn text_of<T: ToString>(v: Option<T>) -> String {
    v.map(|v| v.to_string()).unwrap_or_default()
}

impl TryFrom<proto::Network> for Network {
    type Error = ApiError;

    fn try_from(p: proto::Network) -> Checked<Self> {
        let object = format!("network {}", p.name);
        let mut subnets = Vec::with_capacity(p.subnets.len());
        for s in p.subnets {
            subnets.push(Subnet { cidr: prefix(&object, &s.cidr)?, gateway: optional(&object, &s.gateway)? });
        }
        let network = Self {
            vni: Vni::new(p.vni).map_err(|e| ApiError::invalid(&object, e))?,
            ageing_seconds: nonzero(p.ageing_seconds).unwrap_or(DEFAULT_AGEING_SECONDS),
            mtu: small(&object, "MTU", p.mtu)?,
            fdb_limit: nonzero(p.fdb_limit),
            flood: p.flood.unwrap_or(true),
            ranges: p.ranges.iter().map(|t| field(&object, t)).collect::<Checked<_>>()?,
            exclude: p.exclude.iter().map(|t| field(&object, t)).collect::<Checked<_>>()?,
            subnets,
            name: p.name,
        };
        network.check()?;
        Ok(network)
    }
}

impl From<Network> for proto::Network {
    fn from(n: Network) -> Self {
        let subnet = |s: Subnet| proto::Subnet { cidr: s.cidr.to_string(), gateway: text_of(s.gateway) };
        Self {
            name: n.name,
            vni: n.vni.get(),
            subnets: n.subnets.into_iter().map(subnet).collect(),
            ageing_seconds: n.ageing_seconds,
            mtu: n.mtu.unwrap_or(0).into(),
            fdb_limit: n.fdb_limit.unwrap_or(0),
            flood: Some(n.flood),
            ranges: n.ranges.iter().map(ToString::to_string).collect(),
            exclude: n.exclude.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<proto::Port> for Port {
    type Error = ApiError;

    fn try_from(p: proto::Port) -> Checked<Self> {
        let object = format!("port {}", p.name);
        let port = Self {
            network: p.network,
            netns: p.netns,
            ifname: or_default(p.ifname, if p.node.is_some() { DEFAULT_NODE_IFNAME } else { DEFAULT_IFNAME }),
            mac: optional(&object, &p.mac)?,
            ips: p.ips.iter().map(|t| field(&object, t)).collect::<Checked<_>>()?,
            mtu: small(&object, "MTU", p.mtu)?,
            learning: p.learning,
            mac_limit: nonzero(p.mac_limit),
            offload: p.offload.unwrap_or(true),
            default_route: p.default_route.unwrap_or(true),
            metadata: p.metadata,
            bandwidth: p.bandwidth.map(Into::into).filter(|b| *b != Bandwidth::default()),
            mappings: p.mappings.into_iter().map(|m| mapping(&object, m)).collect::<Checked<_>>()?,
            attachment: p.attachment.map(|a| Owner {
                cni_network: a.cni_network,
                container_id: a.container_id,
                netns_id: Some(a.netns_id).filter(|id| !id.is_empty()),
            }),
            node: match p.node {
                None => None,
                Some(node) => Some(NodePort {
                    masquerade: node.masquerade,
                    no_masquerade: node
                        .no_masquerade
                        .iter()
                        .map(|t| prefix(&object, t))
                        .collect::<Checked<_>>()?,
                }),
            },
            name: p.name,
        };
        port.check()?;
        Ok(port)
    }
}

impl From<Port> for proto::Port {
    fn from(p: Port) -> Self {
        Self {
            name: p.name,
            network: p.network,
            netns: p.netns,
            ifname: p.ifname,
            mac: text_of(p.mac),
            ips: p.ips.iter().map(ToString::to_string).collect(),
            mtu: p.mtu.unwrap_or(0).into(),
            learning: p.learning,
            mac_limit: p.mac_limit.unwrap_or(0),
            offload: Some(p.offload),
            default_route: Some(p.default_route),
            metadata: p.metadata,
            bandwidth: p.bandwidth.map(Into::into),
            mappings: p.mappings.into_iter().map(Into::into).collect(),
            attachment: p.attachment.map(|a| proto::AttachmentOwner {
                cni_network: a.cni_network,
                container_id: a.container_id,
                netns_id: a.netns_id.unwrap_or_default(),
            }),
            node: p.node.map(|n| proto::NodePort {
                masquerade: n.masquerade,
                no_masquerade: n.no_masquerade.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}

impl From<proto::Bandwidth> for Bandwidth {
    fn from(p: proto::Bandwidth) -> Self {
        Self {
            ingress_rate: p.ingress_rate,
            ingress_burst: p.ingress_burst,
            egress_rate: p.egress_rate,
            egress_burst: p.egress_burst,
        }
    }
}

impl From<Bandwidth> for proto::Bandwidth {
    fn from(b: Bandwidth) -> Self {
        Self {
            ingress_rate: b.ingress_rate,
            ingress_burst: b.ingress_burst,
            egress_rate: b.egress_rate,
            egress_burst: b.egress_burst,
        }
    }
}

fn mapping(object: &str, p: proto::PortMapping) -> Checked<PortMapping> {
    let port = |what: &str, n: u32| {
        small(object, what, n)?.ok_or_else(|| ApiError::invalid(object, format!("{what} is missing")))
    };
    Ok(PortMapping {
        host_port: port("a mapping's host port", p.host_port)?,
        container_port: port("a mapping's container port", p.container_port)?,
        protocol: match proto::TransportProtocol::try_from(p.protocol) {
            Ok(proto::TransportProtocol::Unspecified | proto::TransportProtocol::Tcp) => Protocol::Tcp,
            Ok(proto::TransportProtocol::Udp) => Protocol::Udp,
            Ok(proto::TransportProtocol::Sctp) => Protocol::Sctp,
            Err(_) => return Err(ApiError::invalid(object, format!("protocol {} is unknown", p.protocol))),
        },
        host_ip: optional(object, &p.host_ip)?,
    })
}

impl From<PortMapping> for proto::PortMapping {
    fn from(m: PortMapping) -> Self {
        let protocol = match m.protocol {
            Protocol::Tcp => proto::TransportProtocol::Tcp,
            Protocol::Udp => proto::TransportProtocol::Udp,
            Protocol::Sctp => proto::TransportProtocol::Sctp,
        };
        Self {
            host_port: m.host_port.into(),
            container_port: m.container_port.into(),
            protocol: protocol.into(),
            host_ip: text_of(m.host_ip),
        }
    }
}

impl TryFrom<proto::Peer> for Peer {
    type Error = ApiError;

    fn try_from(p: proto::Peer) -> Checked<Self> {
        let object = format!("peer {}", p.name);
        let encap = match proto::Encap::try_from(p.encap) {
            Ok(proto::Encap::Unspecified | proto::Encap::Vxlan) => Encap::Vxlan,
            Ok(proto::Encap::Geneve) => Encap::Geneve,
            Err(_) => return Err(ApiError::invalid(object, format!("encapsulation {} is unknown", p.encap))),
        };
        let peer = Self {
            remote: field(&object, &p.remote)?,
            port: small(&object, "UDP port", p.port)?,
            encap,
            pod_cidrs: p.pod_cidrs.iter().map(|t| prefix(&object, t)).collect::<Checked<_>>()?,
            router_mac: optional(&object, &p.router_mac)?,
            network: Some(p.network).filter(|n| !n.is_empty()),
            checksum: p.checksum.unwrap_or(true),
            name: p.name,
        };
        peer.check()?;
        Ok(peer)
    }
}

impl From<Encap> for proto::Encap {
    fn from(e: Encap) -> Self {
        match e {
            Encap::Vxlan => Self::Vxlan,
            Encap::Geneve => Self::Geneve,
        }
    }
}

impl From<Peer> for proto::Peer {
    fn from(p: Peer) -> Self {
        Self {
            name: p.name,
            remote: p.remote.to_string(),
            port: p.port.unwrap_or(0).into(),
            encap: proto::Encap::from(p.encap).into(),
            pod_cidrs: p.pod_cidrs.iter().map(ToString::to_string).collect(),
            router_mac: text_of(p.router_mac),
            network: p.network.unwrap_or_default(),
            checksum: Some(p.checksum),
        }
    }
}

impl TryFrom<proto::Route> for Route {
    type Error = ApiError;

    fn try_from(p: proto::Route) -> Checked<Self> {
        let object = format!("route {} in network {}", p.prefix, p.network);
        let invalid = |cause: &str| Err(ApiError::invalid(&object, cause));
        let target = match proto::RouteKind::try_from(p.kind) {
            Ok(proto::RouteKind::NextHop) => RouteTarget::NextHop(field(&object, &p.next_hop)?),
            Ok(proto::RouteKind::Peer) => RouteTarget::Peer(p.peer.clone()),
            Ok(proto::RouteKind::Blackhole) => RouteTarget::Blackhole,
            Ok(proto::RouteKind::Unreachable) => RouteTarget::Unreachable,
            Ok(proto::RouteKind::Connected) => {
                return invalid("connected routes come from the network's subnets and cannot be added");
            }
            Ok(proto::RouteKind::Node) => {
                return invalid("routes to the node come with its own port and cannot be added");
            }
            Ok(proto::RouteKind::Unspecified) | Err(_) => return invalid("its kind is missing or unknown"),
        };
        if !p.next_hop.is_empty() && !matches!(target, RouteTarget::NextHop(_)) {
            return invalid("a next hop is given, but its kind is another");
        }
        if !p.peer.is_empty() && !matches!(target, RouteTarget::Peer(_)) {
            return invalid("a peer is given, but its kind is another");
        }
        let route = Self { prefix: prefix(&object, &p.prefix)?, target, network: p.network };
        route.check()?;
        Ok(route)
    }
}

impl From<Route> for proto::Route {
    fn from(r: Route) -> Self {
        let (kind, next_hop, peer) = match r.target {
            RouteTarget::NextHop(ip) => (proto::RouteKind::NextHop, ip.to_string(), String::new()),
            RouteTarget::Peer(peer) => (proto::RouteKind::Peer, String::new(), peer),
            RouteTarget::Blackhole => (proto::RouteKind::Blackhole, String::new(), String::new()),
            RouteTarget::Unreachable => (proto::RouteKind::Unreachable, String::new(), String::new()),
        };
        Self { network: r.network, prefix: r.prefix.to_string(), kind: kind.into(), next_hop, peer }
    }
}

impl TryFrom<proto::FdbEntry> for FdbEntry {
    type Error = ApiError;

    fn try_from(p: proto::FdbEntry) -> Checked<Self> {
        use proto::fdb_entry::Target;
        let object = format!("fdb entry {} in network {}", p.mac, p.network);
        let place = match p.target {
            Some(Target::Port(port)) => Place::Port(port),
            Some(Target::Peer(peer)) => Place::Peer(peer),
            None => return Err(ApiError::invalid(object, "needs a port or a peer")),
        };
        let entry = Self { mac: field(&object, &p.mac)?, place, network: p.network };
        entry.check()?;
        Ok(entry)
    }
}

impl From<FdbEntry> for proto::FdbEntry {
    fn from(e: FdbEntry) -> Self {
        use proto::fdb_entry::Target;
        let target = match e.place {
            Place::Port(port) => Target::Port(port),
            Place::Peer(peer) => Target::Peer(peer),
        };
        Self { network: e.network, mac: e.mac.to_string(), target: Some(target) }
    }
}

impl TryFrom<proto::NeighbourEntry> for Neighbour {
    type Error = ApiError;

    fn try_from(p: proto::NeighbourEntry) -> Checked<Self> {
        let object = format!("neighbour {} in network {}", p.ip, p.network);
        let neighbour = Self { ip: field(&object, &p.ip)?, mac: field(&object, &p.mac)?, network: p.network };
        neighbour.check()?;
        Ok(neighbour)
    }
}

impl From<Neighbour> for proto::NeighbourEntry {
    fn from(n: Neighbour) -> Self {
        Self { network: n.network, ip: n.ip.to_string(), mac: n.mac.to_string() }
    }
}

impl TryFrom<proto::DesiredState> for DesiredState {
    type Error = ApiError;

    /// Checks the objects one by one; [`DesiredState::check`] checks them against each other.
    fn try_from(p: proto::DesiredState) -> Checked<Self> {
        if p.version != VERSION && p.version != 0 {
            let cause = format!("version {} is not understood: expected {VERSION}", p.version);
            return Err(ApiError::invalid("document", cause));
        }
        Ok(Self {
            version: VERSION,
            settings: Settings {},
            networks: list(p.networks)?,
            ports: list(p.ports)?,
            peers: list(p.peers)?,
            routes: list(p.routes)?,
            fdb: list(p.fdb)?,
            neighbours: list(p.neighbours)?,
        })
    }
}

impl From<DesiredState> for proto::DesiredState {
    fn from(s: DesiredState) -> Self {
        Self {
            version: s.version,
            networks: s.networks.into_iter().map(Into::into).collect(),
            ports: s.ports.into_iter().map(Into::into).collect(),
            peers: s.peers.into_iter().map(Into::into).collect(),
            routes: s.routes.into_iter().map(Into::into).collect(),
            fdb: s.fdb.into_iter().map(Into::into).collect(),
            neighbours: s.neighbours.into_iter().map(Into::into).collect(),
            settings: Some(proto::Settings {}),
        }
    }
}
