//! What follows from the configuration without being written in it: addresses and sizes.
//!
//! All of it is stable: the same configuration gives the same values after a restart and on every node.

use std::net::IpAddr;

use ctl::desired::{Bandwidth, Encap, Network, Peer, Port};
use ipnet::IpNet;
use packet::{MacAddr, Vni};

use crate::datapath::{Guard, gateway_mac, router_mac};
use crate::engine::{Limits, Rate};
use crate::io::{DeviceName, NetnsError, NetnsIdentity, NetnsRef, PortSpec};
use crate::node::NodePlan;

use super::Settings;

/// MTU of pods on a node without an underlay.
pub const PLAIN_MTU: u32 = 1500;
/// MACs learned behind a learning port unless it says otherwise.
pub const DEFAULT_MAC_LIMIT: u32 = 1024;

/// FNV-1a, whose values will never change under us.
pub(super) fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The same, of 32 bits.
fn stable_hash32(text: &str) -> u32 {
    let hash = stable_hash(text);
    (hash ^ hash >> 32) as u32
}

/// The MAC of a port: as declared, else 0a:58 and its first IPv4 address, else 0a:5a and a hash of its first
/// address or its name. That of the node's own port is 0a:5b and a hash of the node's underlay address or name:
/// the address it has may be the gateway's, which is the same on every node.
#[must_use]
pub fn port_mac(settings: &Settings, port: &Port) -> MacAddr {
    if let Some(mac) = port.mac {
        return mac;
    }
    if port.node.is_some() {
        let text = settings.underlay.map_or_else(|| settings.node.clone(), |u| u.addr.to_string());
        let [a, b, c, d] = stable_hash32(&text).to_be_bytes();
        return MacAddr([0x0a, 0x5b, a, b, c, d]);
    }
    let v4 = port.ips.iter().find_map(|ip| match ip {
        IpNet::V4(v4) => Some(v4.addr().octets()),
        IpNet::V6(_) => None,
    });
    if let Some([a, b, c, d]) = v4 {
        return MacAddr([0x0a, 0x58, a, b, c, d]);
    }
    let text = port.ips.first().map_or_else(|| port.name.clone(), |ip| ip.addr().to_string());
    let [a, b, c, d] = stable_hash32(&text).to_be_bytes();
    MacAddr([0x0a, 0x5a, a, b, c, d])
}

/// The MAC that routed frames to a peer carry.
#[must_use]
pub fn peer_mac(peer: &Peer) -> MacAddr {
    peer.router_mac.unwrap_or_else(|| router_mac(peer.remote))
}

/// The MAC of this node's router. Without an underlay no peer ever sees it.
#[must_use]
pub fn own_router_mac(settings: &Settings) -> MacAddr {
    settings.underlay.map_or(MacAddr([0x0e, 0x53, 0, 0, 0, 0]), |u| router_mac(u.addr))
}

/// The UDP port of a peer: as declared, else the one this node uses for the encapsulation.
#[must_use]
pub fn peer_port(settings: &Settings, peer: &Peer) -> u16 {
    peer.port.unwrap_or(match peer.encap {
        Encap::Vxlan => settings.vxlan_port,
        Encap::Geneve => settings.geneve_port,
    })
}

/// The encapsulation in the data path's words.
#[must_use]
pub fn encap(encap: Encap) -> tunnel::Encap {
    match encap {
        Encap::Vxlan => tunnel::Encap::Vxlan,
        Encap::Geneve => tunnel::Encap::Geneve,
    }
}

/// Largest pod packet that reaches a peer whole.
#[must_use]
pub fn peer_mtu(settings: &Settings, peer: &Peer) -> u32 {
    let underlay = settings.underlay.map_or(PLAIN_MTU, |u| u.mtu);
    tunnel::mtu::pod_mtu(underlay, encap(peer.encap), peer.remote.is_ipv6()).unwrap_or(tunnel::mtu::MIN_IPV4)
}

/// MTU of a network: as declared, else that of the daemon's settings, else what the underlay carries.
#[must_use]
pub fn network_mtu(settings: &Settings, network: &Network) -> u32 {
    network.mtu.map(u32::from).or(settings.mtu).unwrap_or_else(|| match settings.underlay {
        None => PLAIN_MTU,
        Some(u) => tunnel::mtu::pod_mtu(u.mtu, tunnel::Encap::Vxlan, u.addr.is_ipv6())
            .unwrap_or(tunnel::mtu::MIN_IPV4),
    })
}

