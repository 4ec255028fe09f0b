//! Limits at work: frames are offered to the shapers of limited ports, and released by time.
//!
//! Towards a pod that happens between the data path and the device, from a pod between the device and the data
//! path. Either way frames leave in the order in which they came, and each ends in exactly one counter. A frame
//! that waits is in none yet: towards a pod it counts as posted when it leaves the queue, from a pod as received
//! when it is processed. So both sums of [`crate::datapath::CounterTable`] hold at any moment.

use super::shaper::{Direction, Limits, Lost, Offer, Rate, Shaper};
use super::transmit::{ToPort, resolve};
use super::{BATCH_BYTES, BATCH_FRAMES, Engine};
use crate::datapath::{
    Batch, CounterTable, DropReason, Egress, Ingress, PortId, Postbox, Posted, parse_frame,
};
use crate::io::PortIo;
use tunnel::offload::GroFrame;
use tunnel::underlay::{UnderlayRx, UnderlayTx};

/// Books frames that found no room, or whose port is gone.
fn lose(counters: &mut CounterTable, id: PortId, direction: Direction, lost: Lost, gone: bool) {
    match direction {
        Direction::ToPod => {
            let reason = if gone { DropReason::EgressGone } else { DropReason::TxLimit };
            counters.of(Egress::Port(id)).send_drop(reason, lost.frames);
        }
        Direction::FromPod => {
            // As the data path books frames of a port that no table names.
            let (who, reason) = if gone {
                (&mut counters.node, DropReason::NoPort)
            } else {
                (counters.of(Egress::Port(id)), DropReason::RxLimit)
            };
            who.received += lost.frames;
            who.received_segments += lost.packets;
            who.received_bytes += lost.bytes;
            who.drops[reason as usize] += lost.frames;
        }
    }
}

/// Offers to a limited port what was posted to it; returns how many, from the front, may be sent now. The others
/// have been taken care of.
pub(super) fn admit(
    shaper: &mut Shaper,
    counters: &mut CounterTable,
    (batch, out): (&Batch, &Postbox),
    id: PortId,
    list: &[Posted],
    now_ms: u64,
) -> usize {
    let mut passed = 0;
    for posted in list {
        let (bytes, headers, vnet, _) = resolve(batch, out, posted);
        match shaper.offer(&GroFrame { bytes, headers, vnet }, now_ms) {
            Offer::Pass => passed += 1,
            Offer::Wait => counters.posted -= 1,
            // One copy was posted: it stands for what is lost, and what waits is posted when it leaves.
            Offer::Part(lost) | Offer::Drop(lost) => lose(counters, id, Direction::ToPod, lost, false),
        }
    }
    passed
}

impl<P: PortIo, R: UnderlayRx, T: UnderlayTx> Engine<P, R, T> {
    /// Sets the limits of a port; of a port that does not exist, does nothing.
    pub(super) fn limit(&mut self, id: PortId, limits: Limits, now_ms: u64) {
        if self.port_mut(id).is_none() {
            return;
        }
        self.limit_one(id, Direction::ToPod, limits.ingress, now_ms);
        self.limit_one(id, Direction::FromPod, limits.egress, now_ms);
    }

    fn limit_one(&mut self, id: PortId, direction: Direction, rate: Option<Rate>, now_ms: u64) {
        match (self.shapers.get_mut(id, direction), rate) {
            (None, None) => {}
            (None, Some(rate)) => self.shapers.set(id, direction, Shaper::new(rate, now_ms)),
            (Some(shaper), None) => {
                shaper.open();
                self.release(id, direction, now_ms);
                self.shapers.clear(id, direction);
            }
            (Some(shaper), Some(rate)) => {
                if shaper.rate() != rate {
                    let lost = shaper.set_rate(rate, now_ms);
                    self.book_queued(id, direction, lost, false);
                    self.shapers.schedule(id, direction);
                }
            }
        }
    }

    /// Drops what waits for or from a port that goes away.
    pub(super) fn discard(&mut self, id: PortId, now_ms: u64) {
        for direction in [Direction::ToPod, Direction::FromPod] {
            if let Some(shaper) = self.shapers.get_mut(id, direction) {
                let lost = shaper.discard(now_ms);
                self.book_queued(id, direction, lost, true);
            }
        }
    }

