//! What is in a datagram: who sent it as which of its flow, and bytes that follow from that, to the last one.
//!
//! ```text
//! run: u32 | flow: u32 | sequence number: u64 | words that are a function of these three
//! ```
//! Numbers are little-endian: both ends are this process.

use packet::flow::mix;

/// Bytes before the pattern.
pub const HEADER: usize = 16;
/// Largest payload.
pub const MAX: usize = 1472;

/// Odd, so that the words of one datagram are all different.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which datagram this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Of this run; what is left of an earlier one has another number.
    pub run: u32,
    /// Index of the flow.
    pub flow: u32,
    /// Number in the flow, from 0.
    pub seq: u64,
}

impl Stamp {
    fn seed(&self) -> u64 {
        mix(u64::from(self.run) << 32 | u64::from(self.flow), self.seq ^ STEP)
    }

    /// Fills a whole datagram. One shorter than the header stays as it is.
    pub fn write(&self, datagram: &mut [u8]) {
        let Some((header, body)) = datagram.split_first_chunk_mut::<HEADER>() else { return };
        header[..4].copy_from_slice(&self.run.to_le_bytes());
        header[4..8].copy_from_slice(&self.flow.to_le_bytes());
        header[8..].copy_from_slice(&self.seq.to_le_bytes());
        let mut word = self.seed();
        let (words, tail) = body.as_chunks_mut::<8>();
        for place in words {
            *place = word.to_le_bytes();
            word = word.wrapping_add(STEP);
        }
        tail.copy_from_slice(&word.to_le_bytes()[..tail.len()]);
    }

    /// Reads a datagram; `None` if any byte of it is not as it was written.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let (header, body) = datagram.split_first_chunk::<HEADER>()?;
        let stamp = Self {
            run: u32::from_le_bytes(*header.first_chunk()?),
            flow: u32::from_le_bytes(*header[4..].first_chunk()?),
            seq: u64::from_le_bytes(*header[8..].first_chunk()?),
        };
        let mut word = stamp.seed();
        let (words, tail) = body.as_chunks::<8>();
        // All differences together: cheaper than a branch per word.
        let mut difference = 0;
        for place in words {
            difference |= u64::from_le_bytes(*place) ^ word;
            word = word.wrapping_add(STEP);
        }
        (difference == 0 && *tail == word.to_le_bytes()[..tail.len()]).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        for size in [HEADER + 1, 64, 67, 512, 1400] {
            let stamp = Stamp { run: 7, flow: 9_999, seq: 1 << 40 };
            let mut datagram = vec![0; size];
            stamp.write(&mut datagram);
            assert_eq!(Stamp::read(&datagram), Some(stamp));
            for at in 0..size {
                datagram[at] ^= 0x10;
                assert_ne!(Stamp::read(&datagram), Some(stamp), "byte {at} of {size}");
                if at >= HEADER || size >= 64 {
                    assert_eq!(Stamp::read(&datagram), None, "byte {at} of {size}");
                }
                datagram[at] ^= 0x10;
            }
        }
        assert_eq!(Stamp::read(&[0; HEADER - 1]), None);
    }
}
