//! Counters, owned by one worker: plain integers, read by copying.
//!
//! Two sums hold at any moment between batches, and every test suite checks them:
//! `received = unicast + flooded + replied + consumed + held + drops` per origin, and
//! `posted = sent + transmit drops` over all egresses. A held frame leaves later: over all origins,
//! `held = released + expired + still waiting`, and each expired one is a `neighbour-failed` drop of its origin.

use super::verdict::{DropReason, Egress, PeerId, PortId, Verdict};

/// Counters of one port or peer. "received" is from it, "sent" is to it.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Frames received (an offload frame counts once).
    pub received: u64,
    /// Packets that these frames stand for: an offload frame counts as many as it is to be cut into.
    pub received_segments: u64,
    /// Bytes of these frames.
    pub received_bytes: u64,
    /// Reads from its device that failed, other than for want of a frame; for the node, those of tunnel sockets.
    pub read_errors: u64,
    /// Of a peer: when a frame from it last passed all checks of its headers and source, in milliseconds of the data
    /// path's clock. Belongs to the one peer and is not summed.
    pub accepted_ms: Option<u64>,
    /// Frames forwarded to one egress.
    pub unicast: u64,
    /// Frames flooded.
    pub flooded: u64,
    /// Frames answered by the switch.
    pub replied: u64,
    /// Frames meant for the switch.
    pub consumed: u64,
    /// Frames that had to wait for a neighbour; those it failed are in `drops` as well.
    pub held: u64,
    /// Frames written to it.
    pub sent: u64,
    /// Bytes of these frames.
    pub sent_bytes: u64,
    /// Packets that these frames stand for. For peers: datagrams on the wire, those of partly sent frames included.
    pub sent_segments: u64,
    /// Frames lost on the way to it, all reasons of stage `tx`.
    pub send_drops: u64,
    /// Drops by reason: receive-side reasons for frames from it, `tx` reasons for frames to it.
    pub drops: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            received_segments: 0,
            received_bytes: 0,
            read_errors: 0,
            accepted_ms: None,
            unicast: 0,
            flooded: 0,
            replied: 0,
            consumed: 0,
            held: 0,
            sent: 0,
            sent_bytes: 0,
            sent_segments: 0,
            send_drops: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl Counters {
    /// Books a received frame of `bytes` bytes that stands for `segments` packets.
    #[inline]
    pub fn receive(&mut self, bytes: u64, segments: u64) {
        self.received += 1;
        self.received_segments += segments;
        self.received_bytes += bytes;
    }

    /// Books a verdict.
    #[inline]
    pub fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Unicast(_) => self.unicast += 1,
            Verdict::Flood(_) => self.flooded += 1,
            Verdict::Reply => self.replied += 1,
            Verdict::Consumed => self.consumed += 1,
            Verdict::Held => self.held += 1,
            Verdict::Drop(reason) => self.drops[reason as usize] += 1,
        }
    }

    /// Books a frame lost while sending; `reason` has stage `tx`.
    #[inline]
    pub fn send_drop(&mut self, reason: DropReason, frames: u64) {
        self.send_drops += frames;
        self.drops[reason as usize] += frames;
    }

    /// Sum of the receive-side drops.
    #[must_use]
    pub fn receive_drops(&self) -> u64 {
        self.drops.iter().sum::<u64>() - self.send_drops
    }

    /// Adds another set, for totals and for counters of removed objects.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.received, other.received),
            (&mut self.received_segments, other.received_segments),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.read_errors, other.read_errors),
            (&mut self.unicast, other.unicast),
            (&mut self.flooded, other.flooded),
            (&mut self.replied, other.replied),
            (&mut self.consumed, other.consumed),
            (&mut self.held, other.held),
            (&mut self.sent, other.sent),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.sent_segments, other.sent_segments),
            (&mut self.send_drops, other.send_drops),
        ] {
            *mine += theirs;
        }
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
    }

    /// Does every received frame have exactly one verdict? A held frame that was lost has had its verdict before.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.received + self.drops[DropReason::NeighbourFailed as usize]
            == self.unicast + self.flooded + self.replied + self.consumed + self.held + self.receive_drops()
    }
}

/// All counters of a worker.
#[derive(Clone, Debug, Default)]
pub struct CounterTable {
    ports: Vec<Counters>,
    peers: Vec<Counters>,
    /// Frames that belong to no known port or peer, and what removed ports and peers had counted.
    pub node: Counters,
    /// Copies posted to egress lists. One that waits for a port's limit is counted when it leaves the queue.
    pub posted: u64,
    /// Frames the switch made itself (answers, errors, solicitations).
    pub generated: u64,
    /// Held frames that were sent once the neighbour answered.
    pub released: u64,
    /// Held frames dropped because it did not, or went away.
    pub expired: u64,
    /// ICMP errors not sent because of the rate limit.
    pub icmp_limited: u64,
    /// Learned entries that moved from one egress to another.
    pub moves: u64,
    /// Learned entries evicted because their port, peer or the table was full.
    pub evictions: u64,
    /// Addresses not learned because the table was full and their port or peer had nothing to give for them.
    pub refused: u64,
    /// Learned entries that aged out.
    pub aged: u64,
}

impl CounterTable {
    /// Counters of a port or peer, made on first use.
    #[inline]
    pub fn of(&mut self, who: Egress) -> &mut Counters {
        let (list, at) = match who {
            Egress::Port(PortId(at)) => (&mut self.ports, at as usize),
            Egress::Peer(PeerId(at)) => (&mut self.peers, at as usize),
        };
        if at >= list.len() {
            list.resize_with(at + 1, Counters::default);
        }
        &mut list[at]
    }

    /// Counters of a port or peer, if it ever counted anything.
    #[must_use]
    pub fn get(&self, who: Egress) -> Option<&Counters> {
        match who {
            Egress::Port(PortId(at)) => self.ports.get(at as usize),
            Egress::Peer(PeerId(at)) => self.peers.get(at as usize),
        }
    }

    /// Books a held frame that was lost, on where it came from.
    pub fn expire(&mut self, origin: Option<Egress>) {
        self.expired += 1;
        let counters = match origin {
            Some(origin) => self.of(origin),
            None => &mut self.node,
        };
        counters.drops[DropReason::NeighbourFailed as usize] += 1;
    }

    /// Adds what was counted before a restart, on a port, a peer, or (`None`) the node. Both sums hold afterwards:
    /// `before` has no frames that wait, so each one that was held either left or was lost.
    pub fn resume(&mut self, who: Option<Egress>, before: &Counters) {
        match who {
            Some(who) => self.of(who).add(before),
            None => self.node.add(before),
        }
        let expired = before.drops[DropReason::NeighbourFailed as usize];
        self.expired += expired;
        self.released += before.held.saturating_sub(expired);
        self.posted += before.sent + before.send_drops;
    }

    /// Folds the counters of a removed port or peer into the node's, so that no frame is ever forgotten.
    pub fn retire(&mut self, who: Egress) {
        let gone = std::mem::take(self.of(who));
        self.node.add(&gone);
    }

    /// Sum over ports, peers and the node.
    #[must_use]
    pub fn total(&self) -> Counters {
        let mut total = self.node.clone();
        for counters in self.ports.iter().chain(&self.peers) {
            total.add(counters);
        }
        total
    }

    /// Both sums of the module text, over everything.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let total = self.total();
        total.balanced() && self.posted == total.sent + total.send_drops
    }
}
