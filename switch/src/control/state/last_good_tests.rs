//! Falling back fails, stops or loses power at every step: one state or the other is found, and the newer one is still
//! somewhere.

use super::super::tests::{SimFs, desired, load};
use super::*;

/// A store that has proven the state of generation 1 and has the state of generation 3.
fn proven() -> (SimFs, Store) {
    let fs = SimFs::default();
    let mut store = Store::new(Box::new(fs.clone()));
    store.save(&desired(1), 1).unwrap();
    assert!(store.nominate(1).unwrap());
    for generation in 2..=3 {
        store.save(&desired(generation as u32), generation).unwrap();
    }
    store.promote().unwrap();
    (fs, store)
}

/// The newer state is kept under some name.
fn keeps_newer(fs: &SimFs) -> bool {
    let mut fs = fs.clone();
    let names = [CURRENT.to_owned(), format!("{SUSPECT}.0"), format!("{SUSPECT}.1")];
    use super::super::Fs as _;
    names.iter().any(|name| {
        let file = fs.read(name).unwrap();
        file.is_some_and(|file| decode(&file) == Ok((desired(3), 3)))
    })
}

#[test]
fn the_proven_state_takes_the_place_of_the_newer_one_once() {
    let (fs, mut store) = proven();
    let mut loaded = store.load().unwrap();
    let kept = Suspect { name: "state.suspect.0".to_owned(), generation: Some(3) };
    assert_eq!(store.fall_back(&mut loaded).unwrap(), Outcome::Done { was: 1, kept: kept.clone() });
    assert_eq!((&loaded.desired, loaded.generation), (&desired(1), 4));
    assert_eq!((load(&fs), store.suspects().unwrap()), (store.load().unwrap(), vec![kept]));
    assert!(keeps_newer(&fs));
    // What it is proven by has to happen again.
    store.save(&desired(5), 5).unwrap();
    let mut loaded = store.load().unwrap();
    assert!(matches!(store.fall_back(&mut loaded).unwrap(), Outcome::Nothing(_)));
    assert_eq!(loaded.generation, 5);
    // Neither does one that is proven replace what was kept, or one that is kept another.
    assert!(store.nominate(5).unwrap());
    store.promote().unwrap();
    store.save(&desired(6), 6).unwrap();
    let mut loaded = store.load().unwrap();
    store.fall_back(&mut loaded).unwrap();
    assert_eq!((&loaded.desired, loaded.generation), (&desired(5), 7));
    let kept: Vec<_> = store.suspects().unwrap().into_iter().map(|s| (s.name, s.generation)).collect();
    assert_eq!(kept, [("state.suspect.0".to_owned(), Some(3)), ("state.suspect.1".to_owned(), Some(6))]);
}

#[test]
fn there_may_be_nothing_to_fall_back_on() {
    let fs = SimFs::default();
    let mut store = Store::new(Box::new(fs.clone()));
    let why = |store: &mut Store| {
        let mut loaded = store.load().unwrap();
        let before = loaded.generation;
        let outcome = store.fall_back(&mut loaded).unwrap();
        assert_eq!(loaded.generation, before);
        match outcome {
            Outcome::Nothing(why) => why,
            Outcome::Done { .. } => panic!("fell back"),
        }
    };
    assert!(why(&mut store).contains("there is no state.good"));
    store.save(&desired(1), 1).unwrap();
    assert!(store.nominate(1).unwrap());
    store.promote().unwrap();
    assert!(!store.nominate(1).unwrap(), "it is proven already");
    assert!(why(&mut store).contains("the same"));
    assert!(store.nominate(2).is_err(), "that is not the current one");
    store.save(&desired(2), 2).unwrap();
    use super::super::Fs as _;
    let mut files = fs.clone();
    files.remove(GOOD).unwrap();
    files.create(GOOD, b"garbage").unwrap();
    assert!(why(&mut store).contains("cannot be used"));
    assert!(store.suspects().unwrap().is_empty());
}

#[test]
fn a_stop_or_loss_of_power_at_any_step_of_falling_back_loses_nothing() {
    for at in 0..20 {
        for stops in [true, false] {
            for kept in 0..16 {
                let (fs, mut store) = proven();
                let mut loaded = store.load().unwrap();
                {
                    let mut disk = fs.0.lock().unwrap();
                    disk.fault = Some((disk.ops + at, 1, stops));
                    disk.torn = 10;
                }
                let outcome = store.fall_back(&mut loaded);
                fs.0.lock().unwrap().lose_power(kept);
                let found = load(&fs);
                let old = (&found.desired, found.generation) == (&desired(3), 3);
                let new = (&found.desired, found.generation) == (&desired(1), 4);
                assert!(old || new, "step {at}: {found:?}");
                if matches!(outcome, Ok(Outcome::Done { .. })) {
                    assert!(new, "step {at}: told, and lost");
                }
                assert!(keeps_newer(&fs), "step {at}, {kept} kept: the newer state is lost");
                // The next one that is told comes to the same.
                let mut store = Store::new(Box::new(fs.clone()));
                let mut loaded = store.load().unwrap();
                store.fall_back(&mut loaded).unwrap();
                assert_eq!((&loaded.desired, loaded.generation), (&desired(1), 4));
                assert!(keeps_newer(&fs));
                assert!(store.suspects().unwrap().len() == 1, "step {at}");
            }
        }
    }
}
