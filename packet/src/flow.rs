//! Flow hash: spreads flows over source ports and names a flow inside a batch.

use crate::{Fragment, Headers, Net, ip_proto};

/// A 32-bit hash of the five-tuple (addresses and protocol only for fragments, addresses of the Ethernet
/// header for anything but IP). Equal for all packets of one flow and direction; not secret, not stable
/// between versions.
#[inline(always)]
#[must_use]
pub fn hash(headers: &Headers, frame: &[u8]) -> u32 {
    let l3 = Headers::L3;
    let word = |at: usize| -> u64 {
        let mut b = [0; 8];
        b.copy_from_slice(&frame[at..at + 8]);
        u64::from_ne_bytes(b)
    };
    let ports =
        if headers.fragment == Fragment::Whole && matches!(headers.proto, ip_proto::TCP | ip_proto::UDP) {
            u64::from(headers.sport) << 16 | u64::from(headers.dport)
        } else {
            0
        };
    let tail = ports << 8 | u64::from(headers.proto);
    let h = match headers.net {
        Net::V4 => mix(word(l3 + 12), tail),
        Net::V6 => mix(mix(word(l3 + 8), word(l3 + 16)), mix(mix(word(l3 + 24), word(l3 + 32)), tail)),
        Net::Arp | Net::Other => mix(word(0), u64::from(headers.ether_type) << 32 | word(6) >> 32),
    };
    (h ^ h >> 32) as u32
}

/// Folded 128-bit multiplication, the mixing step of wyhash-like functions.
#[inline]
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd1b5_4a32_d192_ed03);
    (m >> 64) as u64 ^ m as u64
}
