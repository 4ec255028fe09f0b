//! Spreads flows over outer UDP source ports, so that an ECMP fabric and the receiver's queues can tell
//! them apart (RFC 7348 section 4.1, RFC 8926 section 3.3).
//!
//! One send socket has one source port, and a run sent with `UDP_SEGMENT` has one socket; so the spread is
//! over a few *lanes* per peer (1 by default, at most [`MAX_LANES`]) and not over 16,384 ports. All packets
//! of a flow take one lane, which keeps their order.

/// More lanes than parallel paths in common fabrics would only split runs.
pub const MAX_LANES: u16 = 16;

const FIRST: u16 = 49_152;
const COUNT: u32 = 16_384;

/// The lane of a flow among `lanes` (0 counts as 1).
#[inline]
#[must_use]
pub const fn lane(flow_hash: u32, lanes: u16) -> u16 {
    ((flow_hash as u64 * lanes as u64) >> 32) as u16
}

/// A source port in 49152–65535 for a hash.
#[inline]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    FIRST + ((hash as u64 * COUNT as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!((source_port(0), source_port(u32::MAX)), (49_152, 65_535));
        assert_eq!((lane(u32::MAX, 0), lane(u32::MAX, 1), lane(u32::MAX, 16), lane(0, 16)), (0, 0, 15, 0));
    }

    #[test]
    fn lanes_are_about_equally_used() {
        let mut used = [0u32; 16];
        for i in 0..16_000u32 {
            used[usize::from(lane(i.wrapping_mul(0x9e37_79b9), 16))] += 1;
        }
        assert!(used.iter().all(|&n| (900..1100).contains(&n)), "{used:?}");
    }
}
