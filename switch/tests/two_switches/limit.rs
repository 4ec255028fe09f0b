//! Bandwidth limits of ports, over whole switches.

use crate::frames::{body, of_proto, offload, received};
use crate::host::Transfer;
use crate::world::{BRIDGED, ROUTED, World, pod_mac};
use packet::{MacAddr, build, ip_proto};
use std::sync::mpsc::channel;
use switch::datapath::{DropReason, Egress, PortId};
use switch::engine::shaper::{FEW, MAX_WAIT_MS};
use switch::engine::{Command, Effect, Limits, PortLimits, Rate};
use switch::io::{MemoryTap, PodEnd};
use tunnel::offload::Caps;

/// Payload of one datagram; with its headers it is an IP packet of 1428 bytes.
const PAYLOAD: usize = 1400;
const PACKET: u64 = PAYLOAD as u64 + 28;

fn mbit(n: u64, burst_bytes: u64) -> Option<Rate> {
    Some(Rate { bytes_per_second: n * 125_000, burst_bytes })
}

fn ingress(rate: Option<Rate>) -> Limits {
    Limits { ingress: rate, egress: None }
}

fn egress(rate: Option<Rate>) -> Limits {
    Limits { ingress: None, egress: rate }
}

fn limit(world: &mut World, node: usize, id: PortId, limits: Limits) {
    assert!(matches!(world.apply(node, Command::Limit(id, limits)), Effect::None));
}

fn shown(world: &mut World, node: usize, id: PortId) -> Option<PortLimits> {
    let (tx, rx) = channel();
    world.apply(node, Command::Inspect(Box::new(move |i| tx.send(i.shapers.of(id, i.now_ms)).unwrap())));
    rx.recv().unwrap()
}

/// A port without a stack behind it.
struct Pod {
    node: usize,
    pod: usize,
    id: PortId,
    end: PodEnd,
}

impl Pod {
    fn open(world: &mut World, node: usize, pod: usize) -> Self {
        let plan = world.declared(node, pod);
        let (id, end) = world.open(node, plan);
        Self { node, pod, id, end }
    }

    /// A frame of `packets` datagrams that are numbered from `first`.
    fn datagrams(&self, world: &World, to: &Self, first: u32, packets: u32) -> Vec<u8> {
        let data: Vec<u8> = (first..first + packets)
            .flat_map(|n| n.to_be_bytes().into_iter().chain([7; PAYLOAD - 4]))
            .collect();
        let macs = (pod_mac(self.node, self.pod), pod_mac(to.node, to.pod));
        let ips = (world.ips(self.node, self.pod)[0], world.ips(to.node, to.pod)[0]);
        let frame = build::udp(macs, ips, (1, 2), &data);
        offload(frame, if packets > 1 { PAYLOAD as u16 } else { 0 })
    }

    /// The numbers of the datagrams that have arrived, checksums verified.
    fn numbers(&self) -> Vec<u32> {
        let udp = of_proto(&received(&self.end), ip_proto::UDP);
        let number = |b: &[u8]| u32::from_be_bytes(b[..4].try_into().unwrap());
        udp.iter().map(|(h, f)| number(body(h, f))).collect()
    }
}

