//! `memory`: what a switch process leaves to the next one, as a pod that has taken it over would write it. Whatever is
//! read, the next one keeps its sums and its quotas, believes nothing that speaks against its tables, and has forgotten
//! all of it soon.
//!
//! Input: the content of a memory-file; or, when it begins with `swd-mem`, the file up to the end of its first slot.

use super::tables;
use crate::input::mix;
use std::os::unix::fs::FileExt as _;
use switch::control::memory_file::MemoryFile;
use switch::control::publish::Numbers;
use switch::control::remember::restore::Restore;
use switch::control::remember::{RememberError, Remembered};
use switch::datapath::{
    Config, Datapath, DropReason, Egress, Guard, PeerId, PortId, Postbox, STALE_MS, Tables,
};

const FDB_CAPACITY: usize = 64;
const BOOT_MS: u64 = 1_000_000;
const START_MS: u64 = 12;

pub fn run(data: &[u8]) -> u64 {
    if !data.starts_with(b"swd-mem") {
        return content(data);
    }
    match file(data) {
        Some(read) => mix(1, content(&read)),
        None => 2,
    }
}

/// What is read from a file with this in its first slot.
fn file(slot: &[u8]) -> Option<Vec<u8>> {
    let memory = MemoryFile::create().expect("memory for a small file");
    let raw = std::fs::File::from(std::os::fd::OwnedFd::from(memory));
    raw.write_all_at(slot, 0).expect("memory for a small file");
    let mut memory = MemoryFile::from_fd(raw.into());
    let read = memory.read();
    memory.write(b"next").expect("memory for a small file");
    assert_eq!(memory.read().as_deref(), Some(&b"next"[..]));
    read
}

fn content(bytes: &[u8]) -> u64 {
    let remembered = match Remembered::decode(bytes) {
        Ok(remembered) => remembered,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return match e {
                RememberError::Version(_) => 3,
                RememberError::Trailing(_) => 4,
                RememberError::Postcard(e) => mix(5, e.to_string().len() as u64),
            };
        }
    };
    let again = remembered.encode().expect("what was read can be written");
    assert_eq!(Remembered::decode(&again).expect("and read"), remembered);

    let mut datapath = Datapath::new(Config { fdb_capacity: FDB_CAPACITY, seed: 5 });
    let numbers = numbers();
    let mut restore = Restore::new(remembered, BOOT_MS);
    let [whole, lacking] = tables::both();
    // The tables of a start grow.
    let (mut taken, mut batches) = (0, 0);
    for tables in [&lacking, &whole, &whole] {
        batches = 0;
        for batch in restore.due(&numbers, tables) {
            taken += batch.apply(&mut datapath, tables, START_MS);
            batches += 1;
        }
        sums(&datapath);
    }
    assert_eq!(batches, 0, "all was put back the first time");
    restore.rest().apply(&mut datapath, &whole, START_MS);
    sums(&datapath);
    let entries = entries(&datapath, &whole, &lacking);
    assert_eq!(taken, entries);
    let received = datapath.counters.total().received;
    forget(&mut datapath, &whole);
    mix(mix(6, entries.min(12) as u64), u64::from(received > 0))
}

/// The names of the fixed tables.
fn numbers() -> Numbers {
    let mut numbers = Numbers::default();
    (0..6).for_each(|n| assert_eq!(numbers.ports.take(&format!("port-{n}")), n));
    (0..3).for_each(|n| assert_eq!(numbers.peers.take(&format!("peer-{n}")), n));
    (0..2).for_each(|n| assert_eq!(numbers.networks.take(&format!("net-{n}")), n));
    numbers
}

fn sums(datapath: &Datapath) {
    let counters = &datapath.counters;
    let total = counters.total();
    assert!(counters.balanced(), "{total:?}");
    assert_eq!(total.held, counters.released + counters.expired);
    assert_eq!(counters.expired, total.drops[DropReason::NeighbourFailed as usize]);
}

/// Checks what came back; returns how much. What only the later tables declare may have come before them.
fn entries(datapath: &Datapath, tables: &Tables, first: &Tables) -> usize {
    let may_be = |network, place| match place {
        Egress::Port(id) => {
            tables.port(id).is_some_and(|port| port.guard == Guard::Learning && port.network == network)
        }
        Egress::Peer(id) => tables.peer(id).is_some_and(|peer| peer.network.is_none_or(|n| n == network)),
    };
    let fdb = datapath.fdb();
    for entry in fdb.iter() {
        let network = tables.network(entry.network).expect("a network of the tables");
        let own = [network.gateway_mac, tables.node.router_mac].contains(&entry.mac);
        let fixed = first.network(entry.network).is_some_and(|n| n.statics.contains_key(&entry.mac));
        assert!(entry.mac.is_unicast() && !own && !fixed, "{entry:?}");
        assert!(may_be(entry.network, entry.egress) && entry.stale.is_some(), "{entry:?}");
        assert!(entry.age_ms(START_MS) < network.ageing_ms, "{entry:?}");
    }
    for (n, port) in tables.ports.iter().enumerate() {
        let count = fdb.count(Egress::Port(PortId(n as u32)));
        assert!(count <= port.as_ref().map_or(0, |port| port.mac_limit));
    }
    assert!((0..3).all(|n| fdb.count(Egress::Peer(PeerId(n))) <= FDB_CAPACITY as u32 / 2));
    let mut neighbours = 0;
    for entry in datapath.neighbours().iter() {
        let network = tables.network(entry.network).expect("a network of the tables");
        let declared = first.network(entry.network).is_some_and(|n| n.neighbours.contains_key(&entry.ip))
            || network.is_gateway_ip(entry.ip);
        assert!(!declared && entry.mac.is_some_and(|mac| mac.is_unicast()), "{entry:?}");
        assert!(entry.owner.is_some_and(|owner| may_be(entry.network, owner)), "{entry:?}");
        assert_eq!(datapath.neighbours().answer(entry.network, entry.ip, START_MS), None);
        neighbours += 1;
    }
    fdb.len() + neighbours
}

/// Nothing of it is left after a while in which nobody says a word.
fn forget(datapath: &mut Datapath, tables: &Tables) {
    let mut out = Postbox::default();
    for after in [1_000, STALE_MS + 1_000, 2 * STALE_MS] {
        datapath.handle_timeout(tables, START_MS + after, &mut out);
    }
    assert_eq!((datapath.fdb().len(), datapath.neighbours().iter().count()), (0, 0));
    assert_eq!(out.copies, 0);
    sums(datapath);
}
