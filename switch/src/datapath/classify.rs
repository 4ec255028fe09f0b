//! Which way a frame goes: to the switch's own ARP or ND, through the router, or across the bridge.

use super::tables::{Network, Node};
use packet::checksum::{self, L4Checksum};
use packet::{Fragment, Headers, MacAddr, Net, ip_proto};

/// The way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// ARP, to be looked at by [`super::arp`] first.
    Arp,
    /// Neighbour solicitation or advertisement, for [`super::nd`] first.
    Nd,
    /// Sent to the gateway's or this node's router MAC.
    Routed,
    /// Everything else.
    Bridged,
}

/// Is this MAC the switch itself on this network?
#[inline]
#[must_use]
pub fn is_own_mac(network: &Network, node: &Node, mac: MacAddr) -> bool {
    mac == network.gateway_mac || mac == node.router_mac
}

/// Classifies a parsed frame.
#[inline]
#[must_use]
pub fn classify(network: &Network, node: &Node, frame: &[u8], headers: &Headers) -> Class {
    match headers.net {
        Net::Arp => return Class::Arp,
        Net::V6 if headers.proto == ip_proto::ICMPV6 && is_nd(frame, headers) => return Class::Nd,
        _ => {}
    }
    if is_own_mac(network, node, Headers::dst_mac(frame)) { Class::Routed } else { Class::Bridged }
}

/// A solicitation or advertisement that may be believed: whole, hop limit 255 (RFC 4861 section 7.1), code 0,
/// checksum right or still to be computed.
fn is_nd(frame: &[u8], headers: &Headers) -> bool {
    let at = usize::from(headers.l4);
    at != 0
        && headers.fragment == Fragment::Whole
        && headers.end as usize >= at + 24
        && matches!(frame[at], 135 | 136)
        && frame[at + 1] == 0
        && frame[Headers::L3 + 7] == 255
        && (checksum::l4_state(headers, frame) == L4Checksum::Partial || checksum::verify_l4(headers, frame))
}
