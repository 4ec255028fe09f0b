//! `cargo run --release -p fuzz -- process --execs 1000000 --seed 1 --jobs 2`

use clap::Parser;
use fuzz::drive::{Plan, drive};
use fuzz::{TARGETS, corpus, seeds};
use std::io::{self, Write};
use std::process::ExitCode;

/// Fuzzes the parsers and the data path with a deterministic mutator; needs nothing but Rust.
#[derive(Parser)]
struct Args {
    /// A target, or `all`.
    #[arg(value_parser = names())]
    target: String,
    /// Executions of each target.
    #[arg(long, default_value_t = 1_000_000)]
    execs: u64,
    /// Of the mutations; the same seed does the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Write the seed corpus, made by the frame builders, and do nothing else.
    #[arg(long)]
    seed_corpus: bool,
    /// Add up to this many inputs with new behaviour to the corpus.
    #[arg(long, default_value_t = 0)]
    grow: usize,
    /// Run one file through the target and say what happened, instead of mutating.
    #[arg(long)]
    file: Option<std::path::PathBuf>,
}

fn names() -> Vec<&'static str> {
    TARGETS.iter().copied().chain(["all"]).collect()
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            let _ = writeln!(io::stderr(), "fuzz: {e}");
            ExitCode::from(2)
        }
    }
}

/// False when there was a finding.
fn run(args: &Args) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let targets: Vec<&str> = match args.target.as_str() {
        "all" => TARGETS.to_vec(),
        one => vec![one],
    };
    for target in targets {
        if args.seed_corpus {
            for (name, bytes) in seeds::of(target) {
                let dir = corpus::dir("corpus", target);
                std::fs::create_dir_all(&dir)?;
                std::fs::write(dir.join(name), bytes)?;
            }
            continue;
        }
        if let Some(file) = &args.file {
            let signature = fuzz::run(target, &std::fs::read(file)?);
            writeln!(out, "{target}: {} signature {signature:016x}", file.display())?;
            continue;
        }
        let plan = Plan {
            target: target.to_owned(),
            execs: args.execs,
            seed: args.seed,
            jobs: args.jobs,
            grow: args.grow,
        };
        let done = drive(&plan)?;
        let rate = done.execs as f64 / done.elapsed.as_secs_f64().max(1e-9);
        writeln!(
            out,
            "{target}: {} executions in {:.1} s, {rate:.0}/s, {} signatures",
            done.execs,
            done.elapsed.as_secs_f64(),
            done.signatures
        )?;
        if let Some((path, message)) = done.crash {
            writeln!(out, "{target}: FINDING {}\n{message}", path.display())?;
            return Ok(false);
        }
    }
    Ok(true)
}
