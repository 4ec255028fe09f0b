//! What a tunnel peer's kernel left undone.
//!
//! A kernel VXLAN device leaves checksums and segmentation of its pods' frames to the underlay device. When
//! that is a veth, nothing does them: the inner packet arrives with a partial checksum, and a whole
//! 64 KiB offload frame may arrive as one datagram. Neither is announced in the packet.

use super::gso_type;
use packet::checksum::{L4Checksum, field_offset, l4_state};
use packet::{GsoType, Headers, VnetHdr, ip_proto, tcp_flag};

/// The virtio-net header of a frame that came out of the tunnel. `mtu` is the pod MTU of its network.
///
/// One in 65,535 complete packets has a checksum that looks partial; it is then completed again, to the
/// same value, or not looked at by its receiver.
///
/// An uncut TCP frame gets the segment size that the MTU allows. The segment size of an uncut UDP frame
/// cannot be known, it stays one large datagram.
#[inline]
#[must_use]
pub fn ingest(frame: &[u8], headers: &Headers, mtu: usize) -> VnetHdr {
    if l4_state(headers, frame) != L4Checksum::Partial {
        return VnetHdr::default();
    }
    let Some(field) = field_offset(headers.proto) else { return VnetHdr::default() };
    let mut vnet = VnetHdr {
        needs_csum: true,
        hdr_len: headers.payload,
        csum_start: headers.l4,
        csum_offset: field as u16,
        ..VnetHdr::default()
    };
    let header = usize::from(headers.payload) - Headers::L3;
    let too_long = headers.end as usize - Headers::L3 > mtu;
    if headers.proto == ip_proto::TCP && too_long && mtu > header {
        let payload = headers.end as usize - usize::from(headers.payload);
        let size = (mtu - header).min(usize::from(u16::MAX));
        if payload > size {
            vnet.gso_type = gso_type(headers);
            vnet.gso_size = size as u16;
            vnet.ecn = headers.tcp_flags & tcp_flag::CWR != 0;
        }
    }
    debug_assert!(vnet.gso_type == GsoType::None || vnet.gso_size > 0);
    vnet
}
