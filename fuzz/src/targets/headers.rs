//! `headers`: one frame through the parser. Every offset is inside the frame and in order, padding changes
//! nothing, and what reads a frame by these offsets may.

use crate::input::mix;
use packet::{Fragment, Headers, Net, VnetHdr, checksum, ether_type, flow, ip_proto};
use switch::datapath::packet_size;

/// Holds for every frame and what [`Headers::parse`] says about it.
pub fn check(frame: &[u8], h: &Headers) {
    let (l4, payload, end) = (usize::from(h.l4), usize::from(h.payload), h.end as usize);
    assert!(end <= frame.len() && end >= Headers::L3);
    assert_eq!(l4 == 0, payload == 0, "both or neither");
    match h.net {
        Net::Other => assert!(l4 == 0 && h.proto == 0 && end == frame.len()),
        Net::Arp => assert!(l4 == 0 && end == Headers::L3 + 28),
        Net::V4 | Net::V6 => {
            let least = Headers::L3 + if h.net == Net::V4 { 20 } else { 40 };
            assert!(end >= least);
            assert!(l4 == 0 || (least <= l4 && l4 <= payload && payload <= end), "{h:?}");
            assert!(h.src_ip(frame).is_some() && h.dst_ip(frame).is_some());
        }
    }
    if h.fragment == Fragment::Later {
        assert!(l4 == 0 && h.sport == 0 && h.dport == 0);
    }
    if l4 != 0 {
        let least = match h.proto {
            ip_proto::TCP => 20,
            ip_proto::UDP => 8,
            _ => 0,
        };
        assert!(payload - l4 >= least);
    }
    if h.proto != ip_proto::TCP {
        assert_eq!(h.tcp_flags, 0);
    }
}

pub fn run(data: &[u8]) -> u64 {
    let h = match Headers::parse(data) {
        Ok(h) => h,
        Err(e) => return mix(1, e as u64),
    };
    check(data, &h);
    let ip = matches!(h.net, Net::V4 | Net::V6);
    if ip || h.net == Net::Arp {
        // Ethernet padding is invisible.
        assert_eq!(Headers::parse(&data[..h.end as usize]), Ok(h));
        let hash = flow::hash(&h, data);
        assert_eq!(hash, flow::hash(&h, &data[..h.end as usize]));
        // One byte less is no longer the packet that the length field announces.
        assert!(Headers::parse(&data[..h.end as usize - 1]).is_err());
    } else {
        let _ = flow::hash(&h, data);
    }
    let tos = h.tos(data);
    let state = checksum::l4_state(&h, data);
    let right = checksum::verify_l4(&h, data);
    if h.net == Net::V4 {
        let _ = checksum::verify_ipv4_header(&data[Headers::L3..]);
    }
    let size = packet_size(&h, &VnetHdr::default());
    // A tag is part of the link layer's header.
    let tag = if matches!(h.ether_type, ether_type::VLAN | ether_type::QINQ) { 4 } else { 0 };
    assert_eq!(size as usize, (h.end as usize - Headers::L3).saturating_sub(tag));
    // A mark changes the mark and nothing else.
    let mut marked = data.to_vec();
    tunnel::ecn::set_ecn(&mut marked, &h, 3);
    assert_eq!(Headers::parse(&marked), Ok(h));
    assert_eq!(h.tos(&marked), if ip { tos | 3 } else { 0 });
    assert_eq!(checksum::verify_l4(&h, &marked), right);
    if h.net == Net::V4 && checksum::verify_ipv4_header(&data[Headers::L3..]) {
        assert!(checksum::verify_ipv4_header(&marked[Headers::L3..]));
    }
    let kind = h.net as u64 | (h.fragment as u64) << 4 | u64::from(h.proto) << 8 | u64::from(h.l4) << 16;
    mix(kind, state as u64 | u64::from(right) << 4)
}