    /// Ends the limits of a port that goes away.
    pub(super) fn unlimit(&mut self, id: PortId, now_ms: u64) {
        self.discard(id, now_ms);
        self.shapers.clear(id, Direction::ToPod);
        self.shapers.clear(id, Direction::FromPod);
    }

    /// Books frames that were lost from a queue.
    fn book_queued(&mut self, id: PortId, direction: Direction, lost: Lost, gone: bool) {
        if lost.frames > 0 {
            let counters = &mut self.datapath.counters;
            if direction == Direction::ToPod {
                counters.posted += lost.frames;
            }
            lose(counters, id, direction, lost, gone);
        }
    }

    /// Offers the frames that limited ports sent to their shapers; those that pass stay in the batch.
    pub(super) fn shape_batch(&mut self, now_ms: u64) {
        self.limited = false;
        let mut frames = std::mem::take(&mut self.batch.frames);
        frames.retain(|frame| {
            let Ingress::Port(id) = frame.ingress else { return true };
            let Some(shaper) = self.shapers.get_mut(id, Direction::FromPod) else { return true };
            // What the data path drops unseen needs no credit.
            if self.tables.port(id).is_none() {
                return true;
            }
            let bytes = self.batch.bytes(frame);
            let Ok(headers) = parse_frame(bytes, &frame.vnet) else { return true };
            match shaper.offer(&GroFrame { bytes, headers, vnet: frame.vnet }, now_ms) {
                Offer::Pass => return true,
                Offer::Wait => {}
                Offer::Part(lost) | Offer::Drop(lost) => {
                    lose(&mut self.datapath.counters, id, Direction::FromPod, lost, false);
                }
            }
            self.shapers.schedule(id, Direction::FromPod);
            false
        });
        self.batch.frames = frames;
    }

    /// Releases whatever is due.
    pub(super) fn release_due(&mut self, now_ms: u64) {
        while let Some(due) = self.shapers.pop_due(now_ms) {
            self.release(due.port, due.direction, now_ms);
            self.shapers.schedule(due.port, due.direction);
        }
    }

    /// Releases all that waits, before its time: whoever has the ports next knows nothing of it.
    pub(super) fn release_all(&mut self, now_ms: u64) {
        while let Some(due) = self.shapers.pop_due(u64::MAX) {
            if let Some(shaper) = self.shapers.get_mut(due.port, due.direction) {
                shaper.open();
            }
            self.release(due.port, due.direction, now_ms);
        }
    }

    fn release(&mut self, id: PortId, direction: Direction, now_ms: u64) {
        match direction {
            Direction::ToPod => self.release_to_pod(id, now_ms),
            Direction::FromPod => self.release_from_pod(id, now_ms),
        }
    }

    fn release_to_pod(&mut self, id: PortId, now_ms: u64) {
        let Some(shaper) = self.shapers.get_mut(id, Direction::ToPod) else { return };
        let Some(slot) = self.ports.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        loop {
            let frames = shaper.ready(now_ms, BATCH_FRAMES);
            if frames == 0 {
                return;
            }
            self.datapath.counters.posted += frames as u64;
            let mut to = ToPort {
                id,
                tables: &self.tables,
                counters: &mut self.datapath.counters,
                merger: &mut self.merger,
            };
            if !to.send(slot, frames, |i| shaper.frame(i)) && !std::mem::replace(&mut slot.dead, true) {
                self.dead.push(id);
            }
            shaper.leave(frames, now_ms);
        }
    }

    /// The batch is empty before and after.
    fn release_from_pod(&mut self, id: PortId, now_ms: u64) {
        loop {
            let Some(shaper) = self.shapers.get_mut(id, Direction::FromPod) else { return };
            while self.batch_bytes < BATCH_BYTES && !self.batch.is_full() && shaper.ready(now_ms, 1) == 1 {
                let frame = shaper.frame(0);
                self.batch_bytes += frame.bytes.len();
                self.batch.push_copy(frame.bytes, frame.vnet, Ingress::Port(id));
                shaper.leave(1, now_ms);
            }
            if self.batch.frames.is_empty() {
                return;
            }
            self.forward(now_ms);
        }
    }
}