/// Sends three times the rate for ten seconds and looks at what arrives, and when.
fn flood(from: (usize, usize), to: (usize, usize), towards: bool, packets: u32, mbits: u64) {
    let mut world = World::new(BRIDGED);
    let sender = Pod::open(&mut world, from.0, from.1);
    let receiver = Pod::open(&mut world, to.0, to.1);
    let rate = mbit(mbits, 20_000).unwrap();
    let (limited, limits, reason) = if towards {
        (&receiver, ingress(Some(rate)), DropReason::TxLimit)
    } else {
        (&sender, egress(Some(rate)), DropReason::RxLimit)
    };
    limit(&mut world, limited.node, limited.id, limits);

    let bound = (rate.bytes_per_second * MAX_WAIT_MS / 1000).max(FEW * PACKET) + PACKET;
    let (mut sent, mut got, mut last) = (0, 0u64, None);
    let (mut offered, mut most) = (0, 0);
    const MS: u64 = 10_000;
    for ms in 0..MS {
        while offered * PACKET * 1000 < rate.bytes_per_second * 3 * ms {
            sender.end.send(&sender.datagrams(&world, &receiver, sent, packets)).unwrap();
            sent += packets;
            offered += u64::from(packets);
        }
        world.sleep(1);
        for n in receiver.numbers() {
            assert!(last.replace(n).is_none_or(|last| last < n), "datagram {n} out of order");
            got += 1;
        }
        let now = shown(&mut world, limited.node, limited.id).unwrap();
        let stats = now.ingress.or(now.egress).unwrap();
        assert!(stats.queued_bytes <= bound, "{stats:?}");
        most = most.max(stats.queued_bytes);
        assert!(world.nodes.iter().all(|n| n.engine.datapath().counters.balanced()));
    }
    let expected = rate.bytes_per_second * MS / 1000 + rate.burst_bytes;
    let (low, high) = (expected * 99 / 100, expected * 101 / 100);
    assert!((low..=high).contains(&(got * PACKET)), "{} of {expected} bytes", got * PACKET);

    world.sleep(1000);
    got += receiver.numbers().len() as u64;
    let stats = shown(&mut world, limited.node, limited.id).unwrap();
    let stats = stats.ingress.or(stats.egress).unwrap();
    assert_eq!(stats.queued_frames, 0);
    assert_eq!(got + stats.dropped_packets, offered, "every packet arrived or was dropped");
    assert!(stats.pauses > 0 && stats.delayed_frames > 0 && stats.paused_ms > MS * 9 / 10, "{stats:?}");
    assert!(most > bound / 2, "{most} of {bound}");
    assert!(world.drops(limited.node, reason) > 0);
    world.finish(&[reason]);
}

#[test]
fn datagrams_flow_at_the_rate() {
    for towards in [true, false] {
        for (packets, mbits) in [(1, 20), (40, 20), (3, 1), (40, 200)] {
            flood((0, 0), (0, 1), towards, packets, mbits);
        }
        flood((0, 0), (1, 0), towards, 20, 50);
    }
}

#[test]
fn who_stays_below_the_limit_does_not_notice_it() {
    let mut world = World::new(BRIDGED);
    let (a, b) = (Pod::open(&mut world, 0, 0), Pod::open(&mut world, 0, 1));
    limit(&mut world, 0, a.id, egress(mbit(20, 1500)));
    limit(&mut world, 0, b.id, ingress(mbit(20, 1500)));
    for n in 0..1000 {
        a.end.send(&a.datagrams(&world, &b, n, 1)).unwrap();
        world.settle();
        assert_eq!(b.numbers(), [n], "at once");
        world.sleep(1);
    }
    let (of_a, of_b) = (shown(&mut world, 0, a.id).unwrap(), shown(&mut world, 0, b.id).unwrap());
    assert_eq!((of_a.egress.unwrap().pauses, of_b.ingress.unwrap().pauses), (0, 0));
    assert_eq!((of_a.limits, of_b.limits), (egress(mbit(20, 1500)), ingress(mbit(20, 1500))));
    assert_eq!((of_a.ingress, of_b.egress), (None, None));
    world.finish(&[]);
}

