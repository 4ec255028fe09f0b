//! The learned part of the FDB: (network, MAC) to egress.
//!
//! Layout: an open-addressed index of 16-byte entries (packed key, egress, slot number; linear probing, load at
//! most one half, so a hit costs one cache line most of the time) and a slab of slots with the times of the last use.
//! Slots of one owner — the port or peer behind which the MAC was learned — form a list from oldest to newest.
//!
//! Limits: the capacity is fixed at construction and all memory is allocated then. Each owner has a quota;
//! an owner at its quota loses *its own* oldest entry, so a port that sends from random addresses cannot
//! push out anybody else's. When the whole table is full the owner also pays with its own oldest entry, and an
//! owner with none is not learned (its frames are still forwarded).
//!
//! Ageing: [`Fdb::sweep`] walks each owner's list from the oldest entry and stops at the first young one, so it
//! costs as much as there is to remove.
//!
//! What a table before this one knew can be put back ([`Fdb::restore`]). Such an entry forwards, but is *stale* until
//! its address is seen again: it is the oldest of its owner, and is removed after [`STALE_MS`] at the latest.

use super::verdict::{Egress, NetId, PeerId, PortId};
use packet::{MacAddr, flow};
use std::num::NonZeroU32;

/// How long an entry that was put back lives at most unless it is seen, in milliseconds. Hosts that are there answer
/// or ask within that time (ARP caches live for about as long); one that has moved meanwhile is sought again after it.
pub const STALE_MS: u64 = 60_000;
/// Places of the index that one step of a walk looks at: 128 KiB, read in about 10 microseconds.
const STEP: usize = 8192;

const NONE: u32 = u32::MAX;

/// 16 bytes, four to a cache line. Everything the hot path needs is here, so that it touches the slab at most twice
/// in every second of an entry: egress and slot number leave over bits for the second in which it was last touched,
/// and for whether that was as a source, as a destination, or as both.
#[derive(Clone, Copy)]
struct Entry {
    /// MAC in the low 48 bits, network above; never zero, because a zero MAC is never learned.
    key: u64,
    /// Packed egress in the low 21 bits, see `pack`; above it the low 11 bits of the touch.
    place: u32,
    /// Slot number in the low 24 bits; above it the high 8 bits of the touch.
    slot: u32,
}

const EMPTY: Entry = Entry { key: 0, place: 0, slot: 0 };

/// Bits of a packed egress: peer or port, and 2^20 numbers.
const EGRESS_BITS: u32 = 21;
const EGRESS_MASK: u32 = (1 << EGRESS_BITS) - 1;
/// Bits of a slot number.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
/// The second wraps after 36 hours: an entry that is touched then, and then only, is not refreshed once.
const SECOND_MASK: u32 = (1 << 17) - 1;

/// The ways in which an entry is touched, the low bits of a touch.
const SOURCE: u32 = 1;
const DESTINATION: u32 = 2;
const WAYS: u32 = SOURCE | DESTINATION;

/// The touch of an entry at this time, in this way.
#[inline]
fn touch(now_ms: u64, way: u32) -> u32 {
    ((now_ms / 1000) as u32 & SECOND_MASK) << WAYS.count_ones() | way
}

impl Entry {
    #[inline]
    fn new(key: u64, egress: u32, slot: u32, touch: u32) -> Self {
        Self {
            key,
            place: egress | touch << EGRESS_BITS,
            slot: slot | touch >> (32 - EGRESS_BITS) << SLOT_BITS,
        }
    }

    #[inline]
    fn egress(self) -> u32 {
        self.place & EGRESS_MASK
    }

    #[inline]
    fn slot(self) -> u32 {
        self.slot & SLOT_MASK
    }

    #[inline]
    fn touched(self) -> u32 {
        self.place >> EGRESS_BITS | self.slot >> SLOT_BITS << (32 - EGRESS_BITS)
    }

    /// Touches the entry; false when it was touched in this way in this second already. Once in every second is exact
    /// enough for ageing and for people, and keeps the slab quiet under load.
    #[inline]
    fn touch(&mut self, now_ms: u64, way: u32) -> bool {
        let (before, now) = (self.touched(), touch(now_ms, way));
        if (before ^ now) & !WAYS != 0 {
            *self = Self::new(self.key, self.egress(), self.slot(), now);
        } else if before & way == 0 {
            *self = Self::new(self.key, self.egress(), self.slot(), before | way);
        } else {
            return false;
        }
        true
    }
}

