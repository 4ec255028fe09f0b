//! The same work through several switches on the same machine, in one run, interleaved.
//!
//! Every contender is set up in fresh namespaces, measured, and torn down, round after round, and every other round
//! in the opposite order, so that a machine that gets slower gets slower for all. Both nodes and both pods share the
//! machine's cores; figures of different machines, or of different runs, are not comparable, ratios within one
//! run are.

mod args;
mod contender;
mod load;
mod progress;
mod views;
mod work;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::Args;
use benches::report::{Absent, Figure, Run, machine, svg, table};
use clap::Parser as _;
use contender::{Contender, Place, Wire};
use lab::error::Kind;
use lab::{Context, Error, Result};
use progress::Progress;
use work::{Bench, Reading, Work};

/// Programs that every run needs.
const TOOLS: &[&str] = &["ip", "bridge", "ethtool", "ping", "iperf3"];
/// About how long a contender takes to be set up and to go, in seconds.
const SETTING_UP: f64 = 1.5;
/// Before each round: how long to see whether the machine does something else.
const LOOK_AROUND: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let args = Args::parse();
    if std::env::var_os("LAB_INSTALL").is_some() {
        return report(install(&args));
    }
    let _sandbox = lab::enter::enter();
    report(run(&args))
}

fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "side-by-side: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Outside the sandbox: gets the programs. A contender whose programs are not to be had is left out with that cause.
fn install(args: &Args) -> Result<()> {
    lab::install::ensure_tools(TOOLS)?;
    for contender in args.contenders() {
        if let Err(e) = lab::install::ensure_tools(contender.tools) {
            writeln!(io::stderr(), "side-by-side: {} will not run: {e}", contender.label)?;
        }
    }
    Ok(())
}

/// One topology over one underlay: what may be compared.
#[derive(Clone, Copy)]
struct Group {
    place: Place,
    wire: Wire,
}

impl Group {
    fn name(&self) -> String {
        match self.place {
            Place::OneNode => "one node".to_owned(),
            Place::Across => format!("across nodes, {} underlay", self.wire.name()),
        }
    }
}

/// The groups that are asked for, with their contenders.
fn groups(args: &Args) -> Vec<(Group, Vec<&'static Contender>)> {
    let across = Wire::ALL.into_iter().filter(|wire| args.underlay.contains(wire));
    let across = across.map(|wire| Group { place: Place::Across, wire });
    let all = std::iter::once(Group { place: Place::OneNode, wire: Wire::Veth }).chain(across);
    all.map(|group| (group, args.contenders().filter(|c| c.place == group.place).collect::<Vec<_>>()))
        .filter(|(_, contenders)| !contenders.is_empty())
        .collect()
}

fn run(args: &Args) -> Result<()> {
    lab::install::need(TOOLS)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut run = Run {
        title: "Side by side".to_owned(),
        command: format!("benches/side-by-side {}", words.join(" ")).trim_end().to_owned(),
        machine: machine::describe(),
        ..Run::default()
    };
    let groups = groups(args);
    let works: Vec<Work> = args.work.iter().flat_map(|&kind| work::all(kind)).collect();
    let each = SETTING_UP + works.iter().map(|w| w.takes(&args.lengths())).sum::<f64>();
    let stands: usize = groups.iter().map(|(_, contenders)| contenders.len()).sum();
    let mut progress = Progress::new(each * stands as f64 * f64::from(args.rounds()));
    let mut wrong = Vec::new();
    let mut others = Vec::new();
    for round in 1..=args.rounds() {
        others.push(100.0 * work::busy(LOOK_AROUND)?);
        for (group, contenders) in &groups {
            let mut turn = contenders.clone();
            if round % 2 == 0 {
                turn.reverse();
            }
            for contender in turn {
                let mut one =
                    Turn { run: &mut run, progress: &mut progress, wrong: &mut wrong, group: *group };
                one.take(contender, &works, args, &format!("round {round}/{}", args.rounds()))?;
            }
        }
    }
    for (group, contenders) in &groups {
        let baseline = contenders.iter().find(|c| c.baseline).map(|c| c.label.to_owned());
        run.baselines.extend(baseline.map(|label| (group.name(), label)));
    }
    run.notes = views::irregularities(&run);
    let others: Vec<String> = others.iter().map(|percent| format!("{percent:.0} %")).collect();
    run.notes.push(format!("Busy with other things before the rounds, of all CPUs: {}.", others.join(", ")));
    write(args, &run)?;
    if wrong.is_empty() { Ok(()) } else { Err(Error::failed(wrong.join("\n"))) }
}

