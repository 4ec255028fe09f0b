//! `./demo`: two nodes, two pods on each, a switch per node, and a look at all of it.
//!
//! Everything happens in namespaces of its own and is gone at the end; `--keep` leaves the lab standing and
//! says how to look around. Each section prints the commands it runs, so that they can be typed by hand.

mod containers;
mod show;
mod topology;

use containers::Runtime;
use lab::{Error, Result, enter, install};
use show::Screen;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;
use topology::Topology;

const USAGE: &str = "\
./demo [--keep] [--seconds N] [--wire] [--pods podman|containerd]

  Makes two nodes joined by a wire, two pods on each and a switch (swd) per node, in namespaces of their own,
  and shows ports, FDB, routes, pings, throughput, a trace across both nodes and the drop ledger.

  --keep       leave the lab standing and print how to look around in it
  --seconds N  length of each throughput run (3)
  --wire       switch segmentation offload of the underlay off, as on a real wire
  --pods R     pods are containers that podman or containerd starts with our CNI plugin (as root)
";

/// Programs the demo runs, apart from our own.
const TOOLS: &[&str] = &["ip", "ping", "iperf3", "ethtool"];

struct Options {
    keep: bool,
    seconds: u32,
    wire_like: bool,
    pods: Option<Runtime>,
}

impl Options {
    fn tools(&self) -> Vec<&'static str> {
        TOOLS.iter().chain(self.pods.map(Runtime::tools).unwrap_or_default()).copied().collect()
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options { keep: false, seconds: 3, wire_like: false, pods: None };
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => options.keep = true,
            "--wire" => options.wire_like = true,
            "--seconds" => {
                let value = args.next().unwrap_or_default();
                options.seconds =
                    value.parse().map_err(|e| Error::failed(format!("--seconds `{value}`: {e}")))?;
            }
            "--pods" => options.pods = Some(Runtime::parse(&args.next().unwrap_or_default())?),
            "--help" | "-h" => return Ok(None),
            other => return Err(Error::failed(format!("unknown argument `{other}`; see ./demo --help"))),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = write!(std::io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(&e, 2),
    };
    // Packages can be installed only outside the sandbox, which has no network.
    if std::env::var_os("DEMO_INSTALL").is_some() {
        return match install::ensure_tools(&options.tools()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e, 1),
        };
    }
    let sandbox = enter::enter();
    let started = Instant::now();
    match run(&options, &sandbox, started) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => fail(&e, 1),
    }
}

fn fail(e: &Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "demo: {e}");
    ExitCode::from(code)
}

fn run(options: &Options, sandbox: &enter::Sandbox, started: Instant) -> Result<bool> {
    install::need(&options.tools())?;
    if options.pods.is_some() && sandbox.outer_uid != 0 {
        return Err(Error::failed("--pods needs root: container runtimes make mounts and cgroups"));
    }
    let screen = Screen::new();
    screen.picture(options.pods)?;
    let lab = topology::lab(options.wire_like)?;
    let topology = Topology::build(&lab, options.pods, &screen)?;
    let mut summary = show::Summary::default();
    show::tables(&screen, &topology)?;
    show::pings(&screen, &topology, &mut summary)?;
    show::throughput(&screen, &topology, options.seconds, &mut summary)?;
    show::trace(&screen, &topology, &mut summary)?;
    show::drops(&screen, &topology, &mut summary)?;
    let good = summary.print(&screen, started.elapsed())?;
    if options.keep {
        enter::keep(&(lab.how_to_look_around(sandbox) + &topology.how_to_look_at_containers()))?;
    }
    Ok(good)
}
