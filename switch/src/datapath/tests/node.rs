//! The node's own port: what goes to the node and what comes from it.

use super::icmp::is_error_about;
use super::kit::*;
use super::route::{forwarded, offload_tcp, with_ttl};
use crate::datapath::DropReason::{self, *};
use crate::datapath::{Guard, Ingress, Step, Target, Verdict};
use packet::{GsoType, Headers, MacAddr, build};

const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

/// From a pod to the gateway's MAC.
fn routed(to: &str) -> Vec<u8> {
    web_udp(gw(), to, b"payload of an odd length!")
}

/// From the node, to the gateway's MAC as all its packets.
fn node_udp(from: &str, to: &str) -> Vec<u8> {
    build::udp((NODE_MAC, gw()), (ip(from), ip(to)), (5000, 80), b"from the node")
}

fn from_node(frame: &[u8]) -> super::kit::Outcome {
    World::attached().port_in(NODE, frame)
}

#[track_caller]
fn refused(frame: &[u8], reason: DropReason) {
    from_node(frame).silent(reason);
}

/// Handed over as it came, but for the MACs.
#[track_caller]
fn delivered(sent: &[u8], outcome: &super::kit::Outcome) {
    let after = &outcome.unicast(port(NODE)).bytes;
    assert_eq!((Headers::dst_mac(after), Headers::src_mac(after)), (NODE_MAC, gw()));
    assert_eq!(after[12..], sent[12..], "no hop is counted");
}

#[test]
fn a_route_to_the_node() {
    let mut w = World::attached();
    for to in OUTSIDE.into_iter().chain(["192.168.77.1"]) {
        let sent = routed(to);
        let outcome = w.port_in(WEB, &sent);
        forwarded(&sent, &outcome.unicast(port(NODE)).bytes, (gw(), NODE_MAC));
        let length = if to == "192.168.77.1" { 32 } else { 0 };
        assert!(outcome.steps.contains(&Step::Fib { length, target: Target::Node }), "{outcome:?}");
    }
    // From pods of peers, too.
    let sent = build::udp((router_of(C), own_router()), (ip("10.1.2.9"), ip("192.168.77.1")), (1, 2), b"x");
    forwarded(&sent, &w.peer_in(C, &sent).unicast(port(NODE)).bytes, (gw(), NODE_MAC));
    // A longer prefix leads where it led before.
    assert_eq!(w.port_in(WEB, &routed("10.1.1.3")).verdict, Verdict::Unicast(port(DB)));
    assert_eq!(w.port_in(WEB, &routed("10.1.2.9")).verdict, Verdict::Unicast(peer(C)));
}

#[test]
fn hops_are_counted_on_a_route_to_the_node() {
    let mut w = World::attached();
    for to in OUTSIDE {
        let last = with_ttl(routed(to), 1);
        let outcome = w.port_in(WEB, &last);
        outcome.dropped(TtlExceeded);
        let kind = if to.contains(':') { (3, 0) } else { (11, 0) };
        is_error_about(&outcome.single().bytes, &last, kind, 0, (gw(), WEB_MAC));
    }
}

#[test]
fn the_size_is_checked() {
    let mut w = World::attached();
    w.edit_port(NODE, |p| p.mtu = 1300);
    for (to, kind) in
        [(OUTSIDE[0], (3, 4)), (OUTSIDE[1], (2, 0)), ("10.1.1.1", (3, 4)), ("fd00:1::1", (2, 0))]
    {
        let sent = web_udp(gw(), to, &[0; 1350]);
        let outcome = w.port_in(WEB, &sent);
        outcome.dropped(TooBig);
        is_error_about(&outcome.single().bytes, &sent, kind, 1300, (gw(), WEB_MAC));
    }
    // TCP is given smaller segments instead.
    for (from, to, headers) in [("10.1.1.2", OUTSIDE[0], 40), ("fd00:1::2", "fd00:1::1", 60)] {
        let (sent, vnet) = offload_tcp((WEB_MAC, gw()), from, to, 20_000, 1380);
        let outcome = w.send_vnet(Ingress::Port(WEB), &sent, vnet);
        let copy = outcome.unicast(port(NODE));
        assert_eq!((copy.vnet.gso_size, copy.bytes.len()), (1300 - headers, sent.len()));
        assert_ne!(copy.vnet.gso_type, GsoType::None);
    }
}

