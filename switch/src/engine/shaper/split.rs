//! What an offload frame weighs, and how to keep only its first packets.
//!
//! A limit counts packets as the wire would see them: an offload frame of n segments weighs its payload and n
//! times its headers. Where only some of them are within the limit, the frame is shortened to these. The rest is
//! lost, as it would be if the packets had come one by one; TCP then misses a few segments and not sixty at once.

use crate::datapath::packet_size;
use packet::{GsoType, Headers, Net, VnetHdr, checksum, tcp_flag};
use tunnel::offload::segments;

/// A frame in IP bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight {
    /// Packets it stands for, at least 1.
    pub packets: u64,
    /// Bytes of all packets together, at least 1: what costs nothing could not be limited.
    pub bytes: u64,
    /// Bytes of its largest packet, at least 1.
    pub largest: u64,
}

impl Weight {
    /// Of a frame whose headers agree with its virtio-net header.
    #[must_use]
    pub fn of(headers: &Headers, vnet: &VnetHdr) -> Self {
        let largest = u64::from(packet_size(headers, vnet)).max(1);
        if !vnet.is_gso() {
            return Self { packets: 1, bytes: largest, largest };
        }
        let packets = segments(headers, vnet) as u64;
        let once = u64::from(headers.end).saturating_sub(Headers::L3 as u64);
        let bytes = once + (packets - 1) * repeated(headers);
        Self { packets, bytes: bytes.max(1), largest }
    }

    /// How many of its packets begin before `room` bytes are used up.
    #[must_use]
    pub fn within(&self, room: i128) -> u64 {
        let packets = (room.max(0) as u128).div_ceil(u128::from(self.largest));
        packets.min(u128::from(self.packets)) as u64
    }
}

/// Bytes of the headers that every segment has, without Ethernet.
fn repeated(headers: &Headers) -> u64 {
    u64::from(headers.payload).saturating_sub(Headers::L3 as u64)
}

/// Bytes of the frame that carry its first `packets` packets. The frame is an offload frame that stands for more.
#[must_use]
pub fn length(headers: &Headers, vnet: &VnetHdr, packets: u64) -> usize {
    let payload = packets.saturating_mul(u64::from(vnet.gso_size));
    (u64::from(headers.payload).saturating_add(payload)).min(u64::from(headers.end)) as usize
}

