//! The Internet checksum (RFC 1071), its pseudo headers and its incremental update (RFC 1624).
//!
//! All values are folded one's complement sums of big-endian 16-bit words, *not* complemented unless the
//! name says so: [`sum`] of the parts, [`add`] to combine, [`finish`] once for the field.

mod wide;

use crate::{Headers, Net, ip_proto, read_v4};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Shorter ones gain nothing from wider registers.
const LONG: usize = 256;

/// Sum of a byte string; an odd last byte counts as the high half of a word. With the widest registers that the
/// processor turns out to have, see [`wide`].
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    if bytes.len() >= LONG
        && let Some(sum) = wide::sum(bytes)
    {
        return sum;
    }
    plain(bytes)
}

/// Adds native-endian 32-bit words into 64-bit lanes, which compilers turn into vector code, and swaps the
/// folded result once: the sum is byte-order independent (RFC 1071 section 2B).
#[inline(always)]
fn plain(bytes: &[u8]) -> u16 {
    let mut lanes = [0u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut acc: u64 = lanes.iter().sum();
    let mut words = chunks.remainder().chunks_exact(2);
    for word in &mut words {
        acc += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(acc))
}

#[inline]
fn fold(mut acc: u64) -> u16 {
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    ((acc & 0xffff) + (acc >> 16)) as u16
}

/// One's complement addition.
#[inline]
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    let (s, carry) = a.overflowing_add(b);
    s + carry as u16
}

/// The value for the checksum field, given the sum of everything it covers.
#[inline]
#[must_use]
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// As [`finish`], for UDP, where a computed zero is sent as all ones (RFC 768).
#[inline]
#[must_use]
pub const fn finish_udp(sum: u16) -> u16 {
    if sum == 0xffff { 0xffff } else { !sum }
}

/// Field value after one covered 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
#[must_use]
pub const fn update(field: u16, old: u16, new: u16) -> u16 {
    !add(add(!field, !old), new)
}

/// Pseudo-header sum for IPv4; `len` is the length of L4 header plus payload in bytes.
#[inline]
#[must_use]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: u32) -> u16 {
    let (s, d) = (u64::from(src.to_bits()), u64::from(dst.to_bits()));
    fold((s >> 16) + (s & 0xffff) + (d >> 16) + (d & 0xffff) + u64::from(proto) + u64::from(len))
}

/// Pseudo-header sum for IPv6 (RFC 8200 section 8.1).
#[inline]
#[must_use]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, len: u32) -> u16 {
    let addresses = add(sum(&src.octets()), sum(&dst.octets()));
    add(addresses, fold(u64::from(proto) + u64::from(len)))
}

/// Pseudo-header sum of a parsed packet, for an L4 length of `len` bytes. Zero for anything but IP.
#[inline]
#[must_use]
pub fn pseudo(headers: &Headers, frame: &[u8], len: u32) -> u16 {
    let l3 = Headers::L3;
    match headers.net {
        Net::V4 => pseudo_v4(read_v4(frame, l3 + 12), read_v4(frame, l3 + 16), headers.proto, len),
        Net::V6 => {
            let addresses = sum(&frame[l3 + 8..l3 + 40]);
            add(addresses, fold(u64::from(headers.proto) + u64::from(len)))
        }
        Net::Arp | Net::Other => 0,
    }
}

/// Offset of the checksum field inside the L4 header, for the protocols that have one we know.
#[inline]
#[must_use]
pub const fn field_offset(proto: u8) -> Option<usize> {
    match proto {
        ip_proto::TCP => Some(16),
        ip_proto::UDP => Some(6),
        ip_proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// What a frame's L4 checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4Checksum {
    /// No L4 checksum to speak of: not IP, a fragment, a protocol without one, or UDP/IPv4 sent without.
    Absent,
    /// The folded pseudo-header sum only: to be completed by somebody (`NEEDS_CSUM`).
    Partial,
    /// Something else; whether it is right takes [`verify_l4`].
    Full,
}

/// Looks at the field without touching the payload. A kernel VXLAN sender on a veth underlay leaves inner
/// checksums partial, and nothing else in the packet says so.
#[inline]
#[must_use]
pub fn l4_state(headers: &Headers, frame: &[u8]) -> L4Checksum {
    let Some(field) = l4_field(headers, frame) else { return L4Checksum::Absent };
    if field == 0 && headers.proto == ip_proto::UDP {
        return L4Checksum::Absent;
    }
    let len = headers.end - u32::from(headers.l4);
    if field == pseudo(headers, frame, len) { L4Checksum::Partial } else { L4Checksum::Full }
}

/// Is the complete L4 checksum right? True as well where there is none to check.
#[inline]
#[must_use]
pub fn verify_l4(headers: &Headers, frame: &[u8]) -> bool {
    match l4_field(headers, frame) {
        None => true,
        Some(0) if headers.proto == ip_proto::UDP => headers.net == Net::V4,
        Some(_) => {
            let l4 = &frame[usize::from(headers.l4)..headers.end as usize];
            add(pseudo(headers, frame, l4.len() as u32), sum(l4)) == 0xffff
        }
    }
}

#[inline]
fn l4_field(headers: &Headers, frame: &[u8]) -> Option<u16> {
    if headers.l4 == 0 || headers.fragment != crate::Fragment::Whole {
        return None;
    }
    let at = usize::from(headers.l4) + field_offset(headers.proto)?;
    if at + 2 > headers.end as usize {
        return None;
    }
    Some(u16::from_be_bytes([frame[at], frame[at + 1]]))
}

/// Is the IPv4 header checksum right? `ip` begins at the IPv4 header, which has been parsed.
#[inline]
#[must_use]
pub fn verify_ipv4_header(ip: &[u8]) -> bool {
    let len = usize::from(ip[0] & 0xf) * 4;
    sum(&ip[..len]) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut s = 0u32;
        for w in bytes.chunks(2) {
            s += u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    proptest! {
        #[test]
        fn sum_equals_the_obvious_one(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let obvious = slow(&bytes);
            for sum in [sum(&bytes), plain(&bytes), wide::sum(&bytes).unwrap_or(obvious)] {
                // 0 and 0xffff are both zero in one's complement.
                prop_assert!(sum % 0xffff == obvious % 0xffff, "{sum:x} {obvious:x}");
            }
        }

        #[test]
        fn update_equals_recomputing(mut bytes in proptest::collection::vec(any::<u8>(), 20), new: u16, at in 0usize..10) {
            let field = finish(slow(&bytes));
            let old = u16::from_be_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
            bytes[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
            let whole = add(slow(&bytes), update(field, old, new));
            prop_assert_eq!(whole % 0xffff, 0);
        }
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
