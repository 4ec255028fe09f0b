//! What was known before a restart, put back: it is used at once, confirmed or forgotten, and held to every rule.

use super::kit::*;
use crate::datapath::neighbour::{FRESH_MS, LIFETIME_MS, MAX_ENTRIES};
use crate::datapath::{DropReason, Egress, FdbEntry, Ingress, Known, NetId, STALE_MS};
use packet::{MacAddr, build};
use std::net::{IpAddr, Ipv4Addr};

fn at(mac: MacAddr, place: Egress, age_ms: u64) -> Known {
    Known { network: BLUE, ip: None, mac, place, age_ms }
}

fn neighbour(address: &str, mac: MacAddr, place: Egress, age_ms: u64) -> Known {
    Known { ip: Some(ip(address)), ..at(mac, place, age_ms) }
}

fn recall(w: &mut World, known: Known) -> bool {
    w.dp.recall(&w.tables, &known, w.now)
}

fn entry(w: &World, mac: MacAddr) -> Option<FdbEntry> {
    w.dp.fdb().iter().find(|entry| entry.mac == mac)
}

#[test]
fn what_is_put_back_forwards_and_is_gone_soon() {
    let mut w = World::node();
    assert!(recall(&mut w, at(VM_MAC, port(VM), 5_000)));
    assert!(recall(&mut w, at(FAR_MAC, peer(B), 7_000)));
    w.port_in(VM2, &build::ethernet(VM_MAC, VM2_MAC, 0x88b5, &[0; 46])).unicast(port(VM));
    w.port_in(VM2, &build::ethernet(FAR_MAC, VM2_MAC, 0x88b5, &[0; 46])).unicast(peer(B));
    let stale = entry(&w, VM_MAC).unwrap();
    assert_eq!((stale.stale.map(|age| age.get()), stale.age_ms(w.now)), (Some(5_000), 5_000));
    // One of them is seen, which is all that it takes; to be used is not enough.
    w.advance(STALE_MS / 2);
    w.teach(Ingress::Port(VM), VM_MAC);
    w.port_in(VM2, &build::ethernet(FAR_MAC, VM2_MAC, 0x88b5, &[0; 46])).unicast(peer(B));
    assert_eq!(entry(&w, VM_MAC).unwrap().stale, None);
    w.tick(STALE_MS / 2 - 1);
    assert!(entry(&w, FAR_MAC).is_some());
    let aged = w.dp.counters.aged;
    w.tick(2_000);
    assert_eq!((entry(&w, FAR_MAC), w.dp.counters.aged), (None, aged + 1));
    assert!(entry(&w, VM_MAC).is_some());
    w.conserved();
}

#[test]
fn the_networks_ageing_time_counts_from_before() {
    let mut w = World::node();
    w.edit(BLUE, |n| n.ageing_ms = 20_000);
    assert!(!recall(&mut w, at(FAR_MAC, peer(B), 20_000)), "it would have been forgotten by now");
    assert!(recall(&mut w, at(FAR_MAC, peer(B), 15_000)));
    assert!(recall(&mut w, at(VM_MAC, port(VM), 0)));
    w.tick(4_000);
    assert!(entry(&w, FAR_MAC).is_some());
    w.tick(1_000);
    assert!(entry(&w, FAR_MAC).is_none() && entry(&w, VM_MAC).is_some());
    w.tick(15_000);
    assert!(w.dp.fdb().is_empty());
    // Where nothing ages, what is stale does.
    for net in [BLUE, RED_NET] {
        w.edit(net, |n| n.ageing_ms = 0);
    }
    assert!(recall(&mut w, at(FAR_MAC, peer(B), 1 << 40)));
    w.teach(Ingress::Port(VM), VM_MAC);
    w.tick(STALE_MS + 1_000);
    assert!(entry(&w, FAR_MAC).is_none() && entry(&w, VM_MAC).is_some());
}

