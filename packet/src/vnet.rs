//! `struct virtio_net_hdr`, the ten bytes a TAP with `IFF_VNET_HDR` puts before every frame.
//!
//! It says two things: where a checksum is still to be computed (`NEEDS_CSUM`), and how a frame larger
//! than the MTU is to be cut (`gso_type`, `gso_size`). Fields are in host byte order (the TAP's default
//! on little-endian hosts, which are the only ones supported).
//!
//! Two traps, both verified against Linux: `hdr_len` on read may be the length of the whole linear part,
//! so it is never trusted; and `DATA_VALID` on write is ignored, so a frame whose checksum is known to
//! be good is written with `NEEDS_CSUM` and a pseudo-header sum instead.

/// Bytes of the header as this switch uses it (`TUNSETVNETHDRSZ` 10).
pub const VNET_HDR_LEN: usize = 10;

/// How an oversized frame is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GsoType {
    /// A whole frame, not to be cut.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of `gso_size` bytes each (`VIRTIO_NET_HDR_GSO_UDP_L4`), either IP version.
    UdpL4,
}

/// One frame's offload description.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// The L4 checksum field holds a pseudo-header sum; complete it from `csum_start` to the end.
    pub needs_csum: bool,
    /// The sender vouches for the checksum (`DATA_VALID`); only informative, see the module text.
    pub data_valid: bool,
    /// TCP segments carry CWR (`VIRTIO_NET_HDR_GSO_ECN`): only the first segment keeps it.
    pub ecn: bool,
    /// How to cut.
    pub gso_type: GsoType,
    /// Bytes of L2+L3+L4 headers. Set right on write; not trusted on read.
    pub hdr_len: u16,
    /// Payload bytes per segment; non-zero exactly when `gso_type` is not `None`.
    pub gso_size: u16,
    /// Offset from the start of the Ethernet header where checksumming begins.
    pub csum_start: u16,
    /// Offset from `csum_start` of the 16-bit checksum field.
    pub csum_offset: u16,
}

/// A virtio-net header that cannot be honoured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidVnet {
    /// Fewer than ten bytes.
    #[error("shorter than the virtio-net header")]
    Truncated,
    /// A segmentation type this switch does not offer (UFO, tunnels).
    #[error("unknown segmentation type {0}")]
    UnknownGso(u8),
    /// Segmentation asked for with a segment size of zero, or without a checksum to complete.
    #[error("segmentation without size or checksum")]
    Inconsistent,
}

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHdr {
    /// Reads the first ten bytes of what a TAP handed over.
    ///
    /// # Errors
    /// See [`InvalidVnet`]. Offsets are checked against the frame by whoever uses them.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Self, InvalidVnet> {
        let Some(b) = b.first_chunk::<VNET_HDR_LEN>() else { return Err(InvalidVnet::Truncated) };
        let word = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        let gso_type = match b[1] & !GSO_ECN {
            0 => GsoType::None,
            GSO_TCPV4 => GsoType::Tcp4,
            GSO_TCPV6 => GsoType::Tcp6,
            GSO_UDP_L4 => GsoType::UdpL4,
            other => return Err(InvalidVnet::UnknownGso(other)),
        };
        let needs_csum = b[0] & F_NEEDS_CSUM != 0;
        let gso_size = word(4);
        if gso_type != GsoType::None && (gso_size == 0 || !needs_csum) {
            return Err(InvalidVnet::Inconsistent);
        }
        Ok(Self {
            needs_csum,
            data_valid: b[0] & F_DATA_VALID != 0,
            ecn: b[1] & GSO_ECN != 0,
            gso_type,
            hdr_len: word(2),
            gso_size: if gso_type == GsoType::None { 0 } else { gso_size },
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The ten bytes to write before a frame.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; VNET_HDR_LEN] {
        let mut b = [0; VNET_HDR_LEN];
        b[0] =
            if self.needs_csum { F_NEEDS_CSUM } else { 0 } | if self.data_valid { F_DATA_VALID } else { 0 };
        b[1] = match self.gso_type {
            GsoType::None => 0,
            GsoType::Tcp4 => GSO_TCPV4,
            GsoType::Tcp6 => GSO_TCPV6,
            GsoType::UdpL4 => GSO_UDP_L4,
        } | if self.ecn { GSO_ECN } else { 0 };
        b[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        b[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        b
    }

    /// Is this an offload frame, one that stands for several packets?
    #[inline]
    #[must_use]
    pub fn is_gso(&self) -> bool {
        self.gso_type != GsoType::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let hdr = VnetHdr {
            needs_csum: true,
            data_valid: false,
            ecn: true,
            gso_type: GsoType::Tcp6,
            hdr_len: 74,
            gso_size: 1380,
            csum_start: 54,
            csum_offset: 16,
        };
        assert_eq!(VnetHdr::parse(&hdr.to_bytes()), Ok(hdr));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert_eq!(VnetHdr::parse(&[0; 9]), Err(InvalidVnet::Truncated));
        assert_eq!(VnetHdr::parse(&[1, 3, 0, 0, 1, 0, 0, 0, 0, 0]), Err(InvalidVnet::UnknownGso(3)));
        assert_eq!(VnetHdr::parse(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(InvalidVnet::Inconsistent));
        assert_eq!(VnetHdr::parse(&[0, 1, 0, 0, 9, 0, 0, 0, 0, 0]), Err(InvalidVnet::Inconsistent));
    }
}
