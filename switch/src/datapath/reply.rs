//! Writing the frames that the switch sends itself: ARP, neighbour discovery, ICMP errors.
//!
//! Each function appends to an empty vector that keeps its capacity. Checksums are complete. ICMP errors quote
//! the original packet byte for byte, so they are written by hand here; tests read them back with independent
//! parsers.

use packet::{Headers, MacAddr, checksum, ether_type, ip_proto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 1812 4.3.2.3: an ICMP error is at most 576 bytes.
const ICMP4_MAX: usize = 576;
/// RFC 4443 2.4(c): an ICMPv6 error is at most the minimum MTU.
const ICMP6_MAX: usize = 1280;

/// Where multicast to all nodes (ff02::1) goes on layer 2.
pub const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn ethernet(out: &mut Vec<u8>, src: MacAddr, dst: MacAddr, ether_type: u16) {
    out.extend_from_slice(&dst.0);
    out.extend_from_slice(&src.0);
    out.extend_from_slice(&ether_type.to_be_bytes());
}

/// An ARP request for `target`, broadcast, as a probe (sender address zero, RFC 5227): the answer comes to
/// `mac`, and nobody takes that MAC for the gateway's.
pub fn arp_request(out: &mut Vec<u8>, mac: MacAddr, target: Ipv4Addr) {
    arp_broadcast(out, mac, Ipv4Addr::UNSPECIFIED, target);
}

/// An ARP announcement (RFC 5227 section 2.3: a request for one's own address): `ip` is at `mac`.
pub fn arp_announcement(out: &mut Vec<u8>, mac: MacAddr, ip: Ipv4Addr) {
    arp_broadcast(out, mac, ip, ip);
}

fn arp_broadcast(out: &mut Vec<u8>, mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) {
    ethernet(out, mac, MacAddr::BROADCAST, ether_type::ARP);
    out.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    out.extend_from_slice(&mac.0);
    out.extend_from_slice(&sender.octets());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&target.octets());
}

fn ipv6_icmp(out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, hops: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let ip = out.len();
    out.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, ip_proto::ICMPV6, hops]);
    out.extend_from_slice(&src.octets());
    out.extend_from_slice(&dst.octets());
    let l4 = out.len();
    body(out);
    let len = (out.len() - l4) as u16;
    out[ip + 4..ip + 6].copy_from_slice(&len.to_be_bytes());
    let sum = checksum::add(
        checksum::pseudo_v6(src, dst, ip_proto::ICMPV6, u32::from(len)),
        checksum::sum(&out[l4..]),
    );
    out[l4 + 2..l4 + 4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}

/// A neighbour solicitation for `target`, from the link-local address of `mac`.
pub fn neighbour_solicitation(out: &mut Vec<u8>, mac: MacAddr, target: Ipv6Addr) {
    let t = target.octets();
    let group = Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]);
    ethernet(out, mac, MacAddr([0x33, 0x33, 0xff, t[13], t[14], t[15]]), ether_type::IPV6);
    ipv6_icmp(out, mac.link_local_v6(), group, 255, |out| {
        out.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&t);
        out.extend_from_slice(&[1, 1]);
        out.extend_from_slice(&mac.0);
    });
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861 section 7.2.6): `ip` is at `mac`, whatever was
/// known before.
pub fn neighbour_announcement(out: &mut Vec<u8>, mac: MacAddr, ip: Ipv6Addr) {
    neighbour_advertisement(out, (mac, ALL_NODES), ip, Ipv6Addr::UNSPECIFIED, false, true);
}

/// A neighbour advertisement: `target` is at `mac`. `dst` is the asker's address (all nodes, and then not
/// solicited, if it asked from the unspecified one).
pub fn neighbour_advertisement(
    out: &mut Vec<u8>,
    (mac, dst_mac): (MacAddr, MacAddr),
    target: Ipv6Addr,
    dst: Ipv6Addr,
    router: bool,
    overrides: bool,
) {
    let unspecified = dst.is_unspecified();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let flags =
        if router { 0x80 } else { 0 } | if unspecified { 0 } else { 0x40 } | if overrides { 0x20 } else { 0 };
    ethernet(out, mac, dst_mac, ether_type::IPV6);
    ipv6_icmp(out, target, if unspecified { all_nodes } else { dst }, 255, |out| {
        out.extend_from_slice(&[136, 0, 0, 0, flags, 0, 0, 0]);
        out.extend_from_slice(&target.octets());
        out.extend_from_slice(&[2, 1]);
        out.extend_from_slice(&mac.0);
    });
}

/// An ICMP or ICMPv6 error about the packet in `frame` (whose IP packet is `frame[14..end]`).
/// `field` is the 32-bit word after the checksum: next-hop MTU, or zero.
pub fn icmp_error(
    out: &mut Vec<u8>,
    (mac, dst_mac): (MacAddr, MacAddr),
    (src, dst): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    field: u32,
    frame: &[u8],
    headers: &Headers,
) {
    let packet = &frame[Headers::L3..headers.end as usize];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let quoted = &packet[..packet.len().min(ICMP4_MAX - 28)];
            ethernet(out, mac, dst_mac, ether_type::IPV4);
            let ip = out.len();
            let total = (28 + quoted.len()) as u16;
            // Precedence 6 (internetwork control), as RFC 1812 4.3.2.5 recommends.
            out.extend_from_slice(&[0x45, 0xc0]);
            out.extend_from_slice(&total.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 64, ip_proto::ICMP, 0, 0]);
            out.extend_from_slice(&src.octets());
            out.extend_from_slice(&dst.octets());
            let sum = checksum::finish(checksum::sum(&out[ip..ip + 20]));
            out[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            let l4 = out.len();
            out.extend_from_slice(&[kind, code, 0, 0]);
            out.extend_from_slice(&field.to_be_bytes());
            out.extend_from_slice(quoted);
            let sum = checksum::finish(checksum::sum(&out[l4..]));
            out[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let quoted = &packet[..packet.len().min(ICMP6_MAX - 48)];
            ethernet(out, mac, dst_mac, ether_type::IPV6);
            ipv6_icmp(out, src, dst, 64, |out| {
                out.extend_from_slice(&[kind, code, 0, 0]);
                out.extend_from_slice(&field.to_be_bytes());
                out.extend_from_slice(quoted);
            });
        }
        _ => {}
    }
}
