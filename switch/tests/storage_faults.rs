//! A disk that fails in every way at every step of a save: the old state is found afterwards, or the new one, and
//! whoever asked for the change knows which. And files that were damaged in every way: what is loaded is a state that
//! was saved, or nothing.
//!
//! The files are real ones; errors are put in front of them. `SWD_FAULT_RUNS` (1) runs per step, error and history;
//! `SWD_FLIPS` (10,000) damaged directories.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ctl::desired::{DesiredState, Network};
use packet::Vni;
use switch::control::fs::{Fs, RealFs};
use switch::control::state::{CURRENT, LoadError, Loaded, PREVIOUS, Store, last_good};

/// How a step goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fault {
    /// With this error, and nothing is done.
    Before(i32),
    /// With this error, although it is done.
    After(i32),
    /// With this error, and part of the file is written.
    Short(i32),
    /// The process ends before it.
    StopBefore,
    /// The process ends after it.
    StopAfter,
}

#[derive(Debug, Default)]
struct Plan {
    /// The step that fails, counted from here.
    at: Option<(usize, Fault)>,
    steps: usize,
    stopped: bool,
    /// What the steps were.
    names: Vec<&'static str>,
}

/// A directory in front of which errors happen.
struct Faulty(RealFs, Arc<Mutex<Plan>>);

impl Faulty {
    fn step<T>(
        &mut self,
        name: &'static str,
        part: impl FnOnce(&mut RealFs),
        whole: impl FnOnce(&mut RealFs) -> io::Result<T>,
    ) -> io::Result<T> {
        let fault = {
            let mut plan = self.1.lock().unwrap();
            if plan.stopped {
                return Err(io::Error::other("stopped"));
            }
            plan.names.push(name);
            plan.steps += 1;
            let now = plan.steps - 1;
            plan.at.filter(|(at, _)| *at == now).map(|(_, fault)| fault)
        };
        let stop = || {
            self.1.lock().unwrap().stopped = true;
            Err(io::Error::other("stopped"))
        };
        match fault {
            None => whole(&mut self.0),
            Some(Fault::Before(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::StopBefore) => stop(),
            Some(Fault::After(errno)) => {
                let _ = whole(&mut self.0);
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Fault::StopAfter) => {
                let _ = whole(&mut self.0);
                stop()
            }
            Some(Fault::Short(errno)) => {
                part(&mut self.0);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

impl Fs for Faulty {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.0.read(name)
    }
    fn exists(&mut self, name: &str) -> io::Result<bool> {
        self.0.exists(name)
    }
    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let part = |fs: &mut RealFs| drop(fs.create(name, &content[..content.len() / 2]));
        self.step("create", part, |fs| fs.create(name, content))
    }
    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step("link", |_| (), |fs| fs.link(from, to))
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step("rename", |_| (), |fs| fs.rename(from, to))
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step("remove", |_| (), |fs| fs.remove(name))
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        self.step("sync", |_| (), |fs| fs.sync_dir())
    }
}

fn desired(vni: u32) -> DesiredState {
    let network = Network {
        name: format!("net-{vni}"),
        vni: Vni::new(vni).unwrap(),
        ageing_seconds: 300,
        mtu: None,
        fdb_limit: None,
        flood: true,
        subnets: Vec::new(),
        ranges: Vec::new(),
        exclude: Vec::new(),
    };
    DesiredState { networks: vec![network], ..DesiredState::default() }
}

fn load(dir: &Path) -> Loaded {
    Store::new(Box::new(RealFs::open(dir).unwrap())).load().unwrap()
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// What was found after a save that went wrong.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    old: usize,
    new: usize,
    /// The client was told that nothing changed, and the disk may have it all the same; the daemon knows.
    unsure: usize,
}

/// A save with this fault after `before` good ones. Gives the names of the steps that were reached.
fn faulty(before: u64, at: Option<(usize, Fault)>, tally: &mut Tally) -> Vec<&'static str> {
    let dir = tempfile::tempdir().unwrap();
    let plan = Arc::new(Mutex::new(Plan::default()));
    let mut store = Store::new(Box::new(Faulty(RealFs::open(dir.path()).unwrap(), plan.clone())));
    for generation in 1..=before {
        store.save(&desired(generation as u32), generation).unwrap();
    }
    *plan.lock().unwrap() = Plan { at, ..Plan::default() };
    let next = before + 1;
    let result = store.save(&desired(next as u32), next);
    let (unsure, stopped) = (store.unsure(), plan.lock().unwrap().stopped);

    let found = load(dir.path());
    let what = format!("{at:?} after {before}: {found:?}");
    assert_eq!(found.problem, None, "{what}");
    let old = found.generation == before
        && found.desired == if before == 0 { DesiredState::default() } else { desired(before as u32) };
    let new = found.generation == next && found.desired == desired(next as u32);
    assert!(old || new, "a mixture: {what}");
    tally.runs += 1;
    tally.old += usize::from(old);
    tally.new += usize::from(new);
    match &result {
        Ok(()) => assert!(new, "acknowledged and lost: {what}"),
        // Whoever is stopped tells nobody anything.
        Err(_) if stopped => {}
        Err(e) => {
            assert!(old || unsure, "refused ({e}) and made: {what}");
            tally.unsure += usize::from(unsure);
        }
    }
    let names = plan.lock().unwrap().names.clone();
    // The disk works again: so does the store, and a new one.
    plan.lock().unwrap().at = None;
    if !stopped {
        store.save(&desired(77), 77).unwrap();
        assert!(!store.unsure());
        assert_eq!(load(dir.path()).generation, 77, "{what}");
    }
    let mut other = Store::new(Box::new(RealFs::open(dir.path()).unwrap()));
    other.save(&desired(78), 78).unwrap();
    assert_eq!(load(dir.path()).generation, 78, "{what}");
    names
}

#[test]
fn every_error_at_every_step_leaves_old_or_new() {
    let runs = setting("SWD_FAULT_RUNS", 1);
    let errors = [libc::ENOSPC, libc::EIO, libc::EROFS, libc::EDQUOT];
    let mut faults = vec![Fault::StopBefore, Fault::StopAfter];
    for errno in errors {
        faults.extend([Fault::Before(errno), Fault::After(errno), Fault::Short(errno)]);
    }
    let (mut tally, mut points) = (Tally::default(), 0);
    for before in [0, 1, 2] {
        let steps = faulty(before, None, &mut Tally::default());
        for (at, step) in steps.iter().enumerate() {
            for &fault in &faults {
                if matches!(fault, Fault::Short(_)) && *step != "create" {
                    continue;
                }
                points += 1;
                for _ in 0..runs {
                    faulty(before, Some((at, fault)), &mut tally);
                }
            }
        }
    }
    let Tally { runs: all, old, new, unsure } = tally;
    assert_eq!((all, old + new), (points * runs, all));
    println!(
        "storage: {points} points of failure x {runs} runs: old ({old}) or new ({new}) in all {all}; \
         {unsure} of them known as unsure"
    );
}

/// A directory in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Memory {
    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap()
    }
}

