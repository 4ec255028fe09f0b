//! Guard: a declared port sends with its own addresses only; nothing hides what it may not send.

use super::kit::*;
use crate::datapath::DropReason::{self, *};
use crate::datapath::{PortId, Verdict};
use packet::{MacAddr, build, ether_type, ip_proto};
use std::net::IpAddr;

const ALL_NODES: &str = "ff02::1";
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn refused(frame: &[u8], reason: DropReason) {
    World::node().port_in(WEB, frame).silent(reason);
}

fn passes(id: PortId, frame: &[u8]) {
    let outcome = World::node().port_in(id, frame);
    assert!(!matches!(outcome.verdict, Verdict::Drop(_)), "{outcome:?}");
}

fn udp_from(src_mac: MacAddr, src: &str, dst: &str, ports: (u16, u16)) -> Vec<u8> {
    build::udp((src_mac, DB_MAC), (ip(src), ip(dst)), ports, b"x")
}

/// An ICMPv6 message from WEB's link-local address, or another one, to all nodes.
fn icmpv6(src: &str, body: &[u8]) -> Vec<u8> {
    let src: IpAddr = if src.is_empty() { WEB_MAC.link_local_v6().into() } else { ip(src) };
    let (kind, mut packet) = build::ip(src, ip(ALL_NODES), ip_proto::ICMPV6, body.to_vec());
    packet[7] = 255;
    build::ethernet(ALL_NODES_MAC, WEB_MAC, kind, &packet)
}

fn router_advert() -> Vec<u8> {
    vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// IPv6 from WEB with these extension headers (first protocol number, then the headers as bytes).
fn with_extensions(first: u8, extensions: &[u8], rest: &[u8]) -> Vec<u8> {
    let packet = build::ipv6(WEB_MAC.link_local_v6(), v6(ALL_NODES), first, &[extensions, rest].concat());
    build::ethernet(ALL_NODES_MAC, WEB_MAC, ether_type::IPV6, &packet)
}

#[test]
fn own_addresses_pass() {
    for (src, dst) in [("10.1.1.2", "10.1.1.3"), ("fd00:1::2", "fd00:1::3")] {
        passes(WEB, &udp_from(WEB_MAC, src, dst, (1, 2)));
    }
    let link_local = WEB_MAC.link_local_v6().to_string();
    passes(WEB, &udp_from(WEB_MAC, &link_local, "fd00:1::3", (1, 2)));
}

#[test]
fn ethernet_source() {
    refused(&udp_from(mac(9), "10.1.1.2", "10.1.1.3", (1, 2)), SpoofedMac);
    refused(&udp_from(DB_MAC, "10.1.1.3", "10.1.1.3", (1, 2)), SpoofedMac);
    refused(&udp_from(MacAddr::BROADCAST, "10.1.1.2", "10.1.1.3", (1, 2)), BadSource);
    refused(&udp_from(MacAddr::ZERO, "10.1.1.2", "10.1.1.3", (1, 2)), BadSource);
    refused(&udp_from(MacAddr([1, 0, 0x5e, 0, 0, 1]), "10.1.1.2", "10.1.1.3", (1, 2)), BadSource);
}

#[test]
fn the_switchs_own_macs_are_no_source_for_anybody() {
    for source in [gw(), own_router()] {
        let frame = udp_from(source, "10.1.1.2", "10.1.1.3", (1, 2));
        refused(&frame, SpoofedMac);
        World::node().port_in(VM, &frame).silent(SpoofedMac);
        World::node().peer_in(B, &frame).silent(SpoofedMac);
    }
}

#[test]
fn ip_source() {
    for (src, dst) in [
        ("10.1.1.3", "10.1.1.3"),
        ("10.1.1.1", "10.1.1.3"),
        ("0.0.0.0", "10.1.1.3"),
        ("fd00:1::3", "fd00:1::3"),
        ("fd00:1::1", "fd00:1::3"),
        ("::", "fd00:1::3"),
        ("fe80::1", "fd00:1::3"),
    ] {
        refused(&udp_from(WEB_MAC, src, dst, (1, 2)), SpoofedIp);
    }
}

#[test]
fn control_frames_are_never_forwarded() {
    for last in 0..16 {
        let frame = build::ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, last]), VM_MAC, 0x88cc, &[0; 50]);
        World::node().port_in(VM, &frame).silent(ControlFrame);
        World::node().peer_in(B, &frame).silent(ControlFrame);
    }
    let next = build::ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 16]), VM_MAC, 0x88cc, &[0; 50]);
    passes(VM, &next);
}

