//! Layer 3: validity, TTL, longest match, and what of a packet changes.

use super::kit::*;
use crate::datapath::{DropReason, Egress, Step, Target, Verdict};
use packet::{GsoType, Headers, MacAddr, VnetHdr, build, checksum};
use proptest::prelude::*;

/// WEB to an address, through the gateway.
fn routed(to: &str) -> Vec<u8> {
    web_udp(gw(), to, b"payload of an odd length!")
}

/// IPv4 with this TTL and a right header checksum, or IPv6 with this hop limit.
pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    if frame[14] >> 4 == 6 {
        frame[21] = ttl;
        return frame;
    }
    frame[22] = ttl;
    refresh(&mut frame);
    frame
}

fn refresh(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let len = 14 + usize::from(frame[14] & 15) * 4;
    let field = checksum::finish(checksum::sum(&frame[14..len]));
    frame[24..26].copy_from_slice(&field.to_be_bytes());
}

/// What a router may change: both MACs, TTL, header checksum. Nothing else did, and all of these are right.
#[track_caller]
pub fn forwarded(before: &[u8], after: &[u8], macs: (MacAddr, MacAddr)) {
    assert_eq!((Headers::src_mac(after), Headers::dst_mac(after)), macs);
    let mut want = before.to_vec();
    want[..12].copy_from_slice(&after[..12]);
    let ttl = if before[14] >> 4 == 4 { 22 } else { 21 };
    let want = with_ttl(want, before[ttl] - 1);
    assert_eq!(after.len(), want.len());
    let differs = (12..want.len()).filter(|&i| after[i] != want[i]).collect::<Vec<_>>();
    // A one's complement sum has two zeros.
    let zeros = differs.iter().all(|i| [24, 25].contains(i));
    assert!(zeros, "bytes {differs:?} differ");
    if before[14] >> 4 == 4 {
        assert!(checksum::verify_ipv4_header(&after[14..]));
        etherparse::Ipv4HeaderSlice::from_slice(&after[14..]).unwrap();
    }
    let headers = build::parse(after);
    assert!(checksum::verify_l4(&headers, after));
}

#[test]
fn connected() {
    let mut w = World::node();
    for to in ["10.1.1.3", "fd00:1::3"] {
        let sent = routed(to);
        let outcome = w.port_in(WEB, &sent);
        forwarded(&sent, &outcome.unicast(port(DB)).bytes, (gw(), DB_MAC));
        let length = if to.contains(':') { 64 } else { 24 };
        assert!(outcome.steps.contains(&Step::Fib { length, target: Target::Connected }));
        assert!(outcome.steps.contains(&Step::Neighbour { ip: ip(to), mac: DB_MAC }));
    }
}

#[test]
fn through_a_peer_with_the_router_macs_of_both_nodes() {
    let mut w = World::node();
    for to in ["10.1.2.9", "fd00:2::9", "10.1.1.130", "fd00:1::c:9"] {
        let sent = routed(to);
        let outcome = w.port_in(WEB, &sent);
        let copy = outcome.unicast(peer(C));
        forwarded(&sent, &copy.bytes, (own_router(), router_of(C)));
        assert_eq!(copy.vni, 1);
    }
    // A peer that is told apart by hand.
    w.edit_peer(C, |p| p.router_mac = mac(0x55));
    let sent = routed("10.1.2.9");
    forwarded(&sent, &w.port_in(WEB, &sent).unicast(peer(C)).bytes, (own_router(), mac(0x55)));
}

#[test]
fn from_a_peer_to_a_port() {
    let mut w = World::node();
    for (from, to) in [("10.1.2.9", "10.1.1.3"), ("fd00:2::9", "fd00:1::3")] {
        let sent = build::udp((router_of(C), own_router()), (ip(from), ip(to)), (1, 2), b"x");
        forwarded(&sent, &w.peer_in(C, &sent).unicast(port(DB)).bytes, (gw(), DB_MAC));
    }
}

#[test]
fn from_a_peer_to_a_peer_is_never_routed() {
    let mut w = World::node();
    let sent = build::udp((router_of(B), own_router()), (ip("10.3.0.1"), ip("10.1.2.9")), (1, 2), b"x");
    w.peer_in(B, &sent).silent(DropReason::SplitHorizon);
    let sent = build::udp((router_of(C), own_router()), (ip("10.1.2.1"), ip("10.1.2.9")), (1, 2), b"x");
    w.peer_in(C, &sent).silent(DropReason::SplitHorizon);
}

#[test]
fn next_hop() {
    let mut w = World::node();
    w.edit(BLUE, |n| {
        for address in ["10.1.1.50", "fd00:1::50"] {
            n.neighbours.insert(ip(address), crate::datapath::Adjacency { mac: mac(0x50), egress: None });
        }
        n.statics.insert(mac(0x50), peer(B));
    });
    for to in ["10.9.4.4", "fd00:9::4"] {
        let sent = routed(to);
        forwarded(&sent, &w.port_in(WEB, &sent).unicast(peer(B)).bytes, (own_router(), mac(0x50)));
    }
    // To oneself through the gateway: the only way back to where it came from.
    let sent = routed("10.1.1.2");
    forwarded(&sent, &w.port_in(WEB, &sent).unicast(port(WEB)).bytes, (gw(), WEB_MAC));
}

