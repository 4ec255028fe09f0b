//! Every reason to drop has a frame that is dropped for it, and is booked as such. A new reason does not compile
//! until it has one here.

use super::kit::*;
use crate::datapath::{DropReason, Guard, Ingress, Target, Verdict};
use packet::{GsoType, MacAddr, VnetHdr, build};

/// A frame, where it enters, and what it says about offloads.
type Case = (Ingress, Vec<u8>, VnetHdr);

/// A frame that is dropped for `reason`, or `None` where that happens while sending.
fn case(w: &mut World, reason: DropReason) -> Option<Case> {
    use DropReason::*;
    let web = |frame: Vec<u8>| Some((Ingress::Port(WEB), frame, VnetHdr::default()));
    let vm = |frame: Vec<u8>| Some((Ingress::Port(VM), frame, VnetHdr::default()));
    let from_b = |datagram: Vec<u8>| Some((underlay(B, 0), datagram, VnetHdr::default()));
    let geneve = |head: [u8; 4], rest: &[u8]| {
        let ingress = Ingress::Underlay { source: remote(B), tos: 0, encap: tunnel::Encap::Geneve };
        Some((ingress, [&head[..], &[0, 0, 1, 0], rest, &far("10.1.1.2")].concat(), VnetHdr::default()))
    };
    let routed = |to: &str| web_udp(gw(), to, b"x");
    let nd = |kind, target| {
        build::ndp(
            (WEB_MAC, DB_MAC),
            (WEB_MAC.link_local_v6(), v6("ff02::1")),
            kind,
            v6(target),
            Some(WEB_MAC),
        )
    };
    match reason {
        NoPort => Some((Ingress::Port(crate::datapath::PortId(99)), routed("10.1.1.3"), VnetHdr::default())),
        BadVnet => {
            let vnet =
                VnetHdr { needs_csum: true, gso_type: GsoType::Tcp4, gso_size: 9, ..VnetHdr::default() };
            Some((Ingress::Port(WEB), routed("10.1.1.3"), vnet))
        }
        Malformed => web(routed("10.1.1.3")[..20].to_vec()),
        TunnelTruncated => from_b(vec![8, 0, 0]),
        TunnelBadFlags => from_b(vec![0; 60]),
        TunnelBadVersion => geneve([0x80, 0, 0x65, 0x58], &[]),
        TunnelBadOption => geneve([1, 0, 0x65, 0x58], &[0, 0, 1, 9]),
        TunnelUnknownCritical => geneve([0, 0x40, 0x65, 0x58], &[]),
        TunnelNotEthernet => geneve([0, 0, 0x08, 0x00], &[]),
        TunnelControl => geneve([0, 0x80, 0x65, 0x58], &[]),
        UnknownPeer => {
            let ingress = Ingress::Underlay { source: ip("192.0.2.1"), tos: 0, encap: tunnel::Encap::Vxlan };
            Some((ingress, vxlan(1, &far("10.1.1.2")), VnetHdr::default()))
        }
        UnknownVni => from_b(vxlan(77, &far("10.1.1.2"))),
        Nested => {
            let nested =
                build::udp((FAR_MAC, WEB_MAC), (ip("10.1.1.30"), ip("192.168.77.1")), (1, 4789), b"x");
            from_b(vxlan(1, &nested))
        }
        EcnCongestion => Some((underlay(B, 3), vxlan(1, &far("10.1.1.2")), VnetHdr::default())),
        PeerSource => Some((underlay(C, 0), vxlan(1, &far("10.1.1.2")), VnetHdr::default())),
        ControlFrame => vm(build::ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), VM_MAC, 39, &[0x42; 46])),
        BadSource => vm(build::ethernet(DB_MAC, MacAddr::ZERO, 0x88b5, &[0; 46])),
        SpoofedMac => web(build::ethernet(DB_MAC, mac(9), 0x88b5, &[0; 46])),
        SpoofedIp => web(build::udp((WEB_MAC, DB_MAC), (ip("10.1.1.9"), ip("10.1.1.3")), (1, 2), b"x")),
        SpoofedArp => {
            web(build::arp((WEB_MAC, DB_MAC), 2, (WEB_MAC, v4("10.1.1.9")), (DB_MAC, v4("10.1.1.3"))))
        }
        SpoofedNd => web(nd(136, "fd00:1::9")),
        RouterAdvert => web(nd(134, "::")),
        DhcpServer => web(build::udp((WEB_MAC, DB_MAC), (ip("10.1.1.2"), ip("10.1.1.3")), (67, 68), b"x")),
        EtherType => web(build::ethernet(DB_MAC, WEB_MAC, 0x8100, &[0; 46])),
        StaticMove => vm(build::ethernet(DB_MAC, WEB_MAC, 0x88b5, &[0; 46])),
        Reflection => web(web_udp(WEB_MAC, "10.1.1.2", b"x")),
        SplitHorizon => {
            let routed = build::udp((FAR_MAC, own_router()), (ip("10.1.1.30"), ip("10.1.2.9")), (1, 2), b"x");
            from_b(vxlan(1, &routed))
        }
        UnknownUnicast => {
            w.edit(BLUE, |n| n.flood_unknown = false);
            web(web_udp(mac(0x99), "10.1.1.99", b"x"))
        }
        NotIp => vm(build::ethernet(gw(), VM_MAC, 0x88b5, &[0; 46])),
        BadIpChecksum => {
            let mut frame = routed("10.1.1.3");
            frame[25] ^= 0x10;
            web(frame)
        }
        Martian => web(routed("127.0.0.1")),
        TtlExceeded => {
            let mut frame = web_udp(gw(), "fd00:1::3", b"x");
            frame[21] = 1;
            web(frame)
        }
        NoRoute => web(routed("198.51.100.1")),
        Blackhole => web(routed("10.66.0.1")),
        Unreachable => web(routed("10.67.0.1")),
        ToGateway => web(routed("10.1.1.1")),
        NeighbourQueue => {
            for _ in 0..10 {
                w.port_in(WEB, &routed("10.1.1.77"));
            }
            web(routed("10.1.1.77"))
        }
        TooBig => web(web_udp(gw(), "10.1.2.9", &[0; 1450])),
        EgressGone => {
            w.routes(BLUE, &[("0.0.0.0/0", Target::Peer(crate::datapath::PeerId(9)))]);
            web(routed("10.1.2.2"))
        }
        // Not a verdict of one frame alone: see below.
        NeighbourFailed | NoBuffer => None,
        // Before the data path: see the engine's tests.
        RxLimit => None,
        TxFull | TxLimit | TxDown | TxOversize | TxOffload | TxError => None,
    }
}