#[test]
fn without_a_port_of_the_node_there_is_no_route() {
    let mut w = World::attached();
    w.edit(BLUE, |n| n.node = None);
    for to in OUTSIDE {
        let sent = routed(to);
        let outcome = w.port_in(WEB, &sent);
        outcome.dropped(NoRoute);
        let kind = if to.contains(':') { (1, 0) } else { (3, 0) };
        is_error_about(&outcome.single().bytes, &sent, kind, 0, (gw(), WEB_MAC));
    }
    // The gateway is the switch's again.
    let ping = build::echo((WEB_MAC, gw()), (ip("10.1.1.2"), ip("10.1.1.1")), 8, 1, 1, b"ping");
    w.port_in(WEB, &ping).reply(port(WEB));
}

#[test]
fn the_port_may_be_gone_before_the_tables_say_so() {
    let mut w = World::attached();
    w.tables.ports[NODE.0 as usize] = None;
    w.port_in(WEB, &routed(OUTSIDE[0])).silent(EgressGone);
    w.port_in(WEB, &routed("10.1.1.1")).silent(EgressGone);
}

#[test]
fn what_is_for_the_gateway_is_for_the_node() {
    let mut w = World::attached();
    for (from, to, echo) in [("10.1.1.2", "10.1.1.1", 8), ("fd00:1::2", "fd00:1::1", 128)] {
        let macs = (WEB_MAC, gw());
        let ips = (ip(from), ip(to));
        for frame in [
            build::echo(macs, ips, echo, 1, 1, b"ping"),
            build::udp(macs, ips, (1, 53), b"dns"),
            build::tcp(macs, ips, (1, 10250), (1, 0, 2), &[]),
        ] {
            // The node is the gateway: a packet with its last hop has arrived.
            for ttl in [0, 1, 2, 64, 255] {
                let sent = with_ttl(frame.clone(), ttl);
                let outcome = w.port_in(WEB, &sent);
                delivered(&sent, &outcome);
                assert!(outcome.steps.contains(&Step::NodeAddress { ip: ip(to) }));
            }
        }
        // From a peer as well.
        let sent = build::udp((router_of(C), own_router()), (ip(from), ip(to)), (1, 2), b"x");
        w.edit_peer(C, |p| p.sources = None);
        delivered(&sent, &w.peer_in(C, &sent));
        // And with its checksum still to be computed.
        let (sent, vnet) = offload_tcp(macs, from, to, 5000, 1300);
        let outcome = w.send_vnet(Ingress::Port(WEB), &sent, vnet);
        delivered(&sent, &outcome);
        assert_eq!(outcome.unicast(port(NODE)).vnet, vnet);
    }
    // A source that is impossible, or the gateway's.
    for from in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "10.1.1.1"] {
        let sent = build::udp((VM_MAC, gw()), (ip(from), ip("10.1.1.1")), (1, 2), b"x");
        w.port_in(VM, &sent).silent(Martian);
    }
}

#[test]
fn a_gateway_address_that_is_not_the_nodes_stays_the_switchs() {
    let mut w = World::attached();
    w.edit(BLUE, |n| n.node_ips.retain(|ip| ip.is_ipv4()));
    let ping = build::echo((WEB_MAC, gw()), (ip("fd00:1::2"), ip("fd00:1::1")), 128, 1, 1, b"ping");
    w.port_in(WEB, &ping).reply(port(WEB));
    w.port_in(WEB, &routed("fd00:1::1")).dropped(ToGateway);
    // As does its link-local address, whatever the tables say of it.
    let own = gw().link_local_v6();
    w.edit(BLUE, |n| n.node_ips.push(own.into()));
    let ping = build::echo((WEB_MAC, gw()), (WEB_MAC.link_local_v6().into(), own.into()), 128, 1, 1, b"");
    w.port_in(WEB, &ping).reply(port(WEB));
    let ping = build::echo((NODE_MAC, gw()), (NODE_MAC.link_local_v6().into(), own.into()), 128, 1, 1, b"");
    w.port_in(NODE, &ping).reply(port(NODE));
}

