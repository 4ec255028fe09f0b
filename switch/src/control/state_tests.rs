//! Every step of a save fails, stops, or loses power: the old state or the new one is found afterwards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ctl::desired::{Network, Subnet};
use packet::Vni;
use proptest::prelude::*;

use super::super::fs::RealFs;
use super::*;

pub fn desired(vni: u32) -> DesiredState {
    let network = Network {
        name: format!("net-{vni}"),
        vni: Vni::new(vni).unwrap(),
        ageing_seconds: 300,
        mtu: None,
        fdb_limit: None,
        flood: true,
        subnets: vec![Subnet { cidr: "10.1.1.0/24".parse().unwrap(), gateway: None }],
        ranges: Vec::new(),
        exclude: Vec::new(),
    };
    DesiredState { networks: vec![network], ..DesiredState::default() }
}

/// A disk that forgets what was not synced: content of files, and names in the order they were changed.
#[derive(Default)]
pub struct Disk {
    files: Vec<Vec<u8>>,
    names: HashMap<String, usize>,
    durable: HashMap<String, usize>,
    pending: Vec<(String, Option<usize>)>,
    pub ops: usize,
    /// Operation that fails, how many fail from there, and whether the machine stops there.
    pub fault: Option<(usize, usize, bool)>,
    /// How much of a file is written when creating it fails.
    pub torn: usize,
}

#[derive(Clone, Default)]
pub struct SimFs(pub Arc<Mutex<Disk>>);

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        let op = self.ops;
        self.ops += 1;
        match self.fault {
            Some((at, _, true)) if op >= at => Err(io::Error::other("stopped")),
            Some((at, many, false)) if op >= at && op < at + many => Err(io::Error::other("EIO")),
            _ => Ok(()),
        }
    }

    fn name(&mut self, name: &str, file: Option<usize>) {
        match file {
            Some(file) => self.names.insert(name.into(), file),
            None => self.names.remove(name),
        };
        self.pending.push((name.into(), file));
    }

    /// Power is lost after `kept` of the changes of names reached the disk.
    pub fn lose_power(&mut self, kept: usize) {
        for (name, file) in self.pending.drain(..).take(kept) {
            match file {
                Some(file) => self.durable.insert(name, file),
                None => self.durable.remove(&name),
            };
        }
        self.names = self.durable.clone();
        self.fault = None;
    }
}

impl Fs for SimFs {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.0.lock().unwrap();
        Ok(disk.names.get(name).map(|&f| disk.files[f].clone()))
    }

    fn exists(&mut self, name: &str) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().names.contains_key(name))
    }

    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let result = disk.step();
        let kept = if result.is_err() { disk.torn.min(content.len()) } else { content.len() };
        disk.files.push(content[..kept].to_vec());
        let file = disk.files.len() - 1;
        disk.name(name, Some(file));
        result
    }

    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let Some(&file) = disk.names.get(from) else { return Err(io::ErrorKind::NotFound.into()) };
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.step()?;
        disk.name(to, Some(file));
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let Some(&file) = disk.names.get(from) else { return Err(io::ErrorKind::NotFound.into()) };
        disk.step()?;
        // Both changes are one: a journal keeps a rename whole. Put the new name first to model that.
        disk.name(to, Some(file));
        disk.name(from, None);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        if disk.names.contains_key(name) {
            disk.name(name, None);
        }
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let all = disk.pending.len();
        let fault = disk.fault;
        disk.lose_power(all);
        disk.fault = fault;
        Ok(())
    }
}

pub fn load(fs: &SimFs) -> Loaded {
    let loaded = Store::new(Box::new(fs.clone())).load().unwrap();
    assert_eq!(loaded.problem, None);
    loaded
}

/// After `before` good saves, a save with the given fault.
fn faulty_save(before: u64, fault: (usize, usize, bool), torn: usize) -> (SimFs, io::Result<()>) {
    let fs = SimFs::default();
    let mut store = Store::new(Box::new(fs.clone()));
    for generation in 1..=before {
        store.save(&desired(generation as u32), generation).unwrap();
    }
    {
        let mut disk = fs.0.lock().unwrap();
        disk.fault = Some((disk.ops + fault.0, fault.1, fault.2));
        disk.torn = torn;
    }
    let result = store.save(&desired(before as u32 + 1), before + 1);
    (fs, result)
}