/// Turns the first bytes of an offload frame, cut off at a [`length`], into a frame of their own: lengths and
/// checksums are those of what is left, and the flags that belong to the last segment are gone.
pub fn mend(frame: &mut [u8], headers: &mut Headers, vnet: &mut VnetHdr) {
    let (l3, l4, end) = (Headers::L3, usize::from(headers.l4), frame.len());
    headers.end = end as u32;
    if end - usize::from(headers.payload) <= usize::from(vnet.gso_size) {
        // One segment: nothing to cut any more, but still a checksum to complete.
        (vnet.gso_type, vnet.gso_size) = (GsoType::None, 0);
    }
    // An IP packet is shorter than 64 KiB, and this one is shorter than it was.
    if headers.net == Net::V4 {
        let ip = &mut frame[l3..l4];
        ip[2..4].copy_from_slice(&((end - l3) as u16).to_be_bytes());
        ip[10..12].fill(0);
        let field = checksum::finish(checksum::sum(ip));
        ip[10..12].copy_from_slice(&field.to_be_bytes());
    } else {
        frame[l3 + 4..l3 + 6].copy_from_slice(&((end - l3 - 40) as u16).to_be_bytes());
    }
    if headers.proto == packet::ip_proto::UDP {
        frame[l4 + 4..l4 + 6].copy_from_slice(&((end - l4) as u16).to_be_bytes());
    } else {
        frame[l4 + 13] &= !(tcp_flag::FIN | tcp_flag::PSH);
        headers.tcp_flags &= !(tcp_flag::FIN | tcp_flag::PSH);
    }
    let at = l4 + checksum::field_offset(headers.proto).unwrap_or(0);
    let field = checksum::pseudo(headers, frame, (end - l4) as u32);
    frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{MacAddr, build};
    use proptest::prelude::*;
    use std::net::IpAddr;
    use tunnel::offload::{MAX_HEADER, plan};

    /// Every packet of a frame, complete.
    fn packets(frame: &[u8], headers: &Headers, vnet: &VnetHdr) -> Vec<Vec<u8>> {
        let cut = plan(frame, headers, vnet, 65_535).unwrap();
        let mut header = [0; MAX_HEADER];
        (0..cut.pieces())
            .map(|k| {
                let piece = cut.write(k, &mut header);
                [&header[..piece.header], &frame[piece.payload]].concat()
            })
            .collect()
    }

    fn offload(v6: bool, udp: bool, size: u16, payload: usize, flags: u8) -> (Vec<u8>, Headers, VnetHdr) {
        let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let ips: (IpAddr, IpAddr) = if v6 {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ("10.1.1.1".parse().unwrap(), "10.1.1.2".parse().unwrap())
        };
        let data: Vec<u8> = (0..payload).map(|n| n as u8).collect();
        let mut frame = if udp {
            build::udp(macs, ips, (1, 2), &data)
        } else {
            build::tcp(macs, ips, (1, 2), (7, 9, flags), &data)
        };
        let headers = build::parse(&frame);
        let at = usize::from(headers.l4) + checksum::field_offset(headers.proto).unwrap();
        let sum = checksum::pseudo(&headers, &frame, headers.end - u32::from(headers.l4));
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let vnet = VnetHdr {
            needs_csum: true,
            gso_type: match (udp, v6) {
                (true, _) => GsoType::UdpL4,
                (false, false) => GsoType::Tcp4,
                (false, true) => GsoType::Tcp6,
            },
            gso_size: size,
            csum_start: headers.l4,
            csum_offset: (at - usize::from(headers.l4)) as u16,
            ..VnetHdr::default()
        };
        (frame, headers, vnet)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// The shortened frame stands for exactly the first packets of the original, byte for byte.
        #[test]
        fn what_is_kept_are_the_first_packets(
            v6: bool, udp: bool, size in 1u16..2000, payload in 2usize..20_000, keep: prop::sample::Index,
            flags in prop::sample::select(vec![0x10u8, 0x18, 0x11, 0x90]),
        ) {
            let size = size.max((payload / 1000) as u16);
            let (frame, headers, vnet) = offload(v6, udp, size, payload, flags);
            let all = packets(&frame, &headers, &vnet);
            prop_assume!(all.len() > 1);
            let keep = 1 + keep.index(all.len() - 1);
            let (mut kept, mut h, mut v) = (frame[..length(&headers, &vnet, keep as u64)].to_vec(), headers, vnet);
            mend(&mut kept, &mut h, &mut v);
            prop_assert_eq!(h, build::parse(&kept));
            prop_assert_eq!(crate::datapath::parse_frame(&kept, &v), Ok(h));
            prop_assert_eq!(&packets(&kept, &h, &v)[..], &all[..keep]);

            let weighed: usize = all.iter().map(|p| p.len() - Headers::L3).sum();
            let weight = Weight::of(&headers, &vnet);
            prop_assert_eq!(weight.bytes as usize, weighed);
            prop_assert_eq!(weight.packets as usize, all.len());
            prop_assert_eq!(weight.largest as usize, all[0].len() - Headers::L3);
            prop_assert_eq!(Weight::of(&h, &v).packets as usize, keep);
        }
    }

    #[test]
    fn room_is_counted_in_begun_packets() {
        let weight = Weight { packets: 3, bytes: 2500, largest: 1000 };
        for (room, packets) in [
            (i128::MIN, 0),
            (-1, 0),
            (0, 0),
            (1, 1),
            (1000, 1),
            (1001, 2),
            (2000, 2),
            (2001, 3),
            (i128::MAX, 3),
        ] {
            assert_eq!(weight.within(room), packets, "{room}");
        }
    }
}
