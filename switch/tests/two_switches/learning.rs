//! Learned state over time: moves, ageing, neighbours of learning ports, greedy ports.

use crate::frames::{broadcast, note, notes, received};
use crate::host::v4;
use crate::world::{BRIDGED, ROUTED, World, pod_mac};
use packet::{MacAddr, Net, build, read_v4};
use switch::datapath::{DropReason, Egress, NetId, PeerId};

#[test]
fn a_mac_moves_from_node_to_node_and_traffic_follows() {
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (0, 1), (1, 0)].map(|(node, pod)| (node, world.learning(node, pod)));
    let [watcher, old, new] = plans.map(|(node, plan)| world.open(node, plan));
    let (mobile, asker) = (MacAddr([2, 0, 0, 0, 7, 7]), pod_mac(0, 0));
    let (ip, mobile_ip) = (world.ips(0, 0)[0], world.ips(1, 5)[0]);
    let to_mobile = |text: &[u8]| note((asker, mobile), (ip, mobile_ip), text);
    old.1.send_frame(&broadcast(mobile, v4(mobile_ip))).unwrap();
    world.sleep(10);
    watcher.1.send_frame(&to_mobile(b"first")).unwrap();
    world.sleep(10);
    assert_eq!(notes(&old.1), [b"first"]);
    drop(notes(&new.1));

    new.1.send_frame(&broadcast(mobile, v4(mobile_ip))).unwrap();
    world.sleep(10);
    drop(notes(&old.1));
    watcher.1.send_frame(&to_mobile(b"second")).unwrap();
    world.sleep(10);
    assert_eq!(notes(&new.1), [b"second"]);
    assert!(notes(&old.1).is_empty());
    let fdb = |world: &World, node: usize| world.nodes[node].engine.datapath().fdb().lookup(NetId(0), mobile);
    assert_eq!(fdb(&world, 0), Some(Egress::Peer(PeerId(0))));
    assert_eq!(fdb(&world, 1), Some(Egress::Port(new.0)));

    // And back.
    old.1.send_frame(&broadcast(mobile, v4(mobile_ip))).unwrap();
    world.sleep(10);
    drop(notes(&new.1));
    watcher.1.send_frame(&to_mobile(b"third")).unwrap();
    world.sleep(10);
    assert_eq!(notes(&old.1).last().unwrap(), b"third");
    assert!(notes(&new.1).is_empty());
    for node in 0..2 {
        assert_eq!(world.nodes[node].engine.datapath().counters.moves, 2, "node {node}");
    }
    world.finish(&[]);
}

#[test]
fn entries_age_and_frames_are_flooded_again() {
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (0, 1), (1, 0)].map(|(node, pod)| (node, world.learning(node, pod)));
    let [a, bystander, b] = plans.map(|(node, plan)| world.open(node, plan).1);
    let (ips, macs) = ((world.ips(0, 0)[0], world.ips(1, 0)[0]), (pod_mac(0, 0), pod_mac(1, 0)));
    b.send_frame(&broadcast(macs.1, v4(ips.1))).unwrap();
    world.sleep(1000);
    drop((notes(&a), notes(&bystander)));
    let send = |world: &mut World, text: &[u8]| {
        a.send_frame(&note(macs, ips, text)).unwrap();
        world.sleep(5);
        (notes(&b).len(), notes(&bystander).len())
    };
    assert_eq!(send(&mut world, b"known"), (1, 0));
    world.sleep(298_000 - world.now);
    assert_eq!(send(&mut world, b"still known"), (1, 0));
    // A second of grace for the sweep.
    world.sleep(301_500 - world.now);
    assert_eq!(world.nodes[0].engine.datapath().fdb().lookup(NetId(0), macs.1), None);
    assert_eq!(send(&mut world, b"forgotten"), (1, 1));
    // The sender itself was refreshed by its frames.
    assert!(world.nodes[1].engine.datapath().fdb().lookup(NetId(0), macs.0).is_some());
    assert!(world.nodes[0].engine.datapath().counters.aged >= 1);
    world.finish(&[]);
}

#[test]
fn ageing_time_zero_means_for_ever() {
    let mut world = World::new(BRIDGED);
    world.nodes[0].plan.networks[0].ageing_ms = 0;
    let plan = world.learning(0, 0);
    let (_, a) = world.open(0, plan);
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(1_000_000);
    assert!(world.nodes[0].engine.datapath().fdb().lookup(NetId(0), pod_mac(0, 0)).is_some());
    world.finish(&[]);
}

/// A pod behind a port without declared addresses is found by asking: the frames that made the router ask are not
/// lost, from this node or from the other one.
#[test]
fn neighbours_behind_learning_ports_are_resolved() {
    let mut world = World::new(ROUTED);
    let plan = world.learning(1, 0);
    let target = world.host_behind(1, 0, plan);
    let local = world.host(1, 1);
    let remote = world.host(0, 0);
    let ip = world.hosts[target].ips[1];
    assert!(world.ping(remote, ip), "from the other node");
    assert!(world.ping(local, ip), "from this node");
    let counters = &world.nodes[1].engine.datapath().counters;
    assert_eq!((counters.released, counters.expired), (1, 0));
    world.finish(&[]);
}

