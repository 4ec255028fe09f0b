//! Our parser against two others, etherparse and smoltcp, on frames that are valid, damaged or random.
//!
//! The three do not have to agree on what is wrong with a broken frame, only on what a frame says that all of
//! them accept. Where ours accepts more (it forwards packets whose L4 header is cut short) the others' refusal
//! is fine; where ours refuses what both others accept, the reason must be one of the documented limits.
#![allow(clippy::expect_used)]

use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice};
use packet::{Fragment, Headers, MacAddr, Malformed, Net, build, ip_proto, tcp_flag};
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn mac() -> impl Strategy<Value = MacAddr> + Clone {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn v4() -> impl Strategy<Value = IpAddr> + Clone {
    any::<u32>().prop_map(|b| IpAddr::V4(Ipv4Addr::from_bits(b)))
}

fn v6() -> impl Strategy<Value = IpAddr> + Clone {
    any::<u128>().prop_map(|b| IpAddr::V6(Ipv6Addr::from_bits(b)))
}

fn ips() -> impl Strategy<Value = (IpAddr, IpAddr)> + Clone {
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

/// A frame of any kind the builders make.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let macs = (mac(), mac());
    prop_oneof![
        (macs.clone(), ips(), any::<(u16, u16)>(), payload.clone())
            .prop_map(|(m, i, p, d)| build::udp(m, i, p, &d)),
        (macs.clone(), ips(), any::<(u16, u16)>(), any::<(u32, u32, u8)>(), payload.clone())
            .prop_map(|(m, i, p, s, d)| build::tcp(m, i, p, s, &d)),
        (macs.clone(), ips(), any::<(u16, u16)>(), payload.clone()).prop_map(|(m, i, (id, seq), d)| {
            build::echo(m, i, if i.0.is_ipv4() { 8 } else { 128 }, id, seq, &d)
        }),
        (macs.clone(), mac(), mac(), any::<(u32, u32)>(), 1u16..3).prop_map(|(m, s, t, (a, b), op)| {
            build::arp(m, op, (s, Ipv4Addr::from_bits(a)), (t, Ipv4Addr::from_bits(b)))
        }),
        (macs, any::<u16>(), payload).prop_map(|(m, kind, d)| build::ethernet(m.1, m.0, kind, &d)),
    ]
}

/// A valid frame with bytes changed, cut or appended.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (valid(), edits, any::<prop::sample::Index>(), 0u8..4, prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(mut f, edits, cut, how, tail)| {
            for (at, value) in edits {
                let at = at.index(f.len());
                f[at] = value;
            }
            match how {
                0 => f.truncate(cut.index(f.len() + 1)),
                1 => f.extend(tail),
                _ => {}
            }
            f
        })
}

fn inside(headers: &Headers, frame: &[u8]) {
    assert!(headers.end as usize <= frame.len());
    assert!(u32::from(headers.l4) <= headers.end && u32::from(headers.payload) <= headers.end);
    assert!(headers.payload >= headers.l4);
    if headers.l4 != 0 {
        assert!(usize::from(headers.l4) >= Headers::L3 + 20);
    }
}

/// Compares everything that both see.
fn agree_with_etherparse(frame: &[u8]) {
    let ours = Headers::parse(frame);
    if let Ok(headers) = &ours {
        inside(headers, frame);
    }
    let Ok(theirs) = SlicedPacket::from_ethernet(frame) else { return };
    if !theirs.link_exts.is_empty() {
        // Tagged: we do not look inside.
        assert_eq!(ours.map(|h| h.net), Ok(Net::Other));
        return;
    }
    match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let h = ours.expect("etherparse reads IPv4 here");
            assert_eq!(h.net, Net::V4);
            assert_eq!(h.src_ip(frame), Some(IpAddr::V4(ip.header().source_addr())));
            assert_eq!(h.dst_ip(frame), Some(IpAddr::V4(ip.header().destination_addr())));
            assert_eq!(h.end as usize, Headers::L3 + usize::from(ip.header().total_len()));
            // etherparse looks behind an authentication header in IPv4, we do not.
            if ip.extensions().auth.is_none() {
                assert_eq!(h.proto, ip.header().protocol().0);
            }
            let whole = !ip.header().more_fragments() && ip.header().fragments_offset().value() == 0;
            assert_eq!(h.fragment == Fragment::Whole, whole);
            assert_eq!(h.tos(frame), frame[15]);
        }
        Some(NetSlice::Ipv6(ip)) => match ours {
            Ok(h) => {
                assert_eq!(h.net, Net::V6);
                assert_eq!(h.src_ip(frame), Some(IpAddr::V6(ip.header().source_addr())));
                assert_eq!(h.dst_ip(frame), Some(IpAddr::V6(ip.header().destination_addr())));
                assert_eq!(h.tos(frame), ip.header().traffic_class());
                // etherparse stops at extension headers out of the recommended order, we walk on.
                let walked = !ip.extensions().slice().is_empty() || h.proto == ip.header().next_header().0;
                assert!(!walked || h.fragment != Fragment::Whole || !ip.is_payload_fragmented());
            }
            Err(e) => assert_eq!(e, Malformed::BadExtension),
        },
        Some(NetSlice::Arp(_)) => {
            if let Ok(h) = ours {
                assert_eq!(h.net, Net::Arp);
            }
        }
        None => {
            let kind = u16::from_be_bytes([frame[12], frame[13]]);
            if EtherType(kind) != EtherType::ARP {
                assert_eq!(ours.map(|h| h.net), Ok(Net::Other));
            }
        }
    }
    let Ok(h) = ours else { return };
    if h.net != Net::V4 && h.net != Net::V6 {
        return;
    }
    // An IPv6 packet of length 0 has no payload (RFC 8200 section 3); etherparse takes what follows for it.
    if h.net == Net::V6 && frame.get(18..20) == Some(&[0, 0]) {
        return;
    }
    match &theirs.transport {
        Some(TransportSlice::Udp(udp)) if h.proto == ip_proto::UDP => {
            assert_eq!((h.sport, h.dport), (udp.source_port(), udp.destination_port()));
            assert_eq!(h.payload, h.l4 + 8);
        }
        Some(TransportSlice::Tcp(tcp)) if h.proto == ip_proto::TCP => {
            assert_eq!((h.sport, h.dport), (tcp.source_port(), tcp.destination_port()));
            assert_eq!(usize::from(h.payload), usize::from(h.l4) + tcp.slice().len() - tcp.payload().len());
            assert_eq!(h.tcp_flags & tcp_flag::SYN != 0, tcp.syn());
            assert_eq!(h.tcp_flags & tcp_flag::PSH != 0, tcp.psh());
        }
        _ => {}
    }
}

