//! Source checks, before anything else looks at a frame.
//!
//! A port with declared addresses sends with these and no others: Ethernet source, ARP, neighbour discovery,
//! IPv4 and IPv6 source. It sends no router advertisements or redirects, no answers of a DHCP server, and
//! nothing this stage cannot read (tags, other EtherTypes), because what cannot be read cannot be checked.
//! The node's own port is held to the same, but for the source of the packets that its kernel forwards: that may be
//! any address except those of the pods here. Learning ports are held to the Ethernet rules only.
//!
//! ND hidden behind a fragment header is refused (RFC 6980), a first IPv6 fragment without its L4 header as well
//! (RFC 7112), and the parser walks every extension header, so none of these hides a router advertisement
//! (RFC 7113).

use super::route;
use super::tables::{Guard, Network, Node, Port};
use super::verdict::{DropReason, Egress};
use packet::{Fragment, Headers, MacAddr, Net, ip_proto, read_v4, read_v6};
use std::net::{IpAddr, Ipv6Addr};

/// ICMPv6 types of RFC 4861 and 3810 that the guard knows.
mod icmpv6 {
    pub const MLD_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICIT: u8 = 133;
    pub const ROUTER_ADVERT: u8 = 134;
    pub const NEIGHBOUR_SOLICIT: u8 = 135;
    pub const NEIGHBOUR_ADVERT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
}

/// Rules for every frame, wherever it comes from.
///
/// # Errors
/// The drop reason.
#[inline]
pub fn ethernet(network: &Network, node: &Node, frame: &[u8]) -> Result<(), DropReason> {
    let src = Headers::src_mac(frame);
    if !src.is_unicast() {
        return Err(DropReason::BadSource);
    }
    if Headers::dst_mac(frame).is_link_local_control() {
        return Err(DropReason::ControlFrame);
    }
    if is_switch(network, node, src) {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

/// Is this the switch itself, which no frame that it receives may come from?
#[inline]
pub fn is_switch(network: &Network, node: &Node, mac: MacAddr) -> bool {
    mac == network.gateway_mac || mac == node.router_mac
}

/// Rules for a local port.
///
/// # Errors
/// The drop reason.
#[inline]
pub fn port(network: &Network, port: &Port, frame: &[u8], headers: &Headers) -> Result<(), DropReason> {
    if port.guard == Guard::Learning {
        return Ok(());
    }
    if Headers::src_mac(frame) != port.mac {
        return Err(DropReason::SpoofedMac);
    }
    match headers.net {
        Net::V4 => {
            let src = read_v4(frame, Headers::L3 + 12);
            if !port.v4.contains(&src) && !forwards_for(network, port, IpAddr::V4(src)) {
                return Err(DropReason::SpoofedIp);
            }
            // Clients look at the destination port only.
            if headers.proto == ip_proto::UDP && headers.dport == 68 {
                return Err(DropReason::DhcpServer);
            }
            Ok(())
        }
        Net::V6 => v6(network, port, frame, headers),
        Net::Arp => arp(port, frame),
        Net::Other => Err(DropReason::EtherType),
    }
}

/// May this port send packets from an address that is not its own? The node's may, as the router that it is; but
/// what comes from a pod here never comes by the node.
fn forwards_for(network: &Network, port: &Port, src: IpAddr) -> bool {
    let pods = || match network.neighbours.get(&src).and_then(|adjacency| adjacency.egress) {
        Some(egress @ Egress::Port(_)) => network.node.is_none_or(|node| egress != Egress::Port(node.port)),
        Some(Egress::Peer(_)) | None => false,
    };
    port.guard == Guard::Node && route::is_routable(src) && !pods()
}

fn arp(port: &Port, frame: &[u8]) -> Result<(), DropReason> {
    let sender_mac = MacAddr::read(frame, Headers::L3 + 8);
    let sender_ip = read_v4(frame, Headers::L3 + 14);
    // A probe for duplicates (RFC 5227) has no sender address yet.
    if sender_mac == port.mac && (port.v4.contains(&sender_ip) || sender_ip.is_unspecified()) {
        Ok(())
    } else {
        Err(DropReason::SpoofedArp)
    }
}

#[inline]
fn v6(network: &Network, port: &Port, frame: &[u8], headers: &Headers) -> Result<(), DropReason> {
    let src = read_v6(frame, Headers::L3 + 8);
    let own = port.v6.contains(&src) || forwards_for(network, port, IpAddr::V6(src));
    if headers.fragment == Fragment::First && (headers.l4 == 0 || u32::from(headers.l4) == headers.end) {
        return Err(DropReason::Malformed);
    }
    if headers.proto == ip_proto::ICMPV6 {
        return icmpv6(port, frame, headers, src, own);
    }
    if !own {
        return Err(DropReason::SpoofedIp);
    }
    if headers.proto == ip_proto::UDP && headers.dport == 546 {
        return Err(DropReason::DhcpServer);
    }
    Ok(())
}

fn icmpv6(port: &Port, frame: &[u8], headers: &Headers, src: Ipv6Addr, own: bool) -> Result<(), DropReason> {
    let at = usize::from(headers.l4);
    let body = if at == 0 { &[][..] } else { &frame[at..headers.end as usize] };
    let kind = body.first().copied();
    let discovery = matches!(kind, Some(icmpv6::ROUTER_SOLICIT..=icmpv6::REDIRECT));
    if headers.fragment == Fragment::First && discovery {
        return Err(DropReason::SpoofedNd);
    }
    // Who forwards for others still discovers for itself only.
    let own = if discovery { port.v6.contains(&src) } else { own };
    match kind {
        Some(icmpv6::ROUTER_ADVERT) => return Err(DropReason::RouterAdvert),
        Some(icmpv6::REDIRECT) => return Err(DropReason::SpoofedNd),
        // Duplicate address detection and group membership begin before the host has an address.
        Some(icmpv6::NEIGHBOUR_SOLICIT | icmpv6::MLD_REPORT | icmpv6::MLD_DONE | icmpv6::MLD2_REPORT)
            if src.is_unspecified() => {}
        _ if !own => return Err(DropReason::SpoofedIp),
        _ => {}
    }
    match kind {
        Some(icmpv6::NEIGHBOUR_ADVERT)
            if body.len() < 24
                || !port.v6.contains(&read_v6(body, 8))
                || !options_are_own(port.mac, body, 24) =>
        {
            return Err(DropReason::SpoofedNd);
        }
        Some(icmpv6::NEIGHBOUR_SOLICIT) if body.len() < 24 || !options_are_own(port.mac, body, 24) => {
            return Err(DropReason::SpoofedNd);
        }
        Some(icmpv6::ROUTER_SOLICIT) if !options_are_own(port.mac, body, 8) => {
            return Err(DropReason::SpoofedNd);
        }
        _ => {}
    }
    Ok(())
}

/// Every link-layer address option names the port's MAC, and the option list is well formed.
fn options_are_own(mac: MacAddr, body: &[u8], mut at: usize) -> bool {
    while at < body.len() {
        let Some(&units) = body.get(at + 1) else { return false };
        let len = usize::from(units) * 8;
        if len == 0 || at + len > body.len() {
            return false;
        }
        if matches!(body[at], 1 | 2) && MacAddr::read(body, at + 2) != mac {
            return false;
        }
        at += len;
    }
    true
}
