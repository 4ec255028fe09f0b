//! Copying from a running worker what is to be remembered.
//!
//! The worker answers between two batches, so it is asked in many small steps, none of which takes it longer than
//! about 100 microseconds: a hundred ports' counters or five hundred entries each. The state of the control thread is
//! never locked while an answer is awaited. Numbers are given names by the numbering that held when it was asked.
//!
//! Counters are copied every time, because that is the only way to know whether anything has happened. Learned entries
//! are copied when one has come, moved or gone, and now and then for their age. Nothing is written when nothing has
//! changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctl::error::{ApiError, Reason};

use super::counts::{Counted, Counts, Sums};
use super::{Entry, Learned, MAX_ENTRIES, MAX_NAMES, Place, Remembered, boot_ms};
use crate::control::Control;
use crate::control::core::Core;
use crate::control::memory_file::MemoryFile;
use crate::control::service::Names;
use crate::datapath::{Counters, Egress, NetId, PeerId, PortId};
use crate::engine::Inspection;

/// Entries, and places of the FDB's walk that hold one, in one step.
const STEP: usize = 512;
/// Ports and peers whose counters are copied in one step: about 75 KiB.
const COUNTERS: usize = 128;
/// How old what is remembered of the age of entries may be. Entries may look that much older than they are; where they age
/// faster than that, some do not come back.
const REFRESH: Duration = Duration::from_secs(10);
/// How often counters are copied anew because ports came or went meanwhile.
const TRIES: usize = 4;

/// What is remembered, and where.
pub(in crate::control) struct Keeper {
    file: MemoryFile,
    /// As written last.
    last: Option<Remembered>,
    /// [`Step::changes`] when the learned entries were copied, and when that was.
    learned: Option<([u64; 2], Instant)>,
    numbering: Option<Arc<Numbering>>,
    failing: bool,
}

/// Names of numbers, as of one generation of the tables: whatever gives a number another name publishes tables.
struct Numbering {
    generation: u64,
    names: Names,
    places: Vec<Egress>,
}

/// One step of copying counters.
struct Step {
    counts: Vec<(Egress, Counts)>,
    node: Counts,
    sums: Sums,
    /// Changes of the FDB and of neighbours.
    changes: [u64; 2],
}

impl Step {
    fn take(i: &Inspection<'_>, places: &[Egress]) -> Self {
        let (table, neighbours) = (&i.datapath.counters, i.datapath.neighbours());
        let none = Counters::default();
        let counts = |&who: &Egress| {
            let counts = Counts::of(table.get(who).unwrap_or(&none), Some(who), neighbours);
            (counts != Counts::default()).then_some((who, counts))
        };
        Self {
            counts: places.iter().filter_map(counts).collect(),
            node: Counts::of(&table.node, None, neighbours),
            sums: Sums::of(table),
            changes: [i.datapath.fdb().changes(), neighbours.changes()],
        }
    }
}

impl Numbering {
    fn of(core: &Core) -> Self {
        let names = Names::of(core);
        let (ports, peers) = names.numbers();
        let ports = ports.into_iter().map(|id| Egress::Port(PortId(id)));
        let peers = peers.into_iter().map(|id| Egress::Peer(PeerId(id)));
        let places = ports.chain(peers).take(MAX_NAMES).collect();
        Self { generation: core.tables().generation, names, places }
    }

    fn place(&self, egress: Egress) -> Option<Place> {
        let name = self.names.egress(egress)?.to_owned();
        Some(Place { name, remote: self.names.remote_ip(egress) })
    }
}

impl Keeper {
    pub(in crate::control) fn new(file: MemoryFile) -> Self {
        Self { file, last: None, learned: None, numbering: None, failing: false }
    }

    /// What a process before this one has remembered.
    pub(in crate::control) fn read(&self) -> Option<Remembered> {
        match Remembered::decode(&self.file.read()?) {
            Ok(remembered) => Some(remembered),
            Err(e) => {
                tracing::warn!("what was remembered cannot be used: {e}");
                None
            }
        }
    }

    fn numbering(&mut self, core: &Core) -> Arc<Numbering> {
        match &self.numbering {
            Some(numbering) if numbering.generation == core.tables().generation => numbering.clone(),
            _ => self.numbering.insert(Arc::new(Numbering::of(core))).clone(),
        }
    }

    fn write(&mut self, remembered: Remembered) -> Result<(), ApiError> {
        let failed = |e: String| ApiError::new(Reason::Internal, e);
        let bytes = remembered.encode().map_err(|e| failed(e.to_string()))?;
        self.file.write(&bytes).map_err(|e| failed(e.to_string()))?;
        self.last = Some(remembered);
        Ok(())
    }
}

impl Control {
    /// Remembers what has changed; true if anything was written. Says in the log when that begins to fail.
    pub(in crate::control) async fn remember(&self, keeper: &mut Keeper) -> bool {
        let done = self.copy(keeper).await;
        if let Err(e) = &done
            && !keeper.failing
        {
            tracing::warn!("what was learned and counted is not remembered: {e}");
        }
        keeper.failing = done.is_err();
        done.unwrap_or(false)
    }

    async fn copy(&self, keeper: &mut Keeper) -> Result<bool, ApiError> {
        let Some((counted, changes)) = self.copy_counters(keeper).await? else { return Ok(false) };
        let known = keeper.learned.filter(|(before, _)| *before == changes);
        let same = known.is_some() && keeper.last.as_ref().is_some_and(|last| last.counted == counted);
        if same {
            return Ok(false);
        }
        // Taken, so that a copy or a write that fails is made anew.
        let learned = match (known, keeper.last.take()) {
            (Some((_, at)), Some(last)) if at.elapsed() < REFRESH => last.learned,
            _ => {
                let at = Instant::now();
                let learned = self.copy_learned(keeper).await?;
                keeper.learned = Some((changes, at));
                learned
            }
        };
        keeper.write(Remembered { learned, counted })?;
        Ok(true)
    }

