//! The virtio-net header must agree with the frame before anybody relies on it.

use super::kit::*;
use super::route::offload_tcp;
use crate::datapath::{DropReason, Ingress, packet_size};
use packet::{GsoType, VnetHdr, build};

fn good() -> (Vec<u8>, VnetHdr) {
    offload_tcp((WEB_MAC, DB_MAC), "10.1.1.2", "10.1.1.3", 5000, 1000)
}

#[track_caller]
fn refused(frame: &[u8], vnet: VnetHdr) {
    World::node().send_vnet(Ingress::Port(WEB), frame, vnet).silent(DropReason::BadVnet);
}

#[test]
fn offsets_inside_the_frame() {
    let frame = web_udp(DB_MAC, "10.1.1.3", b"0123456789");
    let len = frame.len() as u16;
    let vnet =
        |csum_start, csum_offset| VnetHdr { needs_csum: true, csum_start, csum_offset, ..VnetHdr::default() };
    for (start, offset) in [
        (0, 6),
        (13, 6),
        (len, 0),
        (len - 1, 0),
        (34, len - 34),
        (34, len - 35),
        (34, u16::MAX),
        (u16::MAX, u16::MAX),
        // The bytes to be written are what the guard has looked at, or another field of our own headers.
        (14, 0),
        (14, 12),
        (34, 2),
        (34, len - 36),
    ] {
        refused(&frame, vnet(start, offset));
    }
    // The UDP checksum, or one of a packet inside this one.
    for (start, offset) in [(34, 6), (42, 2), (42, len - 44)] {
        World::node().send_vnet(Ingress::Port(WEB), &frame, vnet(start, offset)).unicast(port(DB));
    }
    // Without the flag the offsets mean nothing.
    let unused = VnetHdr { csum_start: u16::MAX, ..VnetHdr::default() };
    World::node().send_vnet(Ingress::Port(WEB), &frame, unused).unicast(port(DB));
}

#[test]
fn an_offload_frame_is_what_it_says() {
    let (frame, vnet) = good();
    World::node().send_vnet(Ingress::Port(WEB), &frame, vnet).unicast(port(DB));
    refused(&frame, VnetHdr { gso_type: GsoType::Tcp6, ..vnet });
    refused(&frame, VnetHdr { gso_type: GsoType::UdpL4, ..vnet });
    refused(&frame, VnetHdr { csum_start: vnet.csum_start + 2, ..vnet });
    refused(&frame, VnetHdr { csum_offset: 6, ..vnet });
    // Made by hand, these get past the reader of the header.
    refused(&frame, VnetHdr { needs_csum: false, ..vnet });
    refused(&frame, VnetHdr { gso_size: 0, ..vnet });
    // A fragment is never an offload frame.
    let mut fragment = frame.clone();
    fragment[20] = 0x20;
    refused(&fragment, vnet);
    // Nor is one whose TCP header does not fit, or anything but IP.
    let mut short = frame.clone();
    short[46] = 0x10;
    refused(&short, vnet);
    let mut other = build::ethernet(DB_MAC, VM_MAC, 0x88b5, &frame[14..]);
    other.truncate(2000);
    World::node().send_vnet(Ingress::Port(VM), &other, vnet).silent(DropReason::BadVnet);
    // A lying `hdr_len` is nobody's business.
    World::node().send_vnet(Ingress::Port(WEB), &frame, VnetHdr { hdr_len: 9, ..vnet }).unicast(port(DB));
}

#[test]
fn sizes() {
    let (frame, vnet) = good();
    let headers = build::parse(&frame);
    assert_eq!(packet_size(&headers, &vnet), 1040);
    assert_eq!(packet_size(&headers, &VnetHdr::default()), 5040);
    assert_eq!(packet_size(&headers, &VnetHdr { gso_size: u16::MAX, ..vnet }), 5040);
    let other = build::ethernet(DB_MAC, VM_MAC, 0x88b5, &[0; 77]);
    assert_eq!(packet_size(&build::parse(&other), &VnetHdr::default()), 77);
    assert_eq!(packet_size(&build::parse(&other[..14]), &VnetHdr::default()), 0);
}
