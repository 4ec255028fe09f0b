//! Whose turn it is: the sources that have something to read, served by deficit round robin (Shreedhar and Varghese,
//! 1995), sparse ones first (the idea of FQ-CoDel, RFC 8290 section 4.2).
//!
//! Every visit grants a source a quantum of *credit*, counted in bytes with a price per frame, so that a port of large
//! frames and a port of small ones get equal time and not equal numbers. What a visit takes beyond its credit is owed
//! in the next. A source that was idle in this round goes in front of those with a backlog: a request does not wait
//! behind other ports' bulk. It cannot go in front twice in one round, so nobody gains by pausing.
//!
//! Bounds: the more sources have a backlog, the smaller the quantum, so that a round stays short; but never under
//! [`LEAST`], below which batches get too small to pay.

use crate::datapath::PortId;
use crate::engine::{FRAME_COST, QUANTUM};
use std::collections::VecDeque;

/// Quanta shrink when more than this many sources have a backlog.
const CROWD: usize = 16;
/// The smallest quantum: eight small frames.
const LEAST: i64 = 8 * (FRAME_COST + 60);
/// A tunnel socket stands for the pods of all peers and not for one: it counts for up to so many ports...
const UNDERLAY_WEIGHT: usize = 4;
/// ...one for each so many sources that wait beside it. Beside a few, a longer visit would only make them wait.
const UNDERLAY_SHARE: usize = 4;

/// Something to read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A port.
    Port(PortId),
    /// A tunnel socket.
    Underlay(usize),
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// Waits for a visit, or is being visited.
    ringed: bool,
    /// Credit left over: negative when the last visit took too much.
    credit: i64,
    /// The round of the last visit.
    round: u64,
}

/// The sources that may have something to read.
#[derive(Default)]
pub struct Ring {
    ports: Vec<Place>,
    underlay: Vec<Place>,
    /// Ready, and not visited in this round yet.
    sparse: VecDeque<Source>,
    /// Left with something to read by their last visit.
    backlog: VecDeque<Source>,
    /// Visits of the backlog until the next round.
    left: usize,
    round: u64,
}

impl Ring {
    /// A ring in its first round.
    pub fn new() -> Self {
        Self { round: 1, ..Self::default() }
    }

    /// Makes room for a source.
    pub fn admit(&mut self, source: Source) {
        let (list, at) = match source {
            Source::Port(id) => (&mut self.ports, id.0 as usize),
            Source::Underlay(n) => (&mut self.underlay, n),
        };
        if at >= list.len() {
            list.resize(at + 1, Place::default());
        }
    }

    fn place(&mut self, source: Source) -> Option<&mut Place> {
        match source {
            Source::Port(id) => self.ports.get_mut(id.0 as usize),
            Source::Underlay(n) => self.underlay.get_mut(n),
        }
    }

    /// A source has announced itself. Unknown ones are not listened to.
    pub fn ready(&mut self, source: Source) {
        let round = self.round;
        let Some(place) = self.place(source) else { return };
        if std::mem::replace(&mut place.ringed, true) {
            return;
        }
        if place.round == round { self.backlog.push_back(source) } else { self.sparse.push_back(source) }
    }

    /// Takes a source out; it owes nothing.
    pub fn remove(&mut self, source: Source) {
        let Some(place) = self.place(source) else { return };
        if std::mem::take(place).ringed {
            self.sparse.retain(|other| *other != source);
            self.backlog.retain(|other| *other != source);
        }
    }

    /// Nothing has anything to read.
    pub fn is_empty(&self) -> bool {
        self.sparse.is_empty() && self.backlog.is_empty()
    }

    /// Visits that a turn of the loop should make: all sparse sources, and some of the others before it looks for new
    /// ones.
    pub fn visits(&self) -> usize {
        self.sparse.len() + self.backlog.len().min(CROWD)
    }

    /// The next source, and the credit it has. [`Ring::again`] or [`Ring::done`] follows.
    pub fn next(&mut self) -> Option<(Source, i64)> {
        let source = match self.sparse.pop_front() {
            Some(source) => source,
            None => {
                if self.left == 0 {
                    self.round += 1;
                    self.left = self.backlog.len();
                }
                self.left = self.left.saturating_sub(1);
                self.backlog.pop_front()?
            }
        };
        let others = self.backlog.len() + self.sparse.len();
        let crowd = ((others + 1) / CROWD).max(1) as i64;
        let quantum = (QUANTUM / crowd).max(LEAST);
        let weight = match source {
            Source::Port(_) => 1,
            Source::Underlay(_) => (1 + others / UNDERLAY_SHARE).min(UNDERLAY_WEIGHT) as i64,
        };
        let round = self.round;
        let place = self.place(source)?;
        place.round = round;
        Some((source, place.credit + quantum * weight))
    }

