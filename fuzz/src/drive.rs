//! The built-in driver: mutates the corpus as fast as it can until a number of executions or a panic.
//!
//! It is not coverage-guided; instead it keeps inputs whose signature is new (see [`crate::run`]) and mutates
//! these as well. Every job's sequence follows from the seed alone. Limit: [`KEPT`] inputs kept per job.

use crate::mutate::{Rng, mutate};
use crate::{corpus, run};
use std::collections::BTreeSet;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Inputs with a new signature that one job keeps in memory.
pub const KEPT: usize = 4096;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One of [`crate::TARGETS`].
    pub target: String,
    /// Executions, all jobs together.
    pub execs: u64,
    /// Of the mutations.
    pub seed: u64,
    /// Threads.
    pub jobs: u64,
    /// Save the inputs with new signatures to the corpus at the end, smallest first, up to this many.
    pub grow: usize,
}

/// What was done.
#[derive(Debug)]
pub struct Outcome {
    /// Executions.
    pub execs: u64,
    /// Time taken.
    pub elapsed: Duration,
    /// Different signatures seen, most of any job.
    pub signatures: usize,
    /// The finding: where its input was saved, and what the panic said.
    pub crash: Option<(PathBuf, String)>,
}

struct Shared {
    stop: AtomicBool,
    execs: AtomicU64,
    crash: Mutex<Option<(Vec<u8>, String)>>,
    fresh: Mutex<Vec<Vec<u8>>>,
    signatures: AtomicU64,
}

/// Runs a plan.
///
/// # Errors
/// The corpus cannot be read, or a finding not be written.
pub fn drive(plan: &Plan) -> io::Result<Outcome> {
    let seeds: Vec<Vec<u8>> = ["corpus", "crashes"]
        .iter()
        .map(|kind| corpus::load(&corpus::dir(kind, &plan.target)))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .map(|(_, bytes)| bytes)
        .collect();
    let shared = Shared {
        stop: AtomicBool::new(false),
        execs: AtomicU64::new(0),
        crash: Mutex::new(None),
        fresh: Mutex::new(Vec::new()),
        signatures: AtomicU64::new(0),
    };
    let started = Instant::now();
    let jobs = plan.jobs.max(1);
    // Panics are reported with the input, once; the default report would come first and without it.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for n in 0..jobs {
            let (shared, seeds) = (&shared, &seeds);
            let share = plan.execs / jobs + u64::from(n < plan.execs % jobs);
            scope.spawn(move || job(plan, n, share, seeds, shared));
        }
    });
    panic::set_hook(hook);
    let elapsed = started.elapsed();
    let crash = match shared.crash.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some((input, message)) => {
            Some((corpus::save(&corpus::dir("crashes", &plan.target), &input)?, message))
        }
        None => None,
    };
    if plan.grow > 0 {
        let mut fresh = shared.fresh.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        fresh.sort_by_key(Vec::len);
        let mut seen: BTreeSet<u64> = seeds.iter().map(|s| run(&plan.target, s)).collect();
        for input in fresh.iter().filter(|input| seen.insert(run(&plan.target, input))).take(plan.grow) {
            corpus::save(&corpus::dir("corpus", &plan.target), input)?;
        }
    }
    Ok(Outcome {
        execs: shared.execs.into_inner(),
        elapsed,
        signatures: shared.signatures.into_inner() as usize,
        crash,
    })
}

fn job(plan: &Plan, number: u64, share: u64, seeds: &[Vec<u8>], shared: &Shared) {
    let mut rng = Rng::new(plan.seed.wrapping_mul(0x1_0001).wrapping_add(number));
    let mut pool: Vec<Vec<u8>> = if seeds.is_empty() { vec![vec![0; 64]] } else { seeds.to_vec() };
    let first = pool.len();
    let mut seen = BTreeSet::new();
    let mut done = 0;
    let mut input = Vec::new();
    while done < share && !shared.stop.load(Ordering::Relaxed) {
        input.clear();
        if done < first as u64 {
            // The corpus itself comes first, unchanged.
            input.extend_from_slice(&pool[done as usize]);
        } else {
            let (one, other) = (rng.below(pool.len()), rng.below(pool.len()));
            input.extend_from_slice(&pool[one]);
            mutate(&mut rng, &mut input, &pool[other]);
        }
        done += 1;
        match panic::catch_unwind(AssertUnwindSafe(|| run(&plan.target, &input))) {
            Ok(signature) => {
                if seen.insert(signature) && done > first as u64 && pool.len() < first + KEPT {
                    pool.push(input.clone());
                }
            }
            Err(payload) => {
                shared.stop.store(true, Ordering::Relaxed);
                let message = payload
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default();
                if let Ok(mut crash) = shared.crash.lock() {
                    crash.get_or_insert((input.clone(), message));
                }
            }
        }
    }
    shared.execs.fetch_add(done, Ordering::Relaxed);
    shared.signatures.fetch_max(seen.len() as u64, Ordering::Relaxed);
    if let Ok(mut fresh) = shared.fresh.lock() {
        fresh.extend(pool.drain(first..));
    }
}
