//! Decapsulation: who may send, what is refused by name, and what only the tunnel's other end knows.

use super::kit::*;
use super::route::offload_tcp;
use crate::datapath::DropReason::{self, *};
use crate::datapath::{Ingress, Step, Verdict};
use packet::{GsoType, Headers, MacAddr, VnetHdr, build, checksum, ip_proto};
use std::net::IpAddr;
use tunnel::Encap;

const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// From a host on the segment behind B, or a pod of C.
fn inner(from: &str, to: &str) -> Vec<u8> {
    build::udp((FAR_MAC, WEB_MAC), (ip(from), ip(to)), (1, 2), b"inner")
}

fn geneve(head: [u8; 4], rest: &[u8]) -> (Ingress, Vec<u8>) {
    let ingress = Ingress::Underlay { source: remote(B), tos: 0, encap: Encap::Geneve };
    (ingress, [&head[..], &[0, 0, 1, 0], rest].concat())
}

#[track_caller]
fn refused(ingress: Ingress, datagram: &[u8], reason: DropReason) {
    World::node().send(ingress, datagram).silent(reason);
}

#[test]
fn only_listed_peers_are_heard() {
    let mut w = World::node();
    let datagram = vxlan(1, &inner("10.1.1.30", "10.1.1.2"));
    for source in ["192.168.77.1", "192.168.77.9", "fd00::1", "::ffff:192.168.77.2"] {
        let ingress = Ingress::Underlay { source: ip(source), tos: 0, encap: Encap::Vxlan };
        w.send(ingress, &datagram).silent(UnknownPeer);
    }
    assert_eq!(w.dp.counters.node.drops[UnknownPeer as usize], 4, "booked on the node");
    assert_eq!(w.send(underlay(B, 0), &datagram).unicast(port(WEB)).bytes, datagram[8..]);
    assert_eq!(w.dp.counters.get(peer(B)).unwrap().received, 1);
    // Listed once, gone now.
    w.tables.peers[B.0 as usize] = None;
    w.send(underlay(B, 0), &datagram).silent(UnknownPeer);
}

#[test]
fn tunnel_errors_by_name() {
    let body = inner("10.1.1.30", "10.1.1.2");
    let b = underlay(B, 0);
    let good = vxlan(1, &body);
    for len in [0, 7, 8, 21] {
        refused(b, &good[..len], TunnelTruncated);
    }
    let mut bad = good.clone();
    bad[0] = 0;
    refused(b, &bad, TunnelBadFlags);
    bad[0] = 0x0c;
    refused(b, &bad, TunnelBadFlags);
    for (head, rest, reason) in [
        ([0x40, 0, 0x65, 0x58], &body[..], TunnelBadVersion),
        ([0, 0x80, 0x65, 0x58], &body, TunnelControl),
        ([0, 0x40, 0x65, 0x58], &body, TunnelUnknownCritical),
        ([0, 0, 0x08, 0x00], &body, TunnelNotEthernet),
        ([1, 0, 0x65, 0x58], &[&[0, 1, 1, 1][..], &body].concat(), TunnelBadOption),
        ([1, 0, 0x65, 0x58], &[&[0, 1, 0x81, 0][..], &body].concat(), TunnelUnknownCritical),
        ([63, 0, 0x65, 0x58], &body, TunnelTruncated),
    ] {
        let (ingress, datagram) = geneve(head, rest);
        refused(ingress, &datagram, reason);
    }
    let (ingress, datagram) = geneve([1, 0, 0x65, 0x58], &[&[0, 1, 1, 0][..], &body].concat());
    assert_eq!(World::node().send(ingress, &datagram).unicast(port(WEB)).bytes, body);
}

#[test]
fn unknown_networks() {
    let body = inner("10.1.1.30", "10.1.1.2");
    for vni in [3, 0xff_ffff] {
        refused(underlay(B, 0), &vxlan(vni, &body), UnknownVni);
    }
    let mut zero = vxlan(1, &body);
    zero[6] = 0;
    refused(underlay(B, 0), &zero, UnknownVni);
    let mut w = World::node();
    w.send(underlay(B, 0), &zero);
    assert_eq!(w.dp.counters.get(peer(B)).unwrap().drops[UnknownVni as usize], 1, "booked on the peer");
}

#[test]
fn inner_frames_are_held_to_the_same_rules() {
    let mut cut = vxlan(1, &inner("10.1.1.30", "10.1.1.2"));
    cut.truncate(8 + 20);
    refused(underlay(B, 0), &cut, Malformed);
    let mut group = inner("10.1.1.30", "10.1.1.2");
    group[6] = 1;
    refused(underlay(B, 0), &vxlan(1, &group), BadSource);
}

#[test]
fn tunnels_do_not_nest() {
    for (to, nested) in
        [("192.168.77.1", true), ("192.168.77.2", true), ("192.168.77.3", true), ("10.1.1.2", false)]
    {
        for dport in [4789, 6081, 53] {
            let body = build::udp((FAR_MAC, WEB_MAC), (ip("10.1.1.30"), ip(to)), (9, dport), b"tunnel?");
            let outcome = World::node().peer_in(B, &body);
            if nested && dport != 53 {
                outcome.silent(Nested);
            } else {
                outcome.unicast(port(WEB));
            }
        }
    }
}