#[test]
fn a_next_hop_whose_place_is_forgotten_is_flooded() {
    let mut w = World::node();
    w.edit(BLUE, |n| {
        n.neighbours.insert(ip("10.1.1.50"), crate::datapath::Adjacency { mac: mac(0x50), egress: None });
    });
    let sent = routed("10.9.4.4");
    let outcome = w.port_in(WEB, &sent);
    outcome.flooded(&[port(VM), port(VM2), peer(B), peer(C)]);
    // Peers refuse the gateway's MAC as a source, so it is the router's.
    forwarded(&sent, &outcome.outputs[0].bytes, (own_router(), mac(0x50)));
    w.edit(BLUE, |n| n.flood_unknown = false);
    w.port_in(WEB, &sent).silent(DropReason::UnknownUnicast);
}

#[test]
fn blackhole_unreachable_no_route() {
    let mut w = World::node();
    for to in ["10.66.0.1", "fd00:66::1"] {
        w.port_in(WEB, &routed(to)).silent(DropReason::Blackhole);
    }
    for (to, reason) in [
        ("10.67.0.1", DropReason::Unreachable),
        ("fd00:67::1", DropReason::Unreachable),
        ("198.51.100.1", DropReason::NoRoute),
        ("2001:db8::1", DropReason::NoRoute),
    ] {
        let outcome = w.port_in(WEB, &routed(to));
        outcome.dropped(reason);
        assert_eq!(outcome.single().to, port(WEB), "an ICMP error goes back");
    }
}

#[test]
fn a_route_to_a_peer_that_is_gone() {
    let mut w = World::node();
    w.tables.peers[C.0 as usize] = None;
    w.port_in(WEB, &routed("10.1.2.2")).silent(DropReason::EgressGone);
}

#[test]
fn martians() {
    let mut w = World::node();
    for to in [
        "127.0.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "240.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.1.1",
    ] {
        w.port_in(WEB, &routed(to)).silent(DropReason::Martian);
    }
    for to in ["::1", "::", "ff02::1", "ff0e::1", "fe80::99"] {
        w.port_in(WEB, &routed(to)).silent(DropReason::Martian);
    }
    for from in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "169.254.1.1"] {
        let sent = build::udp((VM_MAC, gw()), (ip(from), ip("10.1.1.3")), (1, 2), b"x");
        w.port_in(VM, &sent).silent(DropReason::Martian);
    }
    for from in ["::1", "::", "ff02::1", "fe80::20"] {
        let sent = build::udp((VM_MAC, gw()), (ip(from), ip("fd00:1::3")), (1, 2), b"x");
        w.port_in(VM, &sent).silent(DropReason::Martian);
    }
}

#[test]
fn directed_broadcasts_are_not_forwarded() {
    let mut w = World::node();
    // The more specific route of the node's table would lead elsewhere.
    w.routes(BLUE, &[("10.1.1.0/24", Target::Connected)]);
    for to in ["10.1.1.255", "10.1.1.0"] {
        w.port_in(WEB, &routed(to)).silent(DropReason::Martian);
        // Nor is anything said about them.
        w.port_in(WEB, &with_ttl(routed(to), 1)).silent(DropReason::Martian);
    }
}

#[test]
fn wrong_header_checksum() {
    let mut w = World::node();
    let mut sent = routed("10.1.1.3");
    sent[24] ^= 1;
    w.port_in(WEB, &sent).silent(DropReason::BadIpChecksum);
    // A bridge does not look.
    let mut sent = web_udp(DB_MAC, "10.1.1.3", b"x");
    sent[24] ^= 1;
    assert_eq!(w.port_in(WEB, &sent).unicast(port(DB)).bytes, sent);
}

#[test]
fn options_travel_along() {
    let mut w = World::node();
    let mut sent = routed("10.1.1.3");
    sent[14] = 0x47;
    sent.splice(34..34, [1, 1, 1, 1, 1, 1, 1, 0]);
    let total = (sent.len() - 14) as u16;
    sent[16..18].copy_from_slice(&total.to_be_bytes());
    refresh(&mut sent);
    forwarded(&sent, &w.port_in(WEB, &sent).unicast(port(DB)).bytes, (gw(), DB_MAC));
}

#[test]
fn what_is_no_ip() {
    let mut w = World::node();
    let sent = build::ethernet(gw(), VM_MAC, 0x88b5, &[0; 46]);
    w.port_in(VM, &sent).silent(DropReason::NotIp);
    let sent = build::ethernet(own_router(), VM_MAC, 0x8100, &[0; 46]);
    w.port_in(VM, &sent).silent(DropReason::NotIp);
}

