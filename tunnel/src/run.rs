//! Runs: what one send carries. Packets wait in a few open runs, one for each size that is about, until a run has to
//! leave.
//!
//! A run is packets of one size, TOS byte and lane; the last one may be shorter and closes it. Headers lie in an
//! arena, payloads stay in their frames, and the send gathers both. Several runs are open at the same time because
//! traffic is mixed: acknowledgements between data, requests of many pods between each other. One run alone would end
//! with every change of size.
//!
//! Order within a flow: a flow has packets in one open run at most. A packet that must go to another one sends the
//! flow's run away first. Flows are told apart by a few bits of their hash, so two flows may be taken for one, which
//! only sends a run early.
//!
//! Limits: [`MAX_RUN`] packets per run, [`RUNS`] open runs, [`ARENA`] bytes of headers; what does not fit sends what
//! is there.

use crate::offload::{MAX_HEADER, Piece};
use crate::send::{Report, TUNNEL, TxDrop};
use crate::underlay::{Limits, PeerAddr, UnderlayTx};
use std::io::{self, IoSlice};

/// Packets in one run, the kernel's own bound.
pub const MAX_RUN: usize = 128;
/// Runs open at the same time: sizes in common mixes; a look at all of them costs less than a packet.
const RUNS: usize = 8;
/// Bytes for headers: those of 600 packets. Used from the start again whenever no run is open.
const ARENA: usize = 64 * 1024;
/// Flows told apart.
const FLOWS: usize = 256;
const NONE: u32 = u32::MAX;

/// A packet that waits: its headers in the arena, its payload in a frame.
#[derive(Clone, Copy, Debug)]
struct Packet {
    header: u32,
    header_len: u32,
    payload: u32,
    payload_len: u32,
    frame: u32,
    /// The next of the same run.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// Counts runs; the oldest open run has the smallest number. 0: never opened.
    serial: u64,
    first: u32,
    last: u32,
    /// 0: not open.
    count: usize,
    bytes: usize,
    /// Size of all packets but the last.
    segment: usize,
    tos: u8,
    lane: u16,
    /// A shorter packet has been added: nothing may follow.
    closed: bool,
}

const CLOSED: Run =
    Run { serial: 0, first: NONE, last: NONE, count: 0, bytes: 0, segment: 0, tos: 0, lane: 0, closed: true };

/// Buffers that are kept between calls.
#[derive(Debug)]
pub(crate) struct Stock {
    arena: Box<[u8]>,
    packets: Vec<Packet>,
    /// The run in which a flow's last packet went.
    flows: Box<[u64]>,
    serial: u64,
}

impl Default for Stock {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            packets: Vec::with_capacity(ARENA / (TUNNEL + 54)),
            flows: vec![0; FLOWS].into_boxed_slice(),
            serial: 0,
        }
    }
}

/// The open runs of one call.
pub(crate) struct Pass<'s, T: ?Sized, B> {
    stock: &'s mut Stock,
    outcomes: &'s mut [Option<TxDrop>],
    tx: &'s mut T,
    to: &'s PeerAddr,
    limits: Limits,
    /// The bytes of a frame.
    bytes: B,
    runs: [Run; RUNS],
    /// The run that [`Pass::place`] chose, and the size of the packet.
    chosen: (usize, usize),
    /// Used bytes of the arena.
    used: usize,
    full: bool,
    report: Report,
}

impl<'s, 'a, T: UnderlayTx + ?Sized, B: Fn(usize) -> &'a [u8]> Pass<'s, T, B> {
    pub fn new(
        stock: &'s mut Stock,
        outcomes: &'s mut [Option<TxDrop>],
        tx: &'s mut T,
        to: &'s PeerAddr,
        limits: Limits,
        bytes: B,
    ) -> Self {
        stock.packets.clear();
        Self {
            stock,
            outcomes,
            tx,
            to,
            limits: Limits { segments: limits.segments.clamp(1, MAX_RUN), ..limits },
            bytes,
            runs: [CLOSED; RUNS],
            chosen: (0, 0),
            used: 0,
            full: false,
            report: Report::default(),
        }
    }

