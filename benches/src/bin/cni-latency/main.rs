//! How long a pod waits for its network: from the start of ADD to the first datagram that is answered, with
//! many pods present, through swd's CNI plugin and through the reference plugins `bridge` and `host-local`.
//!
//! Both are set up once, each on a node of its own, and then measured in turn, pod by pod, so that a machine that
//! gets slower gets slower for both. What is timed is what a runtime waits for: a process that is started, reads
//! its configuration, and ends.

mod contender;

use std::io::Write as _;
use std::process::ExitCode;

use benches::report::stats::percentiles;
use clap::Parser;
use contender::{Contender, Kind, Step};
use lab::Result;

/// ADD, ADD to the first answered datagram, CHECK and DEL of swd-cni and of the reference plugin `bridge`, and STATUS
/// of swd-cni, interleaved. Prints medians and 99th percentiles.
#[derive(Parser)]
#[command(name = "cni-latency")]
struct Options {
    /// Pods added and deleted
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Pods already present on each node
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    pods: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if std::env::var_os("LAB_INSTALL").is_some() {
        return report(lab::install::ensure_tools(contender::TOOLS));
    }
    let _sandbox = lab::enter::enter();
    report(run(&options))
}

fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "cni-latency: {e}");
            ExitCode::FAILURE
        }
    }
}

/// All measurements of one step through one plugin, in milliseconds.
type Times = Vec<f64>;

fn run(options: &Options) -> Result<()> {
    lab::install::need(contender::TOOLS)?;
    let contenders =
        Kind::ALL.into_iter().map(|k| Contender::build(k, options.pods)).collect::<Result<Vec<_>>>()?;
    let mut times = vec![[const { Times::new() }; Step::ALL.len()]; contenders.len()];
    for round in 1..=options.rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            for (step, time) in contender.round(round)? {
                times[step as usize].push(time.as_secs_f64() * 1e3);
            }
        }
    }
    print(options, &contenders, &times)
}

fn print(options: &Options, contenders: &[Contender], times: &[[Times; Step::ALL.len()]]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Milliseconds, p50 / p99 of {} rounds, {} pods present:\n", options.rounds, options.pods)?;
    let heads = Step::ALL.map(Step::name).join(" | ");
    writeln!(out, "| plugin | {heads} |\n|{}", " --- |".repeat(Step::ALL.len() + 1))?;
    for (contender, times) in contenders.iter().zip(times) {
        let mut row = format!("| {} |", contender.name());
        for times in times {
            match percentiles(times, [0.5, 0.99]) {
                Some([p50, p99]) => row.push_str(&format!(" {p50:.1} / {p99:.1} |")),
                None => row.push_str(" not offered |"),
            }
        }
        writeln!(out, "{row}")?;
    }
    Ok(())
}
