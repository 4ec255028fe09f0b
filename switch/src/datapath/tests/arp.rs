//! ARP: answered from the tables where the answer is known. Answers are read back with smoltcp and etherparse.

use super::kit::*;
use crate::datapath::{Ingress, Verdict};
use packet::{MacAddr, build};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol};

fn ask(asker: MacAddr, from: &str, dst: MacAddr, target: &str) -> Vec<u8> {
    build::arp((asker, dst), 1, (asker, v4(from)), (MacAddr::ZERO, v4(target)))
}

fn who_has(target: &str) -> Vec<u8> {
    ask(WEB_MAC, "10.1.1.2", MacAddr::BROADCAST, target)
}

/// Hears an announcement.
fn announce(w: &mut World, ingress: Ingress, mac: MacAddr, address: &str) {
    let frame = build::arp((mac, MacAddr::BROADCAST), 1, (mac, v4(address)), (MacAddr::ZERO, v4(address)));
    match ingress {
        Ingress::Underlay { .. } => w.send(ingress, &vxlan(1, &frame)),
        _ => w.send(ingress, &frame),
    };
}

/// The answer says exactly: `ip` is at `at`, to this asker.
#[track_caller]
fn says(answer: &[u8], address: &str, at: MacAddr, to: (MacAddr, &str)) {
    let eth = EthernetFrame::new_checked(answer).unwrap();
    assert_eq!((eth.src_addr().0, eth.dst_addr().0, eth.ethertype()), (at.0, to.0.0, EthernetProtocol::Arp));
    let repr = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).unwrap()).unwrap();
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = repr
    else {
        panic!("{repr:?}")
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_eq!((source_hardware_addr.0, source_protocol_addr), (at.0, v4(address)));
    assert_eq!((target_hardware_addr.0, target_protocol_addr), (to.0.0, v4(to.1)));
    let sliced = etherparse::SlicedPacket::from_ethernet(answer).unwrap();
    assert!(matches!(sliced.net, Some(etherparse::NetSlice::Arp(_))));
}

#[test]
fn the_gateway_answers() {
    let mut w = World::node();
    for dst in [MacAddr::BROADCAST, gw(), own_router()] {
        let outcome = w.port_in(WEB, &ask(WEB_MAC, "10.1.1.2", dst, "10.1.1.1"));
        says(outcome.reply(port(WEB)), "10.1.1.1", gw(), (WEB_MAC, "10.1.1.2"));
    }
    let outcome = w.peer_in(B, &ask(FAR_MAC, "10.1.1.30", MacAddr::BROADCAST, "10.1.1.1"));
    says(outcome.reply(peer(B)), "10.1.1.1", gw(), (FAR_MAC, "10.1.1.30"));
}

#[test]
fn declared_addresses_are_answered_not_flooded() {
    let mut w = World::node();
    says(w.port_in(WEB, &who_has("10.1.1.3")).reply(port(WEB)), "10.1.1.3", DB_MAC, (WEB_MAC, "10.1.1.2"));
    let outcome = w.port_in(VM, &ask(VM_MAC, "10.1.1.20", MacAddr::BROADCAST, "10.1.1.3"));
    says(outcome.reply(port(VM)), "10.1.1.3", DB_MAC, (VM_MAC, "10.1.1.20"));
    let outcome = w.peer_in(B, &ask(FAR_MAC, "10.1.1.30", MacAddr::BROADCAST, "10.1.1.3"));
    says(outcome.reply(peer(B)), "10.1.1.3", DB_MAC, (FAR_MAC, "10.1.1.30"));
    // Padding is kept: the answer is the question's frame.
    let mut padded = who_has("10.1.1.3");
    padded.resize(60, 0);
    assert_eq!(w.port_in(WEB, &padded).reply(port(WEB)).len(), 60);
}

#[test]
fn a_probe_for_duplicates() {
    let mut w = World::node();
    // For its own address: silence is the good answer.
    let outcome = w.port_in(WEB, &ask(WEB_MAC, "0.0.0.0", MacAddr::BROADCAST, "10.1.1.2"));
    assert_eq!(outcome.verdict, Verdict::Consumed);
    assert!(outcome.outputs.is_empty());
    // For another's.
    let outcome = w.port_in(VM, &ask(VM_MAC, "0.0.0.0", MacAddr::BROADCAST, "10.1.1.3"));
    says(outcome.reply(port(VM)), "10.1.1.3", DB_MAC, (VM_MAC, "0.0.0.0"));
    // For the gateway's.
    let outcome = w.port_in(VM, &ask(VM_MAC, "0.0.0.0", MacAddr::BROADCAST, "10.1.1.1"));
    says(outcome.reply(port(VM)), "10.1.1.1", gw(), (VM_MAC, "0.0.0.0"));
    assert_eq!(w.dp.neighbours().iter().count(), 0, "a probe claims nothing");
}

#[test]
fn announcements_are_for_everybody() {
    let mut w = World::node();
    for op in [1, 2] {
        let frame = build::arp(
            (WEB_MAC, MacAddr::BROADCAST),
            op,
            (WEB_MAC, v4("10.1.1.2")),
            (WEB_MAC, v4("10.1.1.2")),
        );
        w.port_in(WEB, &frame).flooded(&[port(DB), port(VM), port(VM2), peer(B), peer(C)]);
    }
}

