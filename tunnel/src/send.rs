//! From frames to datagrams of one peer, in as few system calls as the kernel allows.
//!
//! Every frame is cut into complete packets ([`crate::offload::plan`]), every packet gets its tunnel header, and
//! consecutive packets of one size (the last may be shorter), TOS byte and lane become one run, gathered from
//! an arena of headers and slices of the frames. Payload is not copied.
//!
//! A frame counts as sent when all its packets were handed to the kernel, as dropped when any was not: what
//! left of a dropped offload frame is then more than was counted, never less. Packets are sent in the order
//! of the frames. Once the egress is full, the remaining frames of the call are dropped without trying.
//!
//! Limits: [`MAX_RUN`] packets per run. An offload frame of 64 KiB takes two sends, because the headers of its
//! segments no longer fit one UDP datagram; see [`crate::mtu::gso_max_size`].

use crate::entropy;
use crate::offload::{CutError, MAX_HEADER, plan};
use crate::underlay::{PeerAddr, UnderlayTx};
use packet::{Headers, VnetHdr};
use std::io::{self, IoSlice};
use std::ops::Range;

/// Packets in one run, the kernel's own bound.
pub const MAX_RUN: usize = 128;

const TUNNEL: usize = 8;

/// A frame for a peer.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// Of `bytes`.
    pub headers: Headers,
    /// What is to be completed or cut.
    pub vnet: VnetHdr,
    /// The tunnel header, [`crate::Encap::header`].
    pub encap: [u8; TUNNEL],
    /// The outer DSCP and ECN byte, [`crate::ecn::encap_tos`].
    pub tos: u8,
    /// The flow hash.
    pub entropy: u32,
}

/// Why a frame did not leave.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TxDrop {
    /// The socket's buffer or the device's queue is full.
    #[error("underlay egress full")]
    Full,
    /// Larger than the pod-to-pod path or than the underlay takes.
    #[error("larger than the path MTU")]
    TooBig,
    /// Its virtio-net header cannot be honoured.
    #[error("offload frame that cannot be cut")]
    BadOffload,
    /// Any other error of the socket.
    #[error("underlay send failed")]
    Error,
}

impl TxDrop {
    /// Every variant, for tables of counters.
    pub const ALL: [Self; 4] = [Self::Full, Self::TooBig, Self::BadOffload, Self::Error];

    /// The drop reason in counters, traces and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "tx-full",
            Self::TooBig => "tx-oversize",
            Self::BadOffload => "tx-offload",
            Self::Error => "tx-error",
        }
    }

    fn of(e: &io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Full,
            Some(libc::EMSGSIZE) => Self::TooBig,
            _ if e.kind() == io::ErrorKind::WouldBlock => Self::Full,
            _ => Self::Error,
        }
    }
}

impl From<CutError> for TxDrop {
    fn from(e: CutError) -> Self {
        if e == CutError::TooBig { Self::TooBig } else { Self::BadOffload }
    }
}

/// Dropped frames by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// [`TxDrop::Full`].
    pub full: u64,
    /// [`TxDrop::TooBig`].
    pub too_big: u64,
    /// [`TxDrop::BadOffload`].
    pub bad_offload: u64,
    /// [`TxDrop::Error`].
    pub error: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.too_big + self.bad_offload + self.error
    }
}

/// What became of one call's frames. `frames + dropped.total()` is the number of frames given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Frames sent.
    pub frames: u64,
    /// Datagrams sent, those of partly sent frames included.
    pub segments: u64,
    /// UDP payload bytes sent, likewise.
    pub bytes: u64,
    /// Successful system calls (sends).
    pub sends: u64,
    /// Frames not sent.
    pub dropped: Dropped,
}

/// Header room of one packet.
type Block = [u8; TUNNEL + MAX_HEADER];

/// Sends frames; keeps its buffers between calls.
#[derive(Debug)]
pub struct Sender {
    arena: Box<[Block]>,
    outcomes: Vec<Option<TxDrop>>,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

/// One packet of the run being gathered. Its headers are in the arena block of the same index.
#[derive(Clone, Copy)]
struct Slot<'a> {
    header: usize,
    payload: &'a [u8],
    frame: usize,
}

struct Run<'a> {
    slots: [Slot<'a>; MAX_RUN],
    count: usize,
    bytes: usize,
    /// Size of all packets but the last.
    segment: usize,
    tos: u8,
    lane: u16,
    /// A shorter packet has been added: nothing may follow.
    closed: bool,
}