    /// The egress takes nothing more.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The frame does not leave.
    pub fn refuse(&mut self, frame: usize, reason: TxDrop) {
        if let Some(outcome) = self.outcomes.get_mut(frame) {
            *outcome = Some(reason);
        }
    }

    pub fn report(&self) -> Report {
        self.report
    }

    fn accepts(&self, run: &Run, size: usize, tos: u8, lane: u16) -> bool {
        run.count > 0
            && run.count < self.limits.segments
            && !run.closed
            && size <= run.segment
            && run.bytes + size <= self.limits.bytes
            && (run.tos, run.lane) == (tos, lane)
    }

    /// Finds the run for a packet of a frame, and makes room for it. False when the frame has become useless, because
    /// what had to leave first did not.
    #[inline]
    pub fn place(&mut self, frame: usize, size: usize, tos: u8, lane: u16, flow: u32) -> bool {
        if self.used + TUNNEL + MAX_HEADER > self.stock.arena.len() {
            self.flush_all();
        }
        let flow = flow as usize % FLOWS;
        let last = self.stock.flows.get(flow).copied().unwrap_or(0);
        let of_flow = self.runs.iter().position(|run| run.count > 0 && run.serial == last);
        let at = match of_flow {
            Some(at) if self.accepts(&self.runs[at], size, tos, lane) => at,
            _ => {
                if let Some(at) = of_flow {
                    self.flush(at);
                }
                self.other(size, tos, lane)
            }
        };
        if self.full || self.outcomes.get(frame).is_none_or(Option::is_some) {
            return false;
        }
        if let Some(last) = self.stock.flows.get_mut(flow) {
            *last = self.runs[at].serial;
        }
        self.chosen = (at, size);
        true
    }

    /// An open run of exactly this size, or a new one.
    fn other(&mut self, size: usize, tos: u8, lane: u16) -> usize {
        let same = |run: &Run| run.segment == size && self.accepts(run, size, tos, lane);
        if let Some(at) = self.runs.iter().position(same) {
            return at;
        }
        let at = match self.runs.iter().position(|run| run.count == 0) {
            Some(free) => free,
            None => {
                let oldest = self.oldest().unwrap_or(0);
                self.absorb(oldest);
                self.flush(oldest);
                oldest
            }
        };
        if self.runs.iter().all(|run| run.count == 0) {
            // Nobody refers to the arena any more; its beginning is in the cache.
            self.used = 0;
            self.stock.packets.clear();
        }
        self.stock.serial += 1;
        self.runs[at] = Run { serial: self.stock.serial, segment: size, tos, lane, closed: false, ..CLOSED };
        at
    }

    /// Adds the packet that [`Pass::place`] found a run for. `write` makes the headers.
    #[inline]
    pub fn write(
        &mut self,
        frame: usize,
        encap: &[u8; TUNNEL],
        write: impl FnOnce(&mut [u8; MAX_HEADER]) -> Piece,
    ) {
        let (at, size) = self.chosen;
        let Some((tunnel, room)) =
            self.stock.arena.get_mut(self.used..).and_then(|rest| rest.split_first_chunk_mut::<TUNNEL>())
        else {
            return;
        };
        let Some(room) = room.first_chunk_mut::<MAX_HEADER>() else { return };
        *tunnel = *encap;
        let piece = write(room);
        let header_len = TUNNEL + piece.header;
        let number = self.stock.packets.len() as u32;
        self.stock.packets.push(Packet {
            header: self.used as u32,
            header_len: header_len as u32,
            payload: piece.payload.start as u32,
            payload_len: piece.payload.len() as u32,
            frame: frame as u32,
            next: NONE,
        });
        self.used += header_len;
        self.append(at, number, size);
    }

    fn append(&mut self, at: usize, number: u32, size: usize) {
        let run = &mut self.runs[at];
        match self.stock.packets.get_mut(run.last as usize) {
            Some(last) if run.count > 0 => last.next = number,
            _ => run.first = number,
        }
        run.last = number;
        run.count += 1;
        run.bytes += size;
        run.closed = size < run.segment;
    }