#[test]
fn every_ttl() {
    let mut w = World::node();
    for to in ["10.1.1.3", "10.1.2.2", "fd00:1::3", "fd00:2::2"] {
        for ttl in 0..=255u8 {
            let sent = with_ttl(routed(to), ttl);
            let outcome = w.port_in(WEB, &sent);
            if ttl <= 1 {
                outcome.dropped(DropReason::TtlExceeded);
                assert_eq!(outcome.single().to, port(WEB));
                continue;
            }
            let (egress, macs) = if to.contains(".1.2.") || to.contains(":2:") {
                (peer(C), (own_router(), router_of(C)))
            } else {
                (port(DB), (gw(), DB_MAC))
            };
            forwarded(&sent, &outcome.unicast(egress).bytes, macs);
        }
    }
}

#[test]
fn an_offload_frame_keeps_its_checksum_field() {
    let mut w = World::node();
    for (from, to, egress) in [
        ("10.1.1.2", "10.1.1.3", port(DB)),
        ("10.1.1.2", "10.1.2.9", peer(C)),
        ("fd00:1::2", "fd00:1::3", port(DB)),
        ("fd00:1::2", "fd00:2::9", peer(C)),
    ] {
        let (sent, vnet) = offload_tcp((WEB_MAC, gw()), from, to, 20_000, 1200);
        let outcome = w.send_vnet(crate::datapath::Ingress::Port(WEB), &sent, vnet);
        let copy = outcome.unicast(egress);
        assert_eq!(copy.vnet, vnet);
        assert_eq!(copy.bytes[34..], with_ttl(sent.clone(), 63)[34..]);
        let headers = build::parse(&copy.bytes);
        assert_eq!(checksum::l4_state(&headers, &copy.bytes), checksum::L4Checksum::Partial);
        // A single packet whose checksum is to be computed.
        let (sent, vnet) = offload_tcp((WEB_MAC, gw()), from, to, 500, 0);
        assert_eq!(vnet.gso_type, GsoType::None);
        let outcome = w.send_vnet(crate::datapath::Ingress::Port(WEB), &sent, vnet);
        assert_eq!(outcome.unicast(egress).vnet, vnet);
    }
}

#[test]
fn whoever_holds_the_next_hop_decides_the_way() {
    let mut w = World::node();
    w.routes(
        BLUE,
        &[
            ("10.1.1.0/24", Target::Connected),
            ("10.0.0.0/8", Target::Blackhole),
            ("0.0.0.0/0", Target::Peer(B)),
        ],
    );
    assert_eq!(w.port_in(WEB, &routed("10.1.1.3")).verdict, Verdict::Unicast(port(DB)));
    w.port_in(WEB, &routed("10.200.0.1")).silent(DropReason::Blackhole);
    assert_eq!(w.port_in(WEB, &routed("198.51.100.1")).verdict, Verdict::Unicast(Egress::Peer(B)));
}

/// A TCP frame with a partial checksum; with `segment` > 0 an offload frame of such segments.
pub fn offload_tcp(
    macs: (MacAddr, MacAddr),
    from: &str,
    to: &str,
    payload: usize,
    segment: u16,
) -> (Vec<u8>, VnetHdr) {
    let mut frame = build::tcp(macs, (ip(from), ip(to)), (1, 2), (1, 1, 0x10), &vec![7; payload]);
    let headers = build::parse(&frame);
    let l4 = usize::from(headers.l4);
    let partial = checksum::pseudo(&headers, &frame, headers.end - u32::from(headers.l4));
    frame[l4 + 16..l4 + 18].copy_from_slice(&partial.to_be_bytes());
    let gso_type = match (segment, from.contains(':')) {
        (0, _) => GsoType::None,
        (_, false) => GsoType::Tcp4,
        (_, true) => GsoType::Tcp6,
    };
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type,
        gso_size: segment,
        hdr_len: headers.payload,
        csum_start: headers.l4,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    (frame, vnet)
}

proptest! {
    /// The incremental update is right for any header content.
    #[test]
    fn header_checksum_is_kept(ttl in 2u8.., tos: u8, id: u16, proto: u8, payload in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut sent = build::ethernet(gw(), WEB_MAC, 0x0800, &build::ipv4(v4("10.1.1.2"), v4("10.1.2.9"), proto, &payload));
        sent[15] = tos;
        sent[18..20].copy_from_slice(&id.to_be_bytes());
        let sent = with_ttl(sent, ttl);
        // Destination port 68 is a DHCP server's business.
        if let Verdict::Unicast(_) = World::node().port_in(WEB, &sent).verdict {
            let outcome = World::node().port_in(WEB, &sent);
            let after = &outcome.outputs[0].bytes;
            prop_assert!(checksum::verify_ipv4_header(&after[14..]));
            prop_assert_eq!(&after[34..], &sent[34..]);
            prop_assert_eq!(after[22], ttl - 1);
        }
    }
}
