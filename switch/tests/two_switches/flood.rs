//! BUM traffic on three nodes: everybody once, nobody twice, never back.

use crate::frames::{broadcast, note, notes};
use crate::host::v4;
use crate::plan::PortPlan;
use crate::world::{BRIDGED, Shape, World, pod_mac};
use packet::MacAddr;
use switch::datapath::{DropReason, Egress, PeerId};
use switch::io::PodEnd;

struct Member {
    node: usize,
    mac: MacAddr,
    end: PodEnd,
    pod: usize,
}

fn six_learning_pods() -> (World, Vec<Member>) {
    let mut world = World::new(Shape { nodes: 3, ..BRIDGED });
    let mut members = Vec::new();
    for node in 0..3 {
        for pod in 0..2 {
            let plan = world.learning(node, pod);
            let (_, end) = world.open(node, plan);
            members.push(Member { node, mac: pod_mac(node, pod), end, pod });
        }
    }
    (world, members)
}

#[test]
fn broadcast_reaches_everybody_exactly_once() {
    let (mut world, members) = six_learning_pods();
    for from in 0..members.len() {
        let m = &members[from];
        m.end.send_frame(&broadcast(m.mac, v4(world.ips(m.node, m.pod)[0]))).unwrap();
        world.sleep(1000);
        for (to, member) in members.iter().enumerate() {
            assert_eq!(notes(&member.end).len(), usize::from(to != from), "from {from} to {to}");
        }
    }
    // Two copies into the tunnel for each, and none forwarded from one tunnel into another.
    assert_eq!(world.wire.counts(), (12, 0));
    world.finish(&[]);
}

#[test]
fn unknown_unicast_is_flooded_and_then_not() {
    let (mut world, members) = six_learning_pods();
    let (a, b) = (&members[0], &members[5]);
    let ips = (world.ips(0, 0)[0], world.ips(2, 1)[0]);
    a.end.send_frame(&note((a.mac, b.mac), ips, b"who")).unwrap();
    world.sleep(10);
    assert!(members[1..].iter().all(|m| notes(&m.end) == [b"who"]));
    b.end.send_frame(&note((b.mac, a.mac), (ips.1, ips.0), b"me")).unwrap();
    a.end.send_frame(&note((a.mac, b.mac), ips, b"you")).unwrap();
    world.sleep(10);
    // The answer found its way without a flood, and so did everything after it.
    assert_eq!(notes(&a.end), [b"me"]);
    let reached: Vec<_> = members[1..].iter().map(|m| notes(&m.end).len()).collect();
    assert!(reached[4] == 1, "{reached:?}");
    a.end.send_frame(&note((a.mac, b.mac), ips, b"again")).unwrap();
    world.sleep(10);
    let reached: Vec<_> = members[1..].iter().map(|m| notes(&m.end).len()).collect();
    assert_eq!(reached, [0, 0, 0, 0, 1]);
    world.finish(&[]);
}

/// A peer that believes a MAC to be here while we know it to be at another peer: not forwarded, no loop.
#[test]
fn split_horizon_between_peers() {
    let (mut world, members) = six_learning_pods();
    let (a, c) = (&members[0], &members[4]);
    let ips = (world.ips(0, 0)[0], world.ips(2, 0)[0]);
    // Node 1 learns where both are; node 0 is then told that node 2's pod is behind node 1.
    for m in [a, c] {
        m.end.send_frame(&broadcast(m.mac, v4(ips.0))).unwrap();
    }
    world.sleep(10);
    let now = world.now;
    let learned = world.nodes[0].engine.datapath_mut().fdb_mut().learn(
        switch::datapath::NetId(0),
        c.mac,
        Egress::Peer(PeerId(0)),
        u32::MAX,
        now,
    );
    assert_eq!(learned, switch::datapath::Learned::Moved);
    members.iter().for_each(|m| drop(notes(&m.end)));
    a.end.send_frame(&note((a.mac, c.mac), ips, b"astray")).unwrap();
    world.sleep(10);
    assert!(members.iter().all(|m| notes(&m.end).is_empty()));
    assert_eq!(world.drops(1, DropReason::SplitHorizon), 1);
    world.finish(&[DropReason::SplitHorizon]);
}

#[test]
fn a_frame_for_where_it_came_from_is_not_reflected() {
    let (mut world, members) = six_learning_pods();
    let (a, other) = (&members[0], MacAddr([2, 0, 0, 0, 9, 9]));
    let ips = (world.ips(0, 0)[0], world.ips(0, 1)[0]);
    a.end.send_frame(&broadcast(other, v4(ips.0))).unwrap();
    a.end.send_frame(&note((a.mac, other), ips, b"echo")).unwrap();
    world.sleep(10);
    assert_eq!(notes(&a.end).len(), 0);
    assert_eq!(world.drops(0, DropReason::Reflection), 1);
    world.finish(&[DropReason::Reflection]);
}

#[test]
fn unknown_unicast_spares_declared_ports_and_can_be_turned_off() {
    let mut world = World::new(Shape { nodes: 2, ..BRIDGED });
    let learning = world.learning(0, 0);
    let (_, a) = world.open(0, learning);
    let mut ends = Vec::new();
    for (node, pod) in [(0, 1), (1, 0)] {
        let declared = world.declared(node, pod);
        ends.push(world.open(node, declared).1);
    }
    let stray = MacAddr([2, 0, 0, 0, 9, 9]);
    let frame = note((pod_mac(0, 0), stray), (world.ips(0, 0)[0], world.ips(1, 1)[0]), b"lost");
    a.send_frame(&frame).unwrap();
    world.sleep(10);
    assert!(ends.iter().all(|end| notes(end).is_empty()));
    assert_eq!(world.wire.counts(), (1, 0), "the other node is asked all the same");
    world.nodes[0].plan.networks[0].flood_unknown = false;
    world.publish(0);
    a.send_frame(&frame).unwrap();
    world.sleep(10);
    assert_eq!(world.wire.counts(), (1, 0));
    assert_eq!(world.drops(0, DropReason::UnknownUnicast), 1);
    world.finish(&[DropReason::UnknownUnicast]);
}

/// Networks are islands: equal subnets and MACs in another VNI see nothing.
#[test]
fn networks_do_not_leak() {
    let mut world = World::new(BRIDGED);
    for node in &mut world.nodes {
        let first = &node.plan.networks[0];
        let second =
            crate::plan::NetPlan { vni: 2, routes: Vec::new(), gateways: first.gateways.clone(), ..*first };
        node.plan.networks.push(second);
    }
    let mut ends = Vec::new();
    for network in 0..2 {
        for node in 0..2 {
            let plan = PortPlan { network, ..world.declared(node, 0) };
            ends.push(world.open(node, plan).1);
        }
    }
    let macs = (pod_mac(0, 0), pod_mac(1, 0));
    let ips = (world.ips(0, 0)[0], world.ips(1, 0)[0]);
    for (text, network) in [(b"one", 0), (b"two", 1)] {
        ends[network * 2].send_frame(&note(macs, ips, text)).unwrap();
        ends[network * 2].send_frame(&broadcast(macs.0, v4(ips.0))).unwrap();
    }
    world.sleep(10);
    assert_eq!(notes(&ends[1]), [&b"one"[..], b"hello all"]);
    assert_eq!(notes(&ends[3]), [&b"two"[..], b"hello all"]);
    world.finish(&[]);
}
