//! Egress: what does not fit is told, or cut smaller; never a silent hole.

use super::icmp::is_error_about;
use super::kit::*;
use super::route::offload_tcp;
use crate::datapath::{DropReason, Ingress, MAX_FRAME, Step, Verdict, packet_size};
use packet::{GsoType, MacAddr, VnetHdr, build, checksum};

/// WEB to `to` by way of `dst`, an IP packet of exactly `size` bytes.
fn sized(dst: MacAddr, to: &str, size: usize) -> Vec<u8> {
    let headers = if to.contains(':') { 48 } else { 28 };
    web_udp(dst, to, &vec![3; size - headers])
}

#[test]
fn to_the_byte() {
    let mut w = World::node();
    w.edit_port(DB, |p| p.mtu = 1300);
    w.edit_peer(C, |p| p.mtu = 1350);
    for (dst, to, egress, mtu) in [
        (DB_MAC, "10.1.1.3", port(DB), 1300),
        (DB_MAC, "fd00:1::3", port(DB), 1300),
        (gw(), "10.1.1.3", port(DB), 1300),
        (gw(), "fd00:1::3", port(DB), 1300),
        (gw(), "10.1.2.9", peer(C), 1350),
        (gw(), "fd00:2::9", peer(C), 1350),
    ] {
        let fits = w.port_in(WEB, &sized(dst, to, mtu));
        fits.unicast(egress);
        assert!(fits.steps.contains(&Step::Mtu { packet: mtu as u32, mtu: mtu as u32 }));
        let sent = sized(dst, to, mtu + 1);
        let outcome = w.port_in(WEB, &sent);
        outcome.dropped(DropReason::TooBig);
        let kind = if to.contains(':') { (2, 0) } else { (3, 4) };
        is_error_about(&outcome.single().bytes, &sent, kind, mtu as u32, (gw(), WEB_MAC));
        assert_eq!(outcome.single().to, port(WEB));
    }
}

#[test]
fn ethernet_padding_does_not_count() {
    let mut w = World::node();
    w.edit_port(DB, |p| p.mtu = 40);
    let mut sent = sized(DB_MAC, "10.1.1.3", 40);
    sent.resize(60, 0);
    w.port_in(WEB, &sent).unicast(port(DB));
}

#[test]
fn what_nobody_can_be_told_about_is_dropped_by_name() {
    let mut w = World::node();
    w.edit_port(DB, |p| p.mtu = 100);
    let sent = build::ethernet(DB_MAC, VM_MAC, 0x88b5, &[0; 101]);
    w.port_in(VM, &sent).silent(DropReason::TooBig);
    let sent = build::ethernet(DB_MAC, VM_MAC, 0x88b5, &[0; 100]);
    w.port_in(VM, &sent).unicast(port(DB));
}

