//! ICMP: errors are byte exact, go to the right place, never about the wrong thing, and not too often; and echo.

use super::kit::*;
use crate::datapath::{DropReason, Ingress, Verdict};
use packet::{MacAddr, VnetHdr, build, checksum, ip_proto};
use smoltcp::wire::{EthernetFrame, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

/// The frame is exactly the error that is due about `sent`, read by two independent parsers.
#[track_caller]
pub fn is_error_about(
    error: &[u8],
    sent: &[u8],
    (kind, code): (u8, u8),
    field: u32,
    macs: (MacAddr, MacAddr),
) {
    let eth = EthernetFrame::new_checked(error).unwrap();
    assert_eq!((eth.src_addr().0, eth.dst_addr().0), (macs.0.0, macs.1.0));
    let original = build::parse(sent);
    let sent_packet = &sent[14..original.end as usize];
    let sliced = etherparse::SlicedPacket::from_ethernet(error).unwrap();
    let quoted = if let Some(src) = original.src_ip(sent).filter(|s| s.is_ipv4()) {
        let packet = Ipv4Packet::new_checked(eth.payload()).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!((packet.src_addr(), std::net::IpAddr::V4(packet.dst_addr())), (v4("10.1.1.1"), src));
        assert!(usize::from(packet.total_len()) <= 576, "{}", packet.total_len());
        assert_eq!(
            packet.header_len() as usize + 8 + sent_packet.len().min(548),
            usize::from(packet.total_len())
        );
        let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!((u8::from(icmp.msg_type()), icmp.msg_code()), (kind, code));
        let Some(etherparse::TransportSlice::Icmpv4(slice)) = sliced.transport else { panic!("not ICMP") };
        assert_eq!(slice.bytes5to8(), field.to_be_bytes());
        packet.payload()[8..].to_vec()
    } else {
        let packet = Ipv6Packet::new_checked(eth.payload()).unwrap();
        assert_eq!(packet.src_addr(), v6("fd00:1::1"));
        assert_eq!(Some(std::net::IpAddr::V6(packet.dst_addr())), original.src_ip(sent));
        assert!(packet.total_len() <= 1280);
        assert_eq!(48 + sent_packet.len().min(1232), packet.total_len());
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
        assert_eq!((u8::from(icmp.msg_type()), icmp.msg_code()), (kind, code));
        let Some(etherparse::TransportSlice::Icmpv6(slice)) = sliced.transport else { panic!("not ICMPv6") };
        assert_eq!(slice.bytes5to8(), field.to_be_bytes());
        packet.payload()[8..].to_vec()
    };
    assert_eq!(quoted, sent_packet[..quoted.len()], "the quote is the packet as it came");
}

fn hop_limit(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[14] >> 4 == 6 {
        frame[21] = hops;
    } else {
        frame[22] = hops;
        frame[24..26].fill(0);
        let field = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&field.to_be_bytes());
    }
    frame
}

/// Sent by WEB through the gateway, answered by this error.
#[track_caller]
fn provokes(sent: &[u8], reason: DropReason, kind: (u8, u8), field: u32) {
    let outcome = World::node().port_in(WEB, sent);
    outcome.dropped(reason);
    assert_eq!(outcome.single().to, port(WEB));
    is_error_about(&outcome.single().bytes, sent, kind, field, (gw(), WEB_MAC));
}

#[test]
fn every_kind_of_error_in_every_size() {
    for size in [0, 1, 100, 519, 520, 521, 1183, 1184, 1185, 1400] {
        let to = |address: &str| web_udp(gw(), address, &vec![0x5a; size]);
        provokes(&hop_limit(to("10.1.2.9"), 1), DropReason::TtlExceeded, (11, 0), 0);
        provokes(&hop_limit(to("fd00:2::9"), 1), DropReason::TtlExceeded, (3, 0), 0);
        provokes(&to("198.51.100.1"), DropReason::NoRoute, (3, 0), 0);
        provokes(&to("2001:db8::1"), DropReason::NoRoute, (1, 0), 0);
        provokes(&to("10.67.0.1"), DropReason::Unreachable, (3, 13), 0);
        provokes(&to("fd00:67::1"), DropReason::Unreachable, (1, 1), 0);
        provokes(&to("10.1.1.1"), DropReason::ToGateway, (3, 3), 0);
        provokes(&to("fd00:1::1"), DropReason::ToGateway, (1, 4), 0);
    }
    for (address, kind) in [("10.1.2.9", (3, 4)), ("fd00:2::9", (2, 0))] {
        provokes(&web_udp(gw(), address, &[1; 1500]), DropReason::TooBig, kind, 1450);
    }
}