/// MTU of a port.
#[must_use]
pub fn port_mtu(settings: &Settings, port: &Port, network: &Network) -> u32 {
    port.mtu.map_or_else(|| network_mtu(settings, network), u32::from)
}

/// How the port's sources are checked.
#[must_use]
pub fn guard(port: &Port) -> Guard {
    if port.node.is_some() {
        Guard::Node
    } else if port.ips.is_empty() || port.learning {
        Guard::Learning
    } else {
        Guard::Declared
    }
}

/// Does a peer take part in a network as a layer-2 segment? One with pod CIDRs does where these overlap a
/// subnet; elsewhere it is reached by route only.
#[must_use]
pub fn on_segment(peer: &Peer, network: &Network) -> bool {
    let all = applies(peer, network) && peer.pod_cidrs.is_empty();
    all || network.subnets.iter().any(|s| stretches(peer, network, &s.cidr))
}

/// Is a subnet of a network also behind a peer?
#[must_use]
pub fn stretches(peer: &Peer, network: &Network, subnet: &IpNet) -> bool {
    let overlaps = |cidr: &IpNet| subnet.contains(cidr) || cidr.contains(subnet);
    applies(peer, network) && (peer.pod_cidrs.is_empty() || peer.pod_cidrs.iter().any(overlaps))
}

/// Is a peer meant for this network?
#[must_use]
pub fn applies(peer: &Peer, network: &Network) -> bool {
    peer.network.as_ref().is_none_or(|name| *name == network.name)
}

/// Why this node cannot exchange frames with a peer, if it cannot.
#[must_use]
pub fn peer_problem(settings: &Settings, peer: &Peer) -> Option<String> {
    let Some(underlay) = settings.underlay else {
        return Some("this switch has no underlay: start swd with --underlay".to_owned());
    };
    if underlay.addr == peer.remote {
        return Some(format!("{} is this node's own underlay address", peer.remote));
    }
    if underlay.addr.is_ipv4() != peer.remote.is_ipv4() {
        return Some(format!(
            "{} is of another address family than the underlay {}",
            peer.remote, underlay.addr
        ));
    }
    None
}

/// The gateway addresses of a network.
pub fn gateways(network: &Network) -> impl Iterator<Item = IpNet> + '_ {
    network.subnets.iter().filter_map(|s| IpNet::new(s.gateway?, s.cidr.prefix_len()).ok())
}

/// The MACs that are the switch itself on a network.
#[must_use]
pub fn own_macs(settings: &Settings, vni: Vni) -> [MacAddr; 2] {
    [gateway_mac(vni), own_router_mac(settings)]
}

/// The addresses of a port: as declared; the node's own port has those of the gateways unless it says otherwise.
#[must_use]
pub fn port_ips(port: &Port, network: &Network) -> Vec<IpNet> {
    if port.node.is_some() && port.ips.is_empty() { gateways(network).collect() } else { port.ips.clone() }
}

/// The limits of a port in the engine's words.
#[must_use]
pub fn limits(port: &Port) -> Limits {
    let Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst } =
        port.bandwidth.unwrap_or_default();
    Limits {
        ingress: Rate::from_bits(ingress_rate, ingress_burst),
        egress: Rate::from_bits(egress_rate, egress_burst),
    }
}

/// The gateways a port's default routes lead to: of each family that of the first of its addresses whose subnet
/// has one. A pod can have one default route of a family only, and gateways of other subnets are not its business.
#[must_use]
pub fn port_gateways(port: &Port, network: &Network) -> Vec<IpAddr> {
    let mut gateways: Vec<IpAddr> = Vec::new();
    for ip in &port.ips {
        let subnet = network.subnets.iter().find(|s| s.gateway.is_some() && s.cidr.contains(&ip.addr()));
        if let Some(gateway) = subnet.and_then(|s| s.gateway)
            && gateways.iter().all(|g| g.is_ipv4() != gateway.is_ipv4())
        {
            gateways.push(gateway);
        }
    }
    gateways
}

fn netns(port: &Port) -> Result<NetnsRef, NetnsError> {
    match port.node {
        Some(_) => Ok(NetnsRef::Path(port.netns_ref().path())),
        None => port.netns.parse(),
    }
}

