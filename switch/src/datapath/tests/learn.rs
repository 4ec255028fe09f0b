//! Learning: who is behind which port or peer, how long, and at whose cost.

use super::kit::*;
use crate::datapath::{DropReason, Egress, Ingress, Verdict};
use packet::{MacAddr, build};

fn nth(n: u32) -> MacAddr {
    let [_, a, b, c] = n.to_be_bytes();
    MacAddr([6, 0, 0, a, b, c])
}

fn at(w: &World, mac: MacAddr) -> Option<Egress> {
    w.dp.fdb().lookup(BLUE, mac)
}

#[test]
fn learning_ports_and_peers_teach_declared_ports_do_not() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(underlay(B, 0), FAR_MAC);
    w.port_in(WEB, &web_udp(VM_MAC, "10.1.1.20", b"x"));
    assert_eq!((at(&w, VM_MAC), at(&w, FAR_MAC), at(&w, WEB_MAC)), (Some(port(VM)), Some(peer(B)), None));
    assert_eq!(w.dp.fdb().len(), 2);
}

#[test]
fn group_and_zero_addresses_are_never_learned() {
    let mut w = World::node();
    for source in
        [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([3, 0, 0, 0, 0, 1])]
    {
        w.teach(Ingress::Port(VM), source).silent(DropReason::BadSource);
        w.teach(underlay(B, 0), source).silent(DropReason::BadSource);
    }
    assert!(w.dp.fdb().is_empty());
}

#[test]
fn what_the_guard_refuses_teaches_nothing() {
    let mut w = World::node();
    w.port_in(WEB, &build::ethernet(DB_MAC, mac(9), 0x0800, &[0; 46]));
    w.peer_in(C, &build::udp((FAR_MAC, WEB_MAC), (ip("10.1.9.9"), ip("10.1.1.2")), (1, 2), b"x"))
        .silent(DropReason::PeerSource);
    assert!(w.dp.fdb().is_empty());
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}

#[test]
fn moves_are_counted() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(Ingress::Port(VM2), VM_MAC);
    assert_eq!((at(&w, VM_MAC), w.dp.counters.moves), (Some(port(VM2)), 1));
    w.teach(underlay(B, 0), VM_MAC);
    assert_eq!((at(&w, VM_MAC), w.dp.counters.moves), (Some(peer(B)), 2));
    assert_eq!(w.dp.fdb().len(), 1);
    assert_eq!(
        (w.dp.fdb().count(port(VM)), w.dp.fdb().count(port(VM2)), w.dp.fdb().count(peer(B))),
        (0, 0, 1)
    );
}

#[test]
fn static_entries_never_move() {
    let mut w = World::node();
    let fixed = mac(0x77);
    w.edit(BLUE, |n| assert!(n.statics.insert(fixed, peer(B)).is_none()));
    w.teach(Ingress::Port(VM), fixed).silent(DropReason::StaticMove);
    w.teach(underlay(C, 0), WEB_MAC).dropped(DropReason::PeerSource);
    w.teach(underlay(B, 0), WEB_MAC).silent(DropReason::StaticMove);
    let outcome = w.teach(underlay(B, 0), fixed);
    assert!(matches!(outcome.verdict, Verdict::Flood(_)), "{outcome:?}");
    assert!(w.dp.fdb().is_empty());
    assert_eq!(w.dp.counters.moves, 0);
}

#[test]
fn a_greedy_port_evicts_only_its_own_oldest() {
    let mut w = World::node();
    w.edit_port(VM, |p| p.mac_limit = 4);
    w.teach(Ingress::Port(VM2), VM2_MAC);
    w.teach(underlay(B, 0), FAR_MAC);
    for n in 0..10 {
        w.advance(10);
        w.teach(Ingress::Port(VM), nth(n));
    }
    assert_eq!(w.dp.fdb().count(port(VM)), 4);
    for n in 0..10 {
        assert_eq!(at(&w, nth(n)).is_some(), n >= 6, "{n}");
    }
    assert_eq!((at(&w, VM2_MAC), at(&w, FAR_MAC)), (Some(port(VM2)), Some(peer(B))));
    assert_eq!(w.dp.counters.evictions, 6);
}

