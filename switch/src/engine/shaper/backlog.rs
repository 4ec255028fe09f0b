//! Frames that wait for credit: a bounded queue of bytes.
//!
//! All memory is taken when the limit is set: one ring of bytes in which each frame lies in one piece, and a list
//! of what is known about each. Frames enter at one end and leave at the other, so nothing is ever moved, and a
//! full ring refuses. Pages that a queue never reaches are never touched, and an empty one starts at the front.

use crate::datapath::MAX_FRAME;
use packet::{Headers, VnetHdr};
use std::collections::VecDeque;
use tunnel::offload::GroFrame;

/// Bytes of memory per frame that a bound provides for: the smallest frames there are.
const SMALLEST: usize = 64;

/// What is known about a waiting frame.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    len: usize,
    headers: Headers,
    vnet: VnetHdr,
    /// IP bytes it will be charged.
    weight: u64,
}

/// A queue of frames.
#[derive(Debug)]
pub struct Backlog {
    ring: Box<[u8]>,
    entries: VecDeque<Entry>,
    /// How many frames it takes.
    frames: usize,
    /// Where the next frame goes, if it fits there.
    tail: usize,
    /// Sum over the entries.
    weight: u64,
}

impl Backlog {
    /// A queue for `bytes` of IP packets. At least one frame of any size fits.
    ///
    /// Twice the bytes, because the smallest packets take twice as much as they weigh; two of the largest frames on
    /// top, for the gap where the ring ends and for a last frame that exceeds the bound.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let frames = (bytes / SMALLEST).max(SMALLEST);
        Self {
            ring: vec![0; bytes * 2 + MAX_FRAME * 2].into_boxed_slice(),
            entries: VecDeque::with_capacity(frames),
            frames,
            tail: 0,
            weight: 0,
        }
    }

    /// Does nothing wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// IP bytes that wait.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Copies a frame to the end and gives access to the copy, its headers and its virtio-net header; `None` when
    /// the queue is full.
    pub fn push(
        &mut self,
        frame: &GroFrame<'_>,
        weight: u64,
    ) -> Option<(&mut [u8], &mut Headers, &mut VnetHdr)> {
        let len = frame.bytes.len();
        if self.entries.len() == self.frames {
            return None;
        }
        let at = self.place(len)?;
        let copy = self.ring.get_mut(at..at + len)?;
        copy.copy_from_slice(frame.bytes);
        self.tail = at + len;
        self.weight += weight;
        self.entries.push_back(Entry { at, len, headers: frame.headers, vnet: frame.vnet, weight });
        let entry = self.entries.back_mut()?;
        Some((copy, &mut entry.headers, &mut entry.vnet))
    }

    /// Where `len` bytes in one piece are free.
    fn place(&self, len: usize) -> Option<usize> {
        let Some(first) = self.entries.front() else {
            return (len <= self.ring.len()).then_some(0);
        };
        if self.tail > first.at {
            // In use is the middle: behind it, or from the front again.
            let behind = self.ring.len() - self.tail;
            if len <= behind {
                return Some(self.tail);
            }
            return (len <= first.at).then_some(0);
        }
        // In use are both ends.
        (len <= first.at - self.tail).then_some(self.tail)
    }

    /// The frame at this place in the queue, with what it weighs.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<(GroFrame<'_>, u64)> {
        let entry = self.entries.get(number)?;
        let bytes = self.ring.get(entry.at..entry.at + entry.len)?;
        Some((GroFrame { bytes, headers: entry.headers, vnet: entry.vnet }, entry.weight))
    }

    /// Forgets the first frames.
    pub fn remove(&mut self, frames: usize) {
        for entry in self.entries.drain(..frames.min(self.entries.len())) {
            self.weight -= entry.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(bytes: &[u8]) -> GroFrame<'_> {
        let headers = Headers { end: bytes.len() as u32, ..Headers::default() };
        GroFrame { bytes, headers, vnet: VnetHdr::default() }
    }

    #[test]
    fn takes_what_its_bound_says() {
        let mut q = Backlog::new(100_000);
        let mut pushed = 0;
        while q.push(&frame(&[0; 1014]), 1000).is_some() {
            pushed += 1;
        }
        assert!((100..=400).contains(&pushed), "{pushed}");
        assert_eq!((q.len(), q.weight()), (pushed, pushed as u64 * 1000));
        q.remove(pushed + 5);
        assert_eq!((q.len(), q.weight(), q.is_empty()), (0, 0, true));
        let mut pushed = 0;
        while q.push(&frame(&[0; 60]), 28).is_some() {
            pushed += 1;
        }
        assert_eq!(pushed, 100_000 / 64);
    }

    #[test]
    fn takes_one_frame_of_any_size() {
        let mut q = Backlog::new(0);
        for _ in 0..10 {
            for size in [MAX_FRAME, 14, 40_000, 0] {
                assert!(q.push(&frame(&vec![7; size]), 1).is_some());
                assert_eq!(q.get(0).unwrap().0.bytes.len(), size);
                q.remove(1);
            }
        }
        assert!(q.push(&frame(&vec![0; MAX_FRAME * 2 + 1]), 1).is_none());
        assert!(q.get(0).is_none());
    }

    const LARGEST: usize = 60_000;

    proptest! {
        /// Against a list of vectors: the same frames in the same order, and a frame is refused only when there is
        /// no room for it in one piece.
        #[test]
        fn is_a_queue(
            bytes in 0usize..3000,
            steps in proptest::collection::vec((1usize..LARGEST, 0usize..4), 1..200),
        ) {
            let mut queue = Backlog::new(bytes);
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for (n, (size, remove)) in steps.into_iter().enumerate() {
                let bytes = vec![n as u8; size];
                if let Some((copy, headers, _)) = queue.push(&frame(&bytes), size as u64) {
                    prop_assert_eq!(&*copy, &bytes[..]);
                    prop_assert_eq!(headers.end as usize, size);
                    model.push_back(bytes);
                } else {
                    // Lost is at most the gap before the end of the ring, smaller than the frame that left it.
                    let used: usize = model.iter().map(Vec::len).sum();
                    let full = used + size + LARGEST > queue.ring.len();
                    prop_assert!(full || model.len() == queue.frames, "{used} {size}");
                }
                if remove == 3 {
                    let gone = (n % 5).min(model.len());
                    queue.remove(gone);
                    model.drain(..gone);
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.weight(), model.iter().map(|f| f.len() as u64).sum::<u64>());
                for (i, expected) in model.iter().enumerate() {
                    prop_assert_eq!(queue.get(i).unwrap().0.bytes, &expected[..]);
                }
            }
        }
    }
}
