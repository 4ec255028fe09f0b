//! What does not get through, and who is told: sizes, hops, strangers.

use crate::frames::{body, note, notes, of_proto, offload, received, wait_for};
use crate::host::pattern;
use crate::world::{BRIDGED, ROUTED, World, pod_mac, underlay};
use packet::{Headers, MacAddr, Vni, build, checksum, ip_proto};
use std::net::{IpAddr, SocketAddr};
use switch::datapath::{DropReason, gateway_mac};
use switch::io::PodEnd;
use tunnel::Encap;
use tunnel::underlay::memory::Packet;

fn gateway() -> MacAddr {
    gateway_mac(Vni::new(1).unwrap())
}

/// Two raw pods, one on each node, with declared addresses.
fn raw_pair(shape: crate::world::Shape) -> (World, PodEnd, PodEnd) {
    let mut world = World::new(shape);
    let plans = [0, 1].map(|node| world.declared(node, 0));
    let [plan_a, plan_b] = plans;
    let (_, a) = world.open(0, plan_a);
    let (_, b) = world.open(1, plan_b);
    (world, a, b)
}

/// Type, code, the word behind the checksum, and what is quoted.
fn icmp_error(h: &Headers, f: &[u8]) -> Option<(u8, u8, u32, Vec<u8>)> {
    let at = usize::from(h.l4);
    let error = match h.proto {
        ip_proto::ICMP => {
            assert_eq!(checksum::sum(&f[at..h.end as usize]), 0xffff, "ICMP checksum");
            f[at] != 0 && f[at] != 8
        }
        ip_proto::ICMPV6 => f[at] < 128,
        _ => false,
    };
    error.then(|| {
        let word = u32::from_be_bytes([f[at + 4], f[at + 5], f[at + 6], f[at + 7]]);
        (f[at], f[at + 1], word, f[at + 8..h.end as usize].to_vec())
    })
}

#[test]
fn packets_larger_than_the_path_are_refused_by_name() {
    for shape in [BRIDGED, ROUTED] {
        let (mut world, a, b) = raw_pair(shape);
        world.nodes[0].plan.peers[0].mtu = 1300;
        world.publish(0);
        let to = if shape.routed { gateway() } else { pod_mac(1, 0) };
        for family in [0, 1] {
            let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
            let headers = if family == 0 { 28 } else { 48 };
            if !shape.routed {
                // Known, so that it is not flooded: a copy for everybody has no one size that fits.
                b.send_frame(&note((pod_mac(1, 0), pod_mac(0, 0)), (ips.1, ips.0), b"here I am")).unwrap();
                world.sleep(10);
                assert_eq!(notes(&a).len(), 1);
            }
            let fits = note((pod_mac(0, 0), to), ips, &pattern(1, 0, 1300 - headers));
            a.send_frame(&fits).unwrap();
            world.sleep(10);
            assert_eq!(notes(&b).len(), 1, "{shape:?}");
            let large = note((pod_mac(0, 0), to), ips, &pattern(1, 0, 1301 - headers));
            a.send_frame(&large).unwrap();
            let got = wait_for(&mut world, &a, 100, icmp_error).expect("an ICMP error");
            let want = if family == 0 { (3, 4, 1300) } else { (2, 0, 1300) };
            assert_eq!((got.0, got.1, got.2), want, "{shape:?}");
            assert_eq!(got.3[..40], large[14..54], "the packet as it was sent");
            assert!(notes(&b).is_empty());
        }
        world.finish(&[DropReason::TooBig]);
    }
}

#[test]
fn offload_streams_are_cut_smaller_instead() {
    let (mut world, a, b) = raw_pair(ROUTED);
    world.nodes[0].plan.peers[0].mtu = 1300;
    world.publish(0);
    for family in [0, 1] {
        let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
        let data = pattern(3, 0, 40_000);
        let frame = build::tcp((pod_mac(0, 0), gateway()), ips, (1, 2), (1000, 1, 0x18), &data);
        a.send(&offload(frame, 1410)).unwrap();
        world.sleep(5);
        let packets = of_proto(&received(&b), ip_proto::TCP);
        assert!(packets.iter().all(|(h, _)| h.end - 14 <= 1300), "every packet fits the path");
        let joined: Vec<u8> = packets.iter().flat_map(|(h, f)| body(h, f).to_vec()).collect();
        assert!(joined == data);
        // Datagrams have a size that means something: they are refused, and the size is told.
        let frame = note((pod_mac(0, 0), gateway()), ips, &data);
        a.send(&offload(frame, 1400)).unwrap();
        let got = wait_for(&mut world, &a, 100, icmp_error).expect("an ICMP error");
        assert_eq!(got.2, 1300);
    }
    world.finish(&[DropReason::TooBig]);
}