#[test]
fn a_stop_or_loss_of_power_at_any_step_leaves_old_or_new() {
    for before in [0, 1, 2] {
        for at in 0..12 {
            for torn in [0, 10, 5000] {
                for kept in 0..16 {
                    let (fs, result) = faulty_save(before, (at, 1, true), torn);
                    // Killed: all that was done is visible.
                    let after = load(&fs).generation;
                    assert!(after == before || after == before + 1, "step {at}: {after}");
                    if result.is_ok() {
                        assert_eq!(after, before + 1);
                    }
                    // Power lost: what was not synced may be gone.
                    fs.0.lock().unwrap().lose_power(kept);
                    let after = load(&fs).generation;
                    assert!(after == before || after == before + 1, "step {at}, {kept} kept: {after}");
                    if result.is_ok() {
                        assert_eq!(after, before + 1, "acknowledged and lost");
                    }
                    // The next daemon can save.
                    let mut store = Store::new(Box::new(fs.clone()));
                    store.save(&desired(77), 77).unwrap();
                    assert_eq!(load(&fs).generation, 77);
                }
            }
        }
    }
}

#[test]
fn an_error_at_any_step_means_that_nothing_changed() {
    for before in [0, 1, 2] {
        for at in 0..12 {
            let (fs, result) = faulty_save(before, (at, 1, false), 10);
            let expected = if result.is_ok() { before + 1 } else { before };
            assert_eq!(load(&fs).generation, expected, "step {at}");
            assert!(at < 4 || result.is_ok() || before == 0 || at < 8, "step {at} of a save does not exist");
        }
    }
}

#[test]
fn a_disk_that_keeps_failing_is_known_to_be_unsure_until_a_save_succeeds() {
    let fs = SimFs::default();
    let mut store = Store::new(Box::new(fs.clone()));
    store.save(&desired(1), 1).unwrap();
    store.save(&desired(2), 2).unwrap();
    let mut seen = false;
    for at in 0..10 {
        {
            let mut disk = fs.0.lock().unwrap();
            disk.fault = Some((disk.ops + at, 100, false));
        }
        if store.save(&desired(9), 9).is_err() {
            seen |= store.unsure();
        }
        fs.0.lock().unwrap().fault = None;
        store.save(&desired(3), 3).unwrap();
        assert!(!store.unsure());
        assert_eq!(load(&fs).generation, 3);
    }
    assert!(seen);
}

#[test]
fn round_trip_on_the_machine() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let fs = RealFs::open(&path).unwrap();
    let lock = fs.lock(LOCK).unwrap();
    assert!(lock.is_some());
    assert!(RealFs::open(&path).unwrap().lock(LOCK).unwrap().is_none(), "two daemons in one directory");
    drop(lock);
    assert!(RealFs::open(&path).unwrap().lock(LOCK).unwrap().is_some());

    let mut store = Store::new(Box::new(fs));
    assert_eq!(store.load().unwrap().generation, 0);
    for n in 1..4 {
        store.save(&desired(n), u64::from(n)).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.desired, loaded.generation), (desired(n), u64::from(n)));
    }
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join(CURRENT))), (0o700, 0o600));
    assert_eq!(decode(&std::fs::read(path.join(PREVIOUS)).unwrap()).unwrap().1, 2);
}

#[test]
fn an_unreadable_file_is_kept_and_the_previous_one_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(Box::new(RealFs::open(dir.path()).unwrap()));
    store.save(&desired(1), 1).unwrap();
    store.save(&desired(2), 2).unwrap();
    let good = std::fs::read(dir.path().join(CURRENT)).unwrap();
    for (number, bad) in
        [&good[..good.len() - 1], b"", b"swd-state 9 generation=1\n", b"\xff\n"].iter().enumerate()
    {
        std::fs::write(dir.path().join(CURRENT), bad).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.desired, loaded.generation), (desired(1), 2));
        assert!(loaded.problem.unwrap().contains(&format!("state.bad.{number}")));
        assert_eq!(&std::fs::read(dir.path().join(format!("state.bad.{number}"))).unwrap(), bad);
        // The fallback survives the next save, and a restart without one.
        let again = store.load().unwrap();
        assert_eq!((again.desired, again.generation, again.problem), (desired(1), 2, None));
    }
    std::fs::remove_file(dir.path().join(CURRENT)).unwrap();
    assert!(store.load().unwrap().problem.unwrap().contains("missing"));
    for name in [CURRENT, PREVIOUS] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    let e = store.load().unwrap_err();
    assert!(matches!(e, LoadError::Unusable { .. }) && e.to_string().contains("move both files away"), "{e}");
    assert_eq!(std::fs::read(dir.path().join(CURRENT)).unwrap(), b"x");
}

proptest! {
    #[test]
    fn flipped_bits_and_cuts_are_noticed(vni in 1u32..1000, generation in any::<u64>(), at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let good = encode(&desired(vni), generation).unwrap();
        prop_assert_eq!(decode(&good), Ok((desired(vni), generation)));
        let at = at.index(good.len());
        let mut flipped = good.clone();
        flipped[at] ^= 1 << bit;
        prop_assert!(decode(&flipped).is_err());
        prop_assert!(decode(&good[..at]).is_err());
        let mut longer = good;
        longer.push(b' ');
        prop_assert!(decode(&longer).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
    }
}