fn identity(port: &Port) -> Option<NetnsIdentity> {
    port.attachment.as_ref().and_then(|owner| owner.netns_id.as_deref()).map(NetnsIdentity::stored)
}

/// What the device of a port is known by, whether or not it is there.
#[must_use]
pub fn device_name(port: &Port) -> Option<DeviceName> {
    Some(DeviceName { netns: netns(port).ok()?, identity: identity(port), ifname: port.ifname.clone() })
}

/// The device as it is to be. What makes it the node's own is in the plan for the node's kernel.
///
/// # Errors
/// A namespace that nothing can be called, or why the node cannot have the device.
pub fn port_spec(
    settings: &Settings,
    port: &Port,
    network: &Network,
    node: &NodePlan,
) -> Result<PortSpec, String> {
    let link = match port.node {
        None => None,
        Some(_) => Some(node.device(&port.name).map(|d| d.link.clone()).ok_or_else(|| {
            let problem = node.problems.iter().find(|p| p.port == port.name);
            problem.map_or_else(|| "it cannot be a port of the node".to_owned(), |p| p.text.clone())
        })?),
    };
    Ok(PortSpec {
        netns: netns(port).map_err(|e| e.to_string())?,
        identity: identity(port),
        ifname: port.ifname.clone(),
        mac: port_mac(settings, port),
        mtu: port_mtu(settings, port, network),
        addresses: port_ips(port, network),
        gateways: if link.is_some() { Vec::new() } else { port_gateways(port, network) },
        default_route: port.default_route && link.is_none(),
        offload: port.offload,
        node: link,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn macs_are_stable() {
        let settings = testing::settings();
        let mut port = testing::port("web-0", "pods", &["fd00:1::2/64", "10.1.1.2/24"]);
        assert_eq!(port_mac(&settings, &port).to_string(), "0a:58:0a:01:01:02");
        port.ips.pop();
        assert_eq!(port_mac(&settings, &port).to_string(), "0a:5a:9c:2c:66:9d");
        port.ips.clear();
        assert_eq!(port_mac(&settings, &port).to_string(), "0a:5a:6f:33:e1:42");
        port.mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(port_mac(&settings, &port), MacAddr([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn sizes_follow_the_underlay() {
        let mut settings = testing::settings();
        let network = testing::network("pods", 1, &["10.1.1.0/24"]);
        let peer = testing::peer("node-b", "192.168.77.2", &[]);
        assert_eq!((network_mtu(&settings, &network), peer_mtu(&settings, &peer)), (1450, 1450));
        settings.mtu = Some(1400);
        assert_eq!(network_mtu(&settings, &network), 1400);
        assert_eq!(network_mtu(&settings, &Network { mtu: Some(9000), ..network.clone() }), 9000);
        settings = Settings { underlay: None, mtu: None, ..settings };
        assert_eq!(network_mtu(&settings, &network), 1500);
        assert!(peer_problem(&settings, &peer).is_some());
    }

    #[test]
    fn one_default_route_of_a_family() {
        let network =
            testing::network("pods", 1, &["10.1.1.0/24", "10.1.2.0/24", "fd00:1::/64", "fd00:2::/64"]);
        let of = |ips: &[&str]| {
            let gateways = port_gateways(&testing::port("p", "pods", ips), &network);
            gateways.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&["10.1.2.7/24", "10.1.1.7/24", "fd00:2::7/64"]), ["10.1.2.1", "fd00:2::1"]);
        assert_eq!(of(&["fd00:1::7/64"]), ["fd00:1::1"]);
        assert_eq!(of(&[]), [""; 0]);
    }

    #[test]
    fn segments() {
        let network = testing::network("pods", 1, &["10.1.1.0/24"]);
        let on = |cidrs: &[&str]| on_segment(&testing::peer("b", "192.168.77.2", cidrs), &network);
        assert!(on(&[]) && on(&["10.1.0.0/16"]) && on(&["10.1.2.0/24", "10.1.1.128/25"]));
        assert!(!on(&["10.1.2.0/24"]));
        let elsewhere = Peer { network: Some("other".into()), ..testing::peer("b", "192.168.77.2", &[]) };
        assert!(!on_segment(&elsewhere, &network));
    }
}
