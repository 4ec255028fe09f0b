//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::contender::{ALL, Contender, Place, Wire};
use crate::work::{Kind, Lengths};

/// Sets up swd and others in fresh namespaces, one after the other, round after round, gives each the same work,
/// and prints medians, spread and ratios to the kernel as markdown.
///
/// Both nodes, both pods and all generators share this machine. Figures of different machines, or of different
/// runs, are not comparable; ratios within one run are. Nothing outside the program's own namespaces is touched.
#[derive(Parser, Clone, Debug)]
#[command(name = "side-by-side", after_long_help = contenders())]
pub struct Args {
    /// Rounds over all contenders
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Length of each TCP measurement, in seconds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// Length of each measurement of datagrams and of latency, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub millis: u64,
    /// One round of 1 s and 600 ms, whatever --rounds, --seconds and --millis say
    #[arg(long)]
    pub quick: bool,
    /// Only these contenders: names, or what names begin with before a dash (see the list at the end of --help)
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known)]
    pub only: Vec<String>,
    /// Only this work
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_values = ["tcp", "datagrams", "latency"])]
    pub work: Vec<Kind>,
    /// Only with the pods there
    #[arg(long, value_name = "PLACE", value_delimiter = ',', default_values = ["one-node", "across"])]
    pub place: Vec<Place>,
    /// Only over these underlays (across nodes; on one node there is none)
    #[arg(long, value_name = "WIRE", value_delimiter = ',', default_values = ["veth", "wire-like"])]
    pub underlay: Vec<Wire>,
    /// Also with techniques switched off: swd without offloads at its ports; the bare relay without merging, without
    /// UDP_GRO, without UDP_SEGMENT, and without offloads at its TAPs
    #[arg(long)]
    pub ablations: bool,
    /// Also write every figure of every round, with units
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also draw bar charts, one SVG file per topology and kind of work
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

impl Args {
    /// Rounds to be run.
    pub fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    /// How long each measurement is.
    pub fn lengths(&self) -> Lengths {
        let (tcp, millis) = if self.quick { (1, 600) } else { (self.seconds, self.millis) };
        Lengths { tcp, datagrams: Duration::from_millis(millis) }
    }

    /// The contenders asked for, in the order of a round.
    pub fn contenders(&self) -> impl Iterator<Item = &'static Contender> {
        ALL.iter().filter(|c| {
            let named = self.only.iter().any(|word| c.is(word));
            // An ablation that is asked for by its whole name needs no further word.
            let wanted = !c.ablation || self.ablations || self.only.iter().any(|word| word == c.name);
            wanted && (named || self.only.is_empty()) && self.place.contains(&c.place)
        })
    }
}

fn known(word: &str) -> Result<String, String> {
    if ALL.iter().any(|c| c.is(word)) {
        return Ok(word.to_owned());
    }
    let names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
    Err(format!("no contender is called so; there are {}", names.join(", ")))
}

fn contenders() -> String {
    let lines = ALL.iter().map(|c| {
        let more = if c.ablation { " (with --ablations)" } else { "" };
        format!("  {:<24} {}{more}\n", c.name, c.label)
    });
    format!("Contenders:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn names(args: &[&str]) -> Vec<&'static str> {
        let args = Args::parse_from(std::iter::once(&"side-by-side").chain(args));
        args.contenders().map(|c| c.name).collect()
    }

    #[test]
    fn contenders_are_chosen() {
        Args::command().debug_assert();
        let all = names(&[]);
        assert!(all.contains(&"tinc") && !all.iter().any(|n| n.contains("no-offload")));
        assert_eq!(names(&["--ablations"]).len(), ALL.len());
        assert_eq!(names(&["--only", "swd"]), ["swd", "swd-bridged", "swd-routed"]);
        assert_eq!(names(&["--only", "swd", "--place", "one-node"]), ["swd"]);
        assert_eq!(names(&["--only", "swd-no-offload,tinc"]), ["swd-no-offload", "tinc"]);
        assert!(Args::try_parse_from(["side-by-side", "--only", "weave"]).is_err());
        assert!(Args::try_parse_from(["side-by-side", "--rounds", "0"]).is_err());
    }

    #[test]
    fn quick_is_one_round() {
        let args = Args::parse_from(["side-by-side", "--quick", "--rounds", "9", "--seconds", "9"]);
        assert_eq!((args.rounds(), args.lengths().tcp), (1, 1));
    }
}