#[test]
fn other_ports_are_not_held_up() {
    let mut world = World::new(BRIDGED);
    let pods: Vec<Pod> = (0..3).map(|n| Pod::open(&mut world, 0, n)).collect();
    let [a, b, c] = &pods[..] else { unreachable!() };
    limit(&mut world, 0, b.id, Limits { ingress: mbit(1, 1), egress: mbit(1, 1) });
    const EVERYBODY: u32 = u32::MAX;
    let ips = world.ips(0, 0);
    let everybody = build::udp(
        (pod_mac(0, 0), MacAddr::BROADCAST),
        (ips[0], "255.255.255.255".parse().unwrap()),
        (1, 2),
        &[0xff; PAYLOAD],
    );
    for n in 0..100u32 {
        a.end.send(&a.datagrams(&world, b, n, 1)).unwrap();
        a.end.send(&a.datagrams(&world, c, n, 1)).unwrap();
        b.end.send(&b.datagrams(&world, a, n, 1)).unwrap();
        c.end.send(&c.datagrams(&world, a, n, 1)).unwrap();
        a.end.send_frame(&everybody).unwrap();
    }
    world.settle();
    // Between unlimited ports nothing waits, broadcasts included. Flows may overtake each other.
    let (direct, all): (Vec<u32>, Vec<u32>) = c.numbers().iter().partition(|&&n| n < EVERYBODY);
    assert_eq!((direct, all.len()), ((0..100).collect(), 100));
    assert!((100..110).contains(&a.numbers().len()));
    assert!(b.numbers().len() < 10);
    world.sleep(2000);
    world.finish(&[DropReason::RxLimit, DropReason::TxLimit]);
}

/// `frames` datagrams each way, most of which wait: towards `b`, and from it.
fn stuck(world: &mut World, frames: u32) -> (Pod, Pod) {
    let (a, b) = (Pod::open(world, 0, 0), Pod::open(world, 0, 1));
    limit(world, 0, b.id, Limits { ingress: mbit(20, 1), egress: mbit(20, 1) });
    for n in 0..frames {
        a.end.send(&a.datagrams(world, &b, n, 1)).unwrap();
        b.end.send(&b.datagrams(world, &a, n, 1)).unwrap();
    }
    world.settle();
    let all = shown(world, 0, b.id).unwrap();
    let waiting = u64::from(frames) - 1;
    assert_eq!((all.ingress.unwrap().queued_frames, all.egress.unwrap().queued_frames), (waiting, waiting));
    (a, b)
}

#[test]
fn frames_of_a_removed_port_are_accounted_for() {
    let mut world = World::new(BRIDGED);
    let (a, b) = stuck(&mut world, 30);
    let before = world.nodes[0].engine.datapath().counters.total();
    assert!(world.nodes[0].engine.datapath().counters.balanced());
    world.close(0, b.id);
    let total = world.nodes[0].engine.datapath().counters.total();
    assert_eq!(total.received - before.received, 29);
    assert_eq!(total.drops[DropReason::NoPort as usize], 29);
    assert_eq!(total.drops[DropReason::EgressGone as usize], 29);
    assert_eq!(shown(&mut world, 0, b.id), None);
    // Nothing of it is left on whoever gets the number next.
    let after = world.port_counters(0, b.id);
    assert_eq!((after.received, after.sent, after.send_drops), (0, 0, 0));
    world.sleep(1000);
    assert_eq!(a.numbers().len(), 1);
    world.finish(&[DropReason::NoPort, DropReason::EgressGone]);
}

#[test]
fn a_port_may_also_go_without_a_word() {
    let mut world = World::new(BRIDGED);
    let (_a, b) = stuck(&mut world, 10);
    assert!(matches!(world.apply(0, Command::RemovePort(b.id)), Effect::Closed(..)));
    let total = world.nodes[0].engine.datapath().counters.total();
    assert_eq!(total.drops[DropReason::NoPort as usize], 9);
    assert_eq!(total.drops[DropReason::EgressGone as usize], 9);
    // A new device under the number begins without limits, a number without a device has none.
    limit(&mut world, 0, b.id, ingress(mbit(1, 1)));
    assert_eq!(shown(&mut world, 0, b.id), None);
    let (tap, _end) = MemoryTap::pair();
    world.apply(0, Command::AddPort { id: b.id, port: tap, caps: Caps::ALL });
    assert_eq!(shown(&mut world, 0, b.id), None);
    limit(&mut world, 0, PortId(4000), ingress(mbit(1, 1)));
    world.sleep(1000);
    world.finish(&[DropReason::NoPort, DropReason::EgressGone]);
}