#[test]
fn what_cannot_be_read_cannot_be_checked() {
    let inner = udp_from(WEB_MAC, "10.1.1.2", "10.1.1.3", (1, 2));
    let tagged = |tpid: u16| {
        let mut frame = inner.clone();
        frame.splice(12..12, [tpid.to_be_bytes(), [0, 5]].concat());
        frame
    };
    for frame in [
        tagged(ether_type::VLAN),
        tagged(ether_type::QINQ),
        build::ethernet(DB_MAC, WEB_MAC, 0x88cc, &[0; 46]),
        // An 802.3 length with LLC behind it.
        build::ethernet(DB_MAC, WEB_MAC, 46, &[0x42; 46]),
    ] {
        refused(&frame, EtherType);
        // A learning port may.
        let mut own = frame.clone();
        own[6..12].copy_from_slice(&VM_MAC.0);
        passes(VM, &own);
    }
}

#[test]
fn malformed_headers_are_refused_by_name() {
    let good = udp_from(WEB_MAC, "10.1.1.2", "10.1.1.3", (1, 2));
    for cut in [0, 13, 14, 33] {
        refused(&good[..cut], Malformed);
    }
    let mut bad = good.clone();
    bad[14] = 0x65;
    refused(&bad, Malformed);
    let mut bad = good.clone();
    bad[14] = 0x44;
    refused(&bad, Malformed);
    let mut bad = good;
    bad[16..18].copy_from_slice(&2000u16.to_be_bytes());
    refused(&bad, Malformed);
    let mut arp =
        build::arp((WEB_MAC, MacAddr::BROADCAST), 1, (WEB_MAC, v4("10.1.1.2")), (mac(0), v4("10.1.1.9")));
    arp[18] = 7;
    refused(&arp, Malformed);
}

#[test]
fn arp_sender() {
    let arp = |op, sender: (MacAddr, &str)| {
        build::arp((WEB_MAC, MacAddr::BROADCAST), op, (sender.0, v4(sender.1)), (mac(0), v4("10.1.1.77")))
    };
    for op in [1, 2] {
        refused(&arp(op, (WEB_MAC, "10.1.1.3")), SpoofedArp);
        refused(&arp(op, (WEB_MAC, "10.1.1.1")), SpoofedArp);
        refused(&arp(op, (DB_MAC, "10.1.1.2")), SpoofedArp);
        refused(&arp(op, (gw(), "10.1.1.2")), SpoofedArp);
        passes(WEB, &arp(op, (WEB_MAC, "10.1.1.2")));
        passes(WEB, &arp(op, (WEB_MAC, "0.0.0.0")));
    }
}

#[test]
fn nobody_claims_the_gateways_address() {
    let arp = build::arp((VM_MAC, MacAddr::BROADCAST), 2, (VM_MAC, v4("10.1.1.1")), (VM_MAC, v4("10.1.1.1")));
    World::node().port_in(VM, &arp).silent(SpoofedArp);
    World::node().peer_in(B, &arp).silent(SpoofedArp);
    for target in [v6("fd00:1::1"), gw().link_local_v6()] {
        let na =
            build::ndp((VM_MAC, ALL_NODES_MAC), (v6("fe80::99"), v6(ALL_NODES)), 136, target, Some(VM_MAC));
        World::node().port_in(VM, &na).silent(SpoofedNd);
        World::node().peer_in(B, &na).silent(SpoofedNd);
    }
}

