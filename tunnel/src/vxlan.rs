//! The VXLAN header (RFC 7348 section 5): eight bytes that name a network.
//!
//! ```text
//! byte 0: R R R R I R R R   bytes 1-3: reserved   bytes 4-6: VNI   byte 7: reserved
//! ```
//! Sent: `08 00 00 00 | VNI | 00`. Received: the I bit must be set. RFC 7348 says that reserved bits are
//! ignored on receipt; four of them were since given a meaning that changes what the payload is, and a frame
//! read in spite of them would be garbage: the version (0x30), next-protocol (0x04) and OAM (0x01) bits of the
//! generic protocol extension, and remote checksum offload (0x20 of byte 1). These are refused; the others,
//! group policy among them, are ignored.

use crate::{DecapError, Inner};
use packet::{ETHERNET_LEN, Vni};

/// The registered UDP port.
pub const PORT: u16 = 4789;

const LEN: usize = 8;
const VNI_VALID: u8 = 0x08;
const PAYLOAD_CHANGED: u8 = 0x30 | 0x04 | 0x01;
const REMOTE_CHECKSUM: u8 = 0x20;

/// The header of a frame of network `vni`.
#[inline]
#[must_use]
pub const fn encode(vni: Vni) -> [u8; LEN] {
    let v = vni.get().to_be_bytes();
    [VNI_VALID, 0, 0, 0, v[1], v[2], v[3], 0]
}

/// Reads the header of one datagram.
///
/// # Errors
/// `Truncated`, `BadFlags`.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Inner, DecapError> {
    let Some(h) = datagram.first_chunk::<LEN>() else { return Err(DecapError::Truncated) };
    if h[0] & (VNI_VALID | PAYLOAD_CHANGED) != VNI_VALID || h[1] & REMOTE_CHECKSUM != 0 {
        return Err(DecapError::BadFlags);
    }
    if datagram.len() < LEN + ETHERNET_LEN {
        return Err(DecapError::Truncated);
    }
    Ok(Inner { vni: u32::from_be_bytes([0, h[4], h[5], h[6]]), at: LEN })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(byte0: u8, byte1: u8) -> Vec<u8> {
        let mut d = vec![byte0, byte1, 0, 0, 0x12, 0x34, 0x56, 0];
        d.resize(8 + ETHERNET_LEN, 0);
        d
    }

    #[test]
    fn exact_bytes() {
        assert_eq!(encode(Vni::new(0x12_3456).unwrap()), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn flags() {
        let good = Ok(Inner { vni: 0x12_3456, at: 8 });
        assert_eq!(decode(&datagram(0x08, 0)), good);
        // Group policy (G, D, A) and the unassigned bits leave the payload alone.
        assert_eq!(decode(&datagram(0x88, 0x48)), good);
        assert_eq!(decode(&datagram(0x4a, 0)), good);
        for (a, b) in [(0, 0), (0x0c, 0), (0x09, 0), (0x18, 0), (0x28, 0), (0x08, 0x20), (0x80, 0)] {
            assert_eq!(decode(&datagram(a, b)), Err(DecapError::BadFlags), "{a:x} {b:x}");
        }
    }
}
