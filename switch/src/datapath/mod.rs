//! The data path: a pure function from a batch of frames to egress lists.
//!
//! It does no I/O, reads no clock, draws no random number, takes no lock, writes no log, and allocates nothing
//! once its tables have grown to their bounds. Given frames, published [`Tables`], its own learned state and
//! `now`, [`Datapath::process`] yields one [`Verdict`] per frame, edits frames in place and posts them to a
//! [`Postbox`]. `swctl trace`, tests and fuzz targets call the same function.
//!
//! A frame travels through these files, in this order:
//!
//! ```text
//! frame     where its bytes live
//! decap     from a peer: is the sender listed, is the VNI ours, may it send from this address
//! parse     one pass over the headers; the virtio-net header agrees with them
//! guard     may this port send from these addresses
//! learn     who is behind which port or peer            (table: fdb)
//! classify  ARP, ND, router or bridge
//! arp, nd   answered from the tables where possible     (frames: reply; unasked: announce)
//! forward   bridge: FDB hit, flood, split horizon
//! route     router: validity, TTL, longest match        (table: lpm; errors: icmp)
//! node      to the node's own port
//! resolve   next hop's MAC, solicitation, queue         (table: neighbour)
//! egress    may it go there, does it fit; post
//! repeat    behind it the same again: as before
//! ```

mod announce;
mod arp;
mod classify;
mod context;
mod counters;
mod decap;
mod egress;
mod fdb;
mod forward;
mod frame;
mod guard;
mod hash;
mod icmp;
mod learn;
mod lpm;
mod nd;
mod neighbour;
mod node;
mod parse;
mod prefetch;
mod recall;
mod repeat;
mod reply;
mod resolve;
mod route;
mod tables;
mod trace;
mod verdict;

pub use counters::{CounterTable, Counters};
pub use fdb::{Fdb, FdbEntry, Learned, STALE_MS};
pub use frame::{
    BUFFER_LEN, Batch, Frame, FrameRef, Generated, HEADROOM, Ingress, MAX_FRAME, MAX_GENERATED, OwnFrame,
    Postbox, Posted,
};
pub use hash::{Map, State};
pub use neighbour::{NeighbourEntry, Neighbours};
pub use parse::{frame as parse_frame, packet_size};
pub use recall::Known;
pub use tables::{
    Adjacency, Fib, Guard, Network, Node, NodeAttachment, Peer, Port, Sources, Tables, Target, gateway_mac,
    router_mac,
};
pub use trace::{Off, Recorder, Recording, Step};
pub use verdict::{DropReason, Egress, NetId, Origin, PeerId, PortId, Verdict};

use classify::Class;
use context::{Context, Current};
use icmp::Limiter;
use packet::flow;

/// How often learned state is swept for old entries, in milliseconds.
const SWEEP_MS: u64 = 1000;
/// Entries a sweep may look at: bounds the pause it causes to well under a millisecond.
const SWEEP_BUDGET: u64 = 4096;

/// How many frames ahead of the current one memory is asked for: first the frame's own bytes, then, when these
/// have arrived, the FDB line that they lead to. One miss to memory costs about as much as two frames.
const BYTES_AHEAD: usize = 8;
const INDEX_AHEAD: usize = 4;

/// Sizes and seeds that are fixed for the life of a data path.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Learned MACs, all networks together.
    pub fdb_capacity: usize,
    /// Seed of every hash; secret, drawn once at start.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { fdb_capacity: 65_536, seed: 0x5eed }
    }
}

/// The learned state of one worker, and the functions that use it.
#[derive(Clone)]
pub struct Datapath {
    fdb: Fdb,
    neighbours: Neighbours,
    limiter: Limiter,
    /// Counters.
    pub counters: CounterTable,
    swept_ms: u64,
}

