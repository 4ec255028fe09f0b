//! Learned neighbours: IP address to MAC, for next hops that no declared port and no static entry names.
//!
//! An entry is either being resolved (frames wait in a short queue, solicitations are repeated) or known. A
//! known entry is used for [`FRESH_MS`], then used and asked about again, and forgotten after [`LIFETIME_MS`]
//! without a sign of life. Signs of life are ARP and ND packets from peers and learning ports. An entry that was known
//! to a table before this one can be put back ([`Neighbours::restore`]); it is of the second kind at once.
//!
//! Limits: [`MAX_ENTRIES`] entries, of which at most half may come from listening alone, so that chatter cannot
//! keep the router from resolving; [`QUEUE_PER_NEIGHBOUR`], [`QUEUE_PER_ORIGIN`] and [`QUEUE_TOTAL`] waiting
//! frames, so that a pod which scans a subnet keeps nobody else from resolving.

use super::frame::OwnFrame;
use super::hash::{Map, State};
use super::verdict::{Egress, NetId};
use packet::MacAddr;
use std::net::IpAddr;

/// Entries in the table.
pub const MAX_ENTRIES: usize = 16_384;
/// Frames that may wait for one neighbour (RFC 4861 7.2.2 asks for at least one).
pub const QUEUE_PER_NEIGHBOUR: usize = 4;
/// Frames of one port or peer that may wait, and addresses that may be unresolved on its account.
pub const QUEUE_PER_ORIGIN: usize = QUEUE_TOTAL / 4;
/// Frames that may wait altogether; each may be an offload frame of 64 KiB.
pub const QUEUE_TOTAL: usize = 128;
/// An entry this old is asked about again when it is used.
pub const FRESH_MS: u64 = 30_000;
/// An entry this old is forgotten.
pub const LIFETIME_MS: u64 = 90_000;
/// Time between solicitations (RFC 4861 RETRANS_TIMER).
pub const RETRY_MS: u64 = 1000;
/// Solicitations before giving up (RFC 4861 MAX_MULTICAST_SOLICIT).
pub const MAX_TRIES: u8 = 3;

/// A frame waiting for its next hop's MAC, as it came: an ICMP error must quote it.
#[derive(Clone, Default)]
pub struct Held {
    /// The frame.
    pub frame: OwnFrame,
    /// Where it came from, for an ICMP error.
    pub origin: Option<Egress>,
}

#[derive(Clone)]
enum Stage {
    Incomplete { asker: Egress, tries: u8, next_ms: u64, waiting: Vec<Held> },
    Known { mac: MacAddr, confirmed_ms: u64, asked_ms: u64, before_ms: u64 },
}

#[derive(Clone)]
struct Entry {
    state: Stage,
    /// Behind whom it was heard; `None` while unresolved.
    owner: Option<Egress>,
}

/// The outcome of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Known and fresh.
    Known(MacAddr),
    /// Known, but it is time to ask again.
    Stale(MacAddr),
    /// Being resolved already.
    Pending,
    /// Never heard of.
    Unknown,
}

/// What is due for an unresolved neighbour.
pub enum Due {
    /// Ask again.
    Retry(NetId, IpAddr),
    /// Give up; these frames are lost.
    GiveUp(NetId, IpAddr, Vec<Held>),
}

/// One entry, as listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourEntry {
    /// Network.
    pub network: NetId,
    /// Address.
    pub ip: IpAddr,
    /// Its MAC, `None` while unresolved.
    pub mac: Option<MacAddr>,
    /// Behind whom.
    pub owner: Option<Egress>,
    /// When it was last confirmed, or put back.
    pub confirmed_ms: u64,
    /// How old it was when it was put back, in milliseconds; 0 if it was confirmed since.
    pub before_ms: u64,
    /// Frames waiting.
    pub waiting: usize,
}

impl NeighbourEntry {
    /// Milliseconds since it was last confirmed.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        age(now_ms, self.confirmed_ms, self.before_ms)
    }
}

