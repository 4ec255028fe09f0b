//! ARP and neighbour discovery of the node's own port: its kernel is answered, in its own name and in the
//! gateway's, and nobody else hears the latter.

use super::kit::*;
use crate::datapath::DropReason::*;
use crate::datapath::Verdict;
use packet::{MacAddr, build};

const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn arp(op: u16, dst: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    build::arp((NODE_MAC, dst), op, (NODE_MAC, v4(sender)), (MacAddr::ZERO, v4(target)))
}

fn nd(kind: u8, dst: MacAddr, src: &str, target: &str) -> Vec<u8> {
    let link = (src != "::").then_some(NODE_MAC);
    build::ndp((NODE_MAC, dst), (v6(src), v6("ff02::1")), kind, v6(target), link)
}

/// The MAC in an ARP reply or advertisement to the node.
#[track_caller]
fn answered(w: &mut World, question: &[u8]) -> MacAddr {
    let outcome = w.port_in(NODE, question);
    let answer = outcome.reply(port(NODE));
    assert_eq!(answer[..6], NODE_MAC.0);
    if answer[12..14] == [8, 6] { MacAddr::read(answer, 22) } else { MacAddr::read(answer, answer.len() - 6) }
}

#[test]
fn the_kernel_asks() {
    let mut w = World::attached();
    for sender in ["10.1.1.1", "192.168.77.1", "0.0.0.0"] {
        assert_eq!(answered(&mut w, &arp(1, MacAddr::BROADCAST, sender, "10.1.1.3")), DB_MAC);
    }
    let link_local = NODE_MAC.link_local_v6().to_string();
    for src in ["fd00:1::1", &link_local] {
        for target in ["fd00:1::3".to_owned(), DB_MAC.link_local_v6().to_string()] {
            assert_eq!(answered(&mut w, &nd(135, ALL_NODES_MAC, src, &target)), DB_MAC);
        }
        // Its next hop.
        let hop = gw().link_local_v6().to_string();
        for dst in [ALL_NODES_MAC, gw()] {
            assert_eq!(answered(&mut w, &nd(135, dst, src, &hop)), gw());
        }
    }
    // The gateway's address is the node's own, and nobody else has it.
    for own in ["10.1.1.1", "192.168.77.1"] {
        let outcome = w.port_in(NODE, &arp(1, MacAddr::BROADCAST, "0.0.0.0", own));
        assert_eq!((outcome.verdict, outcome.outputs.len()), (Verdict::Consumed, 0));
    }
    for own in ["fd00:1::1", &link_local] {
        let outcome = w.port_in(NODE, &nd(135, ALL_NODES_MAC, "::", own));
        assert_eq!((outcome.verdict, outcome.outputs.len()), (Verdict::Consumed, 0));
    }
}

#[test]
fn what_is_asked_in_the_gateways_name_nobody_else_hears() {
    let mut w = World::attached();
    // Whoever heard it would take the node's MAC for the gateway's. The router finds what the tables do not know.
    for dst in [MacAddr::BROADCAST, gw()] {
        assert_eq!(answered(&mut w, &arp(1, dst, "10.1.1.1", "10.1.1.77")), gw());
    }
    assert_eq!(answered(&mut w, &nd(135, ALL_NODES_MAC, "fd00:1::1", "fd00:1::77")), gw());
    // Nor the neighbour whom the kernel checks.
    assert_eq!(answered(&mut w, &arp(1, DB_MAC, "10.1.1.1", "10.1.1.3")), DB_MAC);
    assert_eq!(answered(&mut w, &nd(135, DB_MAC, "fd00:1::1", "fd00:1::3")), DB_MAC);
    assert_eq!(w.dp.neighbours().iter().count(), 0, "the gateway is no neighbour");
    // In its own name it asks as everybody does.
    w.port_in(NODE, &arp(1, MacAddr::BROADCAST, "192.168.77.1", "10.1.1.77")).flooded(&[
        port(VM),
        port(VM2),
        peer(B),
        peer(C),
    ]);
}

#[test]
fn the_node_does_not_announce_the_gateway() {
    let mut w = World::attached();
    for op in [1, 2] {
        w.port_in(NODE, &arp(op, MacAddr::BROADCAST, "10.1.1.1", "10.1.1.1")).silent(SpoofedArp);
    }
    w.port_in(NODE, &arp(2, WEB_MAC, "10.1.1.1", "10.1.1.2")).silent(SpoofedArp);
    w.port_in(NODE, &nd(136, ALL_NODES_MAC, "fd00:1::1", "fd00:1::1")).silent(SpoofedNd);
    // Nor does it ask where the gateway is not its own.
    w.edit(BLUE, |n| n.node_ips.clear());
    w.port_in(NODE, &arp(1, MacAddr::BROADCAST, "10.1.1.1", "10.1.1.3")).silent(SpoofedArp);
}