#[derive(Clone, Copy)]
struct Slot {
    key: u64,
    seen_ms: u64,
    used_ms: u64,
    created_ms: u64,
    owner: u32,
    older: u32,
    newer: u32,
    /// As in [`FdbEntry`].
    stale: Option<NonZeroU32>,
}

impl Slot {
    /// Has it outlived its network's ageing time (`None`: there is none)?
    fn outlived(&self, now_ms: u64, limit: Option<u64>) -> bool {
        let age = now_ms.saturating_sub(self.seen_ms);
        match self.stale {
            None => limit.is_some_and(|limit| age >= limit),
            Some(before) => {
                age >= STALE_MS || limit.is_some_and(|limit| age + u64::from(before.get()) >= limit)
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Owner {
    oldest: u32,
    newest: u32,
    len: u32,
}

const NOBODY: Owner = Owner { oldest: NONE, newest: NONE, len: 0 };

/// What learning did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// Known already, at the same place.
    Refreshed,
    /// New.
    Added,
    /// New, at the price of the owner's oldest entry.
    Replaced,
    /// Known elsewhere; it moved here.
    Moved,
    /// The table is full and the owner has nothing to give.
    Refused,
}

/// One entry, as listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbEntry {
    /// Network.
    pub network: NetId,
    /// Address.
    pub mac: MacAddr,
    /// Where it is.
    pub egress: Egress,
    /// When it was learned, milliseconds of the data path's clock.
    pub created_ms: u64,
    /// When it was last a source, at most a second early.
    pub seen_ms: u64,
    /// When it was last a destination, at most a second early; when it was learned if it never was.
    pub used_ms: u64,
    /// Put back and not seen since: how long it had not been seen then, in milliseconds (at least one).
    pub stale: Option<NonZeroU32>,
}

impl FdbEntry {
    /// Milliseconds since it was last a source, the time before it was put back included.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.seen_ms) + self.stale.map_or(0, |before| before.get().into())
    }
}

/// The learned table.
#[derive(Clone)]
pub struct Fdb {
    index: Box<[Entry]>,
    mask: usize,
    seed: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    ports: Vec<Owner>,
    peers: Vec<Owner>,
    /// Entries by network.
    networks: Vec<u32>,
    len: usize,
    capacity: usize,
    /// Rises when an entry comes, moves or goes.
    changes: u64,
    /// Where the last sweep ran out of budget: number of the owner (ports first), last key of it that was kept.
    resume: Option<(usize, Option<u64>)>,
}

/// Tells peers from ports; the bits below are the number.
const PEER_BIT: u32 = 1 << (EGRESS_BITS - 1);

#[inline]
fn pack(egress: Egress) -> u32 {
    match egress {
        Egress::Port(PortId(n)) => n,
        Egress::Peer(PeerId(n)) => n | PEER_BIT,
    }
}

#[inline]
fn unpack(v: u32) -> Egress {
    if v & PEER_BIT == 0 { Egress::Port(PortId(v)) } else { Egress::Peer(PeerId(v & !PEER_BIT)) }
}

#[inline]
fn key(network: NetId, mac: MacAddr) -> u64 {
    u64::from(network.0) << 48 | mac.as_u64()
}

impl Fdb {
    /// A table for `capacity` entries (at least 16). Takes about 80 bytes an entry.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = capacity.clamp(16, 1 << SLOT_BITS);
        let size = (capacity * 2).next_power_of_two();
        Self {
            index: vec![EMPTY; size].into_boxed_slice(),
            mask: size - 1,
            seed,
            slots: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            ports: Vec::new(),
            peers: Vec::new(),
            networks: Vec::new(),
            len: 0,
            capacity,
            changes: 0,
            resume: None,
        }
    }

