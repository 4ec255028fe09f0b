//! Forwarding at layer 2: hit, flood, what must not go where.

use super::kit::*;
use crate::datapath::{DropReason, Egress, Ingress, Step, Verdict};
use packet::{MacAddr, build};

const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 3]);

fn frame(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    build::ethernet(dst, src, 0x88b5, &(0..46).collect::<Vec<u8>>())
}

fn ports(ids: &[crate::datapath::PortId]) -> Vec<Egress> {
    ids.iter().map(|p| port(*p)).collect()
}

#[test]
fn a_hit_goes_to_one_place_unchanged() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM2), VM2_MAC);
    w.teach(underlay(B, 0), FAR_MAC);
    for (dst, to) in [(VM2_MAC, port(VM2)), (WEB_MAC, port(WEB)), (FAR_MAC, peer(B))] {
        let sent = frame(VM_MAC, dst);
        let outcome = w.port_in(VM, &sent);
        assert_eq!(outcome.unicast(to).bytes, sent);
        assert!(outcome.steps.contains(&Step::FdbHit { egress: to, fixed: dst == WEB_MAC }));
    }
    let sent = web_udp(DB_MAC, "10.1.1.3", b"hello");
    assert_eq!(w.port_in(WEB, &sent).unicast(port(DB)).bytes, sent);
    // From a peer, without its tunnel header.
    let sent = frame(FAR_MAC, VM2_MAC);
    assert_eq!(w.peer_in(B, &sent).unicast(port(VM2)).bytes, sent);
}

#[test]
fn the_zero_address_is_nowhere() {
    // Nobody can have it; it is looked up all the same, in an empty table and in another.
    let mut w = World::node();
    for _ in 0..2 {
        w.port_in(WEB, &web_udp(MacAddr::ZERO, "10.1.1.3", b"x")).flooded(&[
            port(VM),
            port(VM2),
            peer(B),
            peer(C),
        ]);
        w.peer_in(B, &frame(FAR_MAC, MacAddr::ZERO)).flooded(&ports(&[VM, VM2]));
    }
}

#[test]
fn no_reflection() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(Ingress::Port(VM), mac(0x22));
    w.port_in(VM, &frame(VM_MAC, mac(0x22))).silent(DropReason::Reflection);
    w.port_in(WEB, &web_udp(WEB_MAC, "10.1.1.2", b"me")).silent(DropReason::Reflection);
    w.teach(underlay(B, 0), FAR_MAC);
    w.peer_in(B, &frame(mac(0x31), FAR_MAC)).silent(DropReason::Reflection);
}

#[test]
fn split_horizon() {
    let mut w = World::node();
    w.edit(BLUE, |n| assert!(n.statics.insert(FAR_MAC, peer(C)).is_none()));
    w.peer_in(B, &frame(mac(0x31), FAR_MAC)).silent(DropReason::SplitHorizon);
    w.peer_in(B, &frame(mac(0x31), GROUP)).flooded(&ports(&[WEB, DB, VM, VM2]));
    w.peer_in(B, &frame(mac(0x31), mac(0x99))).flooded(&ports(&[VM, VM2]));
}

#[test]
fn groups_are_flooded_to_all_but_the_sender() {
    let mut w = World::node();
    let peers = [peer(B), peer(C)];
    for dst in [GROUP, MacAddr::BROADCAST] {
        let sent = frame(VM_MAC, dst);
        let outcome = w.port_in(VM, &sent);
        outcome.flooded(&[&ports(&[WEB, DB, VM2])[..], &peers].concat());
        assert!(outcome.outputs.iter().all(|o| o.bytes == sent && o.vni == 1));
    }
    let sent = build::udp((WEB_MAC, GROUP), (ip("10.1.1.2"), ip("239.1.2.3")), (1, 2), b"x");
    w.port_in(WEB, &sent).flooded(&[&ports(&[DB, VM, VM2])[..], &peers].concat());
}

#[test]
fn unknown_unicast_goes_where_something_unknown_can_be() {
    let mut w = World::node();
    w.port_in(VM, &frame(VM_MAC, mac(0x99))).flooded(&[port(VM2), peer(B), peer(C)]);
    w.port_in(WEB, &web_udp(mac(0x99), "10.1.1.99", b"x")).flooded(&[port(VM), port(VM2), peer(B), peer(C)]);
}

