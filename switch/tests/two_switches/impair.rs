//! A bad underlay, the same for the same seed: loses, duplicates, corrupts, delays and thereby reorders.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tunnel::underlay::memory::{MemoryWire, Packet};

/// A small generator (SplitMix64): one seed, one sequence, on every machine.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// Chances in a thousand, per datagram.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub drop: u64,
    pub duplicate: u64,
    pub corrupt: u64,
    /// Delayed by up to `delay_ms`, which lets later ones overtake.
    pub delay: u64,
    pub delay_ms: u64,
}

impl Faults {
    pub const MODERATE: Self = Self { drop: 20, duplicate: 20, corrupt: 0, delay: 60, delay_ms: 8 };
}

type Delayed = Arc<Mutex<Vec<(u64, Packet)>>>;

/// The virtual clock as the impairment sees it, and what it holds back.
#[derive(Clone, Default)]
pub struct Weather {
    now: Arc<AtomicU64>,
    delayed: Delayed,
}

impl Weather {
    pub fn apply(&self, wire: &MemoryWire, faults: Faults, seed: u64) {
        let (now, delayed) = (self.now.clone(), self.delayed.clone());
        let mut rng = Rng(seed);
        wire.impair(Some(Box::new(move |mut packet, out| {
            let mut hit = |chance| rng.below(1000) < chance;
            if hit(faults.drop) {
                return;
            }
            let (twice, spoil, late) = (hit(faults.duplicate), hit(faults.corrupt), hit(faults.delay));
            if twice {
                out.push(packet.clone());
            }
            if spoil {
                let bit = rng.below(packet.bytes.len() as u64 * 8) as usize;
                packet.bytes[bit / 8] ^= 1 << (bit % 8);
            }
            if late {
                let due = now.load(Ordering::Relaxed) + 1 + rng.below(faults.delay_ms);
                delayed.lock().unwrap().push((due, packet));
            } else {
                out.push(packet);
            }
        })));
    }

    /// Sets the clock and lets go of what is due.
    pub fn tick(&self, wire: &MemoryWire, now_ms: u64) {
        self.now.store(now_ms, Ordering::Relaxed);
        let mut delayed = self.delayed.lock().unwrap();
        let mut i = 0;
        while i < delayed.len() {
            if delayed[i].0 <= now_ms {
                wire.inject(delayed.remove(i).1);
            } else {
                i += 1;
            }
        }
    }

    pub fn next_due(&self) -> Option<u64> {
        self.delayed.lock().unwrap().iter().map(|d| d.0).min()
    }
}