#[test]
fn the_node_reaches_pods() {
    let mut w = World::attached();
    for (from, to) in [
        ("10.1.1.1", "10.1.1.3"),
        ("192.168.77.1", "10.1.1.3"),
        ("fd00:1::1", "fd00:1::3"),
        // A reply from the outside, forwarded.
        ("198.51.100.1", "10.1.1.3"),
        ("2001:db8::1", "fd00:1::3"),
    ] {
        let sent = node_udp(from, to);
        let outcome = w.port_in(NODE, &sent);
        forwarded(&sent, &outcome.unicast(port(DB)).bytes, (gw(), DB_MAC));
        assert!(outcome.steps.contains(&Step::Guard { guard: Guard::Node }));
    }
    let sent = node_udp("192.168.77.1", "10.1.2.9");
    forwarded(&sent, &w.port_in(NODE, &sent).unicast(peer(C)).bytes, (own_router(), router_of(C)));
    assert!(w.dp.fdb().is_empty(), "its MAC is known and not learned");
}

#[test]
fn a_service_leads_a_pod_back_to_itself() {
    // The pod sends to a service address outside, the node's kernel translates and masquerades.
    let mut w = World::attached();
    let request = routed("198.51.100.1");
    w.port_in(WEB, &request).unicast(port(NODE));
    let back = node_udp("10.1.1.1", "10.1.1.2");
    forwarded(&back, &w.port_in(NODE, &back).unicast(port(WEB)).bytes, (gw(), WEB_MAC));
    let answer = routed("10.1.1.1");
    delivered(&answer, &w.port_in(WEB, &answer));
    let translated = node_udp("198.51.100.1", "10.1.1.2");
    w.port_in(NODE, &translated).unicast(port(WEB));
}

#[test]
fn the_nodes_packets_do_not_come_back_to_it() {
    let mut w = World::attached();
    for (from, to) in
        [("198.51.100.7", "10.1.1.1"), ("198.51.100.7", "192.168.77.1"), ("2001:db8::7", "fd00:1::1")]
    {
        // About an address of its own the node need not be told.
        w.port_in(NODE, &node_udp(from, to)).silent(Reflection);
    }
    w.port_in(NODE, &node_udp("10.1.1.1", "10.1.1.1")).silent(Martian);
    // A destination that nobody has: the node's route and ours lead to each other.
    for (from, to, kind) in [("192.168.77.1", "10.200.0.9", (3, 0)), ("fd00:1::1", "fd00:200::9", (1, 0))] {
        let sent = node_udp(from, to);
        let outcome = w.port_in(NODE, &sent);
        outcome.dropped(Reflection);
        error_to_node(&outcome, &sent, kind);
    }
    // On layer 2.
    let sent = build::udp((NODE_MAC, NODE_MAC), (ip("10.1.1.1"), ip("192.168.77.1")), (1, 2), b"x");
    w.port_in(NODE, &sent).silent(Reflection);
}

/// An ICMP error of this type and code to the node, from an address that its kernel accepts: not one of its own.
#[track_caller]
fn error_to_node(outcome: &super::kit::Outcome, sent: &[u8], kind: (u8, u8)) {
    let output = outcome.single();
    assert_eq!((output.to, output.made), (port(NODE), true));
    let headers = build::parse(&output.bytes);
    let about = build::parse(sent);
    assert_eq!((Headers::src_mac(&output.bytes), Headers::dst_mac(&output.bytes)), (gw(), NODE_MAC));
    assert_eq!(headers.src_ip(&output.bytes), about.dst_ip(sent), "in the destination's name");
    assert_eq!(headers.dst_ip(&output.bytes), about.src_ip(sent));
    let at = usize::from(headers.l4);
    assert_eq!((output.bytes[at], output.bytes[at + 1]), kind);
    assert_eq!(output.bytes[at + 8..at + 28], sent[14..34], "about that packet");
}