#[test]
fn errors_quote_no_ethernet_padding() {
    let mut sent = web_udp(gw(), "198.51.100.1", b"");
    sent.resize(60, 0xaa);
    provokes(&sent, DropReason::NoRoute, (3, 0), 0);
}

#[test]
fn errors_to_a_peer_carry_the_router_mac() {
    let mut w = World::node();
    let sent = build::udp((router_of(C), own_router()), (ip("10.1.2.9"), ip("198.51.100.1")), (1, 2), b"x");
    let outcome = w.peer_in(C, &sent);
    outcome.dropped(DropReason::NoRoute);
    assert_eq!(outcome.single().to, peer(C));
    is_error_about(&outcome.single().bytes, &sent, (3, 0), 0, (own_router(), router_of(C)));
}

#[test]
fn tcp_to_the_gateway_is_dropped_in_silence() {
    let sent = build::tcp((WEB_MAC, gw()), (ip("10.1.1.2"), ip("10.1.1.1")), (1, 80), (1, 0, 2), &[]);
    World::node().port_in(WEB, &sent).silent(DropReason::ToGateway);
}

#[test]
fn never_about_errors() {
    let mut w = World::node();
    let icmp4 = |kind: u8| {
        let mut l4 = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        let field = checksum::finish(checksum::sum(&l4));
        l4[2..4].copy_from_slice(&field.to_be_bytes());
        build::ethernet(
            gw(),
            WEB_MAC,
            0x0800,
            &build::ipv4(v4("10.1.1.2"), v4("198.51.100.1"), ip_proto::ICMP, &l4),
        )
    };
    let icmp6 = |kind: u8| {
        let (ether, packet) =
            build::ip(ip("fd00:1::2"), ip("2001:db8::1"), ip_proto::ICMPV6, vec![kind, 0, 0, 0, 0, 0, 0, 0]);
        build::ethernet(gw(), WEB_MAC, ether, &packet)
    };
    for kind in [3, 4, 5, 11, 12, 255] {
        w.port_in(WEB, &icmp4(kind)).silent(DropReason::NoRoute);
    }
    for kind in [0, 8, 13, 14] {
        assert_eq!(w.port_in(WEB, &icmp4(kind)).outputs.len(), 1, "{kind}");
    }
    w.advance(10_000);
    for kind in [0, 1, 2, 3, 4, 127] {
        w.port_in(WEB, &icmp6(kind)).silent(DropReason::NoRoute);
    }
    for kind in [128, 129, 200] {
        assert_eq!(w.port_in(WEB, &icmp6(kind)).outputs.len(), 1, "{kind}");
    }
    // A redirect is no error by number, but counts as one. The guard keeps declared ports from sending any.
    let mut redirect = icmp6(137);
    redirect[6..12].copy_from_slice(&VM_MAC.0);
    w.port_in(VM, &redirect).silent(DropReason::NoRoute);
}