#[test]
fn the_rules_of_learning_hold() {
    let mut w = World::node();
    let refused = [
        ("a declared port", at(mac(0x40), port(WEB), 0)),
        ("a static entry elsewhere", at(WEB_MAC, port(VM), 0)),
        ("the gateway", at(gw(), port(VM), 0)),
        ("the router", at(own_router(), peer(B), 0)),
        ("a group", at(MacAddr::BROADCAST, port(VM), 0)),
        ("zero", at(MacAddr::ZERO, port(VM), 0)),
        ("another network's port", Known { network: RED_NET, ..at(VM_MAC, port(VM), 0) }),
        ("no such port", at(VM_MAC, Egress::Port(crate::datapath::PortId(99)), 0)),
        ("no such peer", at(VM_MAC, Egress::Peer(crate::datapath::PeerId(u32::MAX)), 0)),
        ("no such network", Known { network: NetId(9), ..at(VM_MAC, port(VM), 0) }),
    ];
    for (why, known) in refused {
        assert!(!recall(&mut w, known), "{why}");
    }
    assert!(w.dp.fdb().is_empty());
    w.edit_peer(B, |peer| peer.network = Some(RED_NET));
    assert!(!recall(&mut w, at(FAR_MAC, peer(B), 0)), "a peer that takes no part in it");
    w.edit(BLUE, |n| n.fdb_limit = 1);
    assert!(recall(&mut w, at(VM_MAC, port(VM), 0)));
    assert!(!recall(&mut w, at(VM2_MAC, port(VM2), 0)), "the network is full");
}

#[test]
fn what_was_learned_since_is_not_touched_and_goes_last() {
    let mut w = World::node();
    w.edit_port(VM, |port| port.mac_limit = 3);
    w.teach(Ingress::Port(VM2), VM_MAC);
    assert!(!recall(&mut w, at(VM_MAC, port(VM), 0)), "seen elsewhere since");
    w.teach(Ingress::Port(VM), mac(0x50));
    assert!(recall(&mut w, at(mac(0x51), port(VM), 1_000)));
    assert!(recall(&mut w, at(mac(0x52), port(VM), 2_000)));
    assert!(!recall(&mut w, at(mac(0x53), port(VM), 3_000)), "the port's quota");
    // The oldest gives way to what is seen now.
    w.teach(Ingress::Port(VM), mac(0x54));
    assert!(entry(&w, mac(0x52)).is_none() && entry(&w, mac(0x51)).is_some());
    w.teach(Ingress::Port(VM), mac(0x55));
    assert!(entry(&w, mac(0x51)).is_none() && entry(&w, mac(0x50)).is_some());
    assert_eq!(w.dp.fdb().count(port(VM)), 3);
}

#[test]
fn neighbours_come_back_stale() {
    let mut w = World::node();
    let address = "10.1.1.77";
    assert!(!recall(&mut w, neighbour(address, VM_MAC, port(VM), LIFETIME_MS)));
    assert!(recall(&mut w, neighbour(address, VM_MAC, port(VM), 2_000)));
    assert!(recall(&mut w, at(VM_MAC, port(VM), 2_000)));
    let listed = w.dp.neighbours().iter().next().unwrap();
    assert_eq!(listed.age_ms(w.now), FRESH_MS);
    // Used at once, asked about from the next second on, confirmed by an answer.
    let frame = web_udp(gw(), address, b"x");
    w.port_in(WEB, &frame).unicast(port(VM));
    w.advance(1_000);
    let asked = w.port_in(WEB, &frame);
    assert!(asked.outputs.iter().any(|output| output.made), "{asked:?}");
    let answer =
        build::arp((VM_MAC, own_router()), 2, (VM_MAC, v4(address)), (own_router(), Ipv4Addr::UNSPECIFIED));
    w.port_in(VM, &answer);
    let listed = w.dp.neighbours().iter().next().unwrap();
    assert_eq!((listed.age_ms(w.now), listed.before_ms), (0, 0));
    // One that nobody confirms lives no longer than it would have, and nobody is told of it.
    assert!(recall(&mut w, neighbour("10.1.1.78", VM2_MAC, port(VM2), 80_000)));
    assert_eq!(w.dp.neighbours().answer(BLUE, ip("10.1.1.78"), w.now), None);
    w.tick(9_000);
    assert_eq!(w.dp.neighbours().iter().count(), 2);
    w.tick(1_000);
    assert_eq!(w.dp.neighbours().iter().count(), 1);
    w.conserved();
}

