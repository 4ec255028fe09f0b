//! Runs one kind of frame through the data path a given number of times and ends: for counting instructions, which
//! unlike times are the same on a busy machine. `benches/instructions` runs it twice and takes the difference.

use std::io::Write as _;
use std::process::ExitCode;

use benches::{Kind, world};

/// Different batches, used in turn.
const BATCHES: u32 = 64;
/// Frames in each.
const SIZE: u32 = 64;
/// Learned MACs and routes, as in the `process` bench.
const SCALE: (u32, u32) = (65_536, 10_000);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let kind = args.first().and_then(|name| Kind::ALL.into_iter().find(|k| k.name() == name));
    let rounds = args.get(1).and_then(|n| n.parse::<u32>().ok());
    let (Some(kind), Some(rounds)) = (kind, rounds) else {
        let names = Kind::ALL.map(Kind::name).join("|");
        let _ = writeln!(std::io::stderr(), "usage: hot-path {names} BATCHES");
        return ExitCode::from(2);
    };
    let mut world = world(SCALE.0, SCALE.1);
    let batches = world.batches(kind, BATCHES, SIZE, SCALE.0, SCALE.1);
    for batch in batches.iter().cycle().take(rounds as usize) {
        world.load(batch);
        world.process();
    }
    ExitCode::SUCCESS
}
