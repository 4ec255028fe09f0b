//! The Geneve header (RFC 8926 section 3.4): eight bytes that name a network, and options.
//!
//! ```text
//! byte 0: version (2) option words (6)   byte 1: O C reserved (6)   bytes 2-3: protocol
//! bytes 4-6: VNI   byte 7: reserved   then: options, 4 to 128 bytes each, at most 252 in all
//! ```
//! Sent: no options, protocol 0x6558 (Ethernet). Received: options are walked (at most 63) and skipped unless
//! one is critical, because this endpoint knows none; a C bit without a critical option is refused in the
//! same way. Control packets (O bit) are never forwarded.

use crate::{DecapError, Inner};
use packet::{ETHERNET_LEN, Vni};

/// The registered UDP port.
pub const PORT: u16 = 6081;

const LEN: usize = 8;
const VERSION: u8 = 0xc0;
const OPTION_WORDS: u8 = 0x3f;
const CONTROL: u8 = 0x80;
const CRITICAL: u8 = 0x40;
const TRANS_ETHER_BRIDGING: u16 = 0x6558;

/// The header of a frame of network `vni`.
#[inline]
#[must_use]
pub const fn encode(vni: Vni) -> [u8; LEN] {
    let v = vni.get().to_be_bytes();
    let p = TRANS_ETHER_BRIDGING.to_be_bytes();
    [0, 0, p[0], p[1], v[1], v[2], v[3], 0]
}

/// Reads the header and skips the options of one datagram.
///
/// # Errors
/// All of [`DecapError`] but `BadFlags`.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Inner, DecapError> {
    let Some(h) = datagram.first_chunk::<LEN>() else { return Err(DecapError::Truncated) };
    if h[0] & VERSION != 0 {
        return Err(DecapError::BadVersion);
    }
    let at = LEN + usize::from(h[0] & OPTION_WORDS) * 4;
    let Some(options) = datagram.get(LEN..at) else { return Err(DecapError::Truncated) };
    if h[1] & CONTROL != 0 {
        return Err(DecapError::Control);
    }
    if h[1] & CRITICAL != 0 {
        return Err(DecapError::UnknownCritical);
    }
    walk(options)?;
    if u16::from_be_bytes([h[2], h[3]]) != TRANS_ETHER_BRIDGING {
        return Err(DecapError::NotEthernet);
    }
    if datagram.len() < at + ETHERNET_LEN {
        return Err(DecapError::Truncated);
    }
    Ok(Inner { vni: u32::from_be_bytes([0, h[4], h[5], h[6]]), at })
}

/// Each option is at least four bytes, so 252 bytes bound the walk at 63 steps.
fn walk(mut options: &[u8]) -> Result<(), DecapError> {
    while let Some(&[_, _, kind, words]) = options.first_chunk::<4>() {
        if kind & 0x80 != 0 {
            return Err(DecapError::UnknownCritical);
        }
        let len = 4 + usize::from(words & 0x1f) * 4;
        options = options.get(len..).ok_or(DecapError::BadOption)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(head: [u8; 4], options: &[u8]) -> Vec<u8> {
        [&head[..], &[0, 0, 7, 0], options, &[0; ETHERNET_LEN]].concat()
    }

    #[test]
    fn exact_bytes() {
        assert_eq!(encode(Vni::new(0x12_3456).unwrap()), [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn options_are_skipped() {
        let options = [0, 1, 0x7f, 1, 9, 9, 9, 9, 0, 2, 1, 0xe0];
        let d = datagram([3, 0, 0x65, 0x58], &options);
        assert_eq!(decode(&d), Ok(Inner { vni: 7, at: 20 }));
    }

    #[test]
    fn refusals_by_name() {
        let bridge = |b0, b1| [b0, b1, 0x65, 0x58];
        assert_eq!(decode(&datagram(bridge(0x40, 0), &[])), Err(DecapError::BadVersion));
        assert_eq!(decode(&datagram(bridge(0, 0x80), &[])), Err(DecapError::Control));
        assert_eq!(decode(&datagram(bridge(0, 0x40), &[])), Err(DecapError::UnknownCritical));
        assert_eq!(decode(&datagram(bridge(1, 0), &[0, 1, 0x80, 0])), Err(DecapError::UnknownCritical));
        assert_eq!(decode(&datagram(bridge(1, 0), &[0, 1, 1, 1])), Err(DecapError::BadOption));
        assert_eq!(decode(&datagram([0, 0, 8, 0], &[])), Err(DecapError::NotEthernet));
        assert_eq!(decode(&datagram(bridge(63, 0), &[])), Err(DecapError::Truncated));
        assert_eq!(decode(&encode(Vni::new(1).unwrap())), Err(DecapError::Truncated));
    }
}