fn agree_with_smoltcp(frame: &[u8]) {
    let Ok(eth) = EthernetFrame::new_checked(frame) else {
        assert_eq!(Headers::parse(frame), Err(Malformed::Truncated));
        return;
    };
    let ours = Headers::parse(frame);
    match eth.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(ip) = Ipv4Packet::new_checked(eth.payload()) else { return };
            if ip.version() != 4 || ip.header_len() < 20 {
                return;
            }
            let h = ours.expect("smoltcp reads IPv4 here");
            assert_eq!(h.src_ip(frame), Some(IpAddr::V4(ip.src_addr())));
            assert_eq!(h.dst_ip(frame), Some(IpAddr::V4(ip.dst_addr())));
            assert_eq!(h.proto, u8::from(ip.next_header()));
            assert_eq!(
                packet::checksum::verify_ipv4_header(&frame[Headers::L3..]),
                ip.verify_checksum(),
                "header checksum"
            );
        }
        EthernetProtocol::Ipv6 => {
            let Ok(ip) = Ipv6Packet::new_checked(eth.payload()) else { return };
            if ip.version() != 6 {
                return;
            }
            match ours {
                Ok(h) => assert_eq!(h.src_ip(frame), Some(IpAddr::V6(ip.src_addr()))),
                Err(e) => assert_eq!(e, Malformed::BadExtension),
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn valid_frames(frame in valid()) {
        agree_with_etherparse(&frame);
        agree_with_smoltcp(&frame);
    }

    #[test]
    fn mutated_frames(frame in mutated()) {
        agree_with_etherparse(&frame);
        agree_with_smoltcp(&frame);
    }

    #[test]
    fn random_bytes(frame in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100])) {
        let mut frame = frame;
        if frame.len() >= 14 {
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
        }
        agree_with_etherparse(&frame);
        agree_with_smoltcp(&frame);
    }

    #[test]
    fn l4_checksums(frame in valid(), flip in any::<(prop::sample::Index, u8)>()) {
        let Ok(headers) = Headers::parse(&frame) else { return Ok(()) };
        // A port pair may make the field zero, which means "none" for UDP.
        prop_assert!(packet::checksum::verify_l4(&headers, &frame));
        if headers.l4 == 0 || headers.fragment != Fragment::Whole || packet::checksum::field_offset(headers.proto).is_none() {
            return Ok(());
        }
        let mut damaged = frame.clone();
        let span = headers.end as usize - usize::from(headers.l4);
        let at = usize::from(headers.l4) + flip.0.index(span);
        damaged[at] ^= flip.1;
        if let Ok(h) = Headers::parse(&damaged) && h == headers && damaged != frame {
            // One changed byte always changes the sum, except 0x00 <-> 0xff against an all-zero complement.
            let sum_zero = packet::checksum::l4_state(&h, &damaged) == packet::checksum::L4Checksum::Absent;
            prop_assert!(sum_zero || flip.1 == 0xff || !packet::checksum::verify_l4(&h, &damaged));
        }
    }
}

#[test]
fn extension_headers_are_walked_to_the_end() {
    let macs = (MacAddr([2; 6]), MacAddr([4; 6]));
    let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap());
    let udp = [0u8, 53, 0, 54, 0, 8, 0, 1];
    let mut chain = Vec::new();
    // Hop-by-hop, destination options, fragment (first, more), then UDP.
    chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend([44, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend([17, 0, 0, 1, 0, 0, 0, 9]);
    chain.extend(udp);
    let frame = build::ethernet(macs.1, macs.0, 0x86dd, &build::ipv6(src, dst, 0, &chain));
    let h = Headers::parse(&frame).unwrap();
    assert_eq!((h.proto, h.fragment, h.sport, h.dport), (17, Fragment::First, 53, 54));
    assert_eq!(usize::from(h.l4), 14 + 40 + 24);
}

#[test]
fn endless_chains_are_refused() {
    let macs = (MacAddr([2; 6]), MacAddr([4; 6]));
    let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap());
    let chain = [60u8, 0, 1, 4, 0, 0, 0, 0].repeat(packet::MAX_EXTENSIONS + 2);
    let frame = build::ethernet(macs.1, macs.0, 0x86dd, &build::ipv6(src, dst, 60, &chain));
    assert_eq!(Headers::parse(&frame), Err(Malformed::BadExtension));
}
