//! Memory twins of the underlay sockets: whole clusters in one test process, without privileges and without
//! time.
//!
//! A [`MemoryWire`] joins endpoints by address. It behaves as UDP does: unknown destinations and full queues
//! lose datagrams silently and count them. An impairment sees every single datagram and decides what
//! becomes of it: that is how tests lose, duplicate, corrupt, and (by keeping datagrams and injecting them
//! later) delay and reorder. Limit: [`QUEUE`] runs per endpoint.

use super::{Datagram, Limits, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6, PeerAddr, UnderlayRx, UnderlayTx};
use crate::Encap;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs an endpoint holds until they are received.
pub const QUEUE: usize = 4096;

/// What lies on the wire: one datagram, or a run of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Outer source.
    pub src: SocketAddr,
    /// Outer destination.
    pub dst: SocketAddr,
    /// Outer DSCP and ECN byte.
    pub tos: u8,
    /// UDP payload.
    pub bytes: Vec<u8>,
    /// Size of each datagram of a run; at least `bytes.len()` for a single one.
    pub segment: usize,
}

/// Receives one datagram and a place for those that continue.
pub type Impairment = Box<dyn FnMut(Packet, &mut Vec<Packet>) + Send>;

#[derive(Default)]
struct State {
    queues: BTreeMap<SocketAddr, VecDeque<Packet>>,
    impairment: Option<Impairment>,
    lost: u64,
    datagrams: u64,
    mtu: Option<usize>,
    full: bool,
}

/// Joins endpoints; cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryWire(Arc<Mutex<State>>);

impl std::fmt::Debug for MemoryWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemoryWire").field(&self.0.lock().map(|s| s.datagrams).unwrap_or(0)).finish()
    }
}

impl MemoryWire {
    /// A wire without endpoints, that loses nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver at `local`; replaces one that is there.
    #[must_use]
    pub fn rx(&self, local: SocketAddr, encap: Encap) -> MemoryRx {
        self.state().queues.insert(local, VecDeque::new());
        MemoryRx { wire: self.clone(), local, encap, gro: true }
    }

    /// A sender whose datagrams come from `local`.
    #[must_use]
    pub fn tx(&self, local: SocketAddr) -> MemoryTx {
        MemoryTx { wire: self.clone(), local, segments: 128, lanes: 1 }
    }

    /// Sets or removes the impairment. It sees single datagrams, so nothing arrives as a run any more.
    pub fn impair(&self, impairment: Option<Impairment>) {
        self.state().impairment = impairment;
    }

    /// The largest UDP payload; larger datagrams are refused with `EMSGSIZE`.
    pub fn set_mtu(&self, payload: Option<usize>) {
        self.state().mtu = payload;
    }

    /// While true, every send fails with `WouldBlock`.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Puts a packet into the queue of its destination, past the impairment.
    pub fn inject(&self, packet: Packet) {
        self.state().deliver(packet);
    }

    /// Datagrams sent, and datagrams lost for want of a receiver or of room.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.datagrams, state.lost)
    }
}

impl State {
    fn deliver(&mut self, packet: Packet) {
        match self.queues.get_mut(&packet.dst) {
            Some(queue) if queue.len() < QUEUE => queue.push_back(packet),
            _ => self.lost += packet.bytes.len().div_ceil(packet.segment.max(1)).max(1) as u64,
        }
    }
}

/// The twin of [`super::UdpRx`].
#[derive(Debug)]
pub struct MemoryRx {
    wire: MemoryWire,
    local: SocketAddr,
    encap: Encap,
    gro: bool,
}

impl MemoryRx {
    /// Receive runs whole (as sent) or datagram by datagram.
    pub fn set_gro(&mut self, on: bool) {
        self.gro = on;
    }

    /// Runs waiting.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.wire.state().queues.get(&self.local).map_or(0, VecDeque::len)
    }
}

impl UnderlayRx for MemoryRx {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Datagram> {
        let mut state = self.wire.state();
        let queue = state.queues.get_mut(&self.local).ok_or(io::ErrorKind::NotConnected)?;
        let mut packet = queue.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        if !self.gro && packet.segment > 0 && packet.bytes.len() > packet.segment {
            let rest = packet.bytes.split_off(packet.segment);
            queue.push_front(Packet { bytes: rest, ..packet.clone() });
        }
        let len = packet.bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&packet.bytes[..len]);
        Ok(Datagram {
            len,
            segment: if packet.segment == 0 { len } else { packet.segment.min(len) },
            src: packet.src,
            tos: packet.tos,
            encap: self.encap,
            truncated: len < packet.bytes.len(),
        })
    }
}

/// The twin of [`super::UdpTx`].
#[derive(Debug)]
pub struct MemoryTx {
    wire: MemoryWire,
    local: SocketAddr,
    segments: usize,
    lanes: u16,
}

impl MemoryTx {
    /// Datagrams per run.
    pub fn set_segments(&mut self, segments: usize) {
        self.segments = segments.max(1);
    }

    /// Source ports: lane `n` sends from the local port plus `n`.
    pub fn set_lanes(&mut self, lanes: u16) {
        self.lanes = lanes.clamp(1, crate::entropy::MAX_LANES);
    }
}

impl UnderlayTx for MemoryTx {
    fn limits(&self, to: &PeerAddr) -> Limits {
        let bytes = if to.addr.is_ipv4() { MAX_PAYLOAD_V4 } else { MAX_PAYLOAD_V6 };
        Limits { segments: self.segments, bytes, lanes: self.lanes }
    }

    fn send(
        &mut self,
        to: &PeerAddr,
        tos: u8,
        lane: u16,
        parts: &[IoSlice<'_>],
        segment: usize,
    ) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let segment = if segment == 0 { bytes.len().max(1) } else { segment };
        let count = bytes.len().div_ceil(segment).max(1);
        let limits = self.limits(to);
        let mut guard = self.wire.state();
        let state = &mut *guard;
        if state.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if bytes.len() > limits.bytes || state.mtu.is_some_and(|mtu| segment.min(bytes.len()) > mtu) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        if count > self.segments {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        state.datagrams += count as u64;
        let mut src = self.local;
        src.set_port(src.port().wrapping_add(lane));
        let packet = Packet { src, dst: to.addr, tos, bytes, segment };
        match state.impairment.take() {
            None => state.deliver(packet),
            Some(mut impairment) => {
                let mut out = Vec::new();
                for bytes in packet.bytes.chunks(segment) {
                    impairment(Packet { bytes: bytes.to_vec(), ..packet.clone() }, &mut out);
                }
                state.impairment = Some(impairment);
                out.into_iter().for_each(|p| state.deliver(p));
            }
        }
        Ok(())
    }
}
