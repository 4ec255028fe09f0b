//! How long a pod waits for its network: from the start of ADD to the first datagram that is answered, with
//! many pods present, through swd's CNI plugin and through the reference plugins `bridge` and `host-local`.
//!
//! Both are set up once, each on a node of its own, and then measured in turn, pod by pod, so that a machine that
//! gets slower gets slower for both. What is timed is what a runtime waits for: a process that is started, reads
//! its configuration, and ends.

mod contender;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use contender::{Contender, Kind, Step};
use lab::Result;

const USAGE: &str = "\
cni-latency [--rounds N] [--pods N]

  ADD, ADD to the first answered datagram, CHECK and DEL of swd-cni and of the reference plugin `bridge`,
  and STATUS of swd-cni, interleaved. Prints medians and 99th percentiles.

  --rounds N    pods added and deleted (100)
  --pods N      pods already present on each node (100)
";

struct Options {
    rounds: u32,
    pods: u32,
}

fn parse() -> std::result::Result<Option<Options>, String> {
    let mut options = Options { rounds: 100, pods: 100 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = |name: &str| -> std::result::Result<u32, String> {
            let text = args.next().unwrap_or_default();
            text.parse().map_err(|_| format!("{name} takes a number, not `{text}`"))
        };
        match arg.as_str() {
            "--rounds" => options.rounds = number("--rounds")?.clamp(1, 10_000),
            "--pods" => options.pods = number("--pods")?.clamp(1, 200),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument `{other}`\n\n{USAGE}")),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = write!(std::io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "cni-latency: {e}");
            return ExitCode::from(2);
        }
    };
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

/// All measurements of one step through one plugin.
type Times = Vec<Duration>;

fn run(options: &Options) -> Result<()> {
    lab::install::need(contender::TOOLS)?;
    let contenders =
        Kind::ALL.into_iter().map(|k| Contender::build(k, options.pods)).collect::<Result<Vec<_>>>()?;
    let mut times = vec![[const { Times::new() }; Step::ALL.len()]; contenders.len()];
    for round in 1..=options.rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            for (step, time) in contender.round(round)? {
                times[step as usize].push(time);
            }
        }
    }
    print(options, &contenders, &times)
}

/// The smallest time that at least this share of the measurements do not exceed.
fn percentile(times: &Times, share: f64) -> Option<Duration> {
    let mut sorted = times.clone();
    sorted.sort();
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

fn print(options: &Options, contenders: &[Contender], times: &[[Times; Step::ALL.len()]]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Milliseconds, p50 / p99 of {} rounds, {} pods present:\n", options.rounds, options.pods)?;
    let heads = Step::ALL.map(Step::name).join(" | ");
    writeln!(out, "| plugin | {heads} |\n|{}", " --- |".repeat(Step::ALL.len() + 1))?;
    for (contender, times) in contenders.iter().zip(times) {
        let mut row = format!("| {} |", contender.name());
        for times in times {
            let shown = |share| percentile(times, share).map(|t| format!("{:.1}", t.as_secs_f64() * 1e3));
            match (shown(0.5), shown(0.99)) {
                (Some(p50), Some(p99)) => row.push_str(&format!(" {p50} / {p99} |")),
                _ => row.push_str(" not offered |"),
            }
        }
        writeln!(out, "{row}")?;
    }
    Ok(())
}
