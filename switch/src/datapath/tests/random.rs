//! Random and mutated frames through a whole node. What [`super::kit::World::send`] checks holds for every one of
//! them; on top of that: nothing leaves a declared port under a false name, and the same input gives the same output.

use super::kit::*;
use super::route::offload_tcp;
use crate::datapath::{Guard, Ingress, Network, PortId, Verdict};
use packet::{GsoType, Headers, MacAddr, Net, VnetHdr, build};
use proptest::prelude::*;
use std::net::IpAddr;

fn any_mac() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        6 => prop::sample::select(vec![WEB_MAC, DB_MAC, VM_MAC, VM2_MAC, FAR_MAC, NODE_MAC, mac(0x77)]),
        4 => prop::sample::select(vec![gw(), red_gw(), own_router(), router_of(B), router_of(C)]),
        2 => Just(MacAddr::BROADCAST),
        1 => prop::sample::select(vec![MacAddr::ZERO, MacAddr([1, 0x80, 0xc2, 0, 0, 0]), MacAddr([0x33, 0x33, 0, 0, 0, 1])]),
    ]
}

const V4: &[&str] = &[
    "10.1.1.1",
    "10.1.1.2",
    "10.1.1.3",
    "10.1.1.20",
    "10.1.1.21",
    "10.1.1.30",
    "10.1.1.77",
    "10.1.1.200",
    "10.1.1.255",
    "10.1.2.9",
    "10.9.1.1",
    "10.66.0.1",
    "10.67.0.1",
    "192.168.77.1",
    "192.168.77.2",
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "198.51.100.1",
];
const V6: &[&str] = &[
    "fd00:1::1",
    "fd00:1::2",
    "fd00:1::3",
    "fd00:1::20",
    "fd00:1::30",
    "fd00:1::77",
    "fd00:1::c:1",
    "fd00:2::9",
    "fd00:9::1",
    "fd00:66::1",
    "fd00:67::1",
    "fe80::ff:fe00:2",
    "fe80::9",
    "::",
    "::1",
    "ff02::1",
    "2001:db8::1",
];

fn any_pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let pick = |all: &'static [&'static str]| prop::sample::select(all.to_vec()).prop_map(ip);
    prop_oneof![(pick(V4), pick(V4)), (pick(V6), pick(V6))]
}

fn any_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![1, 67, 68, 546, 547, 4789, 6081, 8080])
}

/// A well-formed frame of a kind that some stage cares about, with its offload description.
pub fn any_frame() -> impl Strategy<Value = (Vec<u8>, VnetHdr)> {
    let macs = || (any_mac(), any_mac());
    let v4s = || prop::sample::select(V4.to_vec()).prop_map(v4);
    let v6s = || prop::sample::select(V6.to_vec()).prop_map(v6);
    let size = prop_oneof![4 => 0usize..100, 1 => 1300usize..1600];
    let plain = |frame| (frame, VnetHdr::default());
    prop_oneof![
        4 => (macs(), any_pair(), (any_port(), any_port()), size)
            .prop_map(move |(m, i, p, n)| plain(build::udp(m, i, p, &vec![1; n]))),
        2 => (macs(), any_pair(), 0usize..40_000, prop::sample::select(vec![0u16, 536, 1300, 1460]))
            .prop_map(|(m, i, n, s)| {
                let n = if s == 0 { n % 3000 } else { n };
                offload_tcp(m, &i.0.to_string(), &i.1.to_string(), n, s)
            }),
        2 => (macs(), any_pair(), prop::sample::select(vec![0u8, 3, 8, 11, 128, 129, 133, 134, 137, 143]))
            .prop_map(move |(m, i, k)| plain(build::echo(m, i, k, 1, 1, b"echo"))),
        3 => (macs(), 1u16..3, (any_mac(), v4s()), (any_mac(), v4s()))
            .prop_map(move |(m, op, s, t)| plain(build::arp(m, op, s, t))),
        3 => (macs(), (v6s(), v6s()), 133u8..138, v6s(), proptest::option::of(any_mac()))
            .prop_map(move |(m, i, k, t, l)| plain(build::ndp(m, i, k, t, l))),
        1 => (macs(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..80))
            .prop_map(move |(m, e, b)| plain(build::ethernet(m.1, m.0, e, &b))),
    ]
}

#[derive(Debug, Clone)]
pub enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Grow(usize),
}

pub fn any_damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        6 => (0usize..110, any::<u8>()).prop_map(|(at, by)| Damage::Flip(at, by)),
        1 => (0usize..120).prop_map(Damage::Cut),
        1 => (1usize..30).prop_map(Damage::Grow),
    ];
    prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(one, 1..4)]
}

pub fn damaged(mut frame: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for d in damage {
        match *d {
            Damage::Flip(at, by) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= by;
                }
            }
            Damage::Cut(at) => frame.truncate(at),
            Damage::Grow(by) => frame.resize(frame.len() + by, 0xcc),
        }
    }
    frame
}

pub fn any_ingress() -> impl Strategy<Value = (Ingress, u32)> {
    prop_oneof![
        6 => (0u32..8).prop_map(|n| (Ingress::Port(PortId(n)), 0)),
        3 => (0u32..3, any::<u8>(), 1u32..4).prop_map(|(n, tos, vni)| (underlay(crate::datapath::PeerId(n), tos), vni)),
    ]
}

#[derive(Debug, Clone)]
struct Shot {
    ingress: (Ingress, u32),
    frame: (Vec<u8>, VnetHdr),
    damage: Vec<Damage>,
    wait: u64,
}