#[test]
fn the_node_is_told_in_a_name_it_accepts() {
    let mut w = World::attached();
    let big = build::udp((NODE_MAC, gw()), (ip("192.168.77.1"), ip("10.1.1.3")), (1, 2), &[0; 1450]);
    let outcome = w.port_in(NODE, &big);
    outcome.dropped(TooBig);
    error_to_node(&outcome, &big, (3, 4));
    let last = with_ttl(node_udp("fd00:1::1", "fd00:2::9"), 1);
    let outcome = w.port_in(NODE, &last);
    outcome.dropped(TtlExceeded);
    error_to_node(&outcome, &last, (3, 0));
    let nobody = node_udp("198.51.100.7", "10.1.1.77");
    assert_eq!(w.port_in(NODE, &nobody).verdict, Verdict::Held);
    let told: Vec<_> = (0..3).flat_map(|_| w.tick(1000)).filter(|o| o.to == port(NODE)).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(build::parse(&told[0].bytes).src_ip(&told[0].bytes), Some(ip("10.1.1.77")));
    // A gateway address that the node does not have is as good for it as for a pod.
    w.edit(BLUE, |n| n.node_ips.clear());
    let outcome = w.port_in(NODE, &big);
    is_error_about(&outcome.single().bytes, &big, (3, 4), 1450, (gw(), NODE_MAC));
    // No group speaks.
    w.edit(BLUE, |n| n.gateways.clear());
    let group = build::udp((NODE_MAC, DB_MAC), (ip("fd00:1::1"), ip("ff0e::1")), (1, 2), &[0; 1450]);
    w.port_in(NODE, &group).silent(TooBig);
    let group = build::udp((WEB_MAC, DB_MAC), (ip("fd00:1::2"), ip("ff0e::1")), (1, 2), &[0; 1450]);
    w.port_in(WEB, &group).silent(TooBig);
}

#[test]
fn sources_that_the_node_may_not_use() {
    let mut stranger = node_udp("10.1.1.1", "10.1.1.3");
    stranger[6..12].copy_from_slice(&mac(0x71).0);
    refused(&stranger, SpoofedMac);
    for from in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.9.9"] {
        refused(&node_udp(from, "10.1.1.3"), SpoofedIp);
    }
    for from in ["::1", "::", "ff02::1", "fe80::9"] {
        refused(&node_udp(from, "fd00:1::3"), SpoofedIp);
    }
    // Pods of this node speak for themselves; those of peers may come this way.
    refused(&node_udp("10.1.1.2", "10.1.1.3"), SpoofedIp);
    refused(&node_udp("fd00:1::2", "fd00:1::3"), SpoofedIp);
    refused(&node_udp(&WEB_MAC.link_local_v6().to_string(), "fd00:1::1"), SpoofedIp);
    from_node(&node_udp("10.1.2.9", "10.1.1.3")).unicast(port(DB));
    // A neighbour that is declared by hand, and lives with a peer or behind the node, is no pod of this node.
    let mut w = World::attached();
    for (mac, egress) in [(FAR_MAC, peer(B)), (NODE_MAC, port(NODE))] {
        w.edit(BLUE, |n| {
            n.neighbours.insert(ip("10.1.1.30"), crate::datapath::Adjacency { mac, egress: Some(egress) });
        });
        w.port_in(NODE, &node_udp("10.1.1.30", "10.1.1.3")).unicast(port(DB));
    }
    // An ICMPv6 error about a reply from the outside, forwarded.
    let echo = build::echo((NODE_MAC, gw()), (ip("2001:db8::1"), ip("fd00:1::3")), 129, 1, 1, b"");
    from_node(&echo).unicast(port(DB));
}

#[test]
fn what_no_declared_port_may_send_the_node_may_not() {
    refused(&build::ethernet(DB_MAC, NODE_MAC, 0x88b5, &[0; 46]), EtherType);
    let dhcp = |from: &str, to: &str, ports| build::udp((NODE_MAC, DB_MAC), (ip(from), ip(to)), ports, b"x");
    refused(&dhcp("10.1.1.1", "10.1.1.3", (67, 68)), DhcpServer);
    refused(&dhcp("fd00:1::1", "fd00:1::3", (547, 546)), DhcpServer);
    let link_local = NODE_MAC.link_local_v6();
    let all = (NODE_MAC, MacAddr([0x33, 0x33, 0, 0, 0, 1]));
    refused(&build::ndp(all, (link_local, v6("ff02::1")), 134, v6("::"), None), RouterAdvert);
    refused(&build::ndp(all, (link_local, v6("ff02::1")), 137, v6("fd00:1::3"), None), SpoofedNd);
}