/// One contender in one round.
struct Turn<'a> {
    run: &'a mut Run,
    progress: &'a mut Progress,
    /// Failures that are not for want of something on this machine.
    wrong: &'a mut Vec<String>,
    group: Group,
}

impl Turn<'_> {
    /// Sets it up, gives it all the work, and checks its books. What fails is noted, and the run goes on.
    fn take(&mut self, contender: &Contender, works: &[Work], args: &Args, round: &str) -> Result<()> {
        let group = self.group.name();
        let lengths = args.lengths();
        let stand = match contender.build(self.group.wire) {
            Ok(stand) => stand,
            Err(e) => {
                self.progress.step(SETTING_UP + works.iter().map(|w| w.takes(&lengths)).sum::<f64>());
                return self.miss(contender, "", &e);
            }
        };
        self.progress.step(SETTING_UP);
        let mut bench = Bench { stand: &stand, lengths, capacity: None };
        for work in works {
            let measured = bench.measure(*work);
            self.progress.step(work.takes(&lengths));
            match measured {
                Ok(readings) => {
                    let what = format!("{round}  {group}  {:<28}  {:<36}", contender.label, work.name());
                    self.progress.say(&what, &readings)?;
                    readings.into_iter().for_each(|reading| self.add(contender, work, reading));
                }
                Err(e) => self.miss(contender, &work.name(), &e)?,
            }
        }
        match stand.conserved() {
            Ok(()) => Ok(()),
            Err(e) => self.miss(contender, "ledger", &e),
        }
    }

    fn add(&mut self, contender: &Contender, work: &Work, reading: Reading) {
        self.run.add(Figure {
            group: self.group.name(),
            contender: contender.label.to_owned(),
            work: work.name(),
            metric: reading.metric.to_owned(),
            unit: reading.unit.to_owned(),
            values: vec![reading.value],
        });
    }

    fn miss(&mut self, contender: &Contender, work: &str, cause: &Error) -> Result<()> {
        let (group, label) = (self.group.name(), contender.label);
        let what = format!("{group}, {label}{}{work}", if work.is_empty() { "" } else { ", " });
        self.progress.complain(&what, cause)?;
        if cause.kind() == Kind::Failed {
            self.wrong.push(format!("{what}: {cause}"));
        }
        self.run.miss(Absent {
            group,
            contender: label.to_owned(),
            work: work.to_owned(),
            cause: cause.to_string(),
        });
        Ok(())
    }
}

/// Tables to standard output, and the files that were asked for.
fn write(args: &Args, run: &Run) -> Result<()> {
    let views = views::views(&args.work);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&benches::report::json::document(run))? + "\n";
        std::fs::write(path, text).context(path.display())?;
    }
    if let Some(dir) = &args.svg {
        charts(dir, run, &views)?;
    }
    table::write(&mut io::stdout().lock(), run, &views)?;
    Ok(())
}

fn charts(dir: &Path, run: &Run, views: &[benches::report::View]) -> Result<()> {
    std::fs::create_dir_all(dir).context(dir.display())?;
    for group in run.groups() {
        for view in views {
            if let Some(text) = svg::chart(run, view, group, "swd") {
                let path = dir.join(svg::file_name(group, view));
                std::fs::write(&path, text).context(path.display())?;
            }
        }
    }
    Ok(())
}