#[test]
fn unknown_addresses_are_asked_where_they_can_be() {
    let mut w = World::node();
    w.port_in(WEB, &who_has("10.1.1.77")).flooded(&[port(VM), port(VM2), peer(B), peer(C)]);
    w.peer_in(B, &ask(FAR_MAC, "10.1.1.30", MacAddr::BROADCAST, "10.1.1.77")).flooded(&[port(VM), port(VM2)]);
    // Sent to the switch itself, nobody else has to see it.
    let outcome = w.port_in(WEB, &ask(WEB_MAC, "10.1.1.2", gw(), "10.1.1.77"));
    assert_eq!(outcome.verdict, Verdict::Consumed);
}

#[test]
fn a_unicast_probe_reaches_the_neighbour() {
    let mut w = World::node();
    let probe = ask(WEB_MAC, "10.1.1.2", DB_MAC, "10.1.1.3");
    assert_eq!(w.port_in(WEB, &probe).unicast(port(DB)).bytes, probe);
    w.teach(underlay(B, 0), FAR_MAC);
    w.port_in(WEB, &ask(WEB_MAC, "10.1.1.2", FAR_MAC, "10.1.1.30")).unicast(peer(B));
}

#[test]
fn replies_are_bridged_and_those_to_the_switch_consumed() {
    let mut w = World::node();
    let reply = |dst| build::arp((WEB_MAC, dst), 2, (WEB_MAC, v4("10.1.1.2")), (dst, v4("10.1.1.3")));
    w.port_in(WEB, &reply(DB_MAC)).unicast(port(DB));
    for own in [gw(), own_router()] {
        assert_eq!(w.port_in(WEB, &reply(own)).verdict, Verdict::Consumed);
    }
}

#[test]
fn heard_addresses_are_answered_while_fresh() {
    let mut w = World::node();
    announce(&mut w, underlay(B, 0), FAR_MAC, "10.1.1.30");
    announce(&mut w, Ingress::Port(VM), VM_MAC, "10.1.1.20");
    says(w.port_in(WEB, &who_has("10.1.1.30")).reply(port(WEB)), "10.1.1.30", FAR_MAC, (WEB_MAC, "10.1.1.2"));
    says(w.port_in(WEB, &who_has("10.1.1.20")).reply(port(WEB)), "10.1.1.20", VM_MAC, (WEB_MAC, "10.1.1.2"));
    // Not to somebody on the same side: the owner hears the question itself.
    let outcome = w.port_in(VM, &ask(mac(0x22), "10.1.1.22", MacAddr::BROADCAST, "10.1.1.20"));
    assert_eq!(outcome.verdict, Verdict::Consumed);
    assert!(outcome.outputs.is_empty());
    // A peer asks the host itself: only declared addresses are answered for others.
    w.peer_in(B, &ask(mac(0x31), "10.1.1.31", MacAddr::BROADCAST, "10.1.1.20"))
        .flooded(&[port(VM), port(VM2)]);
    // A newer claim replaces the older one.
    announce(&mut w, Ingress::Port(VM2), VM2_MAC, "10.1.1.30");
    says(w.port_in(WEB, &who_has("10.1.1.30")).reply(port(WEB)), "10.1.1.30", VM2_MAC, (WEB_MAC, "10.1.1.2"));
    w.advance(30_000);
    w.port_in(WEB, &who_has("10.1.1.30")).flooded(&[port(VM), port(VM2), peer(B), peer(C)]);
}

#[test]
fn declared_addresses_cannot_be_claimed_by_others() {
    let mut w = World::node();
    announce(&mut w, Ingress::Port(VM), VM_MAC, "10.1.1.3");
    announce(&mut w, underlay(B, 0), FAR_MAC, "10.1.1.3");
    says(w.port_in(WEB, &who_has("10.1.1.3")).reply(port(WEB)), "10.1.1.3", DB_MAC, (WEB_MAC, "10.1.1.2"));
}

#[test]
fn addresses_that_live_on_a_peer_are_answered_with_the_gateway() {
    let mut w = World::node();
    says(w.port_in(WEB, &who_has("10.1.1.200")).reply(port(WEB)), "10.1.1.200", gw(), (WEB_MAC, "10.1.1.2"));
    // Not to a peer.
    w.peer_in(B, &ask(FAR_MAC, "10.1.1.30", MacAddr::BROADCAST, "10.1.1.200"))
        .flooded(&[port(VM), port(VM2)]);
}

#[test]
fn heard_neighbours_go_with_their_owner() {
    let mut w = World::node();
    announce(&mut w, Ingress::Port(VM), VM_MAC, "10.1.1.20");
    assert_eq!(w.dp.neighbours().iter().count(), 1);
    w.dp.forget(port(VM), w.now);
    assert_eq!(w.dp.neighbours().iter().count(), 0);
    announce(&mut w, Ingress::Port(VM2), VM_MAC, "10.1.1.20");
    w.tick(89_000);
    assert_eq!(w.dp.neighbours().iter().count(), 1);
    w.tick(1_000);
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}