    fn oldest(&self) -> Option<usize> {
        (0..RUNS).filter(|&at| self.runs[at].count > 0).min_by_key(|&at| self.runs[at].serial)
    }

    /// Before a run leaves: a lone smaller packet may go as its last one.
    fn absorb(&mut self, at: usize) {
        let single = self.runs.iter().position(|other| {
            other.count == 1
                && other.segment < self.runs[at].segment
                && self.accepts(&self.runs[at], other.segment, other.tos, other.lane)
        });
        if let Some(single) = single {
            let Run { first, segment, .. } = std::mem::replace(&mut self.runs[single], CLOSED);
            self.append(at, first, segment);
        }
    }

    /// Sends everything, oldest run first.
    pub fn flush_all(&mut self) {
        while let Some(at) = self.oldest() {
            self.absorb(at);
            self.flush(at);
        }
        self.used = 0;
        self.stock.packets.clear();
    }

    /// Sends a run and closes it. On failure all frames in it are dropped; once the egress is full, those of all other
    /// runs as well.
    fn flush(&mut self, at: usize) {
        let run = std::mem::replace(&mut self.runs[at], CLOSED);
        if self.full {
            self.fail(run.first, TxDrop::Full);
            return;
        }
        let mut result = self.send(&run, run.first, run.count);
        if result == Some(TxDrop::TooBig) && run.closed {
            // The last packet is shorter than those that did not fit, and may be another flow's.
            result = self.send(&run, run.last, 1);
            if result.is_none() {
                self.pardon(&run);
            }
        }
        self.full |= result == Some(TxDrop::Full);
    }

    /// The last packet of a refused run left after all: its frame is fine if no other packet of it was in the run.
    fn pardon(&mut self, run: &Run) {
        let Some(only) = self.stock.packets.get(run.last as usize).map(|p| p.frame) else { return };
        let mut number = run.first;
        while number != run.last {
            let Some(packet) = self.stock.packets.get(number as usize) else { return };
            if packet.frame == only {
                return;
            }
            number = packet.next;
        }
        if let Some(outcome) = self.outcomes.get_mut(only as usize)
            && *outcome == Some(TxDrop::TooBig)
        {
            *outcome = None;
        }
    }

    fn fail(&mut self, mut number: u32, reason: TxDrop) {
        while let Some(packet) = self.stock.packets.get(number as usize) {
            if let Some(outcome) = self.outcomes.get_mut(packet.frame as usize) {
                *outcome = Some(reason);
            }
            number = packet.next;
        }
    }

    /// Sends the packets of a run from one of them on.
    fn send(&mut self, run: &Run, first: u32, count: usize) -> Option<TxDrop> {
        // A large array costs as much as a small packet; most runs of small frames are short.
        let result = match count {
            0 => return None,
            1..=4 => self.gather::<8>(run, first),
            _ => self.gather::<{ 2 * MAX_RUN }>(run, first),
        };
        match result {
            Ok(bytes) => {
                self.report.sends += 1;
                self.report.segments += count as u64;
                self.report.bytes += bytes as u64;
                None
            }
            Err(e) => {
                let reason = TxDrop::of(&e);
                self.fail(first, reason);
                Some(reason)
            }
        }
    }

    fn gather<const N: usize>(&mut self, run: &Run, first: u32) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); N];
        let (mut used, mut bytes) = (0, 0);
        let mut number = first;
        while let Some(packet) = self.stock.packets.get(number as usize)
            && used + 2 <= N
        {
            let header = packet.header as usize..(packet.header + packet.header_len) as usize;
            parts[used] = IoSlice::new(self.stock.arena.get(header).unwrap_or(&[]));
            used += 1;
            if packet.payload_len > 0 {
                let payload = packet.payload as usize..(packet.payload + packet.payload_len) as usize;
                parts[used] = IoSlice::new((self.bytes)(packet.frame as usize).get(payload).unwrap_or(&[]));
                used += 1;
            }
            bytes += (packet.header_len + packet.payload_len) as usize;
            number = packet.next;
        }
        self.tx.send(self.to, run.tos, run.lane, &parts[..used], run.segment)?;
        Ok(bytes)
    }
}