#[test]
fn router_advertisements() {
    refused(&icmpv6("", &router_advert()), RouterAdvert);
    refused(&icmpv6("fd00:1::2", &router_advert()), RouterAdvert);
    refused(&icmpv6("fe80::1", &router_advert()), RouterAdvert);
    // The port may ask, with its own link-layer address or none.
    passes(WEB, &icmpv6("", &[133, 0, 0, 0, 0, 0, 0, 0]));
    let option = |m: MacAddr| [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &m.0].concat();
    passes(WEB, &icmpv6("", &option(WEB_MAC)));
    refused(&icmpv6("", &option(DB_MAC)), SpoofedNd);
}

#[test]
fn redirects() {
    refused(&icmpv6("", &[&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat()), SpoofedNd);
}

#[test]
fn extension_headers_hide_nothing() {
    let ra = router_advert();
    let destination_options = [ip_proto::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    refused(&with_extensions(60, &destination_options, &ra), RouterAdvert);
    let hop_then_routing =
        [&[43u8, 0, 1, 4, 0, 0, 0, 0][..], &[ip_proto::ICMPV6, 0, 0, 0, 0, 0, 0, 0]].concat();
    refused(&with_extensions(0, &hop_then_routing, &ra), RouterAdvert);
    // More headers than anybody needs.
    let chain = [60u8, 0, 1, 4, 0, 0, 0, 0].repeat(9);
    refused(&with_extensions(60, &chain, &ra), Malformed);
}

#[test]
fn fragments_hide_nothing() {
    let fragment = |next: u8, offset: u16, more: u16| {
        let mut h = vec![next, 0];
        h.extend((offset << 3 | more).to_be_bytes());
        h.extend([0, 0, 0, 1]);
        h
    };
    let ra = router_advert();
    let mut na = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    na.extend(v6("fd00:1::2").octets());
    // An atomic fragment is read like a whole packet.
    refused(&with_extensions(44, &fragment(58, 0, 0), &ra), RouterAdvert);
    // Neighbour discovery is never fragmented (RFC 6980).
    for kind in 133..=137u8 {
        let mut body = na.clone();
        body[0] = kind;
        let outcome = World::node().port_in(WEB, &with_extensions(44, &fragment(58, 0, 1), &body));
        outcome.silent(SpoofedNd);
    }
    // The first fragment holds the whole header chain (RFC 7112), or something hides in the second.
    let options = [ip_proto::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    refused(&with_extensions(44, &[fragment(60, 0, 1), options.to_vec()].concat(), &[]), Malformed);
    let options = [ip_proto::UDP, 0, 1, 4, 0, 0, 0, 0];
    refused(&with_extensions(44, &[fragment(60, 0, 1), options.to_vec()].concat(), &[]), Malformed);
    // Fragments of an echo are everybody's right.
    passes(WEB, &with_extensions(44, &fragment(58, 0, 1), &[128, 0, 0, 0, 0, 1, 0, 1]));
    passes(WEB, &with_extensions(44, &fragment(58, 1, 0), &[0; 8]));
    // But not with another's address.
    let mut later = with_extensions(44, &fragment(58, 1, 0), &[0; 8]);
    later[22..38].copy_from_slice(&v6("fd00:1::3").octets());
    refused(&later, SpoofedIp);
}

#[test]
fn neighbour_options() {
    let src = WEB_MAC.link_local_v6();
    let ns = |link| build::ndp((WEB_MAC, ALL_NODES_MAC), (src, v6(ALL_NODES)), 135, v6("fd00:1::77"), link);
    let na = |target, link| build::ndp((WEB_MAC, ALL_NODES_MAC), (src, v6(ALL_NODES)), 136, v6(target), link);
    passes(WEB, &ns(Some(WEB_MAC)));
    passes(WEB, &ns(None));
    refused(&ns(Some(DB_MAC)), SpoofedNd);
    passes(WEB, &na("fd00:1::2", Some(WEB_MAC)));
    refused(&na("fd00:1::2", Some(DB_MAC)), SpoofedNd);
    refused(&na("fd00:1::3", Some(WEB_MAC)), SpoofedNd);
    refused(&na("fd00:1::77", Some(WEB_MAC)), SpoofedNd);
    // A second option does not slip through behind a good first one, nor does a broken list.
    let two = |tail: &[u8]| {
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend(v6("fd00:1::77").octets());
        body.extend([1, 1]);
        body.extend(WEB_MAC.0);
        body.extend(tail);
        icmpv6("", &body)
    };
    passes(WEB, &two(&[]));
    refused(&two(&[&[1u8, 1][..], &DB_MAC.0].concat()), SpoofedNd);
    refused(&two(&[&[2u8, 1][..], &DB_MAC.0].concat()), SpoofedNd);
    refused(&two(&[14, 0, 0, 0, 0, 0, 0, 0]), SpoofedNd);
    refused(&two(&[14, 2, 0, 0, 0, 0, 0, 0]), SpoofedNd);
    refused(&two(&[14]), SpoofedNd);
    // Too short to be one.
    refused(&icmpv6("", &[136, 0, 0, 0, 0x60, 0, 0, 0]), SpoofedNd);
    refused(&icmpv6("", &[135, 0, 0, 0, 0, 0, 0, 0]), SpoofedNd);
    // Another's IPv6 source.
    let stolen =
        build::ndp((WEB_MAC, ALL_NODES_MAC), (v6("fd00:1::3"), v6(ALL_NODES)), 135, v6("fd00:1::77"), None);
    refused(&stolen, SpoofedIp);
}

#[test]
fn what_comes_before_an_address_is_allowed() {
    // Duplicate address detection.
    let dad =
        build::ndp((WEB_MAC, ALL_NODES_MAC), (v6("::"), v6("ff02::1:ff00:2")), 135, v6("fd00:1::2"), None);
    passes(WEB, &dad);
    // Group membership, both versions.
    for kind in [131, 132, 143] {
        passes(WEB, &icmpv6("::", &[kind, 0, 0, 0, 0, 0, 0, 0]));
        passes(WEB, &icmpv6("", &[kind, 0, 0, 0, 0, 0, 0, 0]));
    }
    // Nothing else.
    for kind in [1, 128, 129, 130, 136] {
        let body = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &v6("fd00:1::2").octets()].concat();
        refused(&icmpv6("::", &body), SpoofedIp);
    }
    let mut empty = icmpv6("::", &[128, 0, 0, 0]);
    empty[19] = 0;
    refused(&empty, SpoofedIp);
}

#[test]
fn dhcp_servers() {
    refused(&udp_from(WEB_MAC, "10.1.1.2", "255.255.255.255", (67, 68)), DhcpServer);
    refused(&udp_from(WEB_MAC, "fd00:1::2", "fd00:1::3", (547, 546)), DhcpServer);
    // Clients do not look at the source port.
    refused(&udp_from(WEB_MAC, "10.1.1.2", "10.1.1.3", (4000, 68)), DhcpServer);
    refused(&udp_from(WEB_MAC, "fd00:1::2", "fd00:1::3", (4000, 546)), DhcpServer);
    // Asking is allowed.
    passes(WEB, &udp_from(WEB_MAC, "10.1.1.2", "255.255.255.255", (68, 67)));
    passes(WEB, &udp_from(WEB_MAC, "fd00:1::2", "fd00:1::3", (546, 547)));
}

#[test]
fn learning_ports_are_held_to_the_ethernet_rules_only() {
    let mut w = World::node();
    let relay = |f: &mut Vec<u8>| f[6..12].copy_from_slice(&VM_MAC.0);
    for mut frame in [
        icmpv6("", &router_advert()),
        udp_from(WEB_MAC, "10.99.0.1", "10.1.1.3", (67, 68)),
        udp_from(WEB_MAC, "fd99::1", "fd00:1::3", (547, 546)),
    ] {
        relay(&mut frame);
        let outcome = w.port_in(VM, &frame);
        assert!(!matches!(outcome.verdict, Verdict::Drop(_)), "{outcome:?}");
    }
    // But a declared MAC stays where it is.
    w.port_in(VM, &udp_from(WEB_MAC, "10.1.1.2", "10.1.1.3", (1, 2))).silent(StaticMove);
}