#[test]
fn tcp_offload_frames_get_smaller_segments() {
    let mut w = World::node();
    w.edit_peer(C, |p| p.mtu = 1000);
    w.edit_port(DB, |p| p.mtu = 1000);
    for (from, to, dst, egress, headers) in [
        ("10.1.1.2", "10.1.2.9", gw(), peer(C), 40),
        ("fd00:1::2", "fd00:2::9", gw(), peer(C), 60),
        ("10.1.1.2", "10.1.1.3", DB_MAC, port(DB), 40),
        ("fd00:1::2", "fd00:1::3", DB_MAC, port(DB), 60),
    ] {
        let (sent, vnet) = offload_tcp((WEB_MAC, dst), from, to, 50_000, 1390);
        let outcome = w.send_vnet(Ingress::Port(WEB), &sent, vnet);
        let copy = outcome.unicast(egress);
        assert_eq!(copy.vnet, VnetHdr { gso_size: 1000 - headers, ..vnet });
        assert_eq!(packet_size(&build::parse(&copy.bytes), &copy.vnet), 1000);
        assert_eq!(copy.bytes.len(), sent.len(), "nothing is cut here");
        // Segments that fit are left alone.
        let (sent, vnet) = offload_tcp((WEB_MAC, dst), from, to, 50_000, 1000 - headers);
        assert_eq!(w.send_vnet(Ingress::Port(WEB), &sent, vnet).unicast(egress).vnet, vnet);
        // A last segment alone is as small as it is.
        let (sent, vnet) = offload_tcp((WEB_MAC, dst), from, to, 10, 1390);
        assert_eq!(w.send_vnet(Ingress::Port(WEB), &sent, vnet).unicast(egress).vnet, vnet);
    }
    // A single TCP packet has no segments to shrink.
    let (sent, vnet) = offload_tcp((WEB_MAC, gw()), "10.1.1.2", "10.1.2.9", 1300, 0);
    let outcome = w.send_vnet(Ingress::Port(WEB), &sent, vnet);
    outcome.dropped(DropReason::TooBig);
    is_error_about(&outcome.single().bytes, &sent, (3, 4), 1000, (gw(), WEB_MAC));
    // Nor does an MTU without room for payload help.
    w.edit_peer(C, |p| p.mtu = 40);
    let (sent, vnet) = offload_tcp((WEB_MAC, gw()), "10.1.1.2", "10.1.2.9", 5000, 1000);
    w.send_vnet(Ingress::Port(WEB), &sent, vnet).dropped(DropReason::TooBig);
}

fn offload_udp(to: &str, payload: usize, segment: u16) -> (Vec<u8>, VnetHdr) {
    let mut frame = web_udp(gw(), to, &vec![1; payload]);
    let headers = build::parse(&frame);
    let at = usize::from(headers.l4) + 6;
    let partial = checksum::pseudo(&headers, &frame, headers.end - u32::from(headers.l4));
    frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::UdpL4,
        gso_size: segment,
        hdr_len: headers.payload,
        csum_start: headers.l4,
        csum_offset: 6,
        ..VnetHdr::default()
    };
    (frame, vnet)
}

#[test]
fn udp_offload_frames_keep_their_datagrams() {
    let mut w = World::node();
    for (to, kind, headers) in [("10.1.2.9", (3, 4), 28), ("fd00:2::9", (2, 0), 48)] {
        let (sent, vnet) = offload_udp(to, 30_000, 1450 - headers);
        assert_eq!(w.send_vnet(Ingress::Port(WEB), &sent, vnet).unicast(peer(C)).vnet, vnet);
        let (sent, vnet) = offload_udp(to, 30_000, 1451 - headers);
        let outcome = w.send_vnet(Ingress::Port(WEB), &sent, vnet);
        outcome.dropped(DropReason::TooBig);
        is_error_about(&outcome.single().bytes, &sent, kind, 1450, (gw(), WEB_MAC));
    }
}

#[test]
fn an_answer_needs_no_room() {
    let mut w = World::node();
    w.edit_port(WEB, |p| p.mtu = 100);
    let sent = build::echo((WEB_MAC, gw()), (ip("10.1.1.2"), ip("10.1.1.1")), 8, 1, 1, &[0; 1000]);
    assert_eq!(w.port_in(WEB, &sent).verdict, Verdict::Reply);
}

#[test]
fn the_largest_frames_a_tap_hands_over() {
    let mut w = World::node();
    for payload in [65_495, 65_400] {
        let (sent, vnet) = offload_tcp((WEB_MAC, DB_MAC), "10.1.1.2", "10.1.1.3", payload, 1400);
        assert_eq!(w.send_vnet(Ingress::Port(WEB), &sent, vnet).unicast(port(DB)).bytes, sent);
    }
    // IPv6 counts its header apart; the receive buffer is the limit.
    let (sent, vnet) = offload_tcp((WEB_MAC, DB_MAC), "fd00:1::2", "fd00:1::3", MAX_FRAME - 74, 1380);
    assert_eq!(sent.len(), MAX_FRAME);
    w.send_vnet(Ingress::Port(WEB), &sent, vnet).unicast(port(DB));
}
