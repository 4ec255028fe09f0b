//! Announcements: what a new port's network is told, and what is made of a peer's.

use super::kit::*;
use crate::datapath::DropReason::*;
use crate::datapath::{Egress, FrameRef, Ingress, MAX_GENERATED, PortId, Postbox, Verdict};
use packet::{Headers, MacAddr, build};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, Ipv6Packet,
    NdiscNeighborFlags, NdiscRepr,
};
use std::net::IpAddr;

/// Announces a port; what goes to whom.
fn announce(w: &mut World, id: PortId) -> Vec<(Egress, u32, Vec<u8>)> {
    let mut out = Postbox::default();
    let (generated, posted) = (w.dp.counters.generated, w.dp.counters.posted);
    assert!(w.dp.announce(&w.tables, id, w.now, &mut out));
    let mut copies = Vec::new();
    for &to in out.touched() {
        for copy in out.list(to) {
            let FrameRef::Generated(n) = copy.frame else { panic!("{copy:?}") };
            let own = out.generated.get(n);
            assert_eq!(own.vnet, packet::VnetHdr::default());
            copies.push((to, copy.vni, own.bytes.clone()));
        }
    }
    let mut frames: Vec<_> = copies.iter().map(|c| &c.2).collect();
    frames.sort();
    frames.dedup();
    assert_eq!(w.dp.counters.generated - generated, frames.len() as u64);
    assert_eq!(w.dp.counters.posted - posted, copies.len() as u64);
    assert_eq!(out.copies, copies.len() as u64);
    w.conserved();
    copies
}

/// What an announcement says, by the words of the RFCs.
#[track_caller]
fn says(frame: &[u8]) -> (MacAddr, IpAddr) {
    let eth = EthernetFrame::new_checked(frame).unwrap();
    let source = MacAddr(eth.src_addr().0);
    if eth.ethertype() == EthernetProtocol::Arp {
        assert!(eth.dst_addr().is_broadcast());
        let repr = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).unwrap()).unwrap();
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } = repr
        else {
            panic!("{repr:?}")
        };
        assert_eq!((operation, target_hardware_addr.0), (ArpOperation::Request, [0; 6]));
        assert_eq!((source_hardware_addr.0, source_protocol_addr), (source.0, target_protocol_addr));
        return (source, source_protocol_addr.into());
    }
    assert_eq!(eth.dst_addr().0, [0x33, 0x33, 0, 0, 0, 1]);
    let packet = Ipv6Packet::new_checked(eth.payload()).unwrap();
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    assert_eq!((dst, packet.hop_limit()), (v6("ff02::1"), 255));
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let repr = Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = repr else {
        panic!("{repr:?}")
    };
    assert_eq!((flags, target_addr), (NdiscNeighborFlags::OVERRIDE, src), "unsolicited, about its source");
    assert_eq!(lladdr.unwrap().as_bytes(), source.0);
    (source, target_addr.into())
}

#[test]
fn every_declared_address_to_everybody_else() {
    let mut w = World::node();
    let copies = announce(&mut w, WEB);
    let own = [ip("10.1.1.2"), ip("fd00:1::2"), WEB_MAC.link_local_v6().into()];
    for to in [port(DB), port(VM), port(VM2), peer(B), peer(C)] {
        let mut said: Vec<_> = copies.iter().filter(|c| c.0 == to).map(|c| says(&c.2)).collect();
        let mut want = own.map(|address| (WEB_MAC, address)).to_vec();
        said.sort_unstable();
        want.sort_unstable();
        assert_eq!(said, want, "{to:?}");
    }
    assert_eq!(copies.len(), 15, "nobody else: not the port, not the other network");
    assert!(copies.iter().all(|c| c.1 == 1));
    let red = announce(&mut w, RED);
    assert_eq!(red.iter().filter(|c| c.0 == port(RED2)).count(), 3);
    assert!(red.iter().all(|c| c.1 == 2 && !matches!(c.0, Egress::Port(id) if id != RED2)));
}

#[test]
fn who_has_nothing_to_announce() {
    let mut w = World::attached();
    for id in [VM, NODE, PortId(99)] {
        assert!(announce(&mut w, id).is_empty(), "{id:?}");
    }
    w.tables.networks[usize::from(BLUE.0)] = None;
    assert!(announce(&mut w, WEB).is_empty());
}

#[test]
fn the_postbox_may_be_full() {
    let mut w = World::node();
    let mut out = Postbox::default();
    let mut times = 0;
    while times < MAX_GENERATED && w.dp.announce(&w.tables, WEB, w.now, &mut out) {
        times += 1;
    }
    assert_eq!(times, MAX_GENERATED / 3);
    assert_eq!(out.copies, w.dp.counters.posted, "nothing is half said");
    out.clear();
    assert!(w.dp.announce(&w.tables, WEB, w.now, &mut out));
    // Even a port with more addresses than a postbox holds.
    let many = (0..300).map(|n| std::net::Ipv4Addr::from_bits(0x0a80_0000 + n)).collect();
    w.edit_port(WEB, |p| p.v4 = many);
    assert!(!w.dp.announce(&w.tables, WEB, w.now, &mut out));
    out.clear();
    assert!(w.dp.announce(&w.tables, WEB, w.now, &mut out));
    assert_eq!(out.list(port(DB)).len(), MAX_GENERATED);
}