    /// Most entries the table holds.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity as u32
    }

    /// Entries in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rises when an entry comes, moves or goes; not when it is seen or used.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        flow::mix(key, self.seed) as usize & self.mask
    }

    /// Position of the key in the index, or of the empty place where it would go.
    #[inline]
    fn probe(&self, key: u64) -> (usize, bool) {
        let mut at = self.home(key);
        loop {
            let entry = &self.index[at];
            if entry.key == key {
                // Network 0 and the zero address make the key of an empty place; it is never learned.
                return (at, key != 0);
            }
            if entry.key == 0 {
                return (at, false);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Where a frame for a MAC goes; the entry is marked as used.
    #[inline]
    pub fn forward(&mut self, network: NetId, mac: MacAddr, now_ms: u64) -> Option<Egress> {
        let (at, found) = self.probe(key(network, mac));
        if !found {
            return None;
        }
        let entry = &mut self.index[at];
        if entry.touch(now_ms, DESTINATION) {
            self.slots[entry.slot() as usize].used_ms = now_ms;
        }
        Some(unpack(entry.egress()))
    }

    /// Where a MAC is.
    #[inline]
    #[must_use]
    pub fn lookup(&self, network: NetId, mac: MacAddr) -> Option<Egress> {
        let (at, found) = self.probe(key(network, mac));
        found.then(|| unpack(self.index[at].egress()))
    }

    fn owner(&mut self, packed: u32) -> &mut Owner {
        let (list, at) = match unpack(packed) {
            Egress::Port(PortId(n)) => (&mut self.ports, n as usize),
            Egress::Peer(PeerId(n)) => (&mut self.peers, n as usize),
        };
        if at >= list.len() {
            list.resize(at + 1, NOBODY);
        }
        &mut list[at]
    }

    /// Enters a unicast source address seen from `egress` at `now_ms`; `quota` bounds the owner's entries.
    pub fn learn(
        &mut self,
        network: NetId,
        mac: MacAddr,
        egress: Egress,
        quota: u32,
        now_ms: u64,
    ) -> Learned {
        let key = key(network, mac);
        let packed = pack(egress);
        let (at, found) = self.probe(key);
        if found {
            let slot = self.index[at].slot();
            if self.index[at].egress() == packed {
                if self.index[at].touch(now_ms, SOURCE) {
                    self.unlink(slot);
                    let seen = &mut self.slots[slot as usize];
                    (seen.seen_ms, seen.stale) = (now_ms, None);
                    self.link(slot, packed);
                }
                return Learned::Refreshed;
            }
            if self.owner(packed).len >= quota && !self.evict_oldest(packed) {
                return Learned::Refused;
            }
            // The eviction may have shifted the index.
            let (at, _) = self.probe(key);
            self.unlink(slot);
            self.index[at] = Entry::new(key, packed, slot, touch(now_ms, SOURCE));
            let moved = &mut self.slots[slot as usize];
            (moved.seen_ms, moved.used_ms, moved.created_ms) = (now_ms, now_ms, now_ms);
            moved.stale = None;
            self.link(slot, packed);
            self.changes += 1;
            return Learned::Moved;
        }
        let mut outcome = Learned::Added;
        if self.owner(packed).len >= quota || self.len == self.capacity {
            if !self.evict_oldest(packed) {
                return Learned::Refused;
            }
            outcome = Learned::Replaced;
        }
        let slot = self.occupy(key, packed, now_ms, SOURCE);
        self.link(slot, packed);
        outcome
    }

    /// Puts back what a table before this one knew: an address that was last seen `age_ms` before `now_ms`, behind
    /// `egress`. It becomes the oldest entry of its owner, so put the youngest back first. Takes no other entry's
    /// place: false if the address is known, or there is no room for it within `quota`.
    pub fn restore(
        &mut self,
        network: NetId,
        mac: MacAddr,
        egress: Egress,
        quota: u32,
        age_ms: u64,
        now_ms: u64,
    ) -> bool {
        let key = key(network, mac);
        let packed = pack(egress);
        let owner = *self.owner(packed);
        if self.probe(key).1 || owner.len >= quota || self.len == self.capacity {
            return false;
        }
        let slot = self.occupy(key, packed, now_ms, 0);
        // The list stays in the order of times.
        let oldest = self.slots.get(owner.oldest as usize).map_or(now_ms, |oldest| oldest.seen_ms);
        let new = &mut self.slots[slot as usize];
        new.seen_ms = now_ms.min(oldest);
        new.stale = NonZeroU32::new(u32::try_from(age_ms).unwrap_or(u32::MAX).max(1));
        self.link_oldest(slot, packed);
        true
    }

    /// Makes an entry for a key that has none. The caller puts its slot into the owner's list.
    fn occupy(&mut self, key: u64, packed: u32, now_ms: u64, way: u32) -> u32 {
        let new = Slot {
            key,
            seen_ms: now_ms,
            used_ms: now_ms,
            created_ms: now_ms,
            owner: packed,
            older: NONE,
            newer: NONE,
            stale: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                self.slots.push(new);
                (self.slots.len() - 1) as u32
            }
        };
        let (at, _) = self.probe(key);
        self.index[at] = Entry::new(key, packed, slot, touch(now_ms, way));
        self.len += 1;
        self.changes += 1;
        *self.network(NetId((key >> 48) as u16)) += 1;
        slot
    }

    fn network(&mut self, id: NetId) -> &mut u32 {
        let at = usize::from(id.0);
        if at >= self.networks.len() {
            self.networks.resize(at + 1, 0);
        }
        &mut self.networks[at]
    }

    /// Entries of one network.
    #[must_use]
    pub fn network_len(&self, id: NetId) -> u32 {
        self.networks.get(usize::from(id.0)).copied().unwrap_or(0)
    }

    /// Appends to the newest end of the owner's list.
    fn link(&mut self, slot: u32, packed: u32) {
        let newest = self.owner(packed).newest;
        {
            let s = &mut self.slots[slot as usize];
            (s.owner, s.older, s.newer) = (packed, newest, NONE);
        }
        match newest {
            NONE => self.owner(packed).oldest = slot,
            n => self.slots[n as usize].newer = slot,
        }
        let owner = self.owner(packed);
        owner.newest = slot;
        owner.len += 1;
    }

    /// Puts a slot at the oldest end of the owner's list.
    fn link_oldest(&mut self, slot: u32, packed: u32) {
        let oldest = self.owner(packed).oldest;
        {
            let s = &mut self.slots[slot as usize];
            (s.owner, s.older, s.newer) = (packed, NONE, oldest);
        }
        match oldest {
            NONE => self.owner(packed).newest = slot,
            o => self.slots[o as usize].older = slot,
        }
        let owner = self.owner(packed);
        owner.oldest = slot;
        owner.len += 1;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { owner, older, newer, .. } = self.slots[slot as usize];
        match older {
            NONE => self.owner(owner).oldest = newer,
            o => self.slots[o as usize].newer = newer,
        }
        match newer {
            NONE => self.owner(owner).newest = older,
            n => self.slots[n as usize].older = older,
        }
        self.owner(owner).len -= 1;
    }

    fn evict_oldest(&mut self, packed: u32) -> bool {
        match self.owner(packed).oldest {
            NONE => false,
            slot => {
                self.remove_slot(slot);
                true
            }
        }
    }

    fn remove_slot(&mut self, slot: u32) {
        let (at, _) = self.probe(self.slots[slot as usize].key);
        self.unlink(slot);
        self.free.push(slot);
        self.len -= 1;
        self.changes += 1;
        *self.network(NetId((self.slots[slot as usize].key >> 48) as u16)) -= 1;
        self.close_gap(at);
    }

    /// Backward-shift deletion: entries behind the gap that probed over it move up, so no tombstones exist.
    fn close_gap(&mut self, mut gap: usize) {
        let mut at = gap;
        loop {
            at = (at + 1) & self.mask;
            let entry = self.index[at];
            if entry.key == 0 {
                break;
            }
            let home = self.home(entry.key);
            if (at.wrapping_sub(home) & self.mask) >= (at.wrapping_sub(gap) & self.mask) {
                self.index[gap] = entry;
                gap = at;
            }
        }
        self.index[gap] = EMPTY;
    }

    /// Removes one entry.
    pub fn remove(&mut self, network: NetId, mac: MacAddr) -> bool {
        let (at, found) = self.probe(key(network, mac));
        if found {
            self.remove_slot(self.index[at].slot());
        }
        found
    }

    /// Removes everything learned behind a port or peer; returns how many.
    pub fn flush_owner(&mut self, egress: Egress) -> u64 {
        let packed = pack(egress);
        let mut gone = 0;
        while self.evict_oldest(packed) {
            gone += 1;
        }
        gone
    }

    /// Removes the entries that `doomed` names; returns how many. Walks the whole table: for operators only.
    pub fn flush(&mut self, mut doomed: impl FnMut(&FdbEntry) -> bool) -> u64 {
        let victims: Vec<_> = self.iter().filter(|e| doomed(e)).map(|e| (e.network, e.mac)).collect();
        for &(network, mac) in &victims {
            self.remove(network, mac);
        }
        victims.len() as u64
    }

    /// Removes entries older than their network's ageing time (`None`: keep for ever). `least_ms` is the
    /// shortest of these times: an owner's list is sorted by age, so the walk ends at the first entry younger
    /// than that, behind the stale ones. At most `budget` entries are looked at, so that a sweep never stalls the worker; the next one
    /// goes on where it ended, so that entries which may stay do not hide others. Returns how many were removed.
    pub fn sweep(
        &mut self,
        now_ms: u64,
        least_ms: u64,
        mut budget: u64,
        ageing: impl Fn(NetId) -> Option<u64>,
    ) -> u64 {
        let owners = self.ports.len() + self.peers.len();
        let mut from = self.resume.take();
        let first = from.map_or(0, |(n, _)| n);
        let mut gone = 0;
        for n in (first..owners).chain(0..first.min(owners)) {
            let at = n.checked_sub(self.ports.len());
            let (owner, packed) = match at {
                None => (self.ports[n], pack(Egress::Port(PortId(n as u32)))),
                Some(at) => (self.peers[at], pack(Egress::Peer(PeerId(at as u32)))),
            };
            let mut kept = from.take().and_then(|(_, key)| key);
            let mut slot = kept.and_then(|key| self.after(key, packed)).unwrap_or(owner.oldest);
            while slot != NONE {
                if budget == 0 {
                    self.resume = Some((n, kept));
                    return gone;
                }
                budget -= 1;
                let looked_at = self.slots[slot as usize];
                let Slot { key, seen_ms, newer, stale, .. } = looked_at;
                // The stale ones, which come first, have less time.
                if stale.is_none() && now_ms.saturating_sub(seen_ms) < least_ms {
                    break;
                }
                if looked_at.outlived(now_ms, ageing(NetId((key >> 48) as u16))) {
                    self.remove_slot(slot);
                    gone += 1;
                } else {
                    kept = Some(key);
                }
                slot = newer;
            }
        }
        gone
    }

    /// The slot behind a key in its owner's list, if that owner still has it.
    fn after(&self, key: u64, packed: u32) -> Option<u32> {
        let (at, found) = self.probe(key);
        let slot =
            self.slots.get(self.index[at].slot() as usize).filter(|slot| found && slot.owner == packed)?;
        Some(slot.newer)
    }

    fn listed(&self, entry: Entry) -> FdbEntry {
        let slot = &self.slots[entry.slot() as usize];
        FdbEntry {
            network: NetId((entry.key >> 48) as u16),
            mac: MacAddr::from_u64(entry.key),
            egress: unpack(entry.egress()),
            created_ms: slot.created_ms,
            seen_ms: slot.seen_ms,
            used_ms: slot.used_ms,
            stale: slot.stale,
        }
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = FdbEntry> + '_ {
        self.index.iter().filter(|e| e.key != 0).map(|e| self.listed(*e))
    }

    /// One step of a walk over all entries that begins at 0: at most `most` of them. Returns where the next step
    /// begins, `None` at the end. What comes, moves or goes between two steps may be met twice or not at all.
    pub fn step(&self, from: usize, most: usize, mut each: impl FnMut(FdbEntry)) -> Option<usize> {
        let mut met = 0;
        for (at, entry) in self.index.iter().enumerate().skip(from).take(STEP) {
            if entry.key == 0 {
                continue;
            }
            if met == most {
                return Some(at);
            }
            met += 1;
            each(self.listed(*entry));
        }
        Some(from.saturating_add(STEP)).filter(|&next| next < self.index.len())
    }

    /// Entries learned behind one port or peer.
    #[must_use]
    pub fn count(&self, egress: Egress) -> u32 {
        match egress {
            Egress::Port(PortId(n)) => self.ports.get(n as usize).map_or(0, |o| o.len),
            Egress::Peer(PeerId(n)) => self.peers.get(n as usize).map_or(0, |o| o.len),
        }
    }

    /// Asks for the cache line where the entry of this key begins.
    #[inline]
    pub fn prefetch(&self, network: NetId, mac: MacAddr) {
        let at = self.home(key(network, mac));
        super::prefetch::line(&self.index[at..=at]);
    }
}