fn age(now_ms: u64, confirmed_ms: u64, before_ms: u64) -> u64 {
    now_ms.saturating_sub(confirmed_ms).saturating_add(before_ms)
}

/// What one port or peer occupies.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    pending: usize,
    waiting: usize,
}

/// The table.
#[derive(Clone)]
pub struct Neighbours {
    entries: Map<(NetId, IpAddr), Entry>,
    /// Keys of unresolved entries.
    pending: Vec<(NetId, IpAddr)>,
    waiting: usize,
    /// Of whom there are how many unresolved addresses and waiting frames; nobody with none.
    shares: Map<Egress, Share>,
    /// Frame buffers to reuse.
    spare: Vec<Held>,
    /// Rises when a known entry comes, changes or goes.
    changes: u64,
}

impl Neighbours {
    /// An empty table hashing with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: Map::with_capacity_and_hasher(MAX_ENTRIES, State::new(seed)),
            pending: Vec::with_capacity(QUEUE_TOTAL),
            waiting: 0,
            shares: Map::with_capacity_and_hasher(2 * QUEUE_TOTAL, State::new(seed)),
            spare: Vec::with_capacity(QUEUE_TOTAL),
            changes: 0,
        }
    }

    /// Looks an address up for forwarding.
    pub fn lookup(&mut self, network: NetId, ip: IpAddr, now_ms: u64) -> Lookup {
        match self.entries.get_mut(&(network, ip)).map(|e| &mut e.state) {
            None => Lookup::Unknown,
            Some(Stage::Incomplete { .. }) => Lookup::Pending,
            Some(Stage::Known { mac, confirmed_ms, asked_ms, before_ms }) => {
                if age(now_ms, *confirmed_ms, *before_ms) >= FRESH_MS
                    && now_ms.saturating_sub(*asked_ms) >= RETRY_MS
                {
                    *asked_ms = now_ms;
                    Lookup::Stale(*mac)
                } else {
                    Lookup::Known(*mac)
                }
            }
        }
    }

    /// A fresh entry for answering somebody else's question: its MAC and owner.
    #[must_use]
    pub fn answer(&self, network: NetId, ip: IpAddr, now_ms: u64) -> Option<(MacAddr, Egress)> {
        let entry = self.entries.get(&(network, ip))?;
        match entry.state {
            Stage::Known { mac, confirmed_ms, before_ms, .. }
                if age(now_ms, confirmed_ms, before_ms) < FRESH_MS =>
            {
                Some((mac, entry.owner?))
            }
            _ => None,
        }
    }

    fn share(&self, who: Egress) -> Share {
        self.shares.get(&who).copied().unwrap_or_default()
    }

    /// Gives back what an unresolved entry and its frames occupied.
    fn settle(&mut self, asker: Egress, held: &[Held]) {
        self.waiting -= held.len();
        self.release(asker, |share| share.pending -= 1);
        for origin in held.iter().filter_map(|held| held.origin) {
            self.release(origin, |share| share.waiting -= 1);
        }
    }

    fn release(&mut self, who: Egress, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.shares.get_mut(&who) {
            change(share);
            if *share == Share::default() {
                self.shares.remove(&who);
            }
        }
    }

    /// Begins to resolve an address on account of `asker`. False when the table or the asker's share is full.
    pub fn begin(&mut self, network: NetId, ip: IpAddr, asker: Egress, now_ms: u64) -> bool {
        let full = self.entries.len() >= MAX_ENTRIES || self.pending.len() >= QUEUE_TOTAL;
        // An entry without room for its first frame would be of no use.
        if full || self.share(asker).pending >= QUEUE_PER_ORIGIN || !self.has_room(asker) {
            return false;
        }
        self.shares.entry(asker).or_default().pending += 1;
        let state = Stage::Incomplete { asker, tries: 1, next_ms: now_ms + RETRY_MS, waiting: Vec::new() };
        self.entries.insert((network, ip), Entry { state, owner: None });
        self.pending.push((network, ip));
        true
    }

    fn has_room(&self, origin: Egress) -> bool {
        self.waiting < QUEUE_TOTAL && self.share(origin).waiting < QUEUE_PER_ORIGIN
    }

    /// Queues a copy of a frame of `origin` for an address that is being resolved. False when a queue is full.
    pub fn hold(
        &mut self,
        network: NetId,
        ip: IpAddr,
        origin: Egress,
        fill: impl FnOnce(&mut OwnFrame),
    ) -> bool {
        if !self.has_room(origin) {
            return false;
        }
        let Some(Entry { state: Stage::Incomplete { waiting, .. }, .. }) =
            self.entries.get_mut(&(network, ip))
        else {
            return false;
        };
        if waiting.len() >= QUEUE_PER_NEIGHBOUR {
            return false;
        }
        let mut held = self.spare.pop().unwrap_or_default();
        held.origin = Some(origin);
        held.frame.bytes.clear();
        fill(&mut held.frame);
        waiting.push(held);
        self.waiting += 1;
        self.shares.entry(origin).or_default().waiting += 1;
        true
    }

    /// Heard that `ip` is at `mac`, behind `owner`. Returns the frames that waited for it. `create` allows a new
    /// entry for an address nobody asked about.
    pub fn confirm(
        &mut self,
        (network, ip): (NetId, IpAddr),
        mac: MacAddr,
        owner: Egress,
        now_ms: u64,
        create: bool,
    ) -> Vec<Held> {
        let known = Stage::Known { mac, confirmed_ms: now_ms, asked_ms: now_ms, before_ms: 0 };
        let len = self.entries.len();
        match self.entries.get_mut(&(network, ip)) {
            Some(entry) => {
                let moved = entry.owner.replace(owner) != Some(owner);
                match std::mem::replace(&mut entry.state, known) {
                    Stage::Incomplete { asker, waiting, .. } => {
                        self.pending.retain(|key| *key != (network, ip));
                        self.settle(asker, &waiting);
                        self.changes += 1;
                        waiting
                    }
                    Stage::Known { mac: before, .. } => {
                        self.changes += u64::from(moved || before != mac);
                        Vec::new()
                    }
                }
            }
            None => {
                if create && len < MAX_ENTRIES / 2 {
                    self.changes += 1;
                    self.entries.insert((network, ip), Entry { state: known, owner: Some(owner) });
                }
                Vec::new()
            }
        }
    }

    /// Puts back what a table before this one knew: `ip` was confirmed to be at `mac`, behind `owner`, `age_ms` before
    /// `now_ms`. It is used, and asked about from the next second on. False if the address is known or being
    /// resolved, the entry is too old, or the table is as full as unasked entries may make it.
    pub fn restore(
        &mut self,
        (network, ip): (NetId, IpAddr),
        mac: MacAddr,
        owner: Egress,
        age_ms: u64,
        now_ms: u64,
    ) -> bool {
        let known = self.entries.contains_key(&(network, ip));
        if known || age_ms >= LIFETIME_MS || self.entries.len() >= MAX_ENTRIES / 2 {
            return false;
        }
        let before_ms = age_ms.max(FRESH_MS);
        let state = Stage::Known { mac, confirmed_ms: now_ms, asked_ms: now_ms, before_ms };
        self.entries.insert((network, ip), Entry { state, owner: Some(owner) });
        self.changes += 1;
        true
    }

    /// Gives a frame buffer back for reuse.
    pub fn recycle(&mut self, held: Held) {
        if self.spare.len() < QUEUE_TOTAL {
            self.spare.push(held);
        }
    }

    /// Frames waiting in all queues.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Frames of one port or peer that wait.
    #[must_use]
    pub fn waiting_of(&self, origin: Egress) -> usize {
        self.share(origin).waiting
    }

    /// Rises when a known entry comes, changes or goes; not when it is confirmed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// When the next retry is due.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        let due = |key: &(NetId, IpAddr)| match self.entries.get(key)?.state {
            Stage::Incomplete { next_ms, .. } => Some(next_ms),
            Stage::Known { .. } => None,
        };
        self.pending.iter().filter_map(due).min()
    }

    /// One thing that is due now; call until `None`.
    pub fn poll(&mut self, now_ms: u64) -> Option<Due> {
        for i in 0..self.pending.len() {
            let key = self.pending[i];
            let Some(Entry { state: Stage::Incomplete { asker, tries, next_ms, waiting }, .. }) =
                self.entries.get_mut(&key)
            else {
                continue;
            };
            if *next_ms > now_ms {
                continue;
            }
            if *tries < MAX_TRIES {
                *tries += 1;
                *next_ms = now_ms + RETRY_MS;
                return Some(Due::Retry(key.0, key.1));
            }
            let (asker, lost) = (*asker, std::mem::take(waiting));
            self.settle(asker, &lost);
            self.pending.swap_remove(i);
            self.entries.remove(&key);
            return Some(Due::GiveUp(key.0, key.1, lost));
        }
        None
    }

    /// Forgets known entries that the predicate names or that have outlived [`LIFETIME_MS`]; returns how many.
    pub fn forget(&mut self, now_ms: u64, mut doomed: impl FnMut(&NeighbourEntry) -> bool) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|&(network, ip), entry| match entry.state {
            Stage::Incomplete { .. } => true,
            Stage::Known { mac, confirmed_ms, before_ms, .. } => {
                let listed = NeighbourEntry {
                    network,
                    ip,
                    mac: Some(mac),
                    owner: entry.owner,
                    confirmed_ms,
                    before_ms,
                    waiting: 0,
                };
                listed.age_ms(now_ms) < LIFETIME_MS && !doomed(&listed)
            }
        });
        let gone = (before - self.entries.len()) as u64;
        self.changes += gone;
        gone
    }

    /// Takes out the waiting frames that came from a port or peer that is gone: its number may be reused.
    pub fn drop_origin(&mut self, gone: Egress) -> Vec<Held> {
        let mut lost = Vec::new();
        for key in &self.pending {
            if let Some(Entry { state: Stage::Incomplete { waiting, .. }, .. }) = self.entries.get_mut(key) {
                lost.extend(waiting.extract_if(.., |held| held.origin == Some(gone)));
            }
        }
        self.waiting -= lost.len();
        self.release(gone, |share| share.waiting -= lost.len());
        lost
    }

    /// Drops everything of a network that is gone; returns the frames that waited.
    pub fn drop_network(&mut self, network: NetId) -> Vec<Held> {
        let mut lost = Vec::new();
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|key, entry| {
            if key.0 != network {
                return true;
            }
            if let Stage::Incomplete { asker, waiting, .. } = &mut entry.state {
                self.settle(*asker, waiting);
                lost.append(waiting);
            }
            false
        });
        self.entries = entries;
        self.pending.retain(|key| key.0 != network);
        self.changes += 1;
        lost
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = NeighbourEntry> + '_ {
        self.step(0, usize::MAX)
    }

    /// One step of a walk over all entries that begins at 0: `most` of them. What comes or goes between two steps may
    /// make it meet others twice or not at all.
    pub fn step(&self, from: usize, most: usize) -> impl Iterator<Item = NeighbourEntry> + '_ {
        self.entries.iter().skip(from).take(most).map(|(&(network, ip), entry)| match &entry.state {
            Stage::Incomplete { waiting, .. } => NeighbourEntry {
                network,
                ip,
                mac: None,
                owner: None,
                confirmed_ms: 0,
                before_ms: 0,
                waiting: waiting.len(),
            },
            Stage::Known { mac, confirmed_ms, before_ms, .. } => NeighbourEntry {
                network,
                ip,
                mac: Some(*mac),
                owner: entry.owner,
                confirmed_ms: *confirmed_ms,
                before_ms: *before_ms,
                waiting: 0,
            },
        })
    }
}
