//! Changing inputs: deterministic by seed, and knowing nothing of their structure but that lengths and numbers
//! of two and four bytes matter.

use crate::MAX_INPUT;

/// A small generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator with its own sequence for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6a09_e667_f3bc_c908)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`; 0 when there is none.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { ((u128::from(self.next()) * n as u128) >> 64) as usize }
    }
}

const WORDS: [u16; 16] =
    [0, 1, 2, 7, 8, 20, 40, 64, 0x7f, 0xff, 0x100, 0x5dc, 0x7fff, 0x8000, 0xfffe, 0xffff];
const BYTES: [u8; 20] =
    [0, 1, 4, 5, 6, 8, 17, 43, 44, 58, 60, 0x45, 0x60, 0x7f, 0x80, 134, 135, 136, 0xfe, 0xff];

/// Changes `data` a few times; `other` is what splices take from.
pub fn mutate(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + rng.below(5).min(rng.below(8)) {
        once(rng, data, other);
    }
    data.truncate(MAX_INPUT);
}

fn once(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
    if data.is_empty() {
        data.extend_from_slice(other);
        data.push(rng.next() as u8);
        return;
    }
    let at = rng.below(data.len());
    match rng.below(16) {
        0..=2 => data[at] ^= 1 << rng.below(8),
        3 => data[at] = rng.next() as u8,
        4 => data[at] = BYTES[rng.below(BYTES.len())],
        5 => data[at] = data[at].wrapping_add(1 + rng.below(8) as u8),
        6 => data[at] = data[at].wrapping_sub(1 + rng.below(8) as u8),
        7 | 8 => word(rng, data, at),
        9 => {
            // A length a little off.
            if let Some(field) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
                let off = rng.below(65) as u16;
                *field = u16::from_be_bytes(*field).wrapping_add(off).wrapping_sub(32).to_be_bytes();
            }
        }
        10 => {
            let len = 1 + rng.below(16);
            data.splice(at..at, (0..len).map(|_| rng.next() as u8));
        }
        11 => {
            let end = (at + 1 + rng.below(32)).min(data.len());
            data.drain(at..end);
        }
        12 => {
            let end = (at + 1 + rng.below(128)).min(data.len());
            data.extend_from_within(at..end);
        }
        13 => {
            // The beginning of this, the end of the other.
            data.truncate(at);
            data.extend_from_slice(&other[rng.below(other.len())..]);
        }
        14 => {
            // A piece of the other, over or into this.
            let from = rng.below(other.len());
            let piece = &other[from..(from + 1 + rng.below(64)).min(other.len())];
            let end = if rng.below(2) == 0 { at } else { (at + piece.len()).min(data.len()) };
            data.splice(at..end, piece.iter().copied());
        }
        _ => {
            if rng.below(4) == 0 {
                data.truncate(at);
            } else {
                let to = rng.below(data.len());
                data.swap(at, to);
            }
        }
    }
}

fn word(rng: &mut Rng, data: &mut [u8], at: usize) {
    let value = WORDS[rng.below(WORDS.len())];
    let value = if rng.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
    if let Some(field) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *field = value;
    }
}
