//! The command line: global options, the nouns, and the parsers of single values.
//!
//! Everything that can be known to be wrong without asking the daemon is refused here, with exit code 2.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ctl::desired::{check, text};
use ipnet::IpNet;

use crate::{cni, document, drops, fdb, generate, neigh, network, peer, port, route, status, trace, upgrade};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the daemon refused or failed
  2  usage
  3  a network, port, peer, route or fdb entry does not exist
  4  the daemon cannot be reached
  5  timed out; the request may still be carried out
  6  `status` or `cni status` found problems, or `trace` ended in a drop";

/// Program and inspect the userspace switch of this node.
#[derive(Debug, Parser)]
#[command(name = "swctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Socket of the daemon
    #[arg(long, global = true, env = "SWCTL_SOCKET", hide_env_values = true, value_name = "PATH", default_value = ctl::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// How to print
    #[arg(long, short, global = true, env = "SWCTL_OUTPUT", hide_env_values = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Longest wait for an answer: seconds, or a number with ms, s or m
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print tables without their first line
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Print ids of containers in full in tables
    #[arg(long, global = true)]
    pub no_trunc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Health of the daemon; exit code 6 when something is degraded
    Status,
    /// Bridge domains: VNI, subnets, gateways
    Network {
        #[command(subcommand)]
        verb: Option<network::Verb>,
    },
    /// TAP devices of pods
    #[command(visible_alias = "p")]
    Port {
        #[command(subcommand)]
        verb: Option<port::Verb>,
    },
    /// Remote nodes
    Peer {
        #[command(subcommand)]
        verb: Option<peer::Verb>,
    },
    /// MAC tables; keys of `bridge -j fdb`
    #[command(visible_alias = "f")]
    Fdb {
        #[command(subcommand)]
        verb: Option<fdb::Verb>,
    },
    /// Routes; keys of `ip -j route`
    #[command(visible_alias = "r")]
    Route {
        #[command(subcommand)]
        verb: Option<route::Verb>,
    },
    /// ARP and ND entries; keys of `ip -j neigh`
    #[command(visible_alias = "n")]
    Neigh {
        #[command(subcommand)]
        verb: Option<neigh::Verb>,
    },
    /// What was dropped, why, and by whom it came
    Drops(drops::Args),
    /// Follow one synthetic packet; nothing is sent. Exit code 6 when it ends in a drop
    Trace(Box<trace::Args>),
    /// Make the desired state contain a document
    Apply(document::ApplyArgs),
    /// Print the desired state as a document for `apply`
    Export,
    /// Wait until the data path runs with a generation
    Wait(status::WaitArgs),
    /// Have another version of the daemon take over, without a frame lost; the old one goes on if that fails
    Upgrade(upgrade::Args),
    /// The CNI plugin on this node
    Cni {
        #[command(subcommand)]
        verb: Option<cni::Verb>,
    },
    /// Print a completion script
    Completion(generate::CompletionArgs),
    /// Write man pages
    Man(generate::ManArgs),
}

/// Seconds, or a number with a unit; from a millisecond to a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("unit `{unit}` is unknown: expected ms, s or m")),
    };
    match number.parse::<f64>() {
        Ok(v) if (0.001..=86_400.0).contains(&(v * seconds)) => Ok(Duration::from_secs_f64(v * seconds)),
        _ => Err("expected a time from 1ms to 1440m, such as 5s".to_owned()),
    }
}

/// A value that is text in the API.
pub fn parse_text<T: text::Text>(text: &str) -> Result<T, String> {
    T::parse_text(text)
}

/// A CIDR without host bits.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if text == "default" {
        return Err("write 0.0.0.0/0 or ::/0: `default` names no address family".to_owned());
    }
    text::parse_prefix(text)
}

/// A name of an object.
pub fn parse_name(text: &str) -> Result<String, String> {
    check::name(text).map(|()| text.to_owned())
}

/// The name of a network device.
pub fn parse_ifname(text: &str) -> Result<String, String> {
    check::ifname(text).map(|()| text.to_owned())
}

/// `KEY=VALUE`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("0.5m"), Ok(Duration::from_secs(30)));
        for bad in ["", "s", "-1", "0", "1h", "nan", "inf", "2000m", "1e9"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
