//! Readable frame builders for tests, benches and fuzz targets. Allocates; never used by the data path.

use crate::checksum;
use crate::{Headers, MacAddr, ether_type, ip_proto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet header plus body.
#[must_use]
pub fn ethernet(dst: MacAddr, src: MacAddr, ether_type: u16, body: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ether_type.to_be_bytes(), body].concat()
}

/// An IPv4 packet with a right header checksum, TTL 64 and DF.
#[must_use]
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0];
    ip.extend(src.octets());
    ip.extend(dst.octets());
    let total = (ip.len() + payload.len()) as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let field = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&field.to_be_bytes());
    ip.extend(payload);
    ip
}

/// An IPv6 packet with hop limit 64.
#[must_use]
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(src.octets());
    ip.extend(dst.octets());
    ip.extend(payload);
    ip
}

/// IP of the version of the addresses (which must agree) with an L4 packet whose checksum gets filled in.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, proto: u8, mut l4: Vec<u8>) -> (u16, Vec<u8>) {
    let len = l4.len() as u32;
    let pseudo = match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => checksum::pseudo_v4(s, d, proto, len),
        (IpAddr::V6(s), IpAddr::V6(d)) => checksum::pseudo_v6(s, d, proto, len),
        _ => 0,
    };
    if let Some(at) = checksum::field_offset(proto) {
        l4[at..at + 2].fill(0);
        let total = checksum::add(pseudo, checksum::sum(&l4));
        let field =
            if proto == ip_proto::UDP { checksum::finish_udp(total) } else { checksum::finish(total) };
        l4[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => (ether_type::IPV4, ipv4(s, d, proto, &l4)),
        (IpAddr::V6(s), IpAddr::V6(d)) => (ether_type::IPV6, ipv6(s, d, proto, &l4)),
        _ => (0, Vec::new()),
    }
}

/// A whole UDP frame.
#[must_use]
pub fn udp(macs: (MacAddr, MacAddr), ips: (IpAddr, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend((8 + payload.len() as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    let (kind, body) = ip(ips.0, ips.1, ip_proto::UDP, l4);
    ethernet(macs.1, macs.0, kind, &body)
}

/// A whole TCP frame without options.
#[must_use]
pub fn tcp(
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
    ports: (u16, u16),
    (seq, ack, flags): (u32, u32, u8),
    payload: &[u8],
) -> Vec<u8> {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    let (kind, body) = ip(ips.0, ips.1, ip_proto::TCP, l4);
    ethernet(macs.1, macs.0, kind, &body)
}

/// An ARP packet: `op` 1 is a request, 2 a reply.
#[must_use]
pub fn arp(
    eth: (MacAddr, MacAddr),
    op: u16,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(op.to_be_bytes());
    body.extend(sender.0.0);
    body.extend(sender.1.octets());
    body.extend(target.0.0);
    body.extend(target.1.octets());
    ethernet(eth.1, eth.0, ether_type::ARP, &body)
}

/// An ICMP or ICMPv6 echo request or reply; `kind` is the ICMP type.
#[must_use]
pub fn echo(
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
    kind: u8,
    id: u16,
    seq: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut l4 = vec![kind, 0, 0, 0];
    l4.extend(id.to_be_bytes());
    l4.extend(seq.to_be_bytes());
    l4.extend(data);
    let proto = if ips.0.is_ipv4() { ip_proto::ICMP } else { ip_proto::ICMPV6 };
    if proto == ip_proto::ICMP {
        let field = checksum::finish(checksum::sum(&l4));
        l4[2..4].copy_from_slice(&field.to_be_bytes());
    }
    let (kind, body) = ip(ips.0, ips.1, proto, l4);
    ethernet(macs.1, macs.0, kind, &body)
}

/// A neighbour solicitation (135) or advertisement (136, solicited + override) with one link-layer option.
#[must_use]
pub fn ndp(
    macs: (MacAddr, MacAddr),
    ips: (Ipv6Addr, Ipv6Addr),
    kind: u8,
    target: Ipv6Addr,
    link: Option<MacAddr>,
) -> Vec<u8> {
    let flags: u8 = if kind == 136 { 0x60 } else { 0 };
    let mut l4 = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    l4.extend(target.octets());
    if let Some(mac) = link {
        l4.extend([if kind == 136 { 2 } else { 1 }, 1]);
        l4.extend(mac.0);
    }
    let (ether, mut body) = ip(IpAddr::V6(ips.0), IpAddr::V6(ips.1), ip_proto::ICMPV6, l4);
    body[7] = 255;
    ethernet(macs.1, macs.0, ether, &body)
}

/// Parses, for tests that know the frame is good.
///
/// # Panics
/// On a malformed frame.
#[must_use]
#[allow(clippy::expect_used)]
pub fn parse(frame: &[u8]) -> Headers {
    Headers::parse(frame).expect("a frame built by this module parses")
}
