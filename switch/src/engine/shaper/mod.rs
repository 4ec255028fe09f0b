//! Bandwidth limits of a port: what may pass now, what waits, what is lost.
//!
//! A port has up to two [`Shaper`]s, one per direction. A frame that comes while there is credit and nothing waits
//! passes at once and uncopied. Otherwise it is copied into a queue, and the worker's timer releases it when its
//! time has come. What would have to wait longer than [`MAX_WAIT_MS`] is dropped, by name.
//!
//! Decisions:
//!
//! - **Packets are counted, not frames**: IP bytes of every packet that an offload frame stands for ([`split`]).
//! - **A frame may leave on the last bit of credit** and make it negative ([`bucket`]), so any frame passes any
//!   bucket and the long-run rate is exact. Debt counts against the queue's bound like bytes that wait, so neither
//!   a burst nor a large frame makes the next one wait longer than the bound says.
//! - **An offload frame that fits only in part is shortened.** Dropping it whole would cost TCP up to 64 KiB at
//!   once; taking it whole would make a queue of 25 ms one of half a second at 1 Mbit/s.
//! - **From the pod, too, it is a queue that bounds the wait**, not a device left unread. The kernel takes packets
//!   for a TAP out of their sockets' accounts, so its queue (1,000 frames of up to 64 KiB) holds back nobody: TCP
//!   under a limit of 20 Mbit/s was seen to fill it with 760 ms of data. Draining it means no
//!   readiness is ever lost, either.
//! - **Time is in milliseconds, as everywhere in the engine.** While frames wait, credit is not capped by the burst,
//!   so a timer that is late delays frames but loses no rate. What has become due in one millisecond leaves
//!   together, and is merged again into offload frames.
//!
//! Limits: 25 ms of the rate or [`FEW`] of the largest packets, at most [`MAX_QUEUE`] bytes, per direction.

pub mod backlog;
pub mod bucket;
pub mod split;
mod table;

pub use table::{Due, PortLimits, Shapers};

use backlog::Backlog;
use bucket::Bucket;
use packet::{Headers, VnetHdr};
use split::Weight;
use tunnel::offload::{GroFrame, segments};

/// How long a frame may have to wait, in milliseconds: the latency that a limit may add under load.
pub const MAX_WAIT_MS: u64 = 25;
/// Packets that may wait at any rate: TCP needs a few in flight to notice a loss before its timer does.
pub const FEW: u64 = 4;
/// Bytes that may wait at any rate. At 10 Gbit/s these are 3 ms, still more than the timer is late.
pub const MAX_QUEUE: u64 = 4 << 20;
/// A burst that was not asked for: this many milliseconds of the rate,
const DEFAULT_BURST_MS: u64 = 10;
/// but at least one offload frame.
const MIN_BURST: u64 = 64 << 10;

const NS_PER_MS: u64 = 1_000_000;

/// A rate and what may pass at once after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// IP bytes per second.
    pub bytes_per_second: u64,
    /// IP bytes.
    pub burst_bytes: u64,
}

impl Rate {
    /// From bits per second and bits, as the API has them; a burst of 0 is derived from the rate. A rate of 0 is
    /// no rate: `None`. Parts of a byte are rounded up, so that no limit becomes 0.
    #[must_use]
    pub fn from_bits(bits_per_second: u64, burst_bits: u64) -> Option<Self> {
        let bytes_per_second = bits_per_second.div_ceil(8);
        let burst_bytes = if burst_bits > 0 {
            burst_bits.div_ceil(8)
        } else {
            (bytes_per_second / 1000).saturating_mul(DEFAULT_BURST_MS).max(MIN_BURST)
        };
        (bits_per_second > 0).then_some(Self { bytes_per_second, burst_bytes })
    }

    /// Bytes that may wait.
    fn queue(&self) -> u64 {
        (u128::from(self.bytes_per_second) * u128::from(MAX_WAIT_MS) / 1000).min(u128::from(MAX_QUEUE)) as u64
    }
}