impl Sender {
    /// A sender with an arena of 33 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self { arena: vec![[0; TUNNEL + MAX_HEADER]; MAX_RUN].into_boxed_slice(), outcomes: Vec::new() }
    }

    /// Outcome of each frame of the last call, in its order: `None` means sent.
    #[must_use]
    pub fn outcomes(&self) -> &[Option<TxDrop>] {
        &self.outcomes
    }

    /// Sends frames to one peer, over a path that takes inner IP packets of `max_l3` bytes.
    pub fn send<'a, T: UnderlayTx + ?Sized>(
        &mut self,
        tx: &mut T,
        to: &PeerAddr,
        max_l3: usize,
        frames: impl IntoIterator<Item = TxFrame<'a>>,
    ) -> Report {
        self.outcomes.clear();
        let limits = tx.limits(to);
        let max_count = limits.segments.clamp(1, MAX_RUN);
        let mut report = Report::default();
        let mut run = Run {
            slots: [Slot { header: 0, payload: &[], frame: 0 }; MAX_RUN],
            count: 0,
            bytes: 0,
            segment: 0,
            tos: 0,
            lane: 0,
            closed: false,
        };
        let mut full = false;
        for (index, frame) in frames.into_iter().enumerate() {
            self.outcomes.push(full.then_some(TxDrop::Full));
            if full {
                continue;
            }
            let cut = match plan(frame.bytes, &frame.headers, &frame.vnet, max_l3) {
                Ok(cut) => cut,
                Err(e) => {
                    self.outcomes[index] = Some(e.into());
                    continue;
                }
            };
            let lane = entropy::lane(frame.entropy, limits.lanes);
            for k in 0..cut.pieces() {
                let size = TUNNEL + cut.header_len() + cut.payload(k).len();
                let joins = run.count < max_count
                    && !run.closed
                    && size <= run.segment
                    && run.bytes + size <= limits.bytes
                    && (run.tos, run.lane) == (frame.tos, lane);
                if run.count > 0 && !joins {
                    full = self.flush(tx, to, &mut run, &mut report) == Some(TxDrop::Full);
                    if full || self.outcomes[index].is_some() {
                        // What is left of this frame would be of no use.
                        break;
                    }
                }
                if run.count == 0 {
                    (run.segment, run.tos, run.lane) = (size, frame.tos, lane);
                }
                let block = &mut self.arena[run.count];
                let Some((tunnel, room)) = block.split_first_chunk_mut::<TUNNEL>() else { break };
                let Some(room) = room.first_chunk_mut::<MAX_HEADER>() else { break };
                *tunnel = frame.encap;
                let piece = cut.write(k, room);
                let payload = frame.bytes.get(piece.payload).unwrap_or(&[]);
                run.slots[run.count] = Slot { header: TUNNEL + piece.header, payload, frame: index };
                run.count += 1;
                run.bytes += size;
                run.closed = size < run.segment;
            }
            if full {
                // Either the frame had packets in the refused run or its rest cannot leave.
                self.outcomes[index] = Some(TxDrop::Full);
            }
        }
        self.flush(tx, to, &mut run, &mut report);
        for outcome in &self.outcomes {
            match outcome {
                None => report.frames += 1,
                Some(TxDrop::Full) => report.dropped.full += 1,
                Some(TxDrop::TooBig) => report.dropped.too_big += 1,
                Some(TxDrop::BadOffload) => report.dropped.bad_offload += 1,
                Some(TxDrop::Error) => report.dropped.error += 1,
            }
        }
        report
    }

    /// Sends what has been gathered and empties the run. On failure all frames in it are dropped.
    fn flush<T: UnderlayTx + ?Sized>(
        &mut self,
        tx: &mut T,
        to: &PeerAddr,
        run: &mut Run<'_>,
        report: &mut Report,
    ) -> Option<TxDrop> {
        let mut result = self.flush_slots(tx, to, run, 0..run.count, report);
        if result == Some(TxDrop::TooBig) && run.closed {
            // The last packet is shorter than those that did not fit, and may be another flow's.
            result = self.flush_slots(tx, to, run, run.count - 1..run.count, report);
        }
        run.count = 0;
        run.bytes = 0;
        run.closed = false;
        result
    }

    fn flush_slots<T: UnderlayTx + ?Sized>(
        &mut self,
        tx: &mut T,
        to: &PeerAddr,
        run: &Run<'_>,
        range: Range<usize>,
        report: &mut Report,
    ) -> Option<TxDrop> {
        let slots = run.slots.get(range.clone()).unwrap_or(&[]);
        let blocks = self.arena.get(range).unwrap_or(&[]);
        // A large array costs as much as a small packet; most runs of small frames are short.
        let result = match slots.len() {
            0 => return None,
            1..=4 => gather::<8, T>(tx, to, run, slots, blocks),
            _ => gather::<{ 2 * MAX_RUN }, T>(tx, to, run, slots, blocks),
        };
        match result {
            Ok(()) => {
                report.sends += 1;
                report.segments += slots.len() as u64;
                report.bytes += slots.iter().map(|s| (s.header + s.payload.len()) as u64).sum::<u64>();
                if let [only] = slots {
                    // It may have been marked with its run.
                    let shared =
                        run.count > 1 && run.slots[..run.count - 1].iter().any(|s| s.frame == only.frame);
                    if !shared && self.outcomes[only.frame] == Some(TxDrop::TooBig) {
                        self.outcomes[only.frame] = None;
                    }
                }
                None
            }
            Err(e) => {
                let reason = TxDrop::of(&e);
                for slot in slots {
                    self.outcomes[slot.frame] = Some(reason);
                }
                Some(reason)
            }
        }
    }
}

fn gather<const N: usize, T: UnderlayTx + ?Sized>(
    tx: &mut T,
    to: &PeerAddr,
    run: &Run<'_>,
    slots: &[Slot<'_>],
    blocks: &[Block],
) -> io::Result<()> {
    let mut parts = [IoSlice::new(&[]); N];
    let mut used = 0;
    for (slot, block) in slots.iter().zip(blocks) {
        parts[used] = IoSlice::new(&block[..slot.header]);
        used += 1;
        if !slot.payload.is_empty() {
            parts[used] = IoSlice::new(slot.payload);
            used += 1;
        }
    }
    tx.send(to, run.tos, run.lane, &parts[..used], run.segment)
}
