//! Neighbour discovery: the same rules as ARP. Answers are read back with smoltcp and etherparse.

use super::kit::*;
use crate::datapath::{Egress, Ingress, Verdict};
use packet::{MacAddr, build};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags, NdiscRepr};
use std::net::Ipv6Addr;

const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn solicited_node(target: &str) -> (MacAddr, Ipv6Addr) {
    let t = v6(target).octets();
    (
        MacAddr([0x33, 0x33, 0xff, t[13], t[14], t[15]]),
        Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]),
    )
}

fn ask(asker: MacAddr, from: &str, target: &str) -> Vec<u8> {
    let (dst_mac, dst) = solicited_node(target);
    let link = (from != "::").then_some(asker);
    build::ndp((asker, dst_mac), (v6(from), dst), 135, v6(target), link)
}

fn advert(mac: MacAddr, address: &str) -> Vec<u8> {
    build::ndp((mac, ALL_NODES_MAC), (v6(address), v6("ff02::1")), 136, v6(address), Some(mac))
}

#[track_caller]
fn says(answer: &[u8], address: &str, at: MacAddr, to: (MacAddr, &str), router: bool) {
    let eth = EthernetFrame::new_checked(answer).unwrap();
    assert_eq!((eth.src_addr().0, eth.dst_addr().0), (at.0, to.0.0));
    let packet = Ipv6Packet::new_checked(eth.payload()).unwrap();
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    assert_eq!((src, dst, packet.hop_limit()), (v6(address), v6(to.1), 255));
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let repr = Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = repr else {
        panic!("{repr:?}")
    };
    let mut want = NdiscNeighborFlags::OVERRIDE;
    want.set(NdiscNeighborFlags::ROUTER, router);
    want.set(NdiscNeighborFlags::SOLICITED, to.1 != "ff02::1");
    assert_eq!((flags, target_addr), (want, v6(address)));
    assert_eq!(lladdr.unwrap().as_bytes(), at.0);
    let sliced = etherparse::SlicedPacket::from_ethernet(answer).unwrap();
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
    assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
}

fn flooded_to_unknown() -> [Egress; 4] {
    [port(VM), port(VM2), peer(B), peer(C)]
}

#[test]
fn the_gateway_answers() {
    let mut w = World::node();
    let link_local = gw().link_local_v6().to_string();
    for target in ["fd00:1::1", &link_local] {
        let outcome = w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", target));
        says(outcome.reply(port(WEB)), target, gw(), (WEB_MAC, "fd00:1::2"), true);
        // A unicast check of reachability, with and without the option.
        for link in [None, Some(WEB_MAC)] {
            let probe = build::ndp((WEB_MAC, gw()), (v6("fd00:1::2"), v6(target)), 135, v6(target), link);
            says(w.port_in(WEB, &probe).reply(port(WEB)), target, gw(), (WEB_MAC, "fd00:1::2"), true);
        }
    }
}

#[test]
fn declared_addresses_are_answered_not_flooded() {
    let mut w = World::node();
    let link_local = DB_MAC.link_local_v6().to_string();
    for target in ["fd00:1::3", &link_local] {
        let outcome = w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", target));
        says(outcome.reply(port(WEB)), target, DB_MAC, (WEB_MAC, "fd00:1::2"), false);
    }
    let outcome = w.peer_in(B, &ask(FAR_MAC, "fd00:1::30", "fd00:1::3"));
    says(outcome.reply(peer(B)), "fd00:1::3", DB_MAC, (FAR_MAC, "fd00:1::30"), false);
}

#[test]
fn duplicate_address_detection() {
    let mut w = World::node();
    assert_eq!(w.port_in(WEB, &ask(WEB_MAC, "::", "fd00:1::2")).verdict, Verdict::Consumed);
    for (target, at, router) in [("fd00:1::3", DB_MAC, false), ("fd00:1::1", gw(), true)] {
        let outcome = w.port_in(VM, &ask(VM_MAC, "::", target));
        says(outcome.reply(port(VM)), target, at, (ALL_NODES_MAC, "ff02::1"), router);
    }
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}

