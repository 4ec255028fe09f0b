//! `vnet`: a virtio-net header and a frame, as a pod with raw sockets may combine them: the header, the cut, and
//! the merge of what was cut.
//!
//! Input: one byte of choices, ten bytes of header, the frame.

use super::check;
use crate::input::{Input, mix};
use packet::{Headers, Net, VNET_HDR_LEN, VnetHdr, checksum};
use tunnel::offload::{Caps, Cut, GroFrame, MAX_HEADER, MAX_SEGMENTS, Merger, Output, plan};

const MTUS: [usize; 4] = [1450, 576, 1280, 65_535];
const ALL_CAPS: [Caps; 4] =
    [Caps::ALL, Caps::NONE, Caps { uso: false, ..Caps::ALL }, Caps { csum: true, ..Caps::NONE }];

pub fn run(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let choices = input.byte();
    let mtu = MTUS[usize::from(choices & 3)];
    let caps = ALL_CAPS[usize::from(choices >> 2 & 3)];
    let raw = input.0;
    let vnet = match VnetHdr::parse(raw) {
        Ok(vnet) => vnet,
        Err(e) => return mix(4, e.to_string().len() as u64),
    };
    assert_eq!(VnetHdr::parse(&vnet.to_bytes()), Ok(vnet), "written as read");
    assert_eq!(vnet.is_gso(), vnet.gso_size != 0);
    let frame = &raw[VNET_HDR_LEN..];
    let headers = match Headers::parse(frame) {
        Ok(headers) => headers,
        Err(e) => return mix(5, e as u64),
    };
    let one = [GroFrame { bytes: frame, headers, vnet }];
    merge(&one, caps, mtu);
    let planned = plan(frame, &headers, &vnet, mtu);
    let cut = match planned {
        Ok(cut) => cut,
        Err(e) => return mix(6, e as u64),
    };
    let packets = pieces(&cut, frame, &headers, &vnet, mtu);
    if vnet.needs_csum
        && (headers.payload == 0 || vnet.csum_start < headers.payload)
        && !consistent_l4(&one[0])
    {
        // A checksum written over headers leaves no packet to speak of.
        return mix(7, u64::from(vnet.csum_offset));
    }
    // What was cut can be merged again, and comes out as the same packets.
    let parsed: Vec<_> = packets.iter().filter_map(|p| Headers::parse(p).ok()).collect();
    assert_eq!(parsed.len(), packets.len());
    let frames: Vec<_> = packets
        .iter()
        .zip(parsed)
        .map(|(bytes, headers)| GroFrame { bytes, headers, vnet: VnetHdr::default() })
        .collect();
    let merged = merge(&frames, Caps::ALL, mtu);
    if vnet.is_gso() {
        assert_eq!(merged.len(), packets.len());
        for (a, b) in merged.iter().zip(&packets) {
            same_but_for_push(a, b, &headers);
        }
    }
    let size = (cut.pieces() as u64).min(5) | u64::from(vnet.needs_csum) << 4 | (vnet.gso_type as u64) << 5;
    mix(size | u64::from(choices & 15) << 8, headers.net as u64 | u64::from(headers.proto) << 8)
}

/// All packets of a cut: within the path, right by themselves, and together exactly the payload.
fn pieces(cut: &Cut<'_>, frame: &[u8], headers: &Headers, vnet: &VnetHdr, mtu: usize) -> Vec<Vec<u8>> {
    assert!(cut.pieces() >= 1 && cut.pieces() <= MAX_SEGMENTS);
    let mut header = [0; MAX_HEADER];
    let mut joined = 0;
    let mut out = Vec::with_capacity(cut.pieces());
    for k in 0..cut.pieces() {
        let piece = cut.write(k, &mut header);
        assert_eq!(piece.header, cut.header_len());
        assert_eq!(piece.payload, cut.payload(k));
        assert_eq!(piece.payload.start, piece.header + joined, "no gap, no overlap");
        joined += piece.payload.len();
        let packet = [&header[..piece.header], &frame[piece.payload]].concat();
        assert!(packet.len() <= Headers::L3 + mtu, "{} bytes for an MTU of {mtu}", packet.len());
        if vnet.is_gso() {
            check::complete(&packet);
        } else if vnet.needs_csum && consistent_l4(&GroFrame { bytes: frame, headers: *headers, vnet: *vnet })
        {
            assert!(checksum::verify_l4(headers, &packet), "L4 checksum");
        } else if !vnet.needs_csum {
            assert!(frame.starts_with(&packet), "passes as it is");
        }
        out.push(packet);
    }
    let end = if matches!(headers.net, Net::V4 | Net::V6) { headers.end as usize } else { frame.len() };
    assert!(cut.header_len() + joined >= end, "nothing is lost");
    out
}

/// Merges frames for a port; returns the packets that its pod gets, in order.
fn merge(frames: &[GroFrame<'_>], caps: Caps, mtu: usize) -> Vec<Vec<u8>> {
    let mut merger = Merger::new();
    let mut seen = vec![0u8; frames.len()];
    let mut raw = Vec::new();
    let mut packets = Vec::new();
    merger.run(
        frames.len(),
        |i| frames[i],
        caps,
        mtu,
        |output| match output {
            Output::Write { parts, members, last } => {
                // A frame that contradicts its header is refused before it gets here; the merger trusts that.
                if members.iter().all(|&m| consistent(&frames[m as usize])) {
                    packets.extend(check::port_write(parts, caps, &mut raw));
                }
                if last {
                    members.iter().for_each(|&m| seen[m as usize] += 1);
                }
            }
            Output::Refused { member, .. } => seen[member as usize] += 1,
        },
    );
    assert!(seen.iter().all(|&n| n == 1), "every frame ends once");
    packets
}

/// What the data path's `parse` stage guarantees.
fn consistent(f: &GroFrame<'_>) -> bool {
    use packet::{GsoType, ip_proto};
    let (h, v) = (&f.headers, &f.vnet);
    if !v.needs_csum {
        return true;
    }
    let inside = usize::from(v.csum_start) >= Headers::L3
        && usize::from(v.csum_start) + usize::from(v.csum_offset) + 2 <= f.bytes.len();
    let kind = match v.gso_type {
        GsoType::None => return inside,
        GsoType::Tcp4 => h.net == Net::V4 && h.proto == ip_proto::TCP,
        GsoType::Tcp6 => h.net == Net::V6 && h.proto == ip_proto::TCP,
        GsoType::UdpL4 => h.proto == ip_proto::UDP,
    };
    inside && kind && consistent_l4(f)
}

/// The L4 checksum, where it is.
fn consistent_l4(f: &GroFrame<'_>) -> bool {
    use packet::Fragment;
    let (h, v) = (&f.headers, &f.vnet);
    h.l4 != 0
        && h.fragment == Fragment::Whole
        && v.csum_start == h.l4
        && checksum::field_offset(h.proto) == Some(usize::from(v.csum_offset))
}

/// PSH may move to the end of a merged run; everything else is as it was.
fn same_but_for_push(a: &[u8], b: &[u8], h: &Headers) {
    if a == b {
        return;
    }
    assert_eq!(a.len(), b.len());
    let flags = usize::from(h.l4) + 13;
    let sum = usize::from(h.l4) + 16;
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let may = h.proto == packet::ip_proto::TCP && (i == flags || i == sum || i == sum + 1);
        assert!(x == y || may, "byte {i} of {a:02x?} and {b:02x?}");
    }
    assert_eq!(a[flags] | packet::tcp_flag::PSH, b[flags] | packet::tcp_flag::PSH);
    check::complete(a);
}