#[test]
fn never_about_later_fragments() {
    let mut w = World::node();
    let mut sent = web_udp(gw(), "198.51.100.1", &[0; 64]);
    sent[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    let sent = hop_limit(sent, 64);
    assert_eq!(w.port_in(WEB, &sent).outputs.len(), 1, "about the first one, yes");
    let mut sent = sent;
    sent[20..22].copy_from_slice(&0x0008u16.to_be_bytes());
    w.port_in(WEB, &hop_limit(sent, 64)).silent(DropReason::NoRoute);
    let later = [&[ip_proto::UDP, 0, 0, 8, 0, 0, 0, 1][..], &[0; 16]].concat();
    let sent =
        build::ethernet(gw(), WEB_MAC, 0x86dd, &build::ipv6(v6("fd00:1::2"), v6("2001:db8::1"), 44, &later));
    w.port_in(WEB, &sent).silent(DropReason::NoRoute);
}

#[test]
fn never_about_groups_but_for_the_size_of_ipv6() {
    let mut w = World::node();
    w.edit_port(DB, |p| p.mtu = 1300);
    // On layer 2 to DB, on layer 3 to a group: too big for it.
    let to = |address: &str| web_udp(DB_MAC, address, &[0; 1350]);
    w.port_in(WEB, &to("239.1.2.3")).silent(DropReason::TooBig);
    w.port_in(WEB, &to("255.255.255.255")).silent(DropReason::TooBig);
    let outcome = w.port_in(WEB, &to("ff0e::1"));
    outcome.dropped(DropReason::TooBig);
    is_error_about(&outcome.single().bytes, &to("ff0e::1"), (2, 0), 1300, (gw(), WEB_MAC));
}

#[test]
fn never_to_a_source_that_is_no_single_host() {
    let mut w = World::node();
    w.edit_port(DB, |p| p.mtu = 1300);
    for (from, to) in [
        ("0.0.0.0", "10.1.1.3"),
        ("224.1.1.1", "10.1.1.3"),
        ("255.255.255.255", "10.1.1.3"),
        ("127.0.0.1", "10.1.1.3"),
        ("::", "fd00:1::3"),
        ("ff02::1", "fd00:1::3"),
        ("::1", "fd00:1::3"),
    ] {
        let sent = build::udp((VM_MAC, DB_MAC), (ip(from), ip(to)), (1, 2), &[0; 1350]);
        w.port_in(VM, &sent).silent(DropReason::TooBig);
    }
}

#[test]
fn no_gateway_no_error() {
    let mut w = World::node();
    w.edit(BLUE, |n| n.gateways.clear());
    w.port_in(WEB, &web_udp(gw(), "198.51.100.1", b"x")).silent(DropReason::NoRoute);
}

#[test]
fn the_gateway_of_the_sources_subnet_speaks() {
    let mut w = World::node();
    w.edit(BLUE, |n| n.gateways.extend([net("10.5.0.1/16"), net("fd00:5::1/64")]));
    for (from, to, speaker) in [
        ("10.5.0.9", "198.51.100.1", "10.5.0.1"),
        ("fd00:5::9", "2001:db8::1", "fd00:5::1"),
        ("10.77.0.1", "198.51.100.1", "10.1.1.1"),
    ] {
        let sent = build::udp((VM_MAC, gw()), (ip(from), ip(to)), (1, 2), b"x");
        let outcome = w.port_in(VM, &sent);
        let headers = build::parse(&outcome.single().bytes);
        assert_eq!(headers.src_ip(&outcome.single().bytes), Some(ip(speaker)));
    }
}

fn errors(w: &mut World, id: crate::datapath::PortId, frame: &[u8], tries: usize) -> usize {
    (0..tries).map(|_| w.port_in(id, frame).outputs.len()).sum()
}

#[test]
fn one_origins_share_is_limited() {
    let mut w = World::node();
    let sent = web_udp(gw(), "198.51.100.1", b"x");
    assert_eq!(errors(&mut w, WEB, &sent, 100), 20);
    assert_eq!(w.dp.counters.icmp_limited, 80);
    // Ten a second afterwards come at a hundred a second.
    w.advance(9);
    assert_eq!(errors(&mut w, WEB, &sent, 5), 0);
    w.advance(1);
    assert_eq!(errors(&mut w, WEB, &sent, 5), 1);
    w.advance(1000);
    assert_eq!(errors(&mut w, WEB, &sent, 100), 20, "never more than the burst");
    // Others are not concerned.
    let other = build::udp((DB_MAC, gw()), (ip("10.1.1.3"), ip("198.51.100.1")), (1, 2), b"x");
    assert_eq!(errors(&mut w, DB, &other, 1), 1);
    // Frames are dropped as before, said or not.
    assert_eq!(w.drops(DropReason::NoRoute), 211);
    assert_eq!(w.dp.counters.icmp_limited, 80 + 5 + 4 + 80);
}

#[test]
fn the_nodes_rate_is_limited() {
    let mut w = World::node();
    let ports: Vec<_> = (0..10).map(|n| w.learning(BLUE, mac(0x40 + n))).collect();
    let spray = |w: &mut World| -> usize {
        ports
            .iter()
            .enumerate()
            .map(|(i, id)| {
                let sent = build::udp(
                    (mac(0x40 + i as u8), gw()),
                    (ip("10.1.1.9"), ip("198.51.100.1")),
                    (1, 2),
                    b"x",
                );
                errors(w, *id, &sent, 10)
            })
            .sum()
    };
    assert_eq!(spray(&mut w), 50);
    w.advance(10);
    assert_eq!(spray(&mut w), 10);
}

#[test]
fn echo_is_answered() {
    for (from, to, request, reply) in [("10.1.1.2", "10.1.1.1", 8, 0), ("fd00:1::2", "fd00:1::1", 128, 129)] {
        for size in [0, 1, 56, 1400] {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let mut w = World::node();
            let sent = hop_limit(build::echo((WEB_MAC, gw()), (ip(from), ip(to)), request, 77, 5, &data), 1);
            let outcome = w.port_in(WEB, &sent);
            let want = build::echo((gw(), WEB_MAC), (ip(to), ip(from)), reply, 77, 5, &data);
            assert_eq!(outcome.reply(port(WEB)), want, "as if built from scratch");
            etherparse::PacketHeaders::from_ethernet_slice(outcome.reply(port(WEB))).unwrap();
        }
    }
    // The link-local address of the gateway answers as well.
    let to = gw().link_local_v6();
    let from = WEB_MAC.link_local_v6();
    let sent = build::echo((WEB_MAC, gw()), (from.into(), to.into()), 128, 1, 1, b"");
    assert_eq!(
        World::node().port_in(WEB, &sent).reply(port(WEB)),
        build::echo((gw(), WEB_MAC), (to.into(), from.into()), 129, 1, 1, b"")
    );
}

#[test]
fn echo_with_a_partial_checksum() {
    for (from, to, request, reply) in [("10.1.1.2", "10.1.1.1", 8, 0), ("fd00:1::2", "fd00:1::1", 128, 129)] {
        let mut sent = build::echo((WEB_MAC, gw()), (ip(from), ip(to)), request, 77, 5, b"data");
        let headers = build::parse(&sent);
        let at = usize::from(headers.l4) + 2;
        let partial = match headers.net {
            packet::Net::V6 => checksum::pseudo(&headers, &sent, headers.end - u32::from(headers.l4)),
            _ => 0,
        };
        sent[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let vnet = VnetHdr { needs_csum: true, csum_start: headers.l4, csum_offset: 2, ..VnetHdr::default() };
        let outcome = World::node().send_vnet(Ingress::Port(WEB), &sent, vnet);
        assert_eq!(outcome.single().vnet, vnet);
        // Whoever completes it gets the right packet.
        let mut done = outcome.reply(port(WEB)).to_vec();
        let field = checksum::finish(checksum::sum(&done[usize::from(headers.l4)..]));
        done[at..at + 2].copy_from_slice(&field.to_be_bytes());
        assert_eq!(done, build::echo((gw(), WEB_MAC), (ip(to), ip(from)), reply, 77, 5, b"data"));
    }
}

#[test]
fn echo_from_a_peer() {
    let mut w = World::node();
    let sent = build::echo((router_of(C), own_router()), (ip("10.1.2.9"), ip("10.1.1.1")), 8, 1, 1, b"x");
    let want = build::echo((own_router(), router_of(C)), (ip("10.1.1.1"), ip("10.1.2.9")), 0, 1, 1, b"x");
    assert_eq!(w.peer_in(C, &sent).reply(peer(C)), want);
}

#[test]
fn what_is_no_echo_request_is_not_answered() {
    let mut w = World::node();
    let good = build::echo((WEB_MAC, gw()), (ip("10.1.1.2"), ip("10.1.1.1")), 8, 1, 1, b"");
    let mut code = good.clone();
    code[35] = 1;
    w.port_in(WEB, &code).silent(DropReason::ToGateway);
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    w.port_in(WEB, &hop_limit(fragment, 64)).silent(DropReason::ToGateway);
    for (kind, from, to) in [
        (0, "10.1.1.2", "10.1.1.1"),
        (128, "10.1.1.2", "10.1.1.1"),
        (129, "fd00:1::2", "fd00:1::1"),
        (8, "fd00:1::2", "fd00:1::1"),
    ] {
        w.port_in(WEB, &build::echo((WEB_MAC, gw()), (ip(from), ip(to)), kind, 1, 1, b""))
            .dropped(DropReason::ToGateway);
    }
    let short = build::ethernet(
        gw(),
        WEB_MAC,
        0x0800,
        &build::ipv4(v4("10.1.1.2"), v4("10.1.1.1"), 1, &[8, 0, 0xf7, 0xff]),
    );
    w.port_in(WEB, &short).silent(DropReason::ToGateway);
    // Nor one that pretends to come from the gateway itself, or from nobody.
    for from in ["10.1.1.1", "0.0.0.0", "224.0.0.1", "127.0.0.1", "255.255.255.255"] {
        let sent = build::echo((VM_MAC, gw()), (ip(from), ip("10.1.1.1")), 8, 1, 1, b"");
        w.port_in(VM, &sent).silent(DropReason::Martian);
    }
    for from in ["fd00:1::1", "::", "::1", "ff02::1"] {
        let sent = build::echo((VM_MAC, gw()), (ip(from), ip("fd00:1::1")), 128, 1, 1, b"");
        w.port_in(VM, &sent).silent(DropReason::Martian);
    }
}

#[test]
fn no_buffer_no_error() {
    // More answers than one batch may make: the frame is dropped by name, and nothing is half sent.
    let mut w = World::node();
    let ask = build::ndp(
        (WEB_MAC, MacAddr([0x33, 0x33, 0, 0, 0, 1])),
        (v6("fd00:1::2"), v6("ff02::1")),
        135,
        v6("fd00:1::3"),
        Some(WEB_MAC),
    );
    let verdicts = w.burst(Ingress::Port(WEB), &ask, 300);
    let made = crate::datapath::MAX_GENERATED;
    assert!(verdicts[..made].iter().all(|v| *v == Verdict::Reply));
    assert!(verdicts[made..].iter().all(|v| *v == Verdict::Drop(DropReason::NoBuffer)));
    // The next batch may again.
    assert_eq!(w.port_in(WEB, &ask).verdict, Verdict::Reply);
}
