//! Streams over an underlay that loses, duplicates, delays, reorders and corrupts.

use crate::host::Transfer;
use crate::impair::Faults;
use crate::world::{BRIDGED, ROUTED, Shape, World};
use switch::datapath::DropReason;
use tunnel::Encap;

fn pair(shape: Shape) -> World {
    let mut world = World::new(shape);
    (0..2).for_each(|node| {
        world.host(node, 0);
    });
    world
}

#[test]
fn megabytes_arrive_whole_through_loss_reordering_and_duplication() {
    for (n, shape) in
        [BRIDGED, ROUTED, Shape { encap: Encap::Geneve, v6: true, ..ROUTED }].into_iter().enumerate()
    {
        for v6 in [false, true] {
            let mut world = pair(shape);
            world.impair(Faults::MODERATE, 1 + n as u64);
            Transfer::start(&mut world, 0, 1, v6, 80, 4 << 20).run(&mut world, 3_600_000);
            world.finish(&[]);
        }
    }
}

#[test]
fn streams_in_both_directions_at_once() {
    let mut world = pair(ROUTED);
    world.impair(Faults { drop: 10, duplicate: 30, delay: 200, delay_ms: 20, corrupt: 0 }, 77);
    let mut streams: Vec<_> = [(0, 1, false), (1, 0, false), (0, 1, true), (1, 0, true)]
        .into_iter()
        .zip(100..)
        .map(|((from, to, v6), port)| Transfer::start(&mut world, from, to, v6, port, 1 << 20))
        .collect();
    let done = world.until(3_600_000, |world| {
        streams.iter_mut().filter_map(|s| (!s.step(world)).then_some(())).count() == 0
    });
    assert!(done, "{:?}", streams.iter().map(|s| s.received).collect::<Vec<_>>());
    world.finish(&[]);
}

/// With a bit flipped anywhere, tunnel header included, nothing wrong may reach an application: the end-to-end
/// checksum must have survived the switch.
#[test]
fn corruption_is_never_hidden() {
    use DropReason as D;
    for (seed, v6) in [(5, false), (6, true), (7, false)] {
        let mut world = pair(ROUTED);
        world.impair(Faults { corrupt: 30, ..Faults::MODERATE }, seed);
        Transfer::start(&mut world, 0, 1, v6, 80, 1 << 20).run(&mut world, 3_600_000);
        world.finish(&[
            D::Malformed,
            D::TunnelBadFlags,
            D::TunnelTruncated,
            D::UnknownVni,
            D::PeerSource,
            D::BadSource,
            D::ControlFrame,
            D::SpoofedMac,
            D::StaticMove,
            D::BadIpChecksum,
            D::Martian,
            D::TtlExceeded,
            D::NoRoute,
            D::NotIp,
            D::ToGateway,
            D::SplitHorizon,
            D::Reflection,
            D::NeighbourQueue,
            D::SpoofedNd,
            D::SpoofedArp,
            D::EcnCongestion,
            D::TooBig,
        ]);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = pair(BRIDGED);
        world.impair(Faults::MODERATE, seed);
        Transfer::start(&mut world, 0, 1, false, 80, 1 << 20).run(&mut world, 3_600_000);
        let total = world.nodes[1].engine.datapath().counters.total();
        (world.now, total.received, total.sent, world.wire.counts())
    };
    assert_eq!(run(9), run(9));
    assert_ne!(run(9), run(10));
}

/// A full underlay socket loses frames by name, and the stream recovers.
#[test]
fn a_full_underlay_is_counted() {
    let mut world = pair(BRIDGED);
    let mut stream = Transfer::start(&mut world, 0, 1, false, 80, 1 << 20);
    assert!(world.until(10_000, |world| {
        stream.step(world);
        stream.received > 200_000
    }));
    world.wire.set_full(true);
    world.until(300, |world| stream.step(world));
    world.wire.set_full(false);
    stream.run(&mut world, 600_000);
    assert!(world.drops(0, DropReason::TxFull) > 0);
    world.finish(&[DropReason::TxFull]);
}
