//! Ports that come and go under traffic, and the order in which tables and devices change.

use crate::frames::{broadcast, note, notes, received};
use crate::host::{Transfer, v4};
use crate::world::{BRIDGED, ROUTED, World, pod_mac};
use switch::datapath::{DropReason, Egress, PortId};
use switch::engine::{Command, Effect};
use tunnel::offload::Caps;

#[test]
fn a_port_exists_before_a_table_names_it() {
    let mut world = World::new(BRIDGED);
    let plan = world.learning(0, 0);
    let (_, watcher) = world.open(0, plan);
    let plan = world.declared(0, 1);
    let (id, end) = world.open_unpublished(0, plan, Caps::ALL);
    let frame = broadcast(pod_mac(0, 1), v4(world.ips(0, 1)[0]));
    end.send_frame(&frame).unwrap();
    world.sleep(5);
    assert!(notes(&watcher).is_empty());
    assert_eq!(world.drops(0, DropReason::NoPort), 1);
    let before = world.nodes[0].engine.generation();
    world.publish(0);
    assert_eq!(world.nodes[0].engine.generation(), before + 1);
    end.send_frame(&frame).unwrap();
    world.sleep(5);
    assert_eq!(notes(&watcher).len(), 1);
    assert_eq!(world.port_counters(0, id).received, 1);
    world.finish(&[DropReason::NoPort]);
}

#[test]
fn removing_a_port_mid_stream_leaves_the_others_alone() {
    for shape in [BRIDGED, ROUTED] {
        let mut world = World::new(shape);
        let [sender, victim, survivor] = [(0, 0), (1, 0), (1, 1)].map(|(node, pod)| world.host(node, pod));
        let mut doomed = Transfer::start(&mut world, sender, victim, false, 80, 8 << 20);
        let mut healthy = Transfer::start(&mut world, sender, survivor, true, 81, 4 << 20);
        let reached = world.until(60_000, |world| {
            healthy.step(world);
            doomed.step(world);
            doomed.received > 1 << 20
        });
        assert!(reached && healthy.received < 4 << 20);
        let id = world.hosts[victim].port;
        world.settle();
        let sent = world.port_counters(1, id).sent;
        let total = world.nodes[1].engine.datapath().counters.total().sent;
        world.close(1, id);
        assert!(sent > 0 && world.port_counters(1, id).sent == 0, "its counters belong to the node now");
        assert_eq!(world.nodes[1].engine.datapath().counters.total().sent, total);
        let written = world.hosts[victim].device.end().counters().to_pod;
        // Only the healthy one is served on from here; the other's segments keep coming.
        assert!(world.until(60_000, |world| healthy.step(world)), "{shape:?}: {}", healthy.received);
        world.until(5_000, |world| {
            doomed.step(world);
            false
        });
        assert_eq!(world.hosts[victim].device.end().counters().to_pod, written, "a frame to a closed port");
        assert!(world.ping(sender, world.ips(1, 1)[0]));
        // The router asks who has the address now, and nobody has.
        let asked = [DropReason::NeighbourFailed, DropReason::NeighbourQueue];
        world.finish(if shape.routed { &asked } else { &[] });
    }
}

/// The device goes first, the tables still name it: every copy is counted, none is lost silently.
#[test]
fn a_closed_device_that_tables_still_name() {
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (0, 1)].map(|(node, pod)| world.declared(node, pod));
    let [(_, a), (gone, b)] = plans.map(|plan| world.open(0, plan));
    let frame = note((pod_mac(0, 0), pod_mac(0, 1)), (world.ips(0, 0)[0], world.ips(0, 1)[0]), b"late");
    a.send_frame(&frame).unwrap();
    world.sleep(1);
    assert_eq!(notes(&b).len(), 1);
    assert!(matches!(world.apply(0, Command::RemovePort(gone)), Effect::Closed(id, _) if id == gone));
    for _ in 0..3 {
        a.send_frame(&frame).unwrap();
        a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    }
    world.sleep(1);
    assert_eq!(b.counters().to_pod, 1);
    assert_eq!(world.port_counters(0, gone).drops[DropReason::EgressGone as usize], 6);
    assert!(matches!(world.apply(0, Command::RemovePort(PortId(77))), Effect::None));
    world.finish(&[DropReason::EgressGone]);
}