#[test]
fn claims_are_for_declared_addresses_only() {
    let mut w = World::attached();
    for sender in ["10.1.1.2", "10.1.2.9", "198.51.100.1"] {
        w.port_in(NODE, &arp(1, MacAddr::BROADCAST, sender, "10.1.1.3")).silent(SpoofedArp);
    }
    let forged = build::arp((NODE_MAC, DB_MAC), 1, (gw(), v4("10.1.1.1")), (MacAddr::ZERO, v4("10.1.1.3")));
    w.port_in(NODE, &forged).silent(SpoofedArp);
    for src in ["fd00:1::2", "fd00:2::9", "2001:db8::1"] {
        // As the source of a packet, all but the first would do.
        w.port_in(NODE, &nd(135, ALL_NODES_MAC, src, "fd00:1::3")).silent(SpoofedIp);
        w.port_in(NODE, &nd(136, ALL_NODES_MAC, "fd00:1::1", src)).silent(SpoofedNd);
    }
}

#[test]
fn pods_are_answered_as_before() {
    let mut w = World::attached();
    let ask = |sender: &str, target: &str| {
        build::arp((WEB_MAC, MacAddr::BROADCAST), 1, (WEB_MAC, v4(sender)), (MacAddr::ZERO, v4(target)))
    };
    for sender in ["10.1.1.2", "0.0.0.0"] {
        let outcome = w.port_in(WEB, &ask(sender, "10.1.1.1"));
        assert_eq!(MacAddr::read(outcome.reply(port(WEB)), 22), gw());
    }
    for target in [v6("fd00:1::1"), gw().link_local_v6()] {
        let question =
            build::ndp((WEB_MAC, ALL_NODES_MAC), (v6("fd00:1::2"), v6("ff02::1")), 135, target, None);
        let outcome = w.port_in(WEB, &question);
        let answer = outcome.reply(port(WEB));
        assert_eq!(MacAddr::read(answer, answer.len() - 6), gw());
    }
    // An address of the node inside the subnet is behind the gateway; what is outside is nobody's to answer for.
    w.routes(
        BLUE,
        &[
            ("10.1.1.0/24", crate::datapath::Target::Connected),
            ("10.1.1.9/32", crate::datapath::Target::Node),
            ("0.0.0.0/0", crate::datapath::Target::Node),
        ],
    );
    let outcome = w.port_in(WEB, &ask("10.1.1.2", "10.1.1.9"));
    assert_eq!(MacAddr::read(outcome.reply(port(WEB)), 22), gw());
    w.port_in(WEB, &ask("10.1.1.2", "172.16.0.9")).flooded(&[port(VM), port(VM2), peer(B), peer(C)]);
}

#[test]
fn nobody_claims_what_is_the_nodes() {
    let mut w = World::attached();
    let claim = |mac: MacAddr| {
        build::arp(
            (mac, MacAddr::BROADCAST),
            1,
            (mac, v4("192.168.77.1")),
            (MacAddr::ZERO, v4("192.168.77.1")),
        )
    };
    w.port_in(VM, &claim(VM_MAC)).silent(SpoofedArp);
    w.peer_in(B, &claim(FAR_MAC)).silent(SpoofedArp);
    // Nor may others ask in the gateway's name.
    let ask = |mac| {
        build::arp((mac, MacAddr::BROADCAST), 1, (mac, v4("10.1.1.1")), (MacAddr::ZERO, v4("10.1.1.3")))
    };
    w.port_in(VM, &ask(VM_MAC)).silent(SpoofedArp);
    w.peer_in(B, &ask(FAR_MAC)).silent(SpoofedArp);
    let ask = |mac| {
        build::ndp((mac, ALL_NODES_MAC), (v6("fd00:1::1"), v6("ff02::1")), 135, v6("fd00:1::3"), Some(mac))
    };
    w.port_in(VM, &ask(VM_MAC)).silent(SpoofedNd);
    w.peer_in(B, &ask(FAR_MAC)).silent(SpoofedNd);
    // Its MAC belongs to its port.
    let stolen = build::udp((NODE_MAC, DB_MAC), (ip("10.1.1.20"), ip("10.1.1.3")), (1, 2), b"x");
    w.port_in(VM, &stolen).silent(StaticMove);
    w.peer_in(B, &stolen).silent(StaticMove);
}