/// The same for ARP, which the router asks as a probe (a user-space stack may ignore those; kernels answer).
#[test]
fn frames_wait_for_an_arp_answer() {
    let mut world = World::new(ROUTED);
    let plan = world.declared(0, 0);
    let (_, asker) = world.open(0, plan);
    let plan = world.learning(1, 0);
    let (_, target) = world.open(1, plan);
    let gateway = switch::datapath::gateway_mac(packet::Vni::new(1).unwrap());
    let ips = (world.ips(0, 0)[0], world.ips(1, 0)[0]);
    for n in 0..6u8 {
        asker.send_frame(&note((pod_mac(0, 0), gateway), ips, &[n])).unwrap();
    }
    world.sleep(500);
    let asked = received(&target);
    assert_eq!(asked.len(), 1, "one question, and nothing before its answer");
    assert_eq!(build::parse(&asked[0]).net, Net::Arp);
    let (router, own) = (MacAddr::read(&asked[0], 6), pod_mac(1, 0));
    let none = std::net::Ipv4Addr::UNSPECIFIED;
    target.send_frame(&build::arp((own, router), 2, (own, v4(ips.1)), (router, none))).unwrap();
    world.sleep(5);
    assert_eq!(notes(&target), [[0], [1], [2], [3]], "in order, as many as may wait");
    asker.send_frame(&note((pod_mac(0, 0), gateway), ips, b"known")).unwrap();
    world.sleep(5);
    assert_eq!(notes(&target), [b"known"]);
    assert_eq!(world.nodes[1].engine.datapath().counters.released, 4);
    assert_eq!(world.drops(1, DropReason::NeighbourQueue), 2);
    world.finish(&[DropReason::NeighbourQueue]);
}

#[test]
fn nobody_there_is_told_after_three_tries() {
    let mut world = World::new(ROUTED);
    let plan = world.learning(1, 0);
    let (_, silent) = world.open(1, plan);
    let plan = world.declared(0, 0);
    let (_, asker) = world.open(0, plan);
    let gateway = switch::datapath::gateway_mac(packet::Vni::new(1).unwrap());
    for (family, n) in [(0, 99), (1, 99)] {
        let dst = world.ips(1, n)[family];
        let frame = note((pod_mac(0, 0), gateway), (world.ips(0, 0)[family], dst), b"anybody");
        asker.send_frame(&frame).unwrap();
        let started = world.now;
        let error = crate::frames::wait_for(&mut world, &asker, 10_000, |h, f| {
            let at = usize::from(h.l4);
            matches!(h.proto, 1 | 58).then(|| (f[at], f[at + 1]))
        });
        assert_eq!(error, Some(if family == 0 { (3, 1) } else { (1, 3) }), "host unreachable");
        assert_eq!(world.now - started, 3000);
        let asked = received(&silent)
            .iter()
            .filter(|f| match build::parse(f) {
                h if h.net == Net::Arp => family == 0 && std::net::IpAddr::V4(read_v4(f, 38)) == dst,
                h => family == 1 && h.proto == 58 && f[usize::from(h.l4)] == 135,
            })
            .count();
        assert_eq!(asked, 3);
    }
    assert_eq!(world.nodes[1].engine.datapath().counters.expired, 2);
    world.finish(&[DropReason::NeighbourFailed]);
}

/// A port that sends from a thousand addresses pushes out its own entries and nobody else's.
#[test]
fn a_greedy_port_pays_itself() {
    let mut world = World::new(BRIDGED);
    let plans = [0, 1].map(|pod| world.learning(0, pod));
    let [modest, greedy] = plans.map(|plan| world.open(0, plan));
    modest.1.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(5);
    for n in 0..1000u16 {
        let [a, b] = n.to_be_bytes();
        greedy.1.send_frame(&broadcast(MacAddr([2, 9, 9, 9, a, b]), v4(world.ips(0, 1)[0]))).unwrap();
        if n % 50 == 0 {
            world.sleep(1);
            drop(received(&modest.1));
        }
    }
    world.sleep(5);
    let fdb = world.nodes[0].engine.datapath().fdb();
    assert_eq!(fdb.count(Egress::Port(greedy.0)), 64);
    assert_eq!(fdb.lookup(NetId(0), pod_mac(0, 0)), Some(Egress::Port(modest.0)));
    assert_eq!(world.nodes[0].engine.datapath().counters.evictions, 1000 - 64);
    world.finish(&[]);
}

/// A declared MAC does not move, whoever claims it from the other node.
#[test]
fn a_declared_mac_never_moves() {
    let mut world = World::new(BRIDGED);
    let a = world.host(0, 0);
    let plan = world.learning(1, 0);
    let (_, thief) = world.open(1, plan);
    let b = world.host(1, 1);
    thief.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(10);
    assert_eq!(world.drops(0, DropReason::StaticMove), 1);
    assert!(world.ping(a, world.ips(1, 1)[0]), "{b}");
    world.finish(&[DropReason::StaticMove]);
}