fn any_shots(n: usize) -> impl Strategy<Value = Vec<Shot>> {
    let wait = prop_oneof![6 => Just(0u64), 2 => 0u64..1500, 1 => 0u64..400_000];
    let shot = (any_ingress(), any_frame(), any_damage(), wait)
        .prop_map(|(ingress, frame, damage, wait)| Shot { ingress, frame, damage, wait });
    proptest::collection::vec(shot, 1..n)
}

/// Fires, and says what left.
fn fire(w: &mut World, shot: &Shot) -> (Verdict, Vec<Output>) {
    let ticked = w.tick(shot.wait);
    let frame = damaged(shot.frame.0.clone(), &shot.damage);
    let outcome = match shot.ingress.0 {
        Ingress::Underlay { .. } => {
            // Damage reaches the tunnel header as well.
            let datagram = damaged(vxlan(shot.ingress.1, &shot.frame.0), &shot.damage);
            w.send(shot.ingress.0, &datagram)
        }
        ingress => w.send_vnet(ingress, &frame, shot.frame.1),
    };
    if let Ingress::Port(id) = shot.ingress.0
        && let Some(conf) = w.tables.port(id)
        && !matches!(outcome.verdict, Verdict::Drop(_))
    {
        match conf.guard {
            Guard::Declared => true_name(conf, &frame),
            Guard::Node => not_a_pods(w.tables.network(conf.network).unwrap(), &frame),
            Guard::Learning => {}
        }
    }
    (outcome.verdict, [ticked, outcome.outputs].concat())
}

/// What got past the guard of the node's port names no pod of this node.
fn not_a_pods(network: &Network, frame: &[u8]) {
    let headers = Headers::parse(frame).unwrap();
    assert_eq!(Headers::src_mac(frame), NODE_MAC);
    let src = match headers.net {
        Net::Arp => IpAddr::V4(packet::read_v4(frame, 28)),
        Net::V4 | Net::V6 => headers.src_ip(frame).unwrap(),
        Net::Other => panic!("unreadable"),
    };
    let owner = network.neighbours.get(&src);
    assert!(owner.is_none_or(|adjacency| adjacency.mac == NODE_MAC), "{src}");
}

/// What got past the guard of a declared port names that port, in every place.
fn true_name(conf: &crate::datapath::Port, frame: &[u8]) {
    let headers = Headers::parse(frame).unwrap();
    assert_eq!(Headers::src_mac(frame), conf.mac);
    match headers.net {
        Net::V4 => assert!(conf.v4.contains(&packet::read_v4(frame, 26))),
        Net::Arp => {
            assert_eq!(MacAddr::read(frame, 22), conf.mac);
            let sender = packet::read_v4(frame, 28);
            assert!(sender.is_unspecified() || conf.v4.contains(&sender));
        }
        Net::V6 => {
            let src = packet::read_v6(frame, 22);
            assert!(
                conf.v6.contains(&src) || (src.is_unspecified() && headers.proto == packet::ip_proto::ICMPV6)
            );
            if headers.proto == packet::ip_proto::ICMPV6 && headers.l4 != 0 {
                assert!(
                    !matches!(frame.get(usize::from(headers.l4)), Some(134 | 137))
                        || headers.l4 as u32 == headers.end
                );
            }
        }
        Net::Other => panic!("unreadable"),
    }
}

/// The node of the kit, with or without a port of its own.
fn some_node(attached: bool) -> World {
    if attached { World::attached_with(32) } else { World::node_with(32) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_every_rule_holds(shots in any_shots(40), attached: bool) {
        let mut w = some_node(attached);
        for shot in &shots {
            fire(&mut w, shot);
        }
    }

    #[test]
    fn same_input_same_output(shots in any_shots(25), attached: bool) {
        let mut runs = (0..2).map(|_| {
            let mut w = some_node(attached);
            let all: Vec<_> = shots.iter().map(|shot| fire(&mut w, shot)).collect();
            let mut fdb: Vec<_> = w.dp.fdb().iter().map(|e| (e.network, e.mac, e.egress)).collect();
            fdb.sort_unstable();
            (all, fdb)
        });
        prop_assert_eq!(runs.next(), runs.next());
    }

    #[test]
    fn bytes_that_mean_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300), ingress in any_ingress(), vnet in any_vnet()) {
        let mut w = World::node_with(32);
        w.send_vnet(ingress.0, &bytes, vnet);
    }

    /// Any offload description on any frame: refused, or honest enough for whoever sends it.
    #[test]
    fn any_offload_description(frame in any_frame(), ingress in 0u32..4, vnet in any_vnet()) {
        let mut w = World::node_with(32);
        let mut bytes = frame.0;
        let source = w.tables.port(PortId(ingress)).unwrap().mac;
        if bytes.len() >= 12 {
            bytes[6..12].copy_from_slice(&source.0);
        }
        let outcome = w.send_vnet(Ingress::Port(PortId(ingress)), &bytes, vnet);
        for output in outcome.outputs.iter().filter(|o| o.vnet.is_gso()) {
            let headers = Headers::parse(&output.bytes).unwrap();
            prop_assert!(output.vnet.needs_csum && output.vnet.gso_size > 0 && output.vnet.csum_start == headers.l4);
        }
    }
}

fn any_vnet() -> impl Strategy<Value = VnetHdr> {
    let gso = prop::sample::select(vec![GsoType::None, GsoType::Tcp4, GsoType::Tcp6, GsoType::UdpL4]);
    let start = prop_oneof![Just(34u16), Just(54), any::<u16>()];
    let offset = prop_oneof![Just(16u16), Just(6), any::<u16>()];
    let size = prop_oneof![0u16..3, any::<u16>()];
    (any::<bool>(), any::<bool>(), gso, any::<u16>(), size, start, offset).prop_map(
        |(needs_csum, ecn, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHdr {
            needs_csum,
            data_valid: false,
            ecn,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}