#[test]
fn no_tunnel_packet_enters_the_node() {
    let mut w = World::attached();
    w.peer(ip("fd77::5"), None);
    for to in ["192.168.77.1", "192.168.77.2", "192.168.77.3", "fd77::5"] {
        // The route may lead to the node, or the pod may know its MAC.
        let default = [("0.0.0.0/0", Target::Node), ("::/0", Target::Node)];
        w.routes(BLUE, &default);
        for dst in [gw(), NODE_MAC] {
            let from = if to.contains(':') { "fd00:1::2" } else { "10.1.1.2" };
            let sent = |dport| build::udp((WEB_MAC, dst), (ip(from), ip(to)), (9, dport), b"tunnel?");
            w.port_in(WEB, &sent(4789)).silent(Nested);
            w.port_in(WEB, &sent(6081)).silent(Nested);
            w.port_in(WEB, &sent(53)).unicast(port(NODE));
        }
    }
    // Nor does one go through the tunnel to the node at its other end, from a pod or by a wrong route of this node.
    let mut w = World::attached();
    for (id, from, sender) in [(WEB, "10.1.1.2", WEB_MAC), (NODE, "192.168.77.1", NODE_MAC)] {
        let sent = |dport| build::udp((sender, gw()), (ip(from), ip("192.168.77.3")), (9, dport), b"tunnel?");
        w.port_in(id, &sent(4789)).silent(Nested);
        w.port_in(id, &sent(6081)).silent(Nested);
        w.port_in(id, &sent(53)).unicast(peer(C));
    }
    // Somebody else's tunnel is nobody's business, nor is one between pods.
    let sent = build::udp((WEB_MAC, gw()), (ip("10.1.1.2"), ip(OUTSIDE[0])), (9, 4789), b"x");
    w.port_in(WEB, &sent).unicast(port(NODE));
    let sent = build::udp((WEB_MAC, DB_MAC), (ip("10.1.1.2"), ip("192.168.77.3")), (9, 4789), b"x");
    w.port_in(WEB, &sent).unicast(port(DB));
}

#[test]
fn processes_of_a_peers_node() {
    let mut w = World::attached();
    let from_c =
        |from: &str, to: &str| build::udp((router_of(C), own_router()), (ip(from), ip(to)), (1, 2), b"x");
    // To a pod of ours, and to the node itself; the pod's answer finds its way.
    w.peer_in(C, &from_c("192.168.77.3", "10.1.1.3")).unicast(port(DB));
    w.peer_in(C, &from_c("192.168.77.3", "192.168.77.1")).unicast(port(NODE));
    w.port_in(WEB, &routed("192.168.77.3")).unicast(peer(C));
    // Not in another's name, nor in the name of this node.
    for from in ["192.168.77.2", "192.168.77.1", "198.51.100.1"] {
        w.peer_in(C, &from_c(from, "10.1.1.3")).silent(PeerSource);
    }
    // It is an address to route to, not to announce.
    let arp = build::arp(
        (FAR_MAC, MacAddr::BROADCAST),
        1,
        (FAR_MAC, v4("192.168.77.3")),
        (MacAddr::ZERO, v4("192.168.77.3")),
    );
    w.peer_in(C, &arp).silent(PeerSource);
    // Where this node takes no part, nothing changes.
    w.edit(BLUE, |n| n.node = None);
    w.peer_in(C, &from_c("192.168.77.3", "10.1.1.3")).silent(PeerSource);
}

#[test]
fn processes_of_a_peers_node_on_an_underlay_of_ipv6() {
    let mut w = World::attached();
    let id = w.peer(ip("fd77::5"), Some(&["fd00:5::/64"]));
    let sent = |from: &str| {
        build::udp((router_mac_of("fd77::5"), own_router()), (ip(from), ip("fd00:1::3")), (1, 2), b"x")
    };
    let ingress = Ingress::Underlay { source: ip("fd77::5"), tos: 0, encap: tunnel::Encap::Vxlan };
    w.send(ingress, &vxlan(1, &sent("fd77::5"))).unicast(port(DB));
    w.send(ingress, &vxlan(1, &sent("fd77::6"))).silent(PeerSource);
    assert_eq!(w.dp.counters.get(peer(id)).unwrap().drops[PeerSource as usize], 1);
}

fn router_mac_of(underlay: &str) -> MacAddr {
    crate::datapath::router_mac(ip(underlay))
}