/// The announcement that another node of ours sends for a pod of its own.
fn of_peer(mac: MacAddr, address: &str) -> Vec<u8> {
    let mut far = World::node();
    far.edit_port(WEB, |p| {
        p.mac = mac;
        (p.v4, p.v6) = match ip(address) {
            IpAddr::V4(ip) => (vec![ip], Vec::new()),
            IpAddr::V6(ip) => (Vec::new(), vec![ip]),
        };
    });
    let copies = announce(&mut far, WEB);
    assert_eq!(says(&copies[0].2), (mac, ip(address)));
    copies[0].2.clone()
}

#[test]
fn a_peers_announcement_replaces_what_was_known() {
    let (old, new) = (mac(0x31), mac(0x32));
    for address in ["10.1.1.30", "fd00:1::30"] {
        let mut w = World::node();
        let everybody = [port(WEB), port(DB), port(VM), port(VM2)];
        w.peer_in(B, &of_peer(old, address)).flooded(&everybody);
        let to = web_udp(gw(), address, b"x");
        assert_eq!(Headers::dst_mac(&w.port_in(WEB, &to).unicast(peer(B)).bytes), old);
        // The address is used again, by a pod with another MAC, at once and on another node.
        w.edit_peer(C, |p| p.sources = None);
        w.peer_in(C, &of_peer(new, address)).flooded(&everybody);
        assert_eq!(Headers::dst_mac(&w.port_in(WEB, &to).unicast(peer(C)).bytes), new);
        let entry = w.dp.neighbours().iter().next().unwrap();
        assert_eq!((entry.ip, entry.mac, entry.owner), (ip(address), Some(new), Some(peer(C))));
        assert_eq!(w.dp.neighbours().iter().count(), 1);
        // What waited for it leaves as well.
        let mut w = World::node();
        assert_eq!(w.port_in(WEB, &to).verdict, Verdict::Held);
        let outcome = w.peer_in(B, &of_peer(new, address));
        let released: Vec<_> = outcome.outputs.iter().filter(|o| o.made && o.to == peer(B)).collect();
        assert_eq!(released.len(), 1);
        assert_eq!(Headers::dst_mac(&released[0].bytes), new);
    }
}

#[test]
fn a_bounded_peer_announces_its_own() {
    let mut w = World::node();
    for address in ["10.1.2.9", "fd00:2::9"] {
        assert!(matches!(w.peer_in(C, &of_peer(mac(0x32), address)).verdict, Verdict::Flood(4)));
    }
    for address in ["10.1.1.30", "10.1.3.9", "fd00:1::30", "fd00:3::9"] {
        w.peer_in(C, &of_peer(mac(0x32), address)).silent(PeerSource);
    }
    // What is routed to a peer stays there, whoever says what.
    w.peer_in(B, &of_peer(mac(0x31), "10.1.2.9"));
    w.port_in(WEB, &web_udp(gw(), "10.1.2.9", b"x")).unicast(peer(C));
}

#[test]
fn an_announcement_against_the_tables_reaches_nobody() {
    let mut w = World::node();
    for (address, reason) in [
        ("10.1.1.3", SpoofedArp),
        ("fd00:1::3", SpoofedNd),
        ("10.1.1.1", SpoofedArp),
        ("fd00:1::1", SpoofedNd),
    ] {
        let frame = of_peer(mac(0x32), address);
        w.peer_in(B, &frame).silent(reason);
        let mut frame = of_peer(VM_MAC, address);
        frame[6..12].copy_from_slice(&VM_MAC.0);
        w.port_in(VM, &frame).silent(reason);
    }
    // The owner's MAC is at its port and nowhere else.
    w.peer_in(B, &of_peer(DB_MAC, "10.1.1.3")).silent(StaticMove);
    assert_eq!(w.dp.neighbours().iter().count(), 0);
    // The same for a neighbour made by hand; the right MAC may be said.
    w.edit(BLUE, |n| {
        n.neighbours.insert(ip("10.1.1.30"), crate::datapath::Adjacency { mac: FAR_MAC, egress: None });
    });
    w.peer_in(B, &of_peer(mac(0x32), "10.1.1.30")).silent(SpoofedArp);
    assert!(matches!(w.peer_in(B, &of_peer(FAR_MAC, "10.1.1.30")).verdict, Verdict::Flood(4)));
}

#[test]
fn a_pods_own_announcement_is_the_same_frame() {
    let by_hand = build::arp(
        (WEB_MAC, MacAddr::BROADCAST),
        1,
        (WEB_MAC, v4("10.1.1.2")),
        (MacAddr::ZERO, v4("10.1.1.2")),
    );
    let mut w = World::node();
    assert!(announce(&mut w, WEB).iter().any(|c| c.2 == by_hand));
    // And passes the guard of that port.
    let frames: Vec<_> = announce(&mut w, WEB).into_iter().filter(|c| c.0 == port(DB)).collect();
    for (_, _, frame) in frames {
        assert!(matches!(w.send(Ingress::Port(WEB), &frame).verdict, Verdict::Flood(5)));
    }
}
