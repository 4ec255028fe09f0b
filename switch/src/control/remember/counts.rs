//! Counters as they are remembered.
//!
//! They are copied between two batches, when their sums hold for each port, peer and the node by itself; so what is
//! remembered is balanced, also when the ports of a large node are copied in several steps. Frames that waited for a
//! neighbour then are gone with the process: they are remembered as `neighbour-failed` drops. The sums over all of
//! copies posted and of held frames that left are not remembered but follow from the rest.
//!
//! Reasons for drops go by their words, since their numbers change with the program. If a word is unknown, or the sums
//! do not hold, all counters begin anew: half of them would be worse than none.

use serde::{Deserialize, Serialize};

use super::{MAX_NAMES, Place, bounded};
use crate::datapath::{CounterTable, Counters, DropReason, Egress, Neighbours};

/// Largest sum over everything: no counter that is added to it within the life of a machine overflows.
const MAX_SUM: u64 = u64::MAX / 4;

/// Counters of one port, one peer or the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    received: u64,
    received_segments: u64,
    received_bytes: u64,
    read_errors: u64,
    unicast: u64,
    flooded: u64,
    replied: u64,
    consumed: u64,
    held: u64,
    sent: u64,
    sent_bytes: u64,
    sent_segments: u64,
    send_drops: u64,
    /// Index into the reasons, and how many; none twice, none zero.
    #[serde(deserialize_with = "bounded::<_, _, 256>")]
    drops: Vec<(u8, u64)>,
}

/// What only the node counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    generated: u64,
    icmp_limited: u64,
    moves: u64,
    evictions: u64,
    refused: u64,
    aged: u64,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// The words that the drops mean.
    #[serde(deserialize_with = "bounded::<_, _, 256>")]
    pub(super) reasons: Vec<String>,
    pub(super) node: Counts,
    pub(super) sums: Sums,
    #[serde(deserialize_with = "bounded::<_, _, MAX_NAMES>")]
    pub(super) places: Vec<(Place, Counts)>,
}

impl Counts {
    /// Those of `who`, the node if `None`, once the frames of it that wait are lost.
    pub(super) fn of(counters: &Counters, who: Option<Egress>, neighbours: &Neighbours) -> Self {
        let mut drops = counters.drops;
        drops[DropReason::NeighbourFailed as usize] += who.map_or(0, |who| neighbours.waiting_of(who) as u64);
        Self {
            received: counters.received,
            received_segments: counters.received_segments,
            received_bytes: counters.received_bytes,
            read_errors: counters.read_errors,
            unicast: counters.unicast,
            flooded: counters.flooded,
            replied: counters.replied,
            consumed: counters.consumed,
            held: counters.held,
            sent: counters.sent,
            sent_bytes: counters.sent_bytes,
            sent_segments: counters.sent_segments,
            send_drops: counters.send_drops,
            drops: (0u8..).zip(drops).filter(|&(_, count)| count > 0).collect(),
        }
    }

    /// As the data path has them; `None` if that cannot have been counted. `number` finds a reason.
    fn counters(&self, number: impl Fn(u8) -> Option<DropReason>) -> Option<Counters> {
        let mut counters = Counters {
            received: self.received,
            received_segments: self.received_segments,
            received_bytes: self.received_bytes,
            read_errors: self.read_errors,
            accepted_ms: None,
            unicast: self.unicast,
            flooded: self.flooded,
            replied: self.replied,
            consumed: self.consumed,
            held: self.held,
            sent: self.sent,
            sent_bytes: self.sent_bytes,
            sent_segments: self.sent_segments,
            send_drops: self.send_drops,
            ..Counters::default()
        };
        for &(reason, count) in &self.drops {
            counters.drops[number(reason)? as usize] = count;
        }
        let dropped = bounded_sum(counters.drops)?;
        let verdicts = [self.unicast, self.flooded, self.replied, self.consumed, self.held, dropped];
        bounded_sum(verdicts)?;
        bounded_sum([self.received, self.sent, dropped])?;
        let possible = self.send_drops <= dropped
            && counters.drops[DropReason::NeighbourFailed as usize] <= self.held
            && counters.balanced();
        possible.then_some(counters)
    }

    /// Every number, for a check of sums.
    fn all(&self) -> [u64; 13] {
        [
            self.received,
            self.received_segments,
            self.received_bytes,
            self.read_errors,
            self.unicast,
            self.flooded,
            self.replied,
            self.consumed,
            self.held,
            self.sent,
            self.sent_bytes,
            self.sent_segments,
            self.send_drops,
        ]
    }
}

impl Sums {
    pub(super) fn of(table: &CounterTable) -> Self {
        Self {
            generated: table.generated,
            icmp_limited: table.icmp_limited,
            moves: table.moves,
            evictions: table.evictions,
            refused: table.refused,
            aged: table.aged,
        }
    }

    pub(super) fn add_to(self, table: &mut CounterTable) {
        for (sum, before) in [
            (&mut table.generated, self.generated),
            (&mut table.icmp_limited, self.icmp_limited),
            (&mut table.moves, self.moves),
            (&mut table.evictions, self.evictions),
            (&mut table.refused, self.refused),
            (&mut table.aged, self.aged),
        ] {
            *sum = sum.saturating_add(before);
        }
    }
}

impl Counted {
    /// Those of the node; places are added.
    pub(super) fn new(node: Counts, sums: Sums) -> Self {
        let reasons = DropReason::ALL.iter().map(|reason| reason.word().to_owned()).collect();
        Self { reasons, node, sums, places: Vec::new() }
    }

    /// As the data path has them: the node's, then those of the places; `None` if one of them cannot be used.
    pub(super) fn counters(&self) -> Option<(Counters, Vec<Counters>)> {
        let reasons: Vec<Option<DropReason>> = self
            .reasons
            .iter()
            .map(|word| DropReason::ALL.iter().copied().find(|reason| reason.word() == word))
            .collect();
        let number = |index: u8| reasons.get(usize::from(index)).copied().flatten();
        let everybody = || self.places.iter().map(|(_, counts)| counts).chain([&self.node]);
        for field in 0..self.node.all().len() {
            bounded_sum(everybody().map(|counts| counts.all()[field]))?;
        }
        bounded_sum(everybody().flat_map(|counts| counts.drops.iter().map(|&(_, count)| count)))?;
        let places =
            self.places.iter().map(|(_, counts)| counts.counters(number)).collect::<Option<Vec<_>>>()?;
        Some((self.node.counters(number)?, places))
    }
}

/// The sum, if it is not absurd.
fn bounded_sum(numbers: impl IntoIterator<Item = u64>) -> Option<u64> {
    numbers.into_iter().try_fold(0u64, u64::checked_add).filter(|&sum| sum <= MAX_SUM)
}
