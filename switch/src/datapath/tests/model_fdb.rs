//! The FDB against a slow obvious model: a map, and one queue per owner from oldest to newest.

use super::kit::*;
use crate::datapath::{Egress, Fdb, Learned, NetId, PeerId, PortId, STALE_MS};
use packet::MacAddr;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

type Key = (NetId, MacAddr);

struct Entry {
    owner: Egress,
    created: u64,
    seen: u64,
    used: u64,
    /// Second in which it was last used, if it was since it was learned.
    used_in: Option<u64>,
    /// Second in which it was last seen, if it was since it was put back.
    seen_in: Option<u64>,
    /// Its age when it was put back, until it is seen.
    stale: Option<u64>,
}

impl Entry {
    fn new(owner: Egress, now: u64) -> Self {
        let seen_in = Some(now / 1000);
        Self { owner, created: now, seen: now, used: now, used_in: None, seen_in, stale: None }
    }

    fn outlived(&self, now: u64, limit: Option<u64>) -> bool {
        let age = now - self.seen;
        match self.stale {
            Some(before) => age >= STALE_MS || limit.is_some_and(|limit| age + before >= limit),
            None => limit.is_some_and(|limit| age >= limit),
        }
    }
}

#[derive(Default)]
struct Model {
    entries: HashMap<Key, Entry>,
    queues: HashMap<Egress, VecDeque<Key>>,
    capacity: usize,
}

impl Model {
    fn queue(&mut self, owner: Egress) -> &mut VecDeque<Key> {
        self.queues.entry(owner).or_default()
    }

    fn evict(&mut self, owner: Egress) -> bool {
        let oldest = self.queue(owner).pop_front();
        oldest.is_some_and(|key| self.entries.remove(&key).is_some())
    }

    fn learn(&mut self, key: Key, owner: Egress, quota: u32, now: u64) -> Learned {
        let crowded = self.queue(owner).len() >= quota as usize;
        if let Some(entry) = self.entries.get_mut(&key) {
            let before = entry.owner;
            if before == owner {
                if entry.seen_in != Some(now / 1000) {
                    (entry.seen, entry.seen_in, entry.stale) = (now, Some(now / 1000), None);
                    self.queue(owner).retain(|k| *k != key);
                    self.queue(owner).push_back(key);
                }
                return Learned::Refreshed;
            }
            if crowded && !self.evict(owner) {
                return Learned::Refused;
            }
            self.queue(before).retain(|k| *k != key);
            self.queue(owner).push_back(key);
            self.entries.insert(key, Entry::new(owner, now));
            return Learned::Moved;
        }
        let mut outcome = Learned::Added;
        if crowded || self.entries.len() == self.capacity {
            if !self.evict(owner) {
                return Learned::Refused;
            }
            outcome = Learned::Replaced;
        }
        self.entries.insert(key, Entry::new(owner, now));
        self.queue(owner).push_back(key);
        outcome
    }

    fn restore(&mut self, key: Key, owner: Egress, quota: u32, age: u64, now: u64) -> bool {
        let crowded = self.queue(owner).len() >= quota as usize || self.entries.len() == self.capacity;
        if crowded || self.entries.contains_key(&key) {
            return false;
        }
        let oldest = self.queue(owner).front().copied();
        let seen = oldest.map_or(now, |key| self.entries[&key].seen.min(now));
        let entry = Entry { seen, seen_in: None, stale: Some(age.max(1)), ..Entry::new(owner, now) };
        self.entries.insert(key, entry);
        self.queue(owner).push_front(key);
        true
    }

    fn forward(&mut self, key: Key, now: u64) -> Option<Egress> {
        let entry = self.entries.get_mut(&key)?;
        if entry.used_in != Some(now / 1000) {
            (entry.used, entry.used_in) = (now, Some(now / 1000));
        }
        Some(entry.owner)
    }

    fn remove(&mut self, key: Key) -> bool {
        let Some(entry) = self.entries.remove(&key) else { return false };
        self.queue(entry.owner).retain(|k| *k != key);
        true
    }

    fn remove_all(&mut self, doomed: impl Fn(&Key, &Entry) -> bool) -> u64 {
        let keys: Vec<_> = self.entries.iter().filter(|(k, e)| doomed(k, e)).map(|(k, _)| *k).collect();
        keys.iter().for_each(|k| assert!(self.remove(*k)));
        keys.len() as u64
    }
}

#[derive(Debug, Clone)]
enum Op {
    Learn { mac: u8, net: u16, owner: u8, quota: u32 },
    Restore { mac: u8, net: u16, owner: u8, quota: u32, age: u64 },
    Forward { mac: u8, net: u16 },
    Remove { mac: u8, net: u16 },
    FlushOwner(u8),
    FlushNet(u16),
    Wait(u64),
    Sweep,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        20 => (0u8..48, 0u16..3, 0u8..5, 0u32..20).prop_map(|(mac, net, owner, quota)| Op::Learn { mac, net, owner, quota }),
        8 => (0u8..48, 0u16..3, 0u8..5, 0u32..20, 0u64..25_000)
            .prop_map(|(mac, net, owner, quota, age)| Op::Restore { mac, net, owner, quota, age }),
        10 => (0u8..48, 0u16..3).prop_map(|(mac, net)| Op::Forward { mac, net }),
        3 => (0u8..48, 0u16..3).prop_map(|(mac, net)| Op::Remove { mac, net }),
        1 => (0u8..5).prop_map(Op::FlushOwner),
        1 => (0u16..3).prop_map(Op::FlushNet),
        4 => (0u64..4000).prop_map(Op::Wait),
        1 => (20_000u64..70_000).prop_map(Op::Wait),
        2 => Just(Op::Sweep),
    ];
    proptest::collection::vec(op, 1..300)
}