impl Fs for Memory {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files().get(name).cloned())
    }
    fn exists(&mut self, name: &str) -> io::Result<bool> {
        Ok(self.files().contains_key(name))
    }
    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        match self.files().insert(name.into(), content.to_vec()) {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }
    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        let content = self.read(from)?.ok_or(io::ErrorKind::NotFound)?;
        self.create(to, &content)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let content = self.files().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files().insert(to.into(), content);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// xorshift64*, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Cuts a file short, or flips some of its bits; it is another one afterwards.
    fn damage(&mut self, file: &mut Vec<u8>) {
        if self.below(2) == 0 {
            let length = self.below(file.len());
            file.truncate(length);
            return;
        }
        let before = file.clone();
        while *file == before {
            for _ in 0..=self.below(8) {
                let (at, bit) = (self.below(file.len()), self.below(8));
                file[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn what_was_damaged_is_noticed_and_never_half_used() {
    let many = setting("SWD_FLIPS", 10_000);
    let fs = Memory::default();
    let mut store = Store::new(Box::new(fs.clone()));
    store.save(&desired(1), 1).unwrap();
    store.nominate(1).unwrap();
    store.promote().unwrap();
    store.save(&desired(2), 2).unwrap();
    store.save(&desired(3), 3).unwrap();
    let whole = fs.files().clone();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for number in 0..many {
        let mut files = whole.clone();
        let (current, previous) = [(true, false), (false, true), (true, true)][number % 3];
        for (name, hit) in [(CURRENT, current), (PREVIOUS, previous), (last_good::GOOD, number % 2 == 0)] {
            if hit {
                random.damage(files.get_mut(name).unwrap());
            }
        }
        let fs = Memory(Arc::new(Mutex::new(files.clone())));
        let mut store = Store::new(Box::new(fs.clone()));
        let kind = match store.load() {
            Ok(loaded) if !current => {
                assert_eq!((loaded.desired, loaded.generation, loaded.problem), (desired(3), 3, None));
                "current"
            }
            Ok(mut loaded) => {
                assert!(!previous);
                // The damaged one is kept, the one before it used under a number of its own, and somebody told.
                assert_eq!((&loaded.desired, loaded.generation), (&desired(2), 3));
                assert!(loaded.problem.as_ref().unwrap().contains("state.bad.0"));
                assert_eq!(fs.files()["state.bad.0"], files[CURRENT]);
                let fell = store.fall_back(&mut loaded).unwrap();
                let good = number % 2 != 0;
                assert_eq!(matches!(fell, last_good::Outcome::Done { was: 1, .. }), good);
                assert_eq!(loaded.desired, desired(if good { 1 } else { 2 }));
                "previous"
            }
            Err(LoadError::Unusable { .. }) => {
                assert!(current && previous);
                assert_eq!(*fs.files(), files, "what cannot be used is left alone");
                "none"
            }
            Err(e) => panic!("{e}"),
        };
        *counts.entry(kind).or_default() += 1;
    }
    println!("storage: {many} damaged directories: {counts:?}; every damage noticed, no mixture");
}
