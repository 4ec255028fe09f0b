//! Neighbour resolution: solicitation, bounded queues, retry, giving up, and what becomes of the frames.

use super::kit::*;
use crate::datapath::neighbour::{MAX_ENTRIES, QUEUE_PER_NEIGHBOUR, QUEUE_PER_ORIGIN, QUEUE_TOTAL};
use crate::datapath::{DropReason, Egress, Ingress, PortId, Verdict};
use packet::{Headers, MacAddr, build};
use std::net::{IpAddr, Ipv4Addr};

fn to(address: &str, tag: u8) -> Vec<u8> {
    web_udp(gw(), address, &[tag; 20])
}

/// A host says that it has the address.
fn claim(mac: MacAddr, address: &str) -> Vec<u8> {
    match ip(address) {
        IpAddr::V4(a) => build::arp((mac, own_router()), 2, (mac, a), (own_router(), Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(a) => {
            build::ndp((mac, own_router()), (a, own_router().link_local_v6()), 136, a, Some(mac))
        }
    }
}

fn everywhere() -> [Egress; 4] {
    [port(VM), port(VM2), peer(B), peer(C)]
}

/// A question for `address`, from the router MAC, that claims no address of the gateway's.
#[track_caller]
fn asks(output: &Output, address: &str) {
    assert!(output.made);
    assert_eq!(Headers::src_mac(&output.bytes), own_router());
    let eth = smoltcp::wire::EthernetFrame::new_checked(&output.bytes[..]).unwrap();
    match ip(address) {
        IpAddr::V4(target) => {
            let arp = smoltcp::wire::ArpPacket::new_checked(eth.payload()).unwrap();
            let want = (smoltcp::wire::ArpOperation::Request, target.octets(), [0; 4]);
            assert_eq!((arp.operation(), arp.target_protocol_addr(), arp.source_protocol_addr()), {
                (want.0, &want.1[..], &want.2[..])
            });
            assert_eq!(arp.source_hardware_addr(), own_router().0);
            assert!(Headers::dst_mac(&output.bytes).is_group());
        }
        IpAddr::V6(target) => {
            let packet = smoltcp::wire::Ipv6Packet::new_checked(eth.payload()).unwrap();
            assert_eq!((packet.hop_limit(), packet.src_addr()), (255, own_router().link_local_v6()));
            let icmp = smoltcp::wire::Icmpv6Packet::new_checked(packet.payload()).unwrap();
            assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
            assert_eq!(icmp.target_addr(), target);
            let t = target.octets();
            assert_eq!(Headers::dst_mac(&output.bytes), MacAddr([0x33, 0x33, 0xff, t[13], t[14], t[15]]));
        }
    }
}

#[test]
fn the_first_frame_asks_the_others_wait_and_all_leave_in_order() {
    for address in ["10.1.1.77", "fd00:1::77"] {
        let mut w = World::node();
        let first = w.port_in(WEB, &to(address, 0));
        assert_eq!(first.verdict, Verdict::Held);
        assert_eq!(first.outputs.iter().map(|o| o.to).collect::<Vec<_>>(), everywhere());
        first.outputs.iter().for_each(|o| asks(o, address));
        for tag in 1..3 {
            let next = w.port_in(
                DB,
                &build::udp(
                    (DB_MAC, gw()),
                    (if address.contains(':') { ip("fd00:1::3") } else { ip("10.1.1.3") }, ip(address)),
                    (1, 2),
                    &[tag; 20],
                ),
            );
            assert_eq!((next.verdict, next.outputs.len()), (Verdict::Held, 0), "asked once");
        }
        let answer = w.peer_in(B, &claim(FAR_MAC, address));
        assert_eq!(answer.verdict, Verdict::Consumed);
        assert_eq!(answer.outputs.len(), 3);
        for (tag, output) in answer.outputs.iter().enumerate() {
            assert_eq!((output.to, output.vni), (peer(B), 1));
            assert_eq!(
                (Headers::src_mac(&output.bytes), Headers::dst_mac(&output.bytes)),
                (own_router(), FAR_MAC)
            );
            let headers = build::parse(&output.bytes);
            assert_eq!(output.bytes[usize::from(headers.payload)..], [tag as u8; 20]);
            assert!(packet::checksum::verify_l4(&headers, &output.bytes));
            assert_eq!(output.bytes[if address.contains(':') { 21 } else { 22 }], 63);
            if headers.net == packet::Net::V4 {
                assert!(packet::checksum::verify_ipv4_header(&output.bytes[14..]));
            }
        }
        assert_eq!((w.dp.counters.released, w.dp.counters.expired), (3, 0));
        // From now on frames go straight.
        w.port_in(WEB, &to(address, 9)).unicast(peer(B));
    }
}

#[test]
fn a_held_offload_frame_is_released_whole() {
    let mut w = World::node();
    let (sent, vnet) = super::route::offload_tcp((WEB_MAC, gw()), "10.1.1.2", "10.1.1.77", 60_000, 1380);
    assert_eq!(w.send_vnet(Ingress::Port(WEB), &sent, vnet).verdict, Verdict::Held);
    let answer = w.port_in(VM, &claim(VM_MAC, "10.1.1.77"));
    assert_eq!((answer.single().vnet, answer.single().to), (vnet, port(VM)));
    assert_eq!(answer.single().bytes[26..], sent[26..]);
    assert_eq!(Headers::src_mac(&answer.single().bytes), gw());
}

#[test]
fn a_gratuitous_claim_releases_too() {
    let mut w = World::node();
    w.port_in(WEB, &to("10.1.1.77", 1));
    let announcement =
        build::arp((VM_MAC, MacAddr::BROADCAST), 1, (VM_MAC, v4("10.1.1.77")), (VM_MAC, v4("10.1.1.77")));
    let outcome = w.port_in(VM, &announcement);
    assert_eq!(outcome.outputs.iter().filter(|o| o.made && o.to == port(VM)).count(), 1);
    assert_eq!(w.dp.counters.released, 1);
}

#[test]
fn each_neighbours_queue_is_bounded() {
    let mut w = World::node();
    for n in 0..QUEUE_PER_NEIGHBOUR + 3 {
        let outcome = w.port_in(WEB, &to("10.1.1.77", n as u8));
        if n < QUEUE_PER_NEIGHBOUR {
            assert_eq!(outcome.verdict, Verdict::Held);
        } else {
            outcome.silent(DropReason::NeighbourQueue);
        }
    }
    assert_eq!(w.dp.neighbours().waiting(), QUEUE_PER_NEIGHBOUR);
}

#[test]
fn one_port_cannot_keep_others_from_resolving() {
    let mut w = World::node();
    let mut refused = 0;
    for n in 0..1000u32 {
        let address = Ipv4Addr::from_bits(v4("10.1.1.60").to_bits() + n % 60);
        let sent = build::udp((VM_MAC, gw()), (ip("10.1.1.20"), address.into()), (1, 2), b"scan");
        refused += u32::from(w.port_in(VM, &sent).verdict == Verdict::Drop(DropReason::NeighbourQueue));
    }
    assert_eq!(refused as usize, 1000 - QUEUE_PER_ORIGIN);
    assert_eq!(w.port_in(WEB, &to("10.1.1.50", 1)).verdict, Verdict::Held);
    // What is answered or given up makes room again.
    w.port_in(VM2, &claim(VM2_MAC, "10.1.1.60"));
    let sent = build::udp((VM_MAC, gw()), (ip("10.1.1.20"), ip("10.1.1.119")), (1, 2), b"scan");
    assert_eq!(w.port_in(VM, &sent).verdict, Verdict::Held);
    for _ in 0..4 {
        w.tick(1000);
    }
    assert_eq!((w.dp.neighbours().waiting(), w.dp.poll_timeout().is_some()), (0, true));
    for n in 0..QUEUE_PER_ORIGIN {
        let address = Ipv4Addr::from_bits(v4("10.1.1.70").to_bits() + n as u32);
        let sent = build::udp((VM_MAC, gw()), (ip("10.1.1.20"), address.into()), (1, 2), b"scan");
        assert_eq!(w.port_in(VM, &sent).verdict, Verdict::Held, "{n}");
    }
}

#[test]
fn all_queues_together_are_bounded() {
    let mut w = World::node();
    let ports: Vec<PortId> = (0..8).map(|n| w.learning(BLUE, mac(0x40 + n))).collect();
    let mut held = 0;
    for n in 0..100u32 {
        for (i, id) in ports.iter().enumerate() {
            let address = Ipv4Addr::from_bits(v4("10.1.1.10").to_bits() + (n * 8 + i as u32) % 100);
            let sent =
                build::udp((mac(0x40 + i as u8), gw()), (ip("10.1.1.9"), address.into()), (1, 2), b"scan");
            held += usize::from(w.port_in(*id, &sent).verdict == Verdict::Held);
        }
    }
    assert_eq!((held, w.dp.neighbours().waiting()), (QUEUE_TOTAL, QUEUE_TOTAL));
}

#[test]
fn asked_three_times_then_given_up_and_said_so() {
    for address in ["10.1.1.77", "fd00:1::77"] {
        let mut w = World::node();
        let sent = to(address, 5);
        w.port_in(WEB, &sent);
        w.port_in(WEB, &sent);
        assert!(w.tick(999).is_empty());
        for _ in 0..2 {
            assert!(w.dp.poll_timeout().unwrap() <= w.now + 1);
            let again = w.tick(1);
            assert_eq!(again.iter().map(|o| o.to).collect::<Vec<_>>(), everywhere());
            again.iter().for_each(|o| asks(o, address));
            assert!(w.tick(999).is_empty());
        }
        let errors = w.tick(1);
        assert_eq!(errors.len(), 2, "one for each frame that waited");
        for error in &errors {
            assert_eq!(error.to, port(WEB));
            let kind = if address.contains(':') { (1, 3) } else { (3, 1) };
            super::icmp::is_error_about(&error.bytes, &sent, kind, 0, (gw(), WEB_MAC));
        }
        assert_eq!((w.dp.counters.expired, w.drops(DropReason::NeighbourFailed)), (2, 2));
        assert_eq!(w.dp.counters.get(port(WEB)).unwrap().drops[DropReason::NeighbourFailed as usize], 2);
        assert_eq!(w.dp.neighbours().iter().count(), 0);
        // The next frame begins anew.
        assert_eq!(w.port_in(WEB, &sent).outputs.len(), 4);
    }
}

#[test]
fn a_used_entry_is_asked_about_again_before_it_is_forgotten() {
    let mut w = World::node();
    w.port_in(VM, &claim(VM_MAC, "10.1.1.20"));
    let sent = to("10.1.1.20", 1);
    w.advance(29_999);
    assert_eq!(w.port_in(WEB, &sent).outputs.len(), 1);
    w.advance(1);
    let stale = w.port_in(WEB, &sent);
    stale.unicast(port(VM));
    assert_eq!(stale.outputs.iter().filter(|o| o.made).count(), 4);
    assert_eq!(w.port_in(WEB, &sent).outputs.len(), 1, "at most once a second");
    w.advance(1000);
    assert_eq!(w.port_in(WEB, &sent).outputs.len(), 5);
    w.port_in(VM, &claim(VM_MAC, "10.1.1.20"));
    w.advance(2000);
    assert_eq!(w.port_in(WEB, &sent).outputs.len(), 1);
    w.tick(90_000);
    assert_eq!(w.port_in(WEB, &sent).verdict, Verdict::Held);
}

#[test]
fn frames_of_a_removed_port_are_neither_sent_nor_blamed_on_its_successor() {
    let mut w = World::node();
    let held = build::udp((VM_MAC, gw()), (ip("10.1.1.20"), ip("10.1.1.77")), (1, 2), b"old");
    w.port_in(VM, &held);
    w.port_in(WEB, &to("10.1.1.77", 1));
    // Port and number are gone, and the number comes back in the other network.
    w.unplug(VM);
    w.dp.forget(port(VM), w.now);
    assert_eq!((w.dp.neighbours().waiting(), w.drops(DropReason::NeighbourFailed)), (1, 1));
    let mut conf = (**w.tables.ports[VM2.0 as usize].as_ref().unwrap()).clone();
    conf.network = RED_NET;
    w.tables.ports[VM.0 as usize] = Some(conf.into());
    for _ in 0..3 {
        for output in w.tick(1000) {
            assert_ne!(output.to, port(VM));
        }
    }
    assert_eq!(w.dp.counters.expired, 2);
}

#[test]
fn a_network_that_goes_takes_its_frames_along() {
    let mut w = World::node();
    w.port_in(WEB, &to("10.1.1.77", 1));
    w.port_in(VM, &claim(VM_MAC, "10.1.1.20"));
    w.dp.forget_network(BLUE);
    w.conserved();
    assert_eq!((w.dp.neighbours().iter().count(), w.dp.counters.expired), (0, 1));
    // And if the tables forget it first, the timer copes.
    w.port_in(WEB, &to("10.1.1.77", 1));
    w.tables.networks[usize::from(BLUE.0)] = None;
    for _ in 0..4 {
        assert!(w.tick(1000).is_empty());
    }
    assert_eq!(w.dp.counters.expired, 2);
}

#[test]
fn split_horizon_holds_for_released_frames() {
    let mut w = World::node();
    let from_b = build::udp((router_of(B), own_router()), (ip("10.3.0.1"), ip("10.1.1.77")), (1, 2), b"x");
    let outcome = w.peer_in(B, &from_b);
    assert_eq!(outcome.verdict, Verdict::Held);
    assert_eq!(outcome.outputs.iter().map(|o| o.to).collect::<Vec<_>>(), [port(VM), port(VM2)]);
    assert!(w.peer_in(B, &claim(FAR_MAC, "10.1.1.77")).outputs.is_empty());
    assert_eq!((w.dp.counters.released, w.dp.counters.expired), (0, 1));
}

#[test]
fn chatter_fills_at_most_half_of_the_table() {
    let mut w = World::node();
    for n in 0..MAX_ENTRIES as u32 {
        let address = Ipv4Addr::from_bits(v4("10.128.0.1").to_bits() + n);
        w.dp.neighbours_mut().confirm((BLUE, address.into()), VM_MAC, port(VM), w.now, true);
    }
    assert_eq!(w.dp.neighbours().iter().count(), MAX_ENTRIES / 2);
    // Who is asked for still gets in.
    w.port_in(WEB, &to("10.1.1.77", 1));
    assert_eq!(w.port_in(VM2, &claim(VM2_MAC, "10.1.1.77")).outputs.len(), 1);
    assert_eq!(w.dp.neighbours().iter().count(), MAX_ENTRIES / 2 + 1);
}

#[test]
fn what_cannot_be_a_neighbour_is_not_believed() {
    let mut w = World::node();
    for (who, address) in [
        (VM_MAC, "0.0.0.0"),
        (VM_MAC, "224.0.0.5"),
        (MacAddr::BROADCAST, "10.1.1.20"),
        (MacAddr::ZERO, "10.1.1.20"),
    ] {
        let mut frame =
            build::arp((VM_MAC, own_router()), 2, (who, v4(address)), (own_router(), v4("0.0.0.0")));
        frame[6..12].copy_from_slice(&VM_MAC.0);
        w.port_in(VM, &frame);
    }
    assert_eq!(w.dp.neighbours().iter().count(), 0);
}

#[test]
fn the_operators_flush() {
    let mut w = World::node();
    w.port_in(VM, &claim(VM_MAC, "10.1.1.20"));
    w.port_in(VM, &claim(VM_MAC, "fd00:1::20"));
    assert_eq!(w.dp.neighbours_mut().forget(1_000_000, |e| e.ip.is_ipv6()), 1);
    assert_eq!(w.dp.neighbours().iter().next().unwrap().ip, ip("10.1.1.20"));
}