#[test]
fn the_underlay_may_be_smaller_than_configured() {
    let (mut world, a, b) = raw_pair(BRIDGED);
    world.wire.set_mtu(Some(1000));
    let ips = (world.ips(0, 0)[0], world.ips(1, 0)[0]);
    a.send_frame(&note((pod_mac(0, 0), pod_mac(1, 0)), ips, &[7; 1200])).unwrap();
    world.sleep(5);
    assert!(notes(&b).is_empty());
    assert_eq!(world.drops(0, DropReason::TxOversize), 1);
    world.finish(&[DropReason::TxOversize]);
}

/// Hop by hop, as traceroute sees it: own gateway, the other node's gateway, the pod.
#[test]
fn hops_are_counted_and_named() {
    let (mut world, a, b) = raw_pair(ROUTED);
    for family in [0, 1] {
        let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
        for ttl in 1..=3u8 {
            let mut frame = note((pod_mac(0, 0), gateway()), ips, b"probe");
            if family == 0 {
                frame[22] = ttl;
                frame[24..26].fill(0);
                let sum = checksum::finish(checksum::sum(&frame[14..34]));
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            } else {
                frame[21] = ttl;
            }
            a.send_frame(&frame).unwrap();
            let got = wait_for(&mut world, &a, 50, |h, f| Some((h.src_ip(f)?, icmp_error(h, f)?)));
            if ttl == 3 {
                assert!(got.is_none());
                let arrived = received(&b);
                let h = build::parse(&arrived[0]);
                assert_eq!(arrived[0][if family == 0 { 22 } else { 21 }], 1, "two hops less");
                assert!(family == 1 || checksum::verify_ipv4_header(&arrived[0][14..]));
                assert!(checksum::verify_l4(&h, &arrived[0]));
            } else {
                let (from, error) = got.unwrap_or_else(|| panic!("an answer to TTL {ttl}"));
                assert_eq!((error.0, error.1), if family == 0 { (11, 0) } else { (3, 0) });
                assert_eq!(from, world.gateways(usize::from(ttl) - 1)[family]);
            }
        }
    }
    for node in 0..2 {
        assert_eq!(world.drops(node, DropReason::TtlExceeded), 2);
    }
    world.finish(&[DropReason::TtlExceeded]);
}

#[test]
fn no_route_blackhole_and_unreachable() {
    use switch::datapath::Target;
    let (mut world, a, _b) = raw_pair(ROUTED);
    world.nodes[0].plan.networks[0].routes = vec![
        ("10.9.0.0/16".parse().unwrap(), Target::Blackhole),
        ("10.8.0.0/16".parse().unwrap(), Target::Unreachable),
    ];
    world.publish(0);
    for (dst, error, reason) in [
        ("10.7.0.1", Some((3, 0)), DropReason::NoRoute),
        ("10.8.0.1", Some((3, 13)), DropReason::Unreachable),
        ("10.9.0.1", None, DropReason::Blackhole),
    ] {
        let ips: (IpAddr, IpAddr) = (world.ips(0, 0)[0], dst.parse().unwrap());
        a.send_frame(&note((pod_mac(0, 0), gateway()), ips, b"x")).unwrap();
        let got = wait_for(&mut world, &a, 20, icmp_error).map(|e| (e.0, e.1));
        assert_eq!(got, error, "{dst}");
        assert_eq!(world.drops(0, reason), 1, "{dst}");
    }
    world.finish(&[DropReason::NoRoute, DropReason::Unreachable, DropReason::Blackhole]);
}