    /// All counters and what tells whether learned entries have changed since; `None` if ports come and go too fast.
    async fn copy_counters(&self, keeper: &mut Keeper) -> Result<Option<(Counted, [u64; 2])>, ApiError> {
        'again: for _ in 0..TRIES {
            let mut all: Option<(u64, Counted, [u64; 2])> = None;
            let mut from = 0;
            loop {
                let (numbering, answer) = {
                    let core = self.core().await;
                    let numbering = keeper.numbering(&core);
                    // A port that goes takes its counters to the node's, which have been copied.
                    if all.as_ref().is_some_and(|(generation, ..)| *generation != numbering.generation) {
                        continue 'again;
                    }
                    let places: Vec<Egress> =
                        numbering.places.iter().skip(from).take(COUNTERS).copied().collect();
                    from += places.len();
                    (numbering, core.ask(move |i| Step::take(i, &places))?)
                };
                let step = answer.get().await?;
                let (_, counted, _) = all.get_or_insert_with(|| {
                    (numbering.generation, Counted::new(step.node, step.sums), step.changes)
                });
                let named = |(who, counts)| Some((numbering.place(who)?, counts));
                counted.places.extend(step.counts.into_iter().filter_map(named));
                if from >= numbering.places.len() {
                    break;
                }
            }
            return Ok(all.map(|(_, counted, changes)| (counted, changes)));
        }
        Ok(None)
    }

    async fn copy_learned(&self, keeper: &mut Keeper) -> Result<Learned, ApiError> {
        let mut book = Book::default();
        let mut next = Some(0);
        while let Some(from) = next.filter(|_| book.learned.macs.len() < MAX_ENTRIES) {
            let (numbering, answer) = {
                let core = self.core().await;
                let ask = core.ask(move |i| {
                    let mut entries = Vec::with_capacity(STEP);
                    let next = i.datapath.fdb().step(from, STEP, |entry| entries.push(entry));
                    (i.now_ms, entries, next)
                })?;
                (keeper.numbering(&core), ask)
            };
            let (now_ms, entries, then) = answer.get().await?;
            let mut page = book.page(&numbering);
            for entry in entries {
                let made = page.entry(entry.network, entry.egress, entry.mac.0, entry.age_ms(now_ms));
                page.book.learned.macs.extend(made);
            }
            next = then;
        }
        let mut from = 0;
        while book.learned.neighbours.len() < MAX_ENTRIES {
            let (numbering, answer) = {
                let core = self.core().await;
                let ask = core.ask(move |i| {
                    let entries: Vec<_> = i.datapath.neighbours().step(from, STEP).collect();
                    (i.now_ms, entries)
                })?;
                (keeper.numbering(&core), ask)
            };
            let (now_ms, entries) = answer.get().await?;
            from += entries.len();
            let end = entries.len() < STEP;
            let mut page = book.page(&numbering);
            for entry in entries {
                // One that is being resolved is nothing to remember.
                let (Some(mac), Some(owner)) = (entry.mac, entry.owner) else { continue };
                let made = page.entry(entry.network, owner, mac.0, entry.age_ms(now_ms));
                page.book.learned.neighbours.extend(made.map(|made| (entry.ip, made)));
            }
            if end {
                break;
            }
        }
        book.learned.macs.truncate(MAX_ENTRIES);
        book.learned.neighbours.truncate(MAX_ENTRIES);
        Ok(book.learned)
    }
}

/// Learned entries, and where in it which names are.
#[derive(Default)]
struct Book {
    learned: Learned,
    networks: HashMap<(String, u32), u32>,
    places: HashMap<Place, u32>,
}

/// A step's entries on their way into the book.
struct Page<'a> {
    book: &'a mut Book,
    numbering: &'a Numbering,
    networks: HashMap<NetId, Option<u32>>,
    places: HashMap<Egress, Option<u32>>,
    boot_ms: u64,
}

impl Book {
    fn page<'a>(&'a mut self, numbering: &'a Numbering) -> Page<'a> {
        let (networks, places) = (HashMap::new(), HashMap::new());
        Page { book: self, numbering, networks, places, boot_ms: boot_ms() }
    }
}

impl Page<'_> {
    /// One entry; `None` if where it is has no name any more.
    fn entry(&mut self, network: NetId, egress: Egress, mac: [u8; 6], age_ms: u64) -> Option<Entry> {
        let (book, numbering) = (&mut *self.book, self.numbering);
        let network = (*self.networks.entry(network).or_insert_with(|| {
            let (name, vni) = numbering.names.network(network)?;
            index(&mut book.networks, &mut book.learned.networks, (name.to_owned(), vni))
        }))?;
        let place = (*self
            .places
            .entry(egress)
            .or_insert_with(|| index(&mut book.places, &mut book.learned.places, numbering.place(egress)?)))?;
        Some(Entry { network, place, mac, seen_ms: self.boot_ms.saturating_sub(age_ms) })
    }
}

/// The index of a name in a list, which it is added to if it is new and there is room.
fn index<T: Clone + Eq + std::hash::Hash>(
    known: &mut HashMap<T, u32>,
    list: &mut Vec<T>,
    name: T,
) -> Option<u32> {
    if let Some(&index) = known.get(&name) {
        return Some(index);
    }
    if list.len() >= MAX_NAMES {
        return None;
    }
    let index = u32::try_from(list.len()).ok()?;
    list.push(name.clone());
    known.insert(name, index);
    Some(index)
}
