//! Every pod reaches every pod and its gateway, bridged and routed, over every kind of tunnel.

use crate::frames::received;
use crate::host::{Transfer, pattern};
use crate::world::{BRIDGED, POD_MTU, ROUTED, Shape, World, pod_mac};
use packet::build;
use std::net::IpAddr;
use tunnel::Encap;

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for routed in [false, true] {
        for encap in [Encap::Vxlan, Encap::Geneve] {
            for v6 in [false, true] {
                shapes.push(Shape { nodes: 2, routed, encap, v6 });
            }
        }
    }
    shapes
}

fn four_pods(shape: Shape) -> World {
    let mut world = World::new(shape);
    for node in 0..2 {
        for pod in 0..2 {
            world.host(node, pod);
        }
    }
    world
}

#[test]
fn all_pairs_ping() {
    for shape in shapes() {
        let mut world = four_pods(shape);
        for from in 0..4 {
            for to in 0..4 {
                for ip in world.hosts[to].ips {
                    assert!(from == to || world.ping(from, ip), "{shape:?}: {from} to {ip}");
                }
            }
            for ip in world.gateways(world.hosts[from].node) {
                assert!(world.ping(from, ip), "{shape:?}: {from} to its gateway {ip}");
            }
        }
        world.finish(&[]);
    }
}

#[test]
fn gateways_of_other_nodes_answer_when_routed() {
    let mut world = four_pods(ROUTED);
    for (from, node) in [(0, 1), (2, 0)] {
        for ip in world.gateways(node) {
            assert!(world.ping(from, ip), "{from} to {ip}");
        }
    }
    world.finish(&[]);
}

#[test]
fn three_nodes_ping_in_a_full_mesh() {
    for routed in [false, true] {
        let mut world = World::new(Shape { nodes: 3, routed, ..BRIDGED });
        (0..3).for_each(|node| {
            world.host(node, 0);
        });
        for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
            for ip in world.hosts[to].ips {
                assert!(world.ping(from, ip), "routed {routed}: {from} to {ip}");
            }
        }
        world.finish(&[]);
    }
}

#[test]
fn datagrams_of_every_size() {
    for shape in [BRIDGED, ROUTED] {
        let mut world = four_pods(shape);
        for family in [0, 1] {
            let headers = if family == 0 { 28 } else { 48 };
            let from = (0, world.hosts[0].udp(1000 + family as u16));
            for other in [1, 2] {
                let to = (other, world.hosts[other].udp(2000 + family as u16));
                let dst = world.hosts[other].ips[family];
                let largest = POD_MTU as usize - headers;
                let sizes = (1..80).chain((80..largest).step_by(53)).chain([largest - 1, largest]);
                for size in sizes {
                    let data = pattern(size as u64, 0, size);
                    assert!(world.datagram(from, to, dst, &data), "{shape:?}: {size} bytes to {dst}");
                }
            }
        }
        world.finish(&[]);
    }
}

#[test]
fn datagrams_larger_than_the_mtu_are_reassembled() {
    for shape in [BRIDGED, ROUTED] {
        let mut world = four_pods(shape);
        let from = (0, world.hosts[0].udp(1000));
        for other in [1, 2, 3] {
            let to = (other, world.hosts[other].udp(2000));
            let dst = world.hosts[other].ips[0];
            for size in [1423, 2000, 2852, 4096, 9000, 16_000] {
                let data = pattern(size as u64, 0, size);
                assert!(world.datagram(from, to, dst, &data), "{shape:?}: {size} bytes to {dst}");
            }
        }
        world.finish(&[]);
    }
}

/// IPv6 fragments, which only hosts make and only hosts join: every one crosses as it was sent.
#[test]
fn ipv6_fragments_cross_untouched() {
    for shape in [BRIDGED, ROUTED] {
        let mut world = World::new(shape);
        let plans = [(0, 0), (1, 0)].map(|(node, pod)| (node, world.declared(node, pod)));
        let [from, to] = plans.map(|(node, plan)| world.open(node, plan).1);
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (world.ips(0, 0)[1], world.ips(1, 0)[1]) else {
            unreachable!()
        };
        let gateway = switch::datapath::gateway_mac(packet::Vni::new(1).unwrap());
        let mac = if shape.routed { gateway } else { pod_mac(1, 0) };
        let data = pattern(6, 0, 4000);
        let mut sent = Vec::new();
        for (n, part) in data.chunks(1392).enumerate() {
            let last = (n + 1) * 1392 >= data.len();
            let field = (n * 1392) as u16 | u16::from(!last);
            let [hi, lo] = field.to_be_bytes();
            let body = [&[17, 0, hi, lo, 0, 0, 0, 9][..], part].concat();
            let frame = build::ethernet(
                mac,
                pod_mac(0, 0),
                packet::ether_type::IPV6,
                &build::ipv6(src, dst, 44, &body),
            );
            from.send_frame(&frame).unwrap();
            sent.push(frame);
        }
        world.sleep(5);
        let got = received(&to);
        assert_eq!(got.len(), sent.len(), "{shape:?}");
        for (got, sent) in got.iter().zip(&sent) {
            // But for the MACs and two hops, where it was routed.
            assert_eq!(got[22..], sent[22..]);
            assert_eq!(sent[21] - got[21], if shape.routed { 2 } else { 0 });
        }
        world.finish(&[]);
    }
}

#[test]
fn streams_cross_a_good_wire_without_a_retry() {
    for shape in [BRIDGED, ROUTED] {
        for v6 in [false, true] {
            let mut world = four_pods(shape);
            for (n, (from, to)) in [(0, 1), (0, 2), (3, 0)].into_iter().enumerate() {
                // Neighbours are known from here on.
                assert!(world.ping(from, world.hosts[to].ips[usize::from(v6)]));
                let before = world.now;
                Transfer::start(&mut world, from, to, v6, 80 + n as u16, 1 << 20).run(&mut world, 20_000);
                // The first retransmission would come after 700 ms or more.
                assert!(world.now - before < 600, "{shape:?}: {} ms from {from} to {to}", world.now - before);
            }
            world.finish(&[]);
        }
    }
}
