//! Every input that was ever worth keeping, through its target, by plain `cargo test`.

use fuzz::{TARGETS, corpus, run};
use std::panic::catch_unwind;

#[test]
fn corpora_and_crashes_replay_without_a_finding() {
    let mut findings = Vec::new();
    for target in TARGETS {
        let mut inputs = corpus::load(&corpus::dir("corpus", target)).unwrap();
        assert!(!inputs.is_empty(), "{target} has no corpus: run `cargo run -p fuzz -- all --seed-corpus`");
        inputs.extend(corpus::load(&corpus::dir("crashes", target)).unwrap());
        for (path, bytes) in inputs {
            if catch_unwind(|| run(target, &bytes)).is_err() {
                findings.push(path);
            }
        }
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn every_crash_has_its_story() {
    for target in TARGETS {
        for (path, _) in corpus::load(&corpus::dir("crashes", target)).unwrap() {
            let story = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
            assert!(
                story.trim().len() > 20,
                "{} needs a line in {}",
                path.display(),
                path.with_extension("txt").display()
            );
        }
    }
}

/// The coverage-guided front end is outside the workspace, where nothing else would notice a target it lacks.
#[test]
fn every_target_has_its_front_end() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let path = format!("fuzz_targets/{target}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{target}");
        let source = std::fs::read_to_string(dir.join(path)).unwrap();
        assert!(source.contains(&format!("fuzz::run(\"{target}\", data)")), "{target}");
    }
}

/// The committed files stay small enough to live in the repository.
#[test]
fn corpora_are_small() {
    let size: usize = TARGETS
        .iter()
        .flat_map(|t| corpus::load(&corpus::dir("corpus", t)).unwrap())
        .map(|(_, b)| b.len())
        .sum();
    assert!(size <= 1 << 20, "{size} bytes");
}

/// The seeds are made by code; what is committed is what the code makes.
#[test]
fn seeds_are_up_to_date() {
    for target in TARGETS {
        for (name, bytes) in fuzz::seeds::of(target) {
            let path = corpus::dir("corpus", target).join(&name);
            assert!(std::fs::read(&path).is_ok_and(|got| got == bytes), "{} is stale", path.display());
        }
    }
}

/// A target is a function of its input alone.
#[test]
fn the_same_input_gives_the_same_signature() {
    for target in TARGETS {
        let inputs = corpus::load(&corpus::dir("corpus", target)).unwrap();
        let signatures = || inputs.iter().map(|(_, bytes)| run(target, bytes)).collect::<Vec<_>>();
        let (mut first, mut second) = (signatures(), signatures());
        assert_eq!(first, second, "{target}");
        // In another order, after other inputs, likewise.
        second = inputs.iter().rev().map(|(_, bytes)| run(target, bytes)).collect();
        first.reverse();
        assert_eq!(first, second, "{target}");
    }
}

#[test]
fn the_driver_follows_its_seed() {
    let run = |seed| {
        let plan = fuzz::drive::Plan { target: "headers".into(), execs: 3000, seed, jobs: 1, grow: 0 };
        let done = fuzz::drive::drive(&plan).unwrap();
        assert!(done.crash.is_none(), "{:?}", done.crash);
        (done.execs, done.signatures)
    };
    assert_eq!(run(3), run(3));
}
