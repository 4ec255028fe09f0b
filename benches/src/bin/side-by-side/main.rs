//! Bulk TCP through several switches on the same machine, in one run, interleaved.
//!
//! Every contender is set up in fresh namespaces, measured, and torn down, round after round, so that a machine
//! that gets slower gets slower for all. Both nodes and both pods share the machine's cores; figures of
//! different machines, or of different runs, are not comparable, ratios within one run are.

mod contender;

use contender::Contender;
use lab::Result;
use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "\
side-by-side [--rounds N] [--seconds N] [--json FILE]

  Bulk TCP (iperf3, cubic) with 1 and 4 streams on one node and across nodes through: swd, the kernel (bridge
  over veth, VXLAN), Open vSwitch's userspace datapath with TAP ports. Prints medians, spread and ratios.

  --rounds N    rounds over all contenders (3)
  --seconds N   length of each measurement (3)
  --json FILE   also write every figure of every round
";

struct Options {
    rounds: u32,
    seconds: u32,
    json: Option<String>,
}

fn parse() -> std::result::Result<Option<Options>, String> {
    let mut options = Options { rounds: 3, seconds: 3, json: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = |name: &str| -> std::result::Result<u32, String> {
            let text = args.next().unwrap_or_default();
            text.parse().map_err(|_| format!("{name} takes a number, not `{text}`"))
        };
        match arg.as_str() {
            "--rounds" => options.rounds = number("--rounds")?.clamp(1, 100),
            "--seconds" => options.seconds = number("--seconds")?.clamp(1, 60),
            "--json" => options.json = args.next(),
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
            let _ = writeln!(std::io::stderr(), "side-by-side: {e}");
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
            let _ = writeln!(std::io::stderr(), "side-by-side: {e}");
            ExitCode::FAILURE
        }
    }
}

/// One measured combination.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    contender: Contender,
    across: bool,
    streams: u32,
}

/// Streams of each measurement.
const STREAMS: [u32; 2] = [1, 4];

fn run(options: &Options) -> Result<()> {
    lab::install::need(contender::TOOLS)?;
    let mut figures: Vec<(Cell, Vec<f64>)> = Vec::new();
    for round in 1..=options.rounds {
        for across in [false, true] {
            for contender in Contender::ALL {
                let gbits = contender.measure(across, &STREAMS, options.seconds)?;
                for (streams, gbits) in STREAMS.into_iter().zip(gbits) {
                    let cell = Cell { contender, across, streams };
                    progress(round, options.rounds, &cell, gbits)?;
                    match figures.iter_mut().find(|(c, _)| *c == cell) {
                        Some((_, list)) => list.push(gbits),
                        None => figures.push((cell, vec![gbits])),
                    }
                }
            }
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, json(&figures))?;
    }
    print(&figures)
}

fn progress(round: u32, rounds: u32, cell: &Cell, gbits: f64) -> Result<()> {
    let place = if cell.across { "across nodes" } else { "one node" };
    let name = cell.contender.name(cell.across);
    writeln!(
        std::io::stderr(),
        "round {round}/{rounds}  {place:<12}  {name:<28} {} streams  {gbits:6.2} Gbit/s",
        cell.streams
    )?;
    Ok(())
}

fn median(list: &[f64]) -> f64 {
    let mut sorted = list.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { (sorted[mid - 1] + sorted[mid]) / 2.0 }
}

fn print(figures: &[(Cell, Vec<f64>)]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let of = |contender, across, streams| {
        let cell = Cell { contender, across, streams };
        figures.iter().find(|(c, _)| *c == cell).map_or(0.0, |(_, list)| median(list))
    };
    for across in [false, true] {
        writeln!(
            out,
            "\n{}\n",
            if across {
                "Across nodes (TCP, Gbit/s, median [min-max])"
            } else {
                "On one node (TCP, Gbit/s, median [min-max])"
            }
        )?;
        writeln!(
            out,
            "| switch | 1 stream | 4 streams | swd is, 1 | swd is, 4 |\n| --- | --- | --- | --- | --- |"
        )?;
        for contender in Contender::ALL {
            let mut row = format!("| {} |", contender.name(across));
            for streams in STREAMS {
                let cell = Cell { contender, across, streams };
                let list = figures.iter().find(|(c, _)| *c == cell).map_or(&[][..], |(_, l)| l);
                let (min, max) = list.iter().fold((f64::MAX, 0.0f64), |(lo, hi), &v| (lo.min(v), hi.max(v)));
                row.push_str(&format!(" {:.2} [{min:.2}-{max:.2}] |", median(list)));
            }
            for streams in STREAMS {
                row.push_str(&format!(
                    " {:.2}x |",
                    of(Contender::Swd, across, streams) / of(contender, across, streams)
                ));
            }
            writeln!(out, "{row}")?;
        }
    }
    Ok(())
}

fn json(figures: &[(Cell, Vec<f64>)]) -> String {
    let rows: Vec<String> = figures
        .iter()
        .map(|(cell, list)| {
            let values: Vec<String> = list.iter().map(|v| format!("{v:.3}")).collect();
            format!(
                "  {{\"switch\": \"{}\", \"across\": {}, \"streams\": {}, \"gbits\": [{}]}}",
                cell.contender.name(cell.across),
                cell.across,
                cell.streams,
                values.join(", ")
            )
        })
        .collect();
    format!("[\n{}\n]\n", rows.join(",\n"))
}