#[test]
fn using_an_entry_makes_it_young() {
    let mut w = World::node();
    w.edit_port(VM, |p| p.mac_limit = 3);
    for n in 0..3 {
        w.teach(Ingress::Port(VM), nth(n));
    }
    w.advance(1000);
    w.teach(Ingress::Port(VM), nth(0));
    w.teach(Ingress::Port(VM), nth(3));
    assert_eq!([0, 1, 2, 3].map(|n| at(&w, nth(n)).is_some()), [true, false, true, true]);
}

#[test]
fn moving_counts_against_the_quota_of_where_it_moves() {
    let mut w = World::node();
    w.edit_port(VM2, |p| p.mac_limit = 1);
    w.teach(Ingress::Port(VM), nth(1));
    w.teach(Ingress::Port(VM2), nth(2));
    w.teach(Ingress::Port(VM2), nth(1));
    assert_eq!((at(&w, nth(1)), at(&w, nth(2))), (Some(port(VM2)), None));
    // A port that may learn nothing still forwards, and takes nothing away.
    w.edit_port(VM, |p| p.mac_limit = 0);
    let outcome = w.teach(Ingress::Port(VM), nth(1));
    assert!(matches!(outcome.verdict, Verdict::Flood(_)));
    assert_eq!(at(&w, nth(1)), Some(port(VM2)));
    w.teach(Ingress::Port(VM), nth(3));
    assert_eq!(at(&w, nth(3)), None);
}

#[test]
fn in_a_full_table_everybody_pays_for_himself() {
    let mut w = World::node_with(16);
    w.edit_port(VM, |p| p.mac_limit = 1000);
    w.teach(Ingress::Port(VM2), VM2_MAC);
    for n in 0..1000 {
        w.teach(Ingress::Port(VM), nth(n));
    }
    assert_eq!((w.dp.fdb().len(), w.dp.fdb().count(port(VM))), (16, 15));
    assert_eq!(at(&w, VM2_MAC), Some(port(VM2)));
    assert!((985..1000).all(|n| at(&w, nth(n)).is_some()));
    // Who has nothing to give is not learned, but forwarded.
    let outcome = w.teach(underlay(B, 0), FAR_MAC);
    assert!(matches!(outcome.verdict, Verdict::Flood(_)));
    assert_eq!((at(&w, FAR_MAC), w.dp.fdb().len()), (None, 16));
    // A move needs no room.
    w.teach(underlay(B, 0), VM2_MAC);
    assert_eq!((at(&w, VM2_MAC), w.dp.fdb().len()), (Some(peer(B)), 16));
}

#[test]
fn ageing_by_default() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.tick(299_000);
    assert_eq!(at(&w, VM_MAC), Some(port(VM)));
    w.tick(1000);
    assert_eq!((at(&w, VM_MAC), w.dp.counters.aged), (None, 1));
    assert_eq!(w.dp.poll_timeout(), None, "nothing learned, nothing to wait for");
}

#[test]
fn ageing_is_settable_and_can_be_off() {
    let mut w = World::node();
    w.edit(BLUE, |n| n.ageing_ms = 10_000);
    w.teach(Ingress::Port(VM), VM_MAC);
    w.tick(9_000);
    // A sign of life, and a second host that stays silent.
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(Ingress::Port(VM), VM2_MAC);
    w.tick(9_000);
    w.teach(Ingress::Port(VM), VM_MAC);
    w.tick(1_000);
    assert_eq!((at(&w, VM_MAC), at(&w, VM2_MAC)), (Some(port(VM)), None));
    w.edit(BLUE, |n| n.ageing_ms = 0);
    w.tick(1_000_000_000);
    assert_eq!(at(&w, VM_MAC), Some(port(VM)));
}