#[test]
fn unknown_unicast_may_be_refused() {
    let mut w = World::node();
    w.edit(BLUE, |n| n.flood_unknown = false);
    w.port_in(VM, &frame(VM_MAC, mac(0x99))).silent(DropReason::UnknownUnicast);
    w.peer_in(B, &frame(FAR_MAC, mac(0x99))).silent(DropReason::UnknownUnicast);
    // Groups still are flooded, and what was learned is found.
    w.port_in(VM2, &frame(VM2_MAC, GROUP)).flooded(&[port(WEB), port(DB), port(VM), peer(B), peer(C)]);
    w.port_in(VM, &frame(VM_MAC, VM2_MAC)).unicast(port(VM2));
}

#[test]
fn nobody_there() {
    let mut w = World::empty(16);
    let net = w.network(9, &["10.9.0.1/24"]);
    let only = w.learning(net, mac(1));
    let outcome = w.port_in(only, &frame(mac(1), mac(2)));
    assert_eq!(outcome.verdict, Verdict::Flood(0));
    outcome.flooded(&[]);
}

#[test]
fn networks_with_the_same_addresses_are_strangers() {
    let mut w = World::node();
    let sent = web_udp(DB_MAC, "10.1.1.3", b"which one");
    assert_eq!(w.port_in(WEB, &sent).unicast(port(DB)).vni, 1);
    assert_eq!(w.port_in(RED, &sent).unicast(port(RED2)).vni, 2);
    // What one learns, the other does not know.
    w.teach(Ingress::Port(VM), VM_MAC);
    let outcome = w.port_in(RED, &web_udp(VM_MAC, "10.1.1.20", b"x"));
    outcome.flooded(&[peer(B), peer(C)]);
    assert!(outcome.outputs.iter().all(|o| o.vni == 2));
    let broadcast =
        build::udp((WEB_MAC, MacAddr::BROADCAST), (ip("10.1.1.2"), ip("255.255.255.255")), (1, 2), b"x");
    w.port_in(RED, &broadcast).flooded(&[port(RED2), peer(B), peer(C)]);
    // From a peer, the VNI decides.
    let sent = build::udp((FAR_MAC, WEB_MAC), (ip("10.1.1.30"), ip("10.1.1.2")), (1, 2), b"x");
    w.send(underlay(B, 0), &vxlan(1, &sent)).unicast(port(WEB));
    w.send(underlay(B, 0), &vxlan(2, &sent)).unicast(port(RED));
    // Routing does not cross either.
    let routed = |gateway| build::udp((WEB_MAC, gateway), (ip("10.1.1.2"), ip("10.1.1.3")), (1, 2), b"x");
    w.port_in(WEB, &routed(gw())).unicast(port(DB));
    w.port_in(RED, &routed(red_gw())).unicast(port(RED2));
}

#[test]
fn each_network_answers_with_its_own_gateway_mac_only() {
    let mut w = World::node();
    assert_ne!(red_gw(), gw());
    // The other network's gateway MAC is just an unknown address here.
    let outcome = w.port_in(WEB, &web_udp(red_gw(), "10.1.2.2", b"x"));
    assert!(matches!(outcome.verdict, Verdict::Flood(_)), "{outcome:?}");
}

#[test]
fn a_port_that_is_not_in_the_tables() {
    let mut w = World::node();
    w.port_in(crate::datapath::PortId(77), &frame(VM_MAC, GROUP)).silent(DropReason::NoPort);
    w.unplug(VM);
    w.port_in(VM, &frame(VM_MAC, GROUP)).silent(DropReason::NoPort);
    assert_eq!(w.dp.counters.node.received, 2);
    assert_eq!(w.dp.counters.node.drops[DropReason::NoPort as usize], 2);
}

#[test]
fn an_entry_that_points_at_nothing() {
    let mut w = World::node();
    w.teach(Ingress::Port(VM2), VM2_MAC);
    w.unplug(VM2);
    w.port_in(VM, &frame(VM_MAC, VM2_MAC)).silent(DropReason::EgressGone);
    w.dp.forget(port(VM2), w.now);
    w.port_in(VM, &frame(VM_MAC, VM2_MAC)).flooded(&[peer(B), peer(C)]);
}
