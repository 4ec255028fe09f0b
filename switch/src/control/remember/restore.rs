//! Putting back what is remembered, as the tables of a start come to name its ports, peers and networks.
//!
//! Ports are opened and published in groups, so this is done in several turns: with each tables, before the worker gets
//! them, what they name for the first time goes into [`Batch`]es. The worker has not read a frame of these ports by
//! then, so the first one finds its way. A batch is small enough not to hold up frames of the others.

use std::sync::Arc;

use super::counts::Sums;
use super::{Entry, Place, Remembered};
use crate::control::publish::Numbers;
use crate::datapath::{Counters, Datapath, Egress, Known, NetId, Tables};

/// Entries in one batch, and counters of ports and peers: either takes the worker less than 100 microseconds.
const ENTRIES: usize = 512;
const COUNTERS: usize = 128;

/// What is not put back yet.
pub struct Restore {
    remembered: Remembered,
    /// Where the places of learned entries are now, as far as that is known.
    places: Vec<Option<Egress>>,
    /// Counters by place, until they are handed out.
    counters: Vec<(Place, Counters)>,
    node: Counters,
    sums: Sums,
    /// Now, of the clock since boot.
    boot_ms: u64,
}

/// One thing that the worker has to do.
pub struct Batch {
    known: Vec<Known>,
    counters: Vec<(Option<Egress>, Counters)>,
    sums: Sums,
}

impl Restore {
    /// All of it, at `boot_ms` of the clock since boot.
    #[must_use]
    pub fn new(mut remembered: Remembered, boot_ms: u64) -> Self {
        // The youngest first, of what is behind one port or peer.
        remembered.learned.macs.sort_by_key(|entry| std::cmp::Reverse(entry.seen_ms));
        remembered.learned.neighbours.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.seen_ms));
        let sums = remembered.counted.sums;
        let (node, places, sums) = match remembered.counted.counters() {
            Some((node, places)) => (node, places, sums),
            None => {
                tracing::warn!("remembered counters contradict themselves: all begin anew");
                (Counters::default(), Vec::new(), Sums::default())
            }
        };
        let names = std::mem::take(&mut remembered.counted.places).into_iter().map(|(place, _)| place);
        Self {
            places: vec![None; remembered.learned.places.len()],
            counters: names.zip(places).collect(),
            remembered,
            node,
            sums,
            boot_ms,
        }
    }

    /// What these tables name, and none before them did.
    pub fn due(&mut self, ids: &Numbers, tables: &Tables) -> Vec<Batch> {
        let learned = &self.remembered.learned;
        let networks: Vec<Option<NetId>> =
            learned.networks.iter().map(|(name, vni)| network(ids, tables, name, *vni)).collect();
        let new: Vec<Option<Egress>> = learned
            .places
            .iter()
            .zip(&mut self.places)
            .map(|(place, known)| match known {
                Some(_) => None,
                None => {
                    *known = find(ids, tables, place);
                    *known
                }
            })
            .collect();
        let known = |ip, entry: &Entry| {
            Some(Known {
                network: (*networks.get(entry.network as usize)?)?,
                ip,
                mac: entry.mac(),
                place: (*new.get(entry.place as usize)?)?,
                age_ms: self.boot_ms.saturating_sub(entry.seen_ms),
            })
        };
        let mut all: Vec<Known> = Vec::new();
        if new.iter().any(Option::is_some) {
            all.extend(learned.macs.iter().filter_map(|entry| known(None, entry)));
            all.extend(learned.neighbours.iter().filter_map(|(ip, entry)| known(Some(*ip), entry)));
        }
        let mut counters = Vec::new();
        self.counters.retain(|(place, counted)| match find(ids, tables, place) {
            Some(egress) => {
                counters.push((Some(egress), counted.clone()));
                false
            }
            None => true,
        });
        let mut batches: Vec<Batch> =
            counters.chunks(COUNTERS).map(|some| Batch::of_counters(some.to_vec())).collect();
        batches.extend(
            all.chunks(ENTRIES).map(|some| Batch { known: some.to_vec(), ..Batch::of_counters(Vec::new()) }),
        );
        batches
    }

    /// What is left when all tables of the start are out: the counters of the node, and those of ports and peers that
    /// are no more, which are the node's from now on. What was learned behind those is forgotten.
    #[must_use]
    pub fn rest(self) -> Batch {
        let mut node = self.node;
        self.counters.iter().for_each(|(_, counters)| node.add(counters));
        Batch { sums: self.sums, ..Batch::of_counters(vec![(None, node)]) }
    }
}

impl Batch {
    fn of_counters(counters: Vec<(Option<Egress>, Counters)>) -> Self {
        Self { known: Vec::new(), counters, sums: Sums::default() }
    }

    /// Puts it into a data path; `tables` are those that it was made for. Returns how many entries were taken.
    pub fn apply(&self, datapath: &mut Datapath, tables: &Tables, now_ms: u64) -> usize {
        for (who, counters) in &self.counters {
            datapath.counters.resume(*who, counters);
        }
        self.sums.add_to(&mut datapath.counters);
        self.known.iter().filter(|known| datapath.recall(tables, known, now_ms)).count()
    }

    /// The same, as a command's closure.
    pub(in crate::control) fn into_inspection(
        self,
        tables: Arc<Tables>,
    ) -> Box<dyn FnOnce(&mut crate::engine::Inspection<'_>) + Send> {
        Box::new(move |i| {
            self.apply(i.datapath, &tables, i.now_ms);
        })
    }
}

/// The network of this name, if it has the same VNI.
fn network(ids: &Numbers, tables: &Tables, name: &str, vni: u32) -> Option<NetId> {
    let id = NetId(u16::try_from(ids.networks.get(name)?).ok()?);
    (tables.network(id)?.vni.get() == vni).then_some(id)
}

/// The port of this name, or the peer of this name and address, if the tables have it.
fn find(ids: &Numbers, tables: &Tables, place: &Place) -> Option<Egress> {
    match place.remote {
        None => ids.port_id(&place.name).filter(|id| tables.port(*id).is_some()).map(Egress::Port),
        Some(remote) => ids
            .peer_id(&place.name)
            .filter(|id| tables.peer(*id).is_some_and(|peer| peer.remote == remote))
            .map(Egress::Peer),
    }
}