impl Datapath {
    /// An empty data path.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            fdb: Fdb::new(config.fdb_capacity, config.seed),
            neighbours: Neighbours::new(config.seed),
            limiter: Limiter::default(),
            counters: CounterTable::default(),
            swept_ms: 0,
        }
    }

    /// Learned MACs.
    #[must_use]
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// Learned MACs, for the operator's flush and for preloading in tests.
    pub fn fdb_mut(&mut self) -> &mut Fdb {
        &mut self.fdb
    }

    /// Learned neighbours.
    #[must_use]
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Learned neighbours, for the operator's flush.
    pub fn neighbours_mut(&mut self) -> &mut Neighbours {
        &mut self.neighbours
    }

    /// Processes every frame of a batch. `now_ms` never goes backwards. The postbox is appended to.
    pub fn process<R: Recorder>(
        &mut self,
        tables: &Tables,
        now_ms: u64,
        batch: &mut Batch,
        out: &mut Postbox,
        rec: &mut R,
    ) {
        let before = out.copies;
        // What was decided for the frame before, if this one repeats it.
        let mut decided: Option<repeat::Decision> = None;
        for number in 0..batch.frames.len() {
            if let Some(soon) = batch.frames.get(number + BYTES_AHEAD)
                && let Some(first) = batch.peek::<1>(soon)
            {
                prefetch::line(first);
            }
            if decided.is_none()
                && let Some(next) = batch.frames.get(number + INDEX_AHEAD)
                && let Some(start) = batch.peek(next)
            {
                self.prefetch_index(tables, next, start);
            }
            let repeated = R::OFF && repeat::is_repeated(batch, number);
            let (meta, bytes) = batch.frame_mut(number);
            let name = FrameRef::Received(number as u16);
            if let Some(decision) = decided
                && decision.carry_out(tables, meta, bytes, name, out, &mut self.counters).is_some()
            {
                decided = decided.filter(|_| repeated);
                continue;
            }
            let length = bytes.len() as u64;
            let mut segments = 1;
            let (copies, refused) = (out.copies, self.counters.refused);
            let (origin, verdict) = self.one(tables, now_ms, meta, &mut segments, bytes, name, out, rec);
            let counters = match origin {
                Some(origin) => self.counters.of(origin),
                None => &mut self.counters.node,
            };
            counters.receive(length, segments);
            counters.verdict(verdict);
            rec.verdict(verdict);
            // A frame that made others, or that could not be learned, does so each time.
            decided = if repeated && out.copies == copies + 1 && self.counters.refused == refused {
                repeat::decided(tables, batch, number, length as usize, out, (origin, verdict))
            } else {
                None
            };
        }
        self.counters.posted += out.copies - before;
    }

    /// Asks for the FDB line that this frame will need: its destination's, or, from a peer, its source's (the
    /// destinations are pods of this node and at hand).
    #[inline]
    fn prefetch_index(
        &self,
        tables: &Tables,
        frame: &Frame,
        start: &[u8; tunnel::Encap::HEADER_LEN + packet::ETHERNET_LEN],
    ) {
        match frame.ingress {
            Ingress::Port(id) => {
                if let Some(port) = tables.port(id) {
                    self.fdb.prefetch(port.network, packet::Headers::dst_mac(start));
                }
            }
            Ingress::Underlay { .. } => {
                // The VNI is at the same place in VXLAN and Geneve. Geneve options would make this a wrong guess,
                // which costs nothing but the prefetch.
                let vni = u32::from_be_bytes([0, start[4], start[5], start[6]]);
                if let Some(&network) = tables.by_vni.get(&vni) {
                    self.fdb.prefetch(network, packet::MacAddr::read(start, tunnel::Encap::HEADER_LEN + 6));
                }
            }
            Ingress::Peer { .. } => {}
        }
    }

    /// One frame: returns whom it is booked on, and its verdict.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn one<R: Recorder>(
        &mut self,
        tables: &Tables,
        now_ms: u64,
        meta: &mut Frame,
        segments: &mut u64,
        bytes: &mut [u8],
        name: FrameRef,
        out: &mut Postbox,
        rec: &mut R,
    ) -> (Option<Egress>, Verdict) {
        match meta.ingress {
            Ingress::Port(id) => {
                let Some((port, network)) =
                    tables.port(id).and_then(|port| Some((port, tables.network(port.network)?)))
                else {
                    return (None, Verdict::Drop(DropReason::NoPort));
                };
                let origin = Egress::Port(id);
                let mut run = || {
                    parse::frame_into(bytes, &meta.vnet, &mut meta.headers)?;
                    *segments = tunnel::offload::segments(&meta.headers, &meta.vnet) as u64;
                    guard::ethernet(network, &tables.node, bytes)?;
                    guard::port(network, port, bytes, &meta.headers)?;
                    rec.step(|| Step::Guard { guard: port.guard });
                    Ok(())
                };
                if let Err(reason) = run() {
                    return (Some(origin), Verdict::Drop(reason));
                }
                (Some(origin), self.admitted(tables, network, origin, now_ms, meta, bytes, name, out, rec))
            }
            Ingress::Underlay { .. } | Ingress::Peer { .. } => {
                let opened = match decap::open(tables, meta.ingress, bytes) {
                    Ok(opened) => opened,
                    Err((peer, reason)) => return (peer.map(Egress::Peer), Verdict::Drop(reason)),
                };
                let origin = Egress::Peer(opened.peer);
                let network = opened.network;
                meta.head += opened.at as u32;
                meta.len -= opened.at as u32;
                let bytes = &mut bytes[opened.at..];
                let mut run = || {
                    parse::frame_into(bytes, &meta.vnet, &mut meta.headers)?;
                    meta.vnet = decap::offload(bytes, &meta.headers, opened.conf);
                    *segments = tunnel::offload::segments(&meta.headers, &meta.vnet) as u64;
                    if let Ingress::Underlay { tos, .. } = meta.ingress {
                        decap::ecn(tos, bytes, &meta.headers)?;
                    }
                    decap::admit(tables, network, opened.conf, bytes, &meta.headers)?;
                    guard::ethernet(network, &tables.node, bytes)?;
                    rec.step(|| Step::Decap { origin, network: network.id });
                    Ok(())
                };
                if let Err(reason) = run() {
                    return (Some(origin), Verdict::Drop(reason));
                }
                self.counters.of(origin).accepted_ms = Some(now_ms);
                (Some(origin), self.admitted(tables, network, origin, now_ms, meta, bytes, name, out, rec))
            }
        }
    }

    /// A frame whose source has been checked.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn admitted<R: Recorder>(
        &mut self,
        tables: &Tables,
        network: &Network,
        origin: Egress,
        now_ms: u64,
        meta: &mut Frame,
        bytes: &mut [u8],
        name: FrameRef,
        out: &mut Postbox,
        rec: &mut R,
    ) -> Verdict {
        let mut cx = self.context(tables, network, origin, now_ms, out, rec);
        if let Err(reason) = learn::source(&mut cx, bytes) {
            return Verdict::Drop(reason);
        }
        meta.hash = flow::hash(&meta.headers, bytes);
        let class = classify::classify(network, &tables.node, bytes, &meta.headers);
        let mut cur = Current { meta, bytes, name };
        match class {
            Class::Bridged => forward::bridge(&mut cx, &mut cur),
            Class::Routed => route::route(&mut cx, &mut cur),
            Class::Arp => arp::arp(&mut cx, &mut cur),
            Class::Nd => nd::nd(&mut cx, &mut cur),
        }
    }

    fn context<'a, R: Recorder>(
        &'a mut self,
        tables: &'a Tables,
        network: &'a Network,
        origin: Egress,
        now_ms: u64,
        out: &'a mut Postbox,
        rec: &'a mut R,
    ) -> Context<'a, R> {
        Context {
            tables,
            network,
            origin,
            now_ms,
            fdb: &mut self.fdb,
            neighbours: &mut self.neighbours,
            limiter: &mut self.limiter,
            counters: &mut self.counters,
            out,
            rec,
        }
    }

    /// When [`Datapath::handle_timeout`] has something to do next; `None` while nothing is learned or pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let learned = !self.fdb.is_empty() || self.neighbours.iter().next().is_some();
        let sweep = learned.then_some(self.swept_ms + SWEEP_MS);
        match (self.neighbours.next_ms(), sweep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Retries and gives up on neighbours, ages learned entries. May post frames.
    pub fn handle_timeout(&mut self, tables: &Tables, now_ms: u64, out: &mut Postbox) {
        let before = out.copies;
        while let Some(due) = self.neighbours.poll(now_ms) {
            let mut off = Off;
            match due {
                neighbour::Due::Retry(id, ip) => {
                    if let Some(network) = tables.network(id) {
                        // A retry asks everybody, wherever the waiting frames came from.
                        let everybody = Egress::Port(PortId(u32::MAX));
                        let mut cx = self.context(tables, network, everybody, now_ms, out, &mut off);
                        resolve::solicit(&mut cx, ip);
                    }
                }
                neighbour::Due::GiveUp(id, _, lost) => match tables.network(id) {
                    Some(network) => {
                        let nobody = Egress::Port(PortId(u32::MAX));
                        let mut cx = self.context(tables, network, nobody, now_ms, out, &mut off);
                        resolve::give_up(&mut cx, lost);
                    }
                    None => resolve::abandon(&mut self.counters, &mut self.neighbours, lost),
                },
            }
        }
        if now_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
            self.swept_ms = now_ms;
            let times = || tables.networks.iter().flatten().map(|n| n.ageing_ms).filter(|&ms| ms > 0);
            // Where nothing ages, stale entries do.
            let least = times().min().unwrap_or(u64::MAX);
            self.counters.aged += self.fdb.sweep(now_ms, least, SWEEP_BUDGET, |id| {
                tables.network(id).map(|n| n.ageing_ms).filter(|&ms| ms > 0)
            });
            self.neighbours.forget(now_ms, |_| false);
        }
        self.counters.posted += out.copies - before;
    }

    /// A port or peer is gone: forget what was learned behind it, and fold its counters into the node's.
    pub fn forget(&mut self, gone: Egress, now_ms: u64) {
        self.fdb.flush_owner(gone);
        let lost = self.neighbours.drop_origin(gone);
        resolve::abandon(&mut self.counters, &mut self.neighbours, lost);
        self.neighbours.forget(now_ms, |entry| entry.owner == Some(gone));
        self.counters.retire(gone);
    }

    /// A network is gone.
    pub fn forget_network(&mut self, id: NetId) {
        self.fdb.flush(|entry| entry.network == id);
        let lost = self.neighbours.drop_network(id);
        resolve::abandon(&mut self.counters, &mut self.neighbours, lost);
    }
}

#[cfg(test)]
mod tests;