#[test]
fn neighbours_that_may_not_be_heard_do_not_come_back() {
    let mut w = World::attached();
    let vm = port(VM);
    for (why, known) in [
        ("the gateway's address", neighbour("10.1.1.1", VM_MAC, vm, 0)),
        ("a declared address", neighbour("10.1.1.2", VM_MAC, vm, 0)),
        ("the node's", neighbour("192.168.77.1", VM_MAC, vm, 0)),
        ("a group", neighbour("224.0.0.1", VM_MAC, vm, 0)),
        ("no address", neighbour("::", VM_MAC, vm, 0)),
        ("a group MAC", neighbour("10.1.1.77", MacAddr::BROADCAST, vm, 0)),
        ("a declared port", neighbour("10.1.1.77", WEB_MAC, port(WEB), 0)),
    ] {
        assert!(!recall(&mut w, known), "{why}");
    }
    // A question that is under way is not answered by the past.
    let held = w.port_in(WEB, &web_udp(gw(), "10.1.1.77", b"x"));
    assert_eq!(held.verdict, crate::datapath::Verdict::Held);
    assert!(!recall(&mut w, neighbour("10.1.1.77", VM_MAC, vm, 0)));
    let fits = (0..MAX_ENTRIES as u32).filter(|n| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_8000 + n));
        recall(&mut w, Known { ip: Some(address), ..at(VM_MAC, vm, 0) })
    });
    assert_eq!(fits.count(), MAX_ENTRIES / 2 - 1, "half of the table, one of which is being resolved");
}

/// The changes tell whether the set of entries is another one.
#[test]
fn changes_are_told_from_signs_of_life() {
    let mut w = World::node();
    let mut last = (0, 0);
    let mut changed = |w: &World| {
        let now = (w.dp.fdb().changes(), w.dp.neighbours().changes());
        let changed = (now.0 != last.0, now.1 != last.1);
        last = now;
        changed
    };
    let claim =
        |mac: MacAddr| build::arp((mac, gw()), 1, (mac, v4("10.1.1.77")), (MacAddr::ZERO, v4("10.1.1.1")));
    w.port_in(VM, &claim(VM_MAC));
    assert_eq!(changed(&w), (true, true));
    w.advance(2_000);
    w.port_in(VM, &claim(VM_MAC));
    assert_eq!(changed(&w), (false, false), "heard again");
    w.port_in(VM, &claim(mac(0x60)));
    assert_eq!(changed(&w), (true, true), "another MAC has the address");
    w.port_in(VM2, &claim(mac(0x60)));
    assert_eq!(changed(&w), (true, true), "moved");
    w.tick(400_000);
    assert_eq!(changed(&w), (true, true), "aged");
    assert_eq!(changed(&w), (false, false));
    w.port_in(WEB, &web_udp(gw(), "10.1.1.77", b"x"));
    assert_eq!(changed(&w), (false, false), "being resolved is not known");
}

/// Counters from before keep the sums, and frames that waited are lost by name.
#[test]
fn counters_go_on_where_they_were() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    for n in 0..3 {
        w.port_in(WEB, &web_udp(gw(), "10.1.1.77", &[n]));
    }
    w.port_in(WEB, &web_udp(VM_MAC, "10.1.1.20", b"x"));
    assert_eq!(w.dp.neighbours().waiting_of(port(WEB)), 3);
    assert_eq!(w.dp.neighbours().waiting_of(port(VM)), 0);
    let (mut web, vm) = [WEB, VM].map(|id| w.dp.counters.get(port(id)).unwrap().clone()).into();
    web.drops[DropReason::NeighbourFailed as usize] += 3;
    let mut next = World::node();
    next.teach(Ingress::Port(VM2), VM2_MAC);
    let before = next.dp.counters.total();
    next.dp.counters.resume(Some(port(WEB)), &web);
    next.dp.counters.resume(None, &vm);
    next.conserved();
    let after = next.dp.counters.total();
    assert_eq!(after.received, before.received + 5);
    assert_eq!((after.held, next.dp.counters.expired, next.dp.counters.released), (3, 3, 0));
    assert_eq!(next.dp.counters.get(port(WEB)).unwrap().held, 3);
    assert_eq!(next.dp.counters.node.received, 1);
}
