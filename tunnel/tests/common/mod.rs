//! Frames for the tests of this crate, and an independent judge of complete packets.
#![allow(dead_code)]

use packet::{GsoType, Headers, MacAddr, VnetHdr, build, checksum, ip_proto, tcp_flag};
use std::net::IpAddr;

pub const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));

pub fn ips(v6: bool) -> (IpAddr, IpAddr) {
    let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.1.1.1", "10.1.2.2") };
    (a.parse().unwrap(), b.parse().unwrap())
}

/// Payload that differs at every offset.
pub fn payload(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(salt)).collect()
}

/// A TCP frame with the timestamp option.
pub fn tcp(v6: bool, ports: (u16, u16), seq: u32, ack: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x80, flags, 0x12, 0x34, 0, 0, 0, 0]);
    l4.extend([1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
    l4.extend(data);
    let (a, b) = ips(v6);
    let (kind, body) = build::ip(a, b, ip_proto::TCP, l4);
    build::ethernet(MACS.1, MACS.0, kind, &body)
}

pub fn udp(v6: bool, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    build::udp(MACS, ips(v6), ports, data)
}

/// Replaces the L4 checksum by the pseudo-header sum and says so.
pub fn partial(frame: &mut [u8]) -> (Headers, VnetHdr) {
    let h = build::parse(frame);
    let field = checksum::field_offset(h.proto).unwrap();
    let at = usize::from(h.l4) + field;
    let sum = checksum::pseudo(&h, frame, h.end - u32::from(h.l4));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let vnet = VnetHdr {
        needs_csum: true,
        hdr_len: h.payload,
        csum_start: h.l4,
        csum_offset: field as u16,
        ..VnetHdr::default()
    };
    (h, vnet)
}

/// As [`partial`], to be cut at `size`.
pub fn offload(frame: &mut [u8], size: u16) -> (Headers, VnetHdr) {
    let (h, vnet) = partial(frame);
    let gso_type = match (h.net, h.proto) {
        (packet::Net::V4, ip_proto::TCP) => GsoType::Tcp4,
        (packet::Net::V6, ip_proto::TCP) => GsoType::Tcp6,
        _ => GsoType::UdpL4,
    };
    (h, VnetHdr { gso_type, gso_size: size, ecn: h.tcp_flags & tcp_flag::CWR != 0, ..vnet })
}

/// Every checksum is right, says our code and says etherparse; every length agrees.
pub fn assert_complete(frame: &[u8]) {
    let h = build::parse(frame);
    assert_eq!(h.end as usize, frame.len(), "length fields");
    assert!(checksum::verify_l4(&h, frame), "our checksum");
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (src, dst): (Vec<u8>, Vec<u8>) = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "IPv4 header");
            (ip.source().to_vec(), ip.destination().to_vec())
        }
        etherparse::NetSlice::Ipv6(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
        etherparse::NetSlice::Arp(_) => return,
    };
    match sliced.transport.as_ref().unwrap() {
        etherparse::TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let want = match (<[u8; 4]>::try_from(&src[..]), <[u8; 4]>::try_from(&dst[..])) {
                (Ok(s), Ok(d)) => header.calc_checksum_ipv4_raw(s, d, tcp.payload()).unwrap(),
                _ => header
                    .calc_checksum_ipv6_raw(
                        src[..].try_into().unwrap(),
                        dst[..].try_into().unwrap(),
                        tcp.payload(),
                    )
                    .unwrap(),
            };
            assert_eq!(header.checksum, want, "TCP");
        }
        etherparse::TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!(usize::from(header.length), 8 + udp.payload().len());
            let want = match (<[u8; 4]>::try_from(&src[..]), <[u8; 4]>::try_from(&dst[..])) {
                (Ok(s), Ok(d)) => header.calc_checksum_ipv4_raw(s, d, udp.payload()).unwrap(),
                _ => header
                    .calc_checksum_ipv6_raw(
                        src[..].try_into().unwrap(),
                        dst[..].try_into().unwrap(),
                        udp.payload(),
                    )
                    .unwrap(),
            };
            assert_eq!(header.checksum, want, "UDP");
        }
        _ => {}
    }
}
