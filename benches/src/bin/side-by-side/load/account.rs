//! The receiver's books: what arrived, and whether it arrived once, in order, and whole.
//!
//! A flow remembers the highest sequence number and which of the [`WINDOW`] below it were seen. What comes later
//! than that is counted as reordered; whether it is a duplicate as well can then no longer be told.

use super::payload::Stamp;

/// Sequence numbers of a flow within which a duplicate is recognised.
pub const WINDOW: u64 = 128;

#[derive(Clone, Copy, Default)]
struct Flow {
    /// One above the highest number seen.
    next: u64,
    /// Bit i: number `next - 1 - i` was seen.
    seen: u128,
}

/// Counts of one run.
#[derive(Clone)]
pub struct Account {
    run: u32,
    flows: Vec<Flow>,
    /// Datagrams that are whole and were not there before.
    pub received: u64,
    /// Of these, the ones that came after a later one of their flow.
    pub reordered: u64,
    /// Further copies.
    pub duplicated: u64,
    /// Not as they were sent, in length or content.
    pub corrupted: u64,
    /// Whole, but of an earlier run.
    pub stray: u64,
    size: usize,
}

impl Account {
    /// Books for a run with so many flows of datagrams of `size` bytes.
    pub fn new(run: u32, flows: u32, size: usize) -> Self {
        let flows = vec![Flow::default(); flows as usize];
        Self { run, flows, received: 0, reordered: 0, duplicated: 0, corrupted: 0, stray: 0, size }
    }

    /// Enters one datagram.
    pub fn take(&mut self, datagram: &[u8]) {
        let Some(stamp) = Stamp::read(datagram) else {
            self.corrupted += 1;
            return;
        };
        if stamp.run != self.run {
            self.stray += 1;
            return;
        }
        let flow = self.flows.get_mut(stamp.flow as usize);
        let Some(flow) = flow.filter(|_| datagram.len() == self.size) else {
            self.corrupted += 1;
            return;
        };
        if stamp.seq >= flow.next {
            let ahead = stamp.seq - flow.next + 1;
            let shifted = if ahead < WINDOW { flow.seen << ahead } else { 0 };
            *flow = Flow { next: stamp.seq + 1, seen: shifted | 1 };
            self.received += 1;
            return;
        }
        let behind = flow.next - 1 - stamp.seq;
        let bit = if behind < WINDOW { 1 << behind } else { 0 };
        if flow.seen & bit != 0 {
            self.duplicated += 1;
            return;
        }
        flow.seen |= bit;
        self.received += 1;
        self.reordered += 1;
    }

    /// Of so many sent, the ones that did not arrive whole.
    pub fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 64;

    fn datagram(run: u32, flow: u32, seq: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        Stamp { run, flow, seq }.write(&mut bytes);
        bytes
    }

    /// (received, reordered, duplicated, lost of six sent)
    fn book(seqs: &[u64]) -> (u64, u64, u64, u64) {
        let mut account = Account::new(1, 2, SIZE);
        for &seq in seqs {
            account.take(&datagram(1, 1, seq, SIZE));
        }
        assert_eq!((account.corrupted, account.stray), (0, 0));
        (account.received, account.reordered, account.duplicated, account.lost(6))
    }

    #[test]
    fn sequences_are_booked() {
        assert_eq!(book(&[0, 1, 2, 3, 4, 5]), (6, 0, 0, 0));
        assert_eq!(book(&[0, 1, 3, 5]), (4, 0, 0, 2), "lost");
        assert_eq!(book(&[0, 2, 1, 3, 5, 4]), (6, 2, 0, 0), "reordered");
        assert_eq!(book(&[0, 1, 1, 2, 0, 5]), (4, 0, 2, 2), "duplicated");
        assert_eq!(book(&[5, 4, 3, 2, 1, 0]), (6, 5, 0, 0), "backwards");
        assert_eq!(book(&[1, 0, 0, 1]), (2, 1, 2, 4), "a reordered one is remembered");
        assert_eq!(book(&[]), (0, 0, 0, 6));
    }

    #[test]
    fn the_window_has_an_end() {
        assert_eq!(book(&[0, WINDOW - 1, 0]).2, 1, "just inside: a duplicate");
        assert_eq!(book(&[0, WINDOW, 0]), (3, 1, 0, 3), "outside: late, no more can be said");
        assert_eq!(book(&[1000, 5000, 4999, 4999]), (3, 1, 1, 3), "a jump empties it");
    }

    #[test]
    fn flows_do_not_mix() {
        let mut account = Account::new(1, 2, SIZE);
        for (flow, seq) in [(0, 7), (1, 3), (0, 8), (1, 4)] {
            account.take(&datagram(1, flow, seq, SIZE));
        }
        assert_eq!((account.received, account.reordered), (4, 0));
    }

    #[test]
    fn what_is_not_as_sent_is_corrupted() {
        let mut account = Account::new(1, 2, SIZE);
        let mut broken = datagram(1, 0, 0, SIZE);
        broken[40] ^= 1;
        account.take(&broken);
        account.take(&datagram(1, 0, 1, SIZE)[..SIZE - 1]);
        account.take(&datagram(1, 0, 1, SIZE + 8));
        account.take(&datagram(1, 2, 0, SIZE));
        account.take(&[]);
        assert_eq!((account.received, account.corrupted), (0, 5));
        account.take(&datagram(0, 0, 0, SIZE));
        assert_eq!((account.stray, account.received, account.lost(1)), (1, 0, 1));
    }
}