#[test]
fn networks_age_at_their_own_pace_behind_one_peer() {
    let mut w = World::node_with(32_768);
    w.edit(RED_NET, |n| n.ageing_ms = 0);
    // More immortal entries than one sweep may look at, older than everything else behind this peer.
    for n in 0..9000 {
        w.dp.fdb_mut().learn(RED_NET, nth(n), peer(B), u32::MAX, w.now);
    }
    w.teach(underlay(B, 0), FAR_MAC);
    w.dp.fdb_mut().learn(BLUE, VM_MAC, port(VM), 16, w.now);
    w.advance(300_000);
    for _ in 0..5 {
        w.tick(1000);
    }
    assert_eq!((at(&w, FAR_MAC), at(&w, VM_MAC)), (None, None));
    assert_eq!(w.dp.fdb().len(), 9000);
}

#[test]
fn flush_and_forget() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(Ingress::Port(VM2), VM2_MAC);
    w.teach(underlay(B, 0), FAR_MAC);
    w.send(underlay(B, 0), &vxlan(2, &build::ethernet(mac(0xee), FAR_MAC, 0x88b5, &[0; 46])));
    assert_eq!(w.dp.fdb().len(), 4);
    assert_eq!(w.dp.fdb_mut().flush(|e| e.mac == VM2_MAC), 1);
    assert_eq!(at(&w, VM2_MAC), None);
    w.dp.forget(peer(B), w.now);
    assert_eq!((at(&w, FAR_MAC), w.dp.fdb().lookup(RED_NET, FAR_MAC)), (None, None));
    assert_eq!(at(&w, VM_MAC), Some(port(VM)));
    w.dp.forget_network(BLUE);
    assert!(w.dp.fdb().is_empty());
    assert!(w.dp.fdb_mut().remove(BLUE, VM_MAC) == (at(&w, VM_MAC).is_some()));
}

#[test]
fn counters_of_the_gone_are_kept() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.port_in(VM, &[0; 3]).silent(DropReason::Malformed);
    let before = w.dp.counters.total();
    w.dp.forget(port(VM), w.now);
    let after = w.dp.counters.total();
    assert_eq!((before.received, before.drops), (after.received, after.drops));
    assert_eq!(w.dp.counters.get(port(VM)).map(|c| c.received), Some(0));
    w.conserved();
}

#[test]
fn an_entry_knows_when_it_was_last_a_destination() {
    let mut w = World::node();
    let entry = |w: &World| {
        let found = w.dp.fdb().iter().find(|e| e.mac == VM_MAC).unwrap();
        (found.seen_ms - 1_000_000, found.used_ms - 1_000_000)
    };
    w.teach(Ingress::Port(VM), VM_MAC);
    assert_eq!(entry(&w), (0, 0));
    w.advance(5000);
    w.teach(Ingress::Port(VM2), VM2_MAC);
    assert_eq!(entry(&w), (0, 0));
    let to_vm = build::ethernet(VM_MAC, VM2_MAC, 0x88b5, &[0; 46]);
    w.port_in(VM2, &to_vm).unicast(port(VM));
    assert_eq!(entry(&w), (0, 5000));
    // Within one second nothing is written again; a source and a destination do not hide each other.
    w.advance(999);
    w.port_in(VM2, &to_vm).unicast(port(VM));
    w.teach(Ingress::Port(VM), VM_MAC);
    assert_eq!(entry(&w), (5999, 5000));
    w.advance(1);
    w.teach(Ingress::Port(VM), VM_MAC);
    w.port_in(VM2, &to_vm).unicast(port(VM));
    assert_eq!(entry(&w), (6000, 6000));
    // Being used does not keep an entry alive, and a move begins anew.
    w.advance(100_000);
    w.port_in(VM2, &to_vm).unicast(port(VM));
    w.advance(200_000);
    w.teach(Ingress::Port(VM2), VM_MAC);
    assert_eq!(entry(&w), (306_000, 306_000));
    w.tick(299_000);
    w.port_in(VM, &build::ethernet(VM_MAC, mac(0x40), 0x88b5, &[0; 46])).unicast(port(VM2));
    w.tick(1000);
    assert_eq!(at(&w, VM_MAC), None);
}
