//! The cut against an obviously right, slow one, and against etherparse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{GsoType, Headers, VnetHdr, build, checksum, ether_type, ip_proto, tcp_flag};
use proptest::prelude::*;
use tunnel::offload::{CutError, MAX_HEADER, plan};

/// All packets of a frame, materialised.
fn cut(frame: &[u8], headers: &Headers, vnet: &VnetHdr, max_l3: usize) -> Result<Vec<Vec<u8>>, CutError> {
    let cut = plan(frame, headers, vnet, max_l3)?;
    let mut block = [0xee; MAX_HEADER];
    Ok((0..cut.pieces())
        .map(|k| {
            let piece = cut.write(k, &mut block);
            let bytes = [&block[..piece.header], &frame[piece.payload.clone()]].concat();
            assert_eq!((bytes.len(), piece.payload), (piece.header + cut.payload(k).len(), cut.payload(k)));
            bytes
        })
        .collect())
}

/// The same by building each packet from its fields.
fn reference(v6: bool, is_tcp: bool, seq: u32, flags: u8, data: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = data.len().div_ceil(size).max(1);
    let mut out: Vec<_> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
    out.truncate(count);
    out.iter()
        .enumerate()
        .map(|(k, part)| {
            let mut f = flags;
            if k > 0 {
                f &= !tcp_flag::CWR;
            }
            if k + 1 < count {
                f &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            let mut frame = if is_tcp {
                tcp(v6, (1, 2), seq.wrapping_add((k * size) as u32), 77, f, part)
            } else {
                udp(v6, (1, 2), part)
            };
            if !v6 {
                frame[18..20].copy_from_slice(&(k as u16).to_be_bytes());
                frame[24..26].fill(0);
                let field = checksum::finish(checksum::sum(&frame[14..34]));
                frame[24..26].copy_from_slice(&field.to_be_bytes());
            }
            frame
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn equals_the_reference(
        v6: bool, is_tcp: bool, seq: u32, flags: u8,
        len in prop_oneof![0usize..200, 1000usize..9000, 60_000usize..65_400],
        size in 32u16..9000,
    ) {
        let flags = if is_tcp { flags } else { 0 };
        let data = payload(len, seq as u8);
        let mut frame = if is_tcp { tcp(v6, (1, 2), seq, 77, flags, &data) } else { udp(v6, (1, 2), &data) };
        let (h, vnet) = offload(&mut frame, size);
        let got = cut(&frame, &h, &vnet, 65_535).unwrap();
        prop_assert_eq!(&got, &reference(v6, is_tcp, seq, flags, &data, usize::from(size)));
        got.iter().for_each(|f| assert_complete(f));
    }

    #[test]
    fn tcp_shrinks_to_the_path_and_udp_says_so(v6: bool, size in 600u16..3000, max in 200usize..3000) {
        let mut frame = tcp(v6, (1, 2), 5, 77, tcp_flag::ACK, &payload(5000, 1));
        let (h, vnet) = offload(&mut frame, size);
        for f in cut(&frame, &h, &vnet, max).unwrap() {
            prop_assert!(f.len() - 14 <= max);
            assert_complete(&f);
        }
        let mut frame = udp(v6, (1, 2), &payload(5000, 1));
        let (h, vnet) = offload(&mut frame, size);
        let needed = usize::from(size) + if v6 { 48 } else { 28 };
        match cut(&frame, &h, &vnet, max) {
            Ok(list) => { prop_assert!(needed <= max); list.iter().for_each(|f| assert_complete(f)); }
            Err(e) => { prop_assert_eq!(e, CutError::TooBig); prop_assert!(needed > max); }
        }
    }

    #[test]
    fn partial_checksums_are_completed(v6: bool, is_tcp: bool, len in 0usize..3000) {
        let data = payload(len, 3);
        let whole = if is_tcp { tcp(v6, (1, 2), 9, 8, tcp_flag::ACK, &data) } else { udp(v6, (1, 2), &data) };
        let mut frame = whole.clone();
        let (h, vnet) = partial(&mut frame);
        prop_assert_eq!(cut(&frame, &h, &vnet, 9000).unwrap(), vec![whole.clone()]);
        // The value in the field is not trusted where the headers say what it must be.
        let at = usize::from(vnet.csum_start + vnet.csum_offset);
        frame[at] ^= 0x55;
        prop_assert_eq!(cut(&frame, &h, &vnet, 9000).unwrap(), vec![whole]);
    }

    #[test]
    fn any_frame_and_any_header_are_cut_or_refused(
        mut frame in proptest::collection::vec(any::<u8>(), 14..400),
        kind in 0u8..4, gso in 0u8..4, vnet in any::<[u8; 10]>(), l4: bool, max in 0usize..500,
    ) {
        match kind {
            0 => frame[12..14].copy_from_slice(&ether_type::IPV4.to_be_bytes()),
            1 => frame[12..14].copy_from_slice(&ether_type::IPV6.to_be_bytes()),
            _ => {}
        }
        if kind == 0 && frame.len() > 60 {
            frame[14] = 0x45 + (frame[14] & 1);
            let len = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            frame[23] = [6, 17, 58, 132][usize::from(frame[23] & 3)];
        }
        if kind == 1 && frame.len() > 80 {
            frame[14] = 0x60;
            let len = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            frame[20] = [6, 17, 58, 60][usize::from(frame[20] & 3)];
        }
        let Ok(h) = Headers::parse(&frame) else { return Ok(()) };
        let word = |i: usize| u16::from_ne_bytes([vnet[i], vnet[i + 1]]) >> (vnet[9] & 15);
        let mut v = VnetHdr {
            needs_csum: vnet[0] & 1 != 0,
            gso_type: [GsoType::None, GsoType::Tcp4, GsoType::Tcp6, GsoType::UdpL4][usize::from(gso)],
            gso_size: word(2), hdr_len: word(1), csum_start: word(4), csum_offset: word(6), ..VnetHdr::default()
        };
        if l4 {
            v.csum_start = h.l4;
            v.csum_offset = checksum::field_offset(h.proto).unwrap_or(0) as u16;
        }
        if let Ok(list) = cut(&frame, &h, &v, max) {
            for f in list {
                prop_assert!(f.len() <= frame.len());
                let ip = matches!(h.net, packet::Net::V4 | packet::Net::V6);
                prop_assert!(f.len() <= max + 14 || ip && h.end as usize <= max + 14);
            }
        }
    }
}

#[test]
fn plain_frames_pass_whole() {
    let frame = build::arp(MACS, 1, (MACS.0, [10, 0, 0, 1].into()), (MACS.1, [10, 0, 0, 2].into()));
    let h = build::parse(&frame);
    assert_eq!(cut(&frame, &h, &VnetHdr::default(), 100).unwrap(), std::slice::from_ref(&frame));
    assert_eq!(cut(&frame, &h, &VnetHdr::default(), 27).unwrap_err(), CutError::TooBig);
    // Padding stays if there is room, and only then.
    let mut padded = udp(false, (1, 2), b"x");
    let end = padded.len();
    padded.resize(60, 0);
    let h = build::parse(&padded);
    assert_eq!(cut(&padded, &h, &VnetHdr::default(), 46).unwrap(), std::slice::from_ref(&padded));
    assert_eq!(cut(&padded, &h, &VnetHdr::default(), 45).unwrap(), [padded[..end].to_vec()]);
}

#[test]
fn contradictions_are_refused() {
    let mut frame = tcp(false, (1, 2), 5, 6, tcp_flag::ACK, &payload(3000, 0));
    let (h, good) = offload(&mut frame, 1000);
    let bad = [
        VnetHdr { gso_type: GsoType::Tcp6, ..good },
        VnetHdr { gso_type: GsoType::UdpL4, ..good },
        VnetHdr { gso_size: 0, ..good },
        VnetHdr { needs_csum: false, ..good },
        VnetHdr { csum_start: 33, ..good },
        VnetHdr { csum_offset: 6, ..good },
        VnetHdr { gso_type: GsoType::None, csum_start: 3, ..good },
        VnetHdr { gso_type: GsoType::None, csum_start: u16::MAX, csum_offset: u16::MAX, ..good },
    ];
    for v in bad {
        assert_eq!(cut(&frame, &h, &v, 65_535).unwrap_err(), CutError::Inconsistent, "{v:?}");
    }
    let tiny = VnetHdr { gso_size: 1, ..good };
    assert_eq!(cut(&frame, &h, &tiny, 1500).unwrap_err(), CutError::TooManySegments);
    assert_eq!(cut(&frame, &h, &good, 52).unwrap_err(), CutError::TooBig);
    // A partial checksum far behind the headers is more than may be rewritten.
    let far = VnetHdr { gso_type: GsoType::None, csum_start: 500, csum_offset: 0, ..good };
    assert_eq!(cut(&frame, &h, &far, 65_535).unwrap_err(), CutError::HeaderTooLong);
}

#[test]
fn options_and_extension_headers_are_copied() {
    // IPv4 with a four-byte option.
    let plain = tcp(false, (1, 2), 5, 6, tcp_flag::ACK | tcp_flag::PSH, &payload(3000, 0));
    let mut frame = [&plain[..34], &[1, 1, 1, 1], &plain[34..]].concat();
    frame[14] = 0x46;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let (h, vnet) = offload(&mut frame, 1000);
    let list = cut(&frame, &h, &vnet, 1500).unwrap();
    assert_eq!(list.len(), 3);
    for f in &list {
        assert_complete(f);
        assert_eq!(f[34..38], [1, 1, 1, 1]);
    }
    // IPv6 with destination options.
    let plain = udp(true, (1, 2), &payload(2500, 0));
    let mut frame = [&plain[..54], &[17, 0, 1, 4, 0, 0, 0, 0], &plain[54..]].concat();
    frame[20] = 60;
    let len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    let (h, vnet) = offload(&mut frame, 1000);
    let list = cut(&frame, &h, &vnet, 1500).unwrap();
    assert_eq!(list.len(), 3);
    list.iter().for_each(|f| assert_complete(f));
}

#[test]
fn a_checksum_of_an_inner_packet_is_completed_from_its_own_fields() {
    // The pod runs an overlay: its kernel asks for the checksum of the inner UDP, at odd places too.
    for shift in 0..3usize {
        let inner = udp(false, (7, 8), &payload(101, 4));
        let mut body = vec![0; shift];
        body.extend(&inner);
        let mut frame = udp(false, (1, 4789), &body);
        let outer = build::parse(&frame);
        let start = usize::from(outer.payload) + shift + 34;
        let h = build::parse(&inner);
        let pseudo = checksum::pseudo(&h, &inner, h.end - u32::from(h.l4));
        frame[start + 6..start + 8].copy_from_slice(&pseudo.to_be_bytes());
        let vnet =
            VnetHdr { needs_csum: true, csum_start: start as u16, csum_offset: 6, ..VnetHdr::default() };
        let list = cut(&frame, &outer, &vnet, 1500).unwrap();
        assert_eq!(list[0][usize::from(outer.payload) + shift..], inner[..], "{shift}");
    }
}

#[test]
fn udp_checksum_zero_is_sent_as_ones() {
    // Search for a payload whose checksum computes to zero.
    let mut frame = udp(false, (1, 2), &[0, 0]);
    let h = build::parse(&frame);
    frame[40..42].fill(0);
    let rest = checksum::add(checksum::pseudo(&h, &frame, 10), checksum::sum(&frame[34..]));
    frame[42..44].copy_from_slice(&(!rest).to_be_bytes());
    let (h, vnet) = partial(&mut frame);
    let list = cut(&frame, &h, &vnet, 1500).unwrap();
    assert_eq!(list[0][40..42], [0xff, 0xff]);
    assert_eq!(h.proto, ip_proto::UDP);
    assert_complete(&list[0]);
}