#[test]
fn a_dead_device_loses_what_waits_for_it() {
    let mut world = World::new(BRIDGED);
    let (_a, Pod { id, end, .. }) = stuck(&mut world, 10);
    drop(end);
    world.sleep(1000);
    assert_eq!(shown(&mut world, 0, id).unwrap().ingress.unwrap().queued_frames, 0);
    assert_eq!(world.port_counters(0, id).send_drops, 9);
    world.finish(&[DropReason::EgressGone]);
}

#[test]
fn limits_can_be_changed_and_lifted() {
    let mut world = World::new(BRIDGED);
    let (a, b) = stuck(&mut world, 40);
    assert_eq!((a.numbers(), b.numbers()), (vec![0], vec![0]));
    // The same again changes nothing.
    limit(&mut world, 0, b.id, Limits { ingress: mbit(20, 1), egress: mbit(20, 1) });
    assert_eq!(shown(&mut world, 0, b.id).unwrap().ingress.unwrap().queued_frames, 39);
    // Ten times as fast from now on: a packet takes 57 microseconds.
    limit(&mut world, 0, b.id, Limits { ingress: mbit(200, 1), egress: mbit(20, 1) });
    world.sleep(3);
    assert_eq!(b.numbers().len(), 39);
    assert!(a.numbers().len() <= 6);
    // No limit: all at once, still in order.
    limit(&mut world, 0, b.id, Limits::default());
    world.settle();
    let rest = a.numbers();
    assert!(rest.len() >= 33 && rest.is_sorted(), "{rest:?}");
    assert_eq!(rest.last(), Some(&39));
    assert_eq!(shown(&mut world, 0, b.id), None);
    for n in 100..200 {
        a.end.send(&a.datagrams(&world, &b, n, 1)).unwrap();
    }
    world.settle();
    assert_eq!(b.numbers().iter().filter(|&&n| n >= 100).count(), 100);
    world.finish(&[]);
}

#[test]
fn a_smaller_limit_leaves_what_no_longer_fits() {
    let mut world = World::new(BRIDGED);
    let (a, b) = stuck(&mut world, 40);
    // The queue of 1 Mbit/s has memory for fewer frames; the last ones go, and are accounted for.
    limit(&mut world, 0, b.id, Limits { ingress: mbit(1, 1), egress: mbit(1, 1) });
    assert!(world.nodes[0].engine.datapath().counters.balanced());
    world.sleep(10_000);
    for pod in [&a, &b] {
        let numbers = pod.numbers();
        assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<_>>());
    }
    let counters = &world.nodes[0].engine.datapath().counters;
    let left = counters.get(Egress::Port(b.id)).unwrap();
    let arrived = left.sent + left.drops[DropReason::TxLimit as usize];
    assert_eq!((arrived, left.received), (40, 40));
    world.finish(&[DropReason::TxLimit, DropReason::RxLimit]);
}

/// The streams' window fits into the queue, so nothing is lost and nothing is late.
#[test]
fn streams_cross_limits_at_the_rate() {
    const BYTES: u64 = 4_000_000;
    for (node, towards) in [(0, true), (0, false), (1, true), (1, false)] {
        for v6 in [false, true] {
            let mut world = World::new(ROUTED);
            let from = world.host(0, 0);
            let to = world.host(node, 1);
            let (host, limits) =
                if towards { (to, ingress(mbit(80, 3000))) } else { (from, egress(mbit(80, 3000))) };
            let (node, id) = (world.hosts[host].node, world.hosts[host].port);
            limit(&mut world, node, id, limits);
            let start = world.now;
            Transfer::start(&mut world, from, to, v6, 80, BYTES).run(&mut world, 60_000);
            // Headers are counted, too; resolving addresses and shaking hands takes a few rounds.
            let (took, least) = (world.now - start, BYTES / 10_000);
            assert!((least..least * 11 / 10).contains(&took), "{took} ms");
            world.sleep(1000);
            world.finish(&[]);
        }
    }
}