#[test]
fn congestion_marks() {
    for (inner_tos, outer, want) in [
        (0, 0, Some(0)),
        (0, 3, None),
        (1, 3, Some(3)),
        (2, 3, Some(3)),
        (2, 1, Some(1)),
        (3, 0, Some(3)),
        (0xba, 0xb, Some(0xbb)),
    ] {
        for (from, to) in [("10.1.1.30", "10.1.1.2"), ("fd00:1::30", "fd00:1::2")] {
            let mut body = inner(from, to);
            if to.contains(':') {
                body[14] = 0x60 | inner_tos >> 4;
                body[15] = inner_tos << 4;
            } else {
                body[15] = inner_tos;
                body[24..26].fill(0);
                let field = checksum::finish(checksum::sum(&body[14..34]));
                body[24..26].copy_from_slice(&field.to_be_bytes());
            }
            let outcome = World::node().send(underlay(B, outer), &vxlan(1, &body));
            let Some(want) = want else {
                outcome.silent(EcnCongestion);
                continue;
            };
            let bytes = &outcome.unicast(port(WEB)).bytes;
            let headers = build::parse(bytes);
            assert_eq!(headers.tos(bytes), want, "{inner_tos} {outer}");
            assert!(headers.net == packet::Net::V6 || checksum::verify_ipv4_header(&bytes[14..]));
            assert!(checksum::verify_l4(&headers, bytes));
        }
    }
    // What is no IP has no marks to lose.
    let arp =
        build::arp((FAR_MAC, MacAddr::BROADCAST), 1, (FAR_MAC, v4("10.1.1.30")), (mac(0), v4("10.1.1.77")));
    let outcome = World::node().send(underlay(B, 3), &vxlan(1, &arp));
    assert!(matches!(outcome.verdict, Verdict::Flood(_)));
}