/// The limits of a port, in the words of CNI: seen from the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// What the pod receives.
    pub ingress: Option<Rate>,
    /// What the pod sends.
    pub egress: Option<Rate>,
}

/// Which way a shaper works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// Ingress, in the words of CNI.
    ToPod,
    /// Egress, in the words of CNI.
    FromPod,
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It passes now, and has been charged.
    Pass,
    /// It waits.
    Wait,
    /// Its first packets wait, the rest is lost: one frame has become two.
    Part(Lost),
    /// It is lost.
    Drop(Lost),
}

/// Frames that found no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// How many.
    pub frames: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl Lost {
    fn add(&mut self, frame: &GroFrame<'_>) {
        self.frames += 1;
        self.packets += segments(&frame.headers, &frame.vnet) as u64;
        self.bytes += frame.bytes.len() as u64;
    }
}

/// How one direction of a port fares. Counters start at 0 when the limit is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShaperStats {
    /// Frames that wait now.
    pub queued_frames: u64,
    /// IP bytes that wait now.
    pub queued_bytes: u64,
    /// Frames that had to wait.
    pub delayed_frames: u64,
    /// Times that frames began to wait: that the limit took hold.
    pub pauses: u64,
    /// Time during which frames waited, in milliseconds.
    pub paused_ms: u64,
    /// Packets lost because they would have had to wait for too long.
    pub dropped_packets: u64,
}

/// One direction of a port.
#[derive(Debug)]
pub struct Shaper {
    bucket: Bucket,
    backlog: Backlog,
    /// IP bytes that may wait, but for [`FEW`] packets.
    bound: u64,
    /// The largest packet that came.
    largest: u64,
    /// When the timer looks at it next; `None` while nothing waits.
    due_ms: Option<u64>,
    /// Since when something waits.
    since_ms: u64,
    stats: ShaperStats,
}

impl Shaper {
    /// A shaper with a full bucket.
    #[must_use]
    pub fn new(rate: Rate, now_ms: u64) -> Self {
        let bound = rate.queue();
        Self {
            bucket: Bucket::new(rate, now_ms.saturating_mul(NS_PER_MS)),
            backlog: Backlog::new(bound as usize),
            bound,
            largest: 0,
            due_ms: None,
            since_ms: now_ms,
            stats: ShaperStats::default(),
        }
    }

    /// Decides about one frame, whose headers agree with its virtio-net header. Within one millisecond no frame
    /// passes after one that did not.
    pub fn offer(&mut self, frame: &GroFrame<'_>, now_ms: u64) -> Offer {
        let idle = self.backlog.is_empty();
        self.bucket.refill(now_ms.saturating_mul(NS_PER_MS), !idle);
        let weight = Weight::of(&frame.headers, &frame.vnet);
        self.largest = self.largest.max(weight.largest);

        // Behind others, there is credit only because the timer is late, and it is theirs.
        let credit = if idle { self.bucket.credit() } else { self.bucket.credit().min(0) };
        let bound = self.bound.max(FEW * self.largest);
        let room = i128::from(bound) + credit - i128::from(self.backlog.weight());
        let packets = weight.within(room);
        if packets == weight.packets {
            if idle && self.bucket.has_credit() {
                self.bucket.charge(weight.bytes);
                return Offer::Pass;
            }
            if self.backlog.push(frame, weight.bytes).is_some() {
                self.waits(idle, now_ms);
                return Offer::Wait;
            }
        } else if packets > 0 {
            let len = split::length(&frame.headers, &frame.vnet, packets);
            // All but the last packet of an offload frame are of one size.
            let kept = packets * weight.largest;
            if let Some(bytes) = frame.bytes.get(..len)
                && let Some((copy, headers, vnet)) = self.backlog.push(&GroFrame { bytes, ..*frame }, kept)
            {
                split::mend(copy, headers, vnet);
                self.waits(idle, now_ms);
                return Offer::Part(self.lose(weight.packets - packets, frame.bytes.len() - len));
            }
        }
        Offer::Drop(self.lose(weight.packets, frame.bytes.len()))
    }