fn far(to: &str) -> Vec<u8> {
    build::udp((FAR_MAC, WEB_MAC), (ip("10.1.1.30"), ip(to)), (1, 2), b"far")
}

#[test]
fn every_reason_has_its_frame() {
    let mut without = Vec::new();
    for &reason in DropReason::ALL {
        let mut w = World::node();
        let Some((ingress, frame, vnet)) = case(&mut w, reason) else {
            without.push(reason);
            continue;
        };
        let before = w.drops(reason);
        w.send_vnet(ingress, &frame, vnet).dropped(reason);
        assert_eq!(w.drops(reason), before + 1, "{reason}");
    }
    without.retain(|r| r.stage() != "tx");
    assert_eq!(without, [DropReason::RxLimit, DropReason::NeighbourFailed, DropReason::NoBuffer]);
}

#[test]
fn neighbour_failed_follows_held() {
    let mut w = World::node();
    assert_eq!(w.port_in(WEB, &web_udp(gw(), "10.1.1.77", b"x")).verdict, Verdict::Held);
    for _ in 0..3 {
        w.tick(1000);
    }
    assert_eq!(w.dp.counters.get(port(WEB)).unwrap().drops[DropReason::NeighbourFailed as usize], 1);
}

#[test]
fn no_buffer_in_a_long_batch() {
    let mut w = World::node();
    let ask = build::ndp(
        (WEB_MAC, MacAddr([0x33, 0x33, 0, 0, 0, 1])),
        (v6("fd00:1::2"), v6("ff02::1")),
        135,
        v6("fd00:1::3"),
        None,
    );
    let verdicts = w.burst(Ingress::Port(WEB), &ask, crate::datapath::MAX_GENERATED + 1);
    assert_eq!(verdicts.last(), Some(&Verdict::Drop(DropReason::NoBuffer)));
    assert_eq!(w.drops(DropReason::NoBuffer), 1);
}

#[test]
fn the_node_of_the_kit_is_as_described() {
    let w = World::node();
    let guard = |id| w.tables.port(id).unwrap().guard;
    assert_eq!([WEB, DB, RED, RED2].map(guard), [Guard::Declared; 4]);
    assert_eq!([VM, VM2].map(guard), [Guard::Learning; 2]);
    assert_eq!(w.tables.port(RED).unwrap().network, RED_NET);
    assert_eq!((w.tables.by_remote[&remote(B)], w.tables.by_remote[&remote(C)]), (B, C));
}
