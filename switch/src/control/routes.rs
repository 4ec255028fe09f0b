//! The routes of a network: those declared, and those that follow from subnets, peers and the node's own port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctl::desired::{DesiredState, Network, RouteTarget};
use ipnet::IpNet;

use super::publish::Numbers;
use super::{Settings, derive};
use crate::datapath::Target;

/// Why a route is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// A subnet of the network.
    Kernel,
    /// A pod CIDR of a peer.
    Peer,
    /// Added by hand.
    Static,
    /// The node has a port of its own in the network.
    Node,
}

/// A route in names.
#[derive(Clone, Copy, Debug)]
pub struct NamedRoute<'a> {
    /// Why it is there.
    pub protocol: Protocol,
    /// Where it leads; `None`: to the network itself.
    pub kind: Option<RouteKind<'a>>,
}

/// Where a route that is not connected leads, in names.
#[derive(Clone, Copy, Debug)]
pub enum RouteKind<'a> {
    /// To a peer.
    Peer(&'a str),
    /// To this node, by its own port of this name.
    Node(&'a str),
    /// As declared.
    Declared(&'a RouteTarget),
}

/// The routes of a network. Of equal prefixes the connected one counts, then the one added by hand, then the
/// peer of this network, then the peer of all networks, then the node.
#[must_use]
pub fn routes<'a>(
    settings: &Settings,
    desired: &'a DesiredState,
    network: &'a Network,
) -> BTreeMap<IpNet, NamedRoute<'a>> {
    let mut routes = BTreeMap::new();
    if let Some(port) = desired.ports.iter().find(|p| p.network == network.name && p.node.is_some()) {
        of_node(settings, desired, network, &port.name, &mut routes);
    }
    for own in [false, true] {
        for peer in desired.peers.iter().filter(|p| p.network.is_some() == own && derive::applies(p, network))
        {
            for cidr in &peer.pod_cidrs {
                let kind = Some(RouteKind::Peer(&peer.name));
                routes.insert(*cidr, NamedRoute { protocol: Protocol::Peer, kind });
            }
        }
    }
    for route in desired.routes.iter().filter(|r| r.network == network.name) {
        let kind = Some(RouteKind::Declared(&route.target));
        routes.insert(route.prefix, NamedRoute { protocol: Protocol::Static, kind });
    }
    for subnet in &network.subnets {
        routes.insert(subnet.cidr, NamedRoute { protocol: Protocol::Kernel, kind: None });
    }
    routes
}

/// What the node's own port brings: everything unknown goes to the node's kernel, and packets to the node of a
/// routed peer go through the tunnel, where its own port hands them over. By the underlay they would arrive at an
/// interface that pod addresses do not belong to, and be taken for forged.
fn of_node<'a>(
    settings: &Settings,
    desired: &'a DesiredState,
    network: &'a Network,
    port: &'a str,
    routes: &mut BTreeMap<IpNet, NamedRoute<'a>>,
) {
    let mut add = |prefix: IpNet, kind: RouteKind<'a>| {
        routes.insert(prefix, NamedRoute { protocol: Protocol::Node, kind: Some(kind) });
    };
    let has = |v4: bool| network.subnets.iter().any(|s| s.cidr.addr().is_ipv4() == v4);
    for (unspecified, v4) in
        [(IpAddr::from(Ipv4Addr::UNSPECIFIED), true), (Ipv6Addr::UNSPECIFIED.into(), false)]
    {
        if let Ok(all) = IpNet::new(unspecified, 0)
            && has(v4)
        {
            add(all, RouteKind::Node(port));
        }
    }
    for peer in desired.peers.iter().filter(|p| !p.pod_cidrs.is_empty() && derive::applies(p, network)) {
        if has(peer.remote.is_ipv4()) {
            add(IpNet::from(peer.remote), RouteKind::Peer(&peer.name));
        }
    }
    if let Some(underlay) = settings.underlay
        && has(underlay.addr.is_ipv4())
    {
        add(IpNet::from(underlay.addr), RouteKind::Node(port));
    }
}

/// The data path's word for where a route leads; `None` while that is not there.
#[must_use]
pub fn target(kind: Option<RouteKind<'_>>, ids: &Numbers) -> Option<Target> {
    Some(match kind {
        None => Target::Connected,
        Some(RouteKind::Peer(name)) => Target::Peer(ids.peer_id(name)?),
        Some(RouteKind::Node(port)) => ids.port_id(port).map(|_| Target::Node)?,
        Some(RouteKind::Declared(target)) => match target {
            RouteTarget::NextHop(ip) => Target::NextHop(*ip),
            RouteTarget::Peer(name) => Target::Peer(ids.peer_id(name)?),
            RouteTarget::Blackhole => Target::Blackhole,
            RouteTarget::Unreachable => Target::Unreachable,
        },
    })
}