    fn lose(&mut self, packets: u64, bytes: usize) -> Lost {
        self.stats.dropped_packets += packets;
        Lost { frames: 1, packets, bytes: bytes as u64 }
    }

    fn waits(&mut self, first: bool, now_ms: u64) {
        self.stats.delayed_frames += 1;
        if first {
            self.stats.pauses += 1;
            self.since_ms = now_ms;
        }
    }

    /// Charges for as many of the waiting frames as may leave now, at most `most`, and returns how many these are.
    /// They stay in the queue until [`Shaper::leave`].
    pub fn ready(&mut self, now_ms: u64, most: usize) -> usize {
        self.bucket.refill(now_ms.saturating_mul(NS_PER_MS), true);
        let mut frames = 0;
        while frames < most
            && self.bucket.has_credit()
            && let Some((_, weight)) = self.backlog.get(frames)
        {
            self.bucket.charge(weight);
            frames += 1;
        }
        frames
    }

    /// One of the frames that [`Shaper::ready`] counted, by its place in the queue; empty for any other number.
    #[must_use]
    pub fn frame(&self, number: usize) -> GroFrame<'_> {
        let none = GroFrame { bytes: &[], headers: Headers::default(), vnet: VnetHdr::default() };
        self.backlog.get(number).map_or(none, |(frame, _)| frame)
    }

    /// Forgets the first frames of the queue.
    pub fn leave(&mut self, frames: usize, now_ms: u64) {
        self.backlog.remove(frames);
        if frames > 0 && self.backlog.is_empty() {
            self.stats.paused_ms += now_ms.saturating_sub(self.since_ms);
            self.bucket.cap();
        }
    }

    /// When the first waiting frame may leave, in milliseconds; `None` while nothing waits.
    fn next_ms(&self) -> Option<u64> {
        (!self.backlog.is_empty()).then(|| self.bucket.ready_ns().div_ceil(NS_PER_MS))
    }

    /// How it fares.
    #[must_use]
    pub fn stats(&self, now_ms: u64) -> ShaperStats {
        let waiting = if self.backlog.is_empty() { 0 } else { now_ms.saturating_sub(self.since_ms) };
        ShaperStats {
            queued_frames: self.backlog.len() as u64,
            queued_bytes: self.backlog.weight(),
            paused_ms: self.stats.paused_ms + waiting,
            ..self.stats
        }
    }

    /// The limit.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.bucket.rate()
    }

    /// Another rate from now on. Frames that wait go on waiting, for their turn at the new rate; returns those, from
    /// the end, that no longer find room.
    pub fn set_rate(&mut self, rate: Rate, now_ms: u64) -> Lost {
        let waiting = !self.backlog.is_empty();
        self.bucket.refill(now_ms.saturating_mul(NS_PER_MS), waiting);
        self.bucket.set_rate(rate);
        self.bound = rate.queue();
        // The date was that of the old rate.
        self.due_ms = None;
        let old = std::mem::replace(&mut self.backlog, Backlog::new(self.bound as usize));
        let mut lost = Lost::default();
        for number in 0..old.len() {
            let Some((frame, weight)) = old.get(number) else { break };
            if lost.frames > 0 || self.backlog.push(&frame, weight).is_none() {
                lost.add(&frame);
            }
        }
        self.stats.dropped_packets += lost.packets;
        lost
    }

    /// Drops all that waits.
    pub fn discard(&mut self, now_ms: u64) -> Lost {
        let mut lost = Lost::default();
        for number in 0..self.backlog.len() {
            if let Some((frame, _)) = self.backlog.get(number) {
                lost.add(&frame);
            }
        }
        self.leave(self.backlog.len(), now_ms);
        lost
    }

    /// No limit from now on: everything that waits may leave.
    pub fn open(&mut self) {
        self.bucket.open();
    }
}

#[cfg(test)]
mod tests;