/// A pod that deletes its interface: reported once as dead, others unaffected, revived by a new device.
#[test]
fn a_deleted_interface_is_reported_and_replaced() {
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (0, 1)].map(|(node, pod)| world.learning(node, pod));
    let [(_, a), (id, b)] = plans.map(|plan| world.open(0, plan));
    drop(b);
    world.settle();
    let (tx, rx) = std::sync::mpsc::channel();
    let ask = |world: &mut World| {
        let tx = tx.clone();
        world.apply(0, Command::Inspect(Box::new(move |see| tx.send(see.dead_ports.to_vec()).unwrap())));
        rx.recv().unwrap()
    };
    let mut dead = ask(&mut world);
    dead.dedup();
    assert_eq!(dead, [id]);
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(1);
    assert_eq!(world.drops(0, DropReason::EgressGone), 1);

    let (tap, end) = switch::io::MemoryTap::pair();
    world.apply(0, Command::AddPort { id, port: tap, caps: Caps::ALL });
    assert_eq!(ask(&mut world), []);
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(1);
    assert_eq!(notes(&end).len(), 1);
    world.finish(&[DropReason::EgressGone]);
}

/// A polled dead device must not grow the list of dead ports without bound.
#[test]
fn a_dead_port_is_listed_once() {
    let mut world = World::new(BRIDGED);
    let plan = world.learning(0, 0);
    let (id, end) = world.open(0, plan);
    drop(end);
    for _ in 0..100 {
        world.nodes[0].engine.fill_from_port(id, &mut 1);
    }
    let (tx, rx) = std::sync::mpsc::channel();
    world.apply(0, Command::Inspect(Box::new(move |see| tx.send(see.dead_ports.to_vec()).unwrap())));
    assert_eq!(rx.recv().unwrap(), [id]);
}

#[test]
fn an_interface_that_is_down_costs_only_its_own_frames() {
    let mut world = World::new(BRIDGED);
    let plans = [0, 1, 2].map(|pod| world.learning(0, pod));
    let [(_, a), (down, b), (_, c)] = plans.map(|plan| world.open(0, plan));
    b.set_up(false);
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(1);
    assert_eq!((notes(&b).len(), notes(&c).len()), (0, 1));
    assert_eq!(world.port_counters(0, down).drops[DropReason::TxDown as usize], 1);
    b.set_up(true);
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(1);
    assert_eq!((notes(&b).len(), notes(&c).len()), (1, 1));
    world.finish(&[DropReason::TxDown]);
}

/// A pod that reads nothing loses its own frames by name and delays nobody.
#[test]
fn a_slow_reader_loses_its_own_frames() {
    let mut world = World::new(BRIDGED);
    let plans = [0, 1, 2].map(|pod| world.learning(0, pod));
    let [(_, a), (slow, _b), (_, c)] = plans.map(|plan| world.open(0, plan));
    for n in 0..30 {
        // Echo requests to the group: not merged, one frame each.
        for _ in 0..50 {
            a.send_frame(&build_echo(&world)).unwrap();
        }
        world.sleep(1);
        assert_eq!(received(&c).len(), 50, "round {n}");
    }
    let lost = world.port_counters(0, slow).drops[DropReason::TxFull as usize];
    assert_eq!(lost, 30 * 50 - 1000);
    world.finish(&[DropReason::TxFull]);
}

fn build_echo(world: &World) -> Vec<u8> {
    let ips = (world.ips(0, 0)[0], std::net::Ipv4Addr::BROADCAST.into());
    packet::build::echo((pod_mac(0, 0), packet::MacAddr::BROADCAST), ips, 8, 1, 1, b"x")
}

/// A peer leaves: what was learned behind it goes with it, and its socket state is let go of.
#[test]
fn forgetting_a_peer_forgets_its_macs() {
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (1, 0)].map(|(node, pod)| (node, world.learning(node, pod)));
    let [a, b] = plans.map(|(node, plan)| world.open(node, plan).1);
    b.send_frame(&broadcast(pod_mac(1, 0), v4(world.ips(1, 0)[0]))).unwrap();
    world.sleep(5);
    let peer = Egress::Peer(switch::datapath::PeerId(0));
    assert_eq!(world.nodes[0].engine.datapath().fdb().count(peer), 1);
    world.nodes[0].plan.peers.clear();
    world.publish(0);
    world.apply(0, Command::Forget(peer));
    assert_eq!(world.nodes[0].engine.datapath().fdb().count(peer), 0);
    b.send_frame(&broadcast(pod_mac(1, 0), v4(world.ips(1, 0)[0]))).unwrap();
    a.send_frame(&broadcast(pod_mac(0, 0), v4(world.ips(0, 0)[0]))).unwrap();
    world.sleep(5);
    assert_eq!(world.drops(0, DropReason::UnknownPeer), 1);
    assert_eq!(notes(&a).len(), 1, "only what came before");
    assert!(notes(&b).is_empty());
    world.finish(&[DropReason::UnknownPeer]);
}