    /// The source may have more; this is left of its credit.
    pub fn again(&mut self, source: Source, credit: i64) {
        if let Some(place) = self.place(source) {
            place.credit = credit.min(0);
            self.backlog.push_back(source);
        }
    }

    /// The source has nothing more, until it announces itself.
    pub fn done(&mut self, source: Source, credit: i64) {
        if let Some(place) = self.place(source) {
            place.credit = credit.min(0);
            place.ringed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(n: u32) -> Source {
        Source::Port(PortId(n))
    }

    fn ring(ports: u32) -> Ring {
        let mut ring = Ring::new();
        for n in 0..ports {
            ring.admit(port(n));
        }
        ring
    }

    /// One visit of a source with frames of this size without end.
    fn visit(ring: &mut Ring, size: impl Fn(Source) -> i64) -> (Source, i64) {
        let (source, mut credit) = ring.next().unwrap();
        let mut took = 0;
        while credit > 0 {
            let cost = FRAME_COST + size(source);
            credit -= cost;
            took += cost;
        }
        ring.again(source, credit);
        (source, took)
    }

    #[test]
    fn equal_cost_for_frames_of_all_sizes() {
        for ports in [2u32, 3, 40, 300] {
            let mut ring = ring(ports);
            (0..ports).for_each(|n| ring.ready(port(n)));
            let size = |source| match source {
                Source::Port(id) => [64, 1400, 65_000][id.0 as usize % 3],
                Source::Underlay(_) => 0,
            };
            let mut took = vec![0; ports as usize];
            for _ in 0..200 * ports {
                let (source, cost) = visit(&mut ring, size);
                let Source::Port(id) = source else { panic!("{source:?}") };
                took[id.0 as usize] += cost;
            }
            let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
            // One frame and one quantum apart, however long it goes on.
            assert!(most - least <= FRAME_COST + 65_000 + QUANTUM, "{ports} ports: {least} to {most}");
        }
    }

    #[test]
    fn a_tunnel_socket_beside_many_ports_counts_for_several() {
        for (ports, weight) in [(1, 1.0), (4, 2.0), (30, 4.0)] {
            let mut ring = ring(ports);
            let socket = Source::Underlay(0);
            ring.admit(socket);
            ring.ready(socket);
            (0..ports).for_each(|n| ring.ready(port(n)));
            let mut took = [0, 0];
            for _ in 0..200 * (ports + 1) {
                let (source, cost) = visit(&mut ring, |_| 1000);
                took[usize::from(source == socket)] += cost;
            }
            let share = took[1] as f64 / took[0] as f64 * f64::from(ports) / weight;
            assert!((0.95..1.05).contains(&share), "{ports} ports: {share}");
        }
    }

    #[test]
    fn a_sparse_source_goes_first_but_once_a_round() {
        let mut ring = ring(50);
        (0..40).for_each(|n| ring.ready(port(n)));
        (0..40).for_each(|n| assert_eq!(visit(&mut ring, |_| 64).0, port(n)));
        ring.ready(port(45));
        assert_eq!(ring.next().unwrap().0, port(45));
        ring.done(port(45), 100);
        // Everybody else has a turn before it is first again.
        let mut seen = 0;
        loop {
            ring.ready(port(45));
            match visit(&mut ring, |_| 64).0 {
                source if source == port(45) => break,
                _ => seen += 1,
            }
        }
        assert_eq!(seen, 40);
    }

    #[test]
    fn what_was_taken_too_much_is_owed() {
        let mut ring = ring(2);
        ring.ready(port(0));
        let (source, credit) = ring.next().unwrap();
        assert_eq!(credit, QUANTUM);
        ring.done(source, -5000);
        ring.ready(port(0));
        assert_eq!(ring.next().unwrap().1, QUANTUM - 5000);
        ring.done(source, 7000);
        ring.ready(port(0));
        // Unused credit is not saved up.
        assert_eq!(ring.next().unwrap().1, QUANTUM);
    }

    #[test]
    fn removed_sources_are_gone_and_unknown_ones_unheard() {
        let mut ring = ring(3);
        (0..5).for_each(|n| ring.ready(port(n)));
        ring.ready(port(1));
        ring.remove(port(0));
        ring.remove(port(4));
        assert_eq!(ring.visits(), 2);
        let (first, credit) = ring.next().unwrap();
        assert_eq!(first, port(1));
        ring.again(first, credit - QUANTUM - 1);
        ring.remove(port(1));
        assert_eq!(ring.next().unwrap().0, port(2));
        ring.done(port(2), 0);
        assert!(ring.is_empty());
        assert_eq!(ring.next(), None);
        // A successor under the same number owes nothing.
        ring.ready(port(1));
        assert_eq!(ring.next(), Some((port(1), QUANTUM)));
    }
}