fn owner(n: u8) -> Egress {
    if n < 3 { Egress::Port(PortId(u32::from(n))) } else { Egress::Peer(PeerId(u32::from(n) - 3)) }
}

/// Network 0 ages after 5 s, 1 after 20 s, 2 never.
fn ageing(net: NetId) -> Option<u64> {
    [Some(5_000), Some(20_000), None][usize::from(net.0)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn fdb_is_the_model(ops in ops(), seed: u64, capacity in 16usize..64) {
        let mut fdb = Fdb::new(capacity, seed);
        let mut model = Model { capacity, ..Model::default() };
        let mut now = 10_000;
        for op in ops {
            match op {
                Op::Learn { mac: m, net, owner: o, quota } => {
                    let key = (NetId(net), mac(m + 1));
                    let quota = if o >= 3 { u32::MAX } else { quota };
                    prop_assert_eq!(fdb.learn(key.0, key.1, owner(o), quota, now), model.learn(key, owner(o), quota, now));
                }
                Op::Restore { mac: m, net, owner: o, quota, age } => {
                    let key = (NetId(net), mac(m + 1));
                    let done = fdb.restore(key.0, key.1, owner(o), quota, age, now);
                    prop_assert_eq!(done, model.restore(key, owner(o), quota, age, now));
                }
                Op::Forward { mac: m, net } => {
                    let key = (NetId(net), mac(m + 1));
                    prop_assert_eq!(fdb.forward(key.0, key.1, now), model.forward(key, now));
                }
                Op::Remove { mac: m, net } => {
                    let key = (NetId(net), mac(m + 1));
                    prop_assert_eq!(fdb.remove(key.0, key.1), model.remove(key));
                }
                Op::FlushOwner(o) => {
                    prop_assert_eq!(fdb.flush_owner(owner(o)), model.remove_all(|_, e| e.owner == owner(o)));
                }
                Op::FlushNet(net) => {
                    prop_assert_eq!(fdb.flush(|e| e.network.0 == net), model.remove_all(|k, _| k.0.0 == net));
                }
                Op::Wait(ms) => now += ms,
                Op::Sweep => {
                    let gone = fdb.sweep(now, 5_000, u64::MAX, ageing);
                    let want = model.remove_all(|k, e| e.outlived(now, ageing(k.0)));
                    prop_assert_eq!(gone, want);
                }
            }
            prop_assert_eq!(fdb.len(), model.entries.len());
            prop_assert!(fdb.len() <= capacity);
        }
        let mut listed = 0;
        for entry in fdb.iter() {
            listed += 1;
            let want = &model.entries[&(entry.network, entry.mac)];
            prop_assert_eq!(
                (entry.egress, entry.created_ms, entry.seen_ms, entry.used_ms),
                (want.owner, want.created, want.seen, want.used)
            );
            prop_assert_eq!(entry.stale.map(|age| u64::from(age.get())), want.stale);
            prop_assert_eq!(entry.age_ms(now), now - want.seen + want.stale.unwrap_or(0));
            prop_assert_eq!(fdb.lookup(entry.network, entry.mac), Some(want.owner));
        }
        prop_assert_eq!(listed, model.entries.len());
        // In steps it is the same walk.
        for most in [1, 7, 512] {
            let (mut met, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let before = met.len();
                next = fdb.step(from, most, |entry| met.push(entry));
                prop_assert!(met.len() - before <= most);
            }
            prop_assert!(met.iter().copied().eq(fdb.iter()));
        }
        for n in 0..5 {
            prop_assert_eq!(fdb.count(owner(n)) as usize, model.queue(owner(n)).len());
        }
        for m in 0..48 {
            for net in 0..3 {
                let key = (NetId(net), mac(m + 1));
                prop_assert_eq!(fdb.lookup(key.0, key.1), model.entries.get(&key).map(|e| e.owner));
            }
        }
    }

    /// Sweeps with a small budget end where one big sweep does.
    #[test]
    fn small_sweeps_get_there_too(ops in ops(), budget in 1u64..8) {
        let mut fdb = Fdb::new(64, 1);
        let mut now = 10_000;
        for op in ops {
            match op {
                Op::Learn { mac: m, net, owner: o, .. } => {
                    fdb.learn(NetId(net), mac(m + 1), owner(o), u32::MAX, now);
                }
                Op::Restore { mac: m, net, owner: o, age, .. } => {
                    fdb.restore(NetId(net), mac(m + 1), owner(o), u32::MAX, age, now);
                }
                Op::Wait(ms) => now += ms,
                _ => {}
            }
        }
        now += 7_000;
        let mut at_once = fdb.clone();
        at_once.sweep(now, 5_000, u64::MAX, ageing);
        // Twice round: the first walk may begin in the middle.
        for _ in 0..2 * (64 / budget + 6) {
            fdb.sweep(now, 5_000, budget, ageing);
        }
        let sorted = |fdb: &Fdb| {
            let mut all: Vec<_> = fdb.iter().map(|e| (e.network, e.mac)).collect();
            all.sort_unstable();
            all
        };
        prop_assert_eq!(sorted(&fdb), sorted(&at_once));
    }
}