#[test]
fn pod_cidrs() {
    let accepted = |frame: &[u8]| {
        let outcome = World::node().peer_in(C, frame);
        assert!(!matches!(outcome.verdict, Verdict::Drop(_)), "{outcome:?}");
    };
    let foreign = |frame: &[u8]| World::node().peer_in(C, frame).silent(PeerSource);
    accepted(&inner("10.1.2.9", "10.1.1.2"));
    accepted(&inner("fd00:2::9", "fd00:1::2"));
    for from in ["10.1.1.3", "10.1.3.1", "0.0.0.0", "192.168.77.3"] {
        foreign(&inner(from, "10.1.1.2"));
    }
    for from in ["fd00:1::3", "fd00:3::1", "::", "fe80::1"] {
        foreign(&inner(from, "fd00:1::2"));
    }
    // ARP: the sender address, or none.
    let arp = |from: &str| {
        build::arp((FAR_MAC, MacAddr::BROADCAST), 1, (FAR_MAC, v4(from)), (mac(0), v4("10.1.1.77")))
    };
    accepted(&arp("10.1.2.9"));
    accepted(&arp("0.0.0.0"));
    foreign(&arp("10.1.1.30"));
    // Discovery: from link-local addresses, about addresses of its own.
    let ndp = |kind, from: &str, target: &str| {
        build::ndp((FAR_MAC, ALL_NODES_MAC), (v6(from), v6("ff02::1")), kind, v6(target), Some(FAR_MAC))
    };
    accepted(&ndp(135, "fe80::9", "fd00:1::77"));
    accepted(&ndp(135, "::", "fd00:2::9"));
    foreign(&ndp(135, "fd00:1::30", "fd00:1::77"));
    accepted(&ndp(136, "fe80::9", "fe80::9"));
    accepted(&ndp(136, "fe80::9", "fd00:2::9"));
    foreign(&ndp(136, "fe80::9", "fd00:1::77"));
    foreign(&ndp(136, "fd00:2::9", "fd00:1::77"));
    foreign(&ndp(136, "fd00:1::3", "fd00:2::9"));
    // The gateway is on every node. What it says beyond its own are errors.
    let gateway4 = |kind| {
        let packet =
            build::ipv4(v4("10.1.1.1"), v4("10.1.1.2"), ip_proto::ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        build::ethernet(WEB_MAC, FAR_MAC, 0x0800, &packet)
    };
    let gateway6 = |kind| {
        let packet = build::ipv6(v6("fd00:1::1"), v6("fd00:1::2"), 58, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        build::ethernet(WEB_MAC, FAR_MAC, 0x86dd, &packet)
    };
    [3, 11, 12].into_iter().for_each(|kind| accepted(&gateway4(kind)));
    [0, 5, 8, 9, 13, 17].into_iter().for_each(|kind| foreign(&gateway4(kind)));
    [1, 2, 3, 4].into_iter().for_each(|kind| accepted(&gateway6(kind)));
    [128, 129, 130, 137].into_iter().for_each(|kind| foreign(&gateway6(kind)));
    // A link-local source is for ICMPv6 only.
    let udp = build::udp((FAR_MAC, WEB_MAC), (ip("fe80::9"), ip("fd00:1::2")), (1, 2), b"x");
    foreign(&udp);
    // What has no source to check.
    foreign(&build::ethernet(WEB_MAC, FAR_MAC, 0x88b5, &[0; 46]));
    let later: Vec<u8> =
        build::ipv6(v6("fd00:1::3"), v6("fd00:1::2"), 44, &[58, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    foreign(&build::ethernet(WEB_MAC, FAR_MAC, 0x86dd, &later));
}

/// What a kernel leaves in the field when it leaves the sum to others.
fn make_partial(frame: &mut [u8]) -> Headers {
    let headers = build::parse(frame);
    let at = usize::from(headers.l4) + checksum::field_offset(headers.proto).unwrap();
    let partial = checksum::pseudo(&headers, frame, headers.end - u32::from(headers.l4));
    frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    headers
}

#[test]
fn partial_inner_checksums_are_announced() {
    for (from, to) in [("10.1.1.30", "10.1.1.2"), ("fd00:1::30", "fd00:1::2")] {
        let tcp = build::tcp((FAR_MAC, WEB_MAC), (ip(from), ip(to)), (1, 2), (1, 1, 0x10), b"data");
        for mut body in [inner(from, to), tcp] {
            assert_eq!(World::node().peer_in(B, &body).unicast(port(WEB)).vnet, VnetHdr::default());
            let headers = make_partial(&mut body);
            let outcome = World::node().peer_in(B, &body);
            let copy = outcome.unicast(port(WEB));
            let offset = if headers.proto == ip_proto::TCP { 16 } else { 6 };
            assert_eq!((copy.vnet.needs_csum, copy.vnet.gso_type), (true, GsoType::None));
            assert_eq!((copy.vnet.csum_start, copy.vnet.csum_offset), (headers.l4, offset));
            assert_eq!(copy.bytes, body);
        }
    }
}

#[test]
fn a_huge_inner_frame_becomes_an_offload_frame() {
    for (from, to, gso) in
        [("10.1.1.30", "10.1.1.2", GsoType::Tcp4), ("fd00:1::30", "fd00:1::2", GsoType::Tcp6)]
    {
        let (body, _) = offload_tcp((FAR_MAC, WEB_MAC), from, to, 40_000, 1);
        let outcome = World::node().peer_in(B, &body);
        let copy = outcome.unicast(port(WEB));
        let headers = build::parse(&body);
        assert_eq!((copy.vnet.gso_type, copy.vnet.needs_csum), (gso, true));
        assert_eq!(usize::from(copy.vnet.gso_size), 1450 - (usize::from(headers.payload) - 14));
        assert_eq!(copy.bytes, body);
        // A pod with a smaller MTU gets smaller segments.
        let mut w = World::node();
        w.edit_port(WEB, |p| p.mtu = 1000);
        let small = w.peer_in(B, &body);
        assert_eq!(
            usize::from(small.unicast(port(WEB)).vnet.gso_size),
            1000 - (usize::from(headers.payload) - 14)
        );
    }
    // A large datagram cannot be cut; its sender is told.
    let mut body = build::udp((FAR_MAC, WEB_MAC), (ip("10.1.1.30"), ip("10.1.1.2")), (1, 2), &[1; 9000]);
    make_partial(&mut body);
    let outcome = World::node().peer_in(B, &body);
    outcome.dropped(TooBig);
    assert_eq!(outcome.single().to, peer(B));
    assert_eq!(Headers::src_mac(&outcome.single().bytes), own_router());
}

#[test]
fn a_trace_may_start_behind_the_tunnel() {
    let mut w = World::node();
    let body = inner("10.1.2.9", "10.1.1.2");
    let outcome = w.send(Ingress::Peer { peer: C, vni: 1 }, &body);
    assert_eq!(outcome.unicast(port(WEB)).bytes, body);
    assert_eq!(outcome.steps[0], Step::Decap { origin: peer(C), network: BLUE });
    w.send(Ingress::Peer { peer: C, vni: 9 }, &body).silent(UnknownVni);
    w.send(Ingress::Peer { peer: crate::datapath::PeerId(9), vni: 1 }, &body).silent(UnknownPeer);
}

#[test]
fn an_underlay_over_ipv6() {
    let mut w = World::node();
    let id = w.peer(ip("fd77::5"), Some(&["10.1.5.0/24"]));
    let from: IpAddr = ip("fd77::5");
    let ingress = Ingress::Underlay { source: from, tos: 0, encap: Encap::Geneve };
    let (_, datagram) = geneve([0, 0, 0x65, 0x58], &inner("10.1.5.5", "10.1.1.2"));
    w.send(ingress, &datagram).unicast(port(WEB));
    assert_eq!(w.dp.counters.get(peer(id)).unwrap().received, 1);
}