#[test]
fn unknown_addresses_are_asked_where_they_can_be() {
    let mut w = World::node();
    w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", "fd00:1::77")).flooded(&flooded_to_unknown());
    let direct =
        build::ndp((WEB_MAC, gw()), (v6("fd00:1::2"), v6("fd00:1::77")), 135, v6("fd00:1::77"), None);
    assert_eq!(w.port_in(WEB, &direct).verdict, Verdict::Consumed);
}

#[test]
fn a_unicast_probe_reaches_the_neighbour() {
    let probe = build::ndp(
        (WEB_MAC, DB_MAC),
        (v6("fd00:1::2"), v6("fd00:1::3")),
        135,
        v6("fd00:1::3"),
        Some(WEB_MAC),
    );
    assert_eq!(World::node().port_in(WEB, &probe).unicast(port(DB)).bytes, probe);
}

#[test]
fn heard_addresses_are_answered_while_fresh() {
    let mut w = World::node();
    w.peer_in(B, &advert(FAR_MAC, "fd00:1::30")).flooded(&[port(WEB), port(DB), port(VM), port(VM2)]);
    w.port_in(VM, &ask(VM_MAC, "fd00:1::20", "fd00:1::88"));
    for (target, at) in [("fd00:1::30", FAR_MAC), ("fd00:1::20", VM_MAC)] {
        let outcome = w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", target));
        says(outcome.reply(port(WEB)), target, at, (WEB_MAC, "fd00:1::2"), false);
    }
    assert_eq!(w.port_in(VM, &ask(mac(0x22), "fd00:1::22", "fd00:1::20")).verdict, Verdict::Consumed);
    w.advance(30_000);
    w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", "fd00:1::30")).flooded(&flooded_to_unknown());
}

#[test]
fn addresses_that_live_on_a_peer_are_answered_with_the_gateway() {
    let mut w = World::node();
    let outcome = w.port_in(WEB, &ask(WEB_MAC, "fd00:1::2", "fd00:1::c:5"));
    says(outcome.reply(port(WEB)), "fd00:1::c:5", gw(), (WEB_MAC, "fd00:1::2"), true);
}

#[test]
fn what_may_have_come_through_a_router_is_not_believed() {
    let mut w = World::node();
    let mut frame = advert(VM_MAC, "fd00:1::20");
    frame[21] = 254;
    w.port_in(VM, &frame);
    let mut question = ask(VM_MAC, "fd00:1::20", "fd00:1::3");
    question[21] = 64;
    let outcome = w.port_in(VM, &question);
    assert!(matches!(outcome.verdict, Verdict::Flood(_)), "{outcome:?}");
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}

#[test]
fn advertisements_to_the_switch_are_consumed() {
    let mut w = World::node();
    let na = build::ndp(
        (VM_MAC, own_router()),
        (v6("fd00:1::20"), own_router().link_local_v6()),
        136,
        v6("fd00:1::20"),
        Some(VM_MAC),
    );
    assert_eq!(w.send(Ingress::Port(VM), &na).verdict, Verdict::Consumed);
    assert_eq!(w.dp.neighbours().iter().next().unwrap().mac, Some(VM_MAC));
}

#[test]
fn broken_options_teach_nothing() {
    let mut w = World::node();
    for tail in [&[2, 0, 1, 2, 3, 4, 5, 6][..], &[2, 9, 1, 2, 3, 4, 5, 6], &[2, 1, 1]] {
        let mut l4 = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        l4.extend(v6("fd00:1::20").octets());
        l4.extend(tail);
        let (kind, mut packet) = build::ip(ip("fd00:1::20"), ip("ff02::1"), 58, l4);
        packet[7] = 255;
        w.port_in(VM, &build::ethernet(ALL_NODES_MAC, VM_MAC, kind, &packet));
    }
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}
