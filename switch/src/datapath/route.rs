//! Layer 3: a packet sent to the gateway's or the router's MAC.
//!
//! Validity (RFC 1812 5.2.2), the gateway's own addresses, TTL, longest-prefix match, then [`super::resolve`].
//! The packet is rewritten only when everything else is decided, so that an ICMP error quotes it as it came.
//! TTL and header checksum change together by RFC 1624; an L4 checksum is never touched here, because nothing
//! it covers changes.

use super::context::{Context, Current};
use super::icmp::{self, Error};
use super::tables::Target;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{decap, node, resolve};
use packet::{Headers, MacAddr, Net, checksum};
use std::net::{IpAddr, Ipv4Addr};

/// Routes a packet.
#[inline]
pub fn route<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    let headers = cur.meta.headers;
    let (Some(src), Some(dst)) = (headers.src_ip(cur.bytes), headers.dst_ip(cur.bytes)) else {
        return Verdict::Drop(DropReason::NotIp);
    };
    cx.rec.step(|| Step::Routed { dst });
    if headers.net == Net::V4 && !checksum::verify_ipv4_header(&cur.bytes[Headers::L3..]) {
        return Verdict::Drop(DropReason::BadIpChecksum);
    }
    if cx.network.is_gateway_ip(dst) {
        // On-link sources are welcome, impossible ones and our own are not.
        if !(is_routable(src) || is_link_local(src)) || cx.network.is_gateway_ip(src) {
            return Verdict::Drop(DropReason::Martian);
        }
        // What is link-local stays the switch's: the node's own routes point there.
        return match cx.network.node {
            Some(node) if !is_link_local(dst) && cx.network.node_ips.contains(&dst) => {
                node::deliver(cx, cur, node, dst)
            }
            _ => icmp::to_gateway(cx, cur),
        };
    }
    if !is_routable(src) || !is_routable(dst) {
        return Verdict::Drop(DropReason::Martian);
    }
    if ttl(cur.bytes, &headers) <= 1 {
        if is_subnet_broadcast(cx, dst) {
            return Verdict::Drop(DropReason::Martian);
        }
        icmp::error(cx, cur, Error::TimeExceeded);
        return Verdict::Drop(DropReason::TtlExceeded);
    }
    let Some((length, target)) = cx.network.fib.lookup(dst) else {
        icmp::error(cx, cur, Error::NoRoute);
        return Verdict::Drop(DropReason::NoRoute);
    };
    cx.rec.step(|| Step::Fib { length, target });
    match target {
        Target::Connected => {
            if is_subnet_broadcast(cx, dst) {
                return Verdict::Drop(DropReason::Martian);
            }
            resolve::deliver(cx, cur, dst)
        }
        Target::NextHop(hop) => resolve::deliver(cx, cur, hop),
        Target::Peer(id) => match cx.tables.peer(id) {
            // The tunnel would carry itself, and a kernel at its end would open what a pod has forged.
            Some(peer) if dst == peer.remote && decap::is_nested(cx.tables, cur.bytes, &headers) => {
                Verdict::Drop(DropReason::Nested)
            }
            Some(peer) => resolve::finish(cx, cur, Egress::Peer(id), peer.router_mac),
            None => Verdict::Drop(DropReason::EgressGone),
        },
        Target::Node => node::forward(cx, cur),
        Target::Blackhole => Verdict::Drop(DropReason::Blackhole),
        Target::Unreachable => {
            icmp::error(cx, cur, Error::Prohibited);
            Verdict::Drop(DropReason::Unreachable)
        }
    }
}

/// May this address be the source or destination of a forwarded packet?
pub fn is_routable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(matches!(ip.octets()[0], 0 | 127 | 224..) || ip.is_link_local()),
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Directed broadcasts are not forwarded (RFC 2644).
fn is_subnet_broadcast<R>(cx: &Context<'_, R>, dst: IpAddr) -> bool {
    let IpAddr::V4(dst) = dst else { return false };
    cx.network.gateways.iter().any(|g| match g {
        ipnet::IpNet::V4(net) => net.prefix_len() < 31 && is_edge(*net, dst),
        ipnet::IpNet::V6(_) => false,
    })
}

fn is_edge(net: ipnet::Ipv4Net, ip: Ipv4Addr) -> bool {
    ip == net.broadcast() || ip == net.network()
}

#[inline]
fn ttl(frame: &[u8], headers: &Headers) -> u8 {
    frame[Headers::L3 + if headers.net == Net::V4 { 8 } else { 7 }]
}

/// Sets an IPv4 TTL and updates the header checksum.
#[inline]
pub fn set_ttl(frame: &mut [u8], ttl: u8) {
    let at = Headers::L3 + 8;
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at] = ttl;
    let new = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let field = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
    frame[at + 2..at + 4].copy_from_slice(&checksum::update(field, old, new).to_be_bytes());
}

/// New MACs.
#[inline]
pub fn readdress(cur: &mut Current<'_>, dst: MacAddr, src: MacAddr) {
    cur.bytes[..6].copy_from_slice(&dst.0);
    cur.bytes[6..12].copy_from_slice(&src.0);
}

/// New MACs, one hop less.
#[inline]
pub fn rewrite(cur: &mut Current<'_>, dst: MacAddr, src: MacAddr) {
    readdress(cur, dst, src);
    count_hop(cur.bytes, cur.meta.headers.net);
}

/// One hop less.
#[inline]
pub fn count_hop(frame: &mut [u8], net: Net) {
    match net {
        Net::V4 => {
            let ttl = frame[Headers::L3 + 8];
            set_ttl(frame, ttl.saturating_sub(1));
        }
        Net::V6 => {
            let at = Headers::L3 + 7;
            frame[at] = frame[at].saturating_sub(1);
        }
        Net::Arp | Net::Other => {}
    }
}