/// Errors are limited: a pod that asks for ten thousand of them gets a few.
#[test]
fn icmp_errors_are_limited() {
    let (mut world, a, _b) = raw_pair(ROUTED);
    let ips: (IpAddr, IpAddr) = (world.ips(0, 0)[0], "10.7.0.1".parse().unwrap());
    let frame = note((pod_mac(0, 0), gateway()), ips, b"x");
    let mut errors = 0;
    for _ in 0..100 {
        for _ in 0..100 {
            a.send_frame(&frame).unwrap();
        }
        world.sleep(10);
        errors += received(&a).len();
    }
    assert!((100..=130).contains(&errors), "{errors} in one second");
    assert_eq!(world.nodes[0].engine.datapath().counters.icmp_limited, 10_000 - errors as u64);
    world.finish(&[DropReason::NoRoute]);
}

fn inject(world: &World, encap: Encap, src: IpAddr, bytes: Vec<u8>) {
    let segment = bytes.len();
    let dst = SocketAddr::new(underlay(world.shape.v6, 1), encap.default_port());
    world.wire.inject(Packet { src: SocketAddr::new(src, 50_000), dst, tos: 0, bytes, segment });
}

#[test]
fn strangers_are_not_heard() {
    let (mut world, _a, b) = raw_pair(ROUTED);
    let friend = underlay(false, 0);
    let inner = note((pod_mac(0, 0), pod_mac(1, 0)), (world.ips(0, 0)[0], world.ips(1, 0)[0]), b"psst");
    let wrapped = |vni: u32, inner: &[u8]| [&Encap::Vxlan.header(Vni::new(vni).unwrap())[..], inner].concat();
    inject(&world, Encap::Vxlan, "192.168.77.99".parse().unwrap(), wrapped(1, &inner));
    inject(&world, Encap::Vxlan, friend, wrapped(2, &inner));
    inject(&world, Encap::Vxlan, friend, vec![8, 0, 0]);
    inject(&world, Encap::Vxlan, friend, vec![0; 60]);
    inject(&world, Encap::Geneve, friend, vec![0x40; 60]);
    let foreign =
        note((pod_mac(0, 0), pod_mac(1, 0)), ("10.5.5.5".parse().unwrap(), world.ips(1, 0)[0]), b"psst");
    inject(&world, Encap::Vxlan, friend, wrapped(1, &foreign));
    let nested = build::udp(
        (pod_mac(0, 0), pod_mac(1, 0)),
        (world.ips(0, 0)[0], underlay(false, 1)),
        (5, 4789),
        &[0; 30],
    );
    inject(&world, Encap::Vxlan, friend, wrapped(1, &nested));
    world.sleep(5);
    assert!(notes(&b).is_empty());
    use DropReason as D;
    let reasons = [
        D::UnknownPeer,
        D::UnknownVni,
        D::TunnelTruncated,
        D::TunnelBadFlags,
        D::TunnelBadVersion,
        D::PeerSource,
        D::Nested,
    ];
    for reason in reasons {
        assert_eq!(world.drops(1, reason), 1, "{reason}");
    }
    // And the friend is, by either encapsulation.
    inject(&world, Encap::Vxlan, friend, wrapped(1, &inner));
    inject(&world, Encap::Geneve, friend, [&Encap::Geneve.header(Vni::new(1).unwrap())[..], &inner].concat());
    world.sleep(5);
    assert_eq!(notes(&b).len(), 2);
    world.finish(&reasons);
}

#[test]
fn congestion_marks_of_the_underlay_reach_the_pod() {
    let (mut world, a, b) = raw_pair(BRIDGED);
    // Everything that crosses is marked on its way.
    world.wire.impair(Some(Box::new(|mut packet, out| {
        packet.tos |= 3;
        out.push(packet);
    })));
    for family in [0, 1] {
        let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
        for (ecn, arrives) in [(2u8, true), (1, true), (0, false)] {
            let mut frame = note((pod_mac(0, 0), pod_mac(1, 0)), ips, b"marked");
            let h = build::parse(&frame);
            tunnel::ecn::set_ecn(&mut frame, &h, ecn);
            a.send_frame(&frame).unwrap();
            world.sleep(5);
            let got = received(&b);
            assert_eq!(got.len(), usize::from(arrives), "ECN {ecn}");
            for frame in &got {
                let h = build::parse(frame);
                assert_eq!(h.tos(frame) & 3, 3);
                assert!(checksum::verify_l4(&h, frame));
                assert!(family == 1 || checksum::verify_ipv4_header(&frame[14..]));
            }
        }
    }
    assert_eq!(world.drops(1, DropReason::EcnCongestion), 2);
    world.finish(&[DropReason::EcnCongestion]);
}
