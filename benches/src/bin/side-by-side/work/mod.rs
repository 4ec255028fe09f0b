//! The work that every contender is given.

mod cpu;
mod datagrams;
mod latency;
mod tcp;

pub use cpu::busy;

use std::time::Duration;

use lab::Result;

use crate::contender::Stand;
use crate::load::{Order, Traffic};

/// Kinds of work, as `--work` names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Bulk TCP by iperf3.
    Tcp,
    /// Datagrams as fast as the sender can.
    Datagrams,
    /// Request and response, idle and under load.
    Latency,
}

/// One piece of work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    /// So many streams one way.
    Tcp(u32),
    /// One stream each way at once.
    TcpBothWays,
    Datagrams(Traffic),
    /// With background load: a share of the contender's own capacity.
    Latency(f64),
}

/// How long, and what is known of the contender from before.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Of TCP, in whole seconds, as iperf3 has it.
    pub tcp: u32,
    /// Of datagrams and latency.
    pub datagrams: Duration,
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub metric: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

/// Names of metrics; what they mean is in the `README.md` of the benches.
pub mod metric {
    pub const THROUGHPUT: &str = "throughput";
    pub const RETRANSMITS: &str = "retransmits";
    pub const RECEIVED: &str = "received";
    pub const SENT: &str = "sent";
    pub const LOST: &str = "lost";
    pub const LOST_AT_SOCKET: &str = "lost at the receiving socket";
    pub const REORDERED: &str = "reordered";
    pub const DUPLICATED: &str = "duplicated";
    pub const CORRUPTED: &str = "corrupted";
    pub const SWITCH_CPU: &str = "CPU of the switch";
    pub const MACHINE_CPU: &str = "CPU of the machine";
    pub const P50: &str = "p50";
    pub const P99: &str = "p99";
    pub const P999: &str = "p99.9";
    pub const REQUESTS: &str = "requests";
    pub const UNANSWERED: &str = "unanswered";
    pub const LOAD_OFFERED: &str = "background load offered";
    pub const LOAD_RECEIVED: &str = "background load received";
}

/// The traffic of which a contender's capacity is taken: small datagrams of some flows.
pub const CAPACITY: Traffic = Traffic { size: 64, flows: 64, order: Order::Bursts };

/// Sizes of datagrams.
pub const SIZES: [usize; 3] = [64, 512, 1400];

/// All work of a kind, in order.
pub fn all(kind: Kind) -> Vec<Work> {
    match kind {
        Kind::Tcp => vec![Work::Tcp(1), Work::Tcp(4), Work::Tcp(16), Work::TcpBothWays],
        Kind::Datagrams => SIZES.into_iter().flat_map(datagrams).collect(),
        Kind::Latency => vec![Work::Latency(0.0), Work::Latency(0.5), Work::Latency(0.9)],
    }
}

/// All work with datagrams of a size. With one flow there is one order.
pub fn datagrams(size: usize) -> Vec<Work> {
    let of = |flows, order| Work::Datagrams(Traffic { size, flows, order });
    let mut list = vec![of(1, Order::Bursts)];
    for flows in [64, 10_000] {
        list.extend([Order::Bursts, Order::Interleaved].map(|order| of(flows, order)));
    }
    list
}

impl Work {
    /// Its name in figures.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(_) | Self::TcpBothWays => format!("TCP, {}", self.short()),
            Self::Datagrams(traffic) => format!("{} B, {}", traffic.size, self.short()),
            Self::Latency(_) => format!("latency, {}", self.short()),
        }
    }

    /// Its name among its like.
    pub fn short(&self) -> String {
        match self {
            Self::Tcp(1) => "1 stream".to_owned(),
            Self::Tcp(streams) => format!("{streams} streams"),
            Self::TcpBothWays => "both ways at once".to_owned(),
            Self::Datagrams(Traffic { flows: 1, .. }) => "1 flow".to_owned(),
            Self::Datagrams(Traffic { flows, order, .. }) => {
                let order = if *order == Order::Bursts { "in bursts" } else { "interleaved" };
                format!("{flows} flows {order}")
            }
            Self::Latency(0.0) => "idle".to_owned(),
            Self::Latency(share) => format!("{:.0} % load", share * 100.0),
        }
    }

    /// About how long it takes, in seconds, for the estimate of the remaining time.
    pub fn takes(&self, lengths: &Lengths) -> f64 {
        match self {
            Self::Tcp(_) | Self::TcpBothWays => f64::from(lengths.tcp) + 0.5,
            Self::Datagrams(_) | Self::Latency(_) => lengths.datagrams.as_secs_f64() + 0.2,
        }
    }
}

/// A contender at work. What it can do is found once, and used for its load.
pub struct Bench<'a> {
    pub stand: &'a Stand,
    pub lengths: Lengths,
    /// Datagrams per second of [`CAPACITY`], once known.
    pub capacity: Option<f64>,
}

impl Bench<'_> {
    /// Does one piece of work.
    pub fn measure(&mut self, work: Work) -> Result<Vec<Reading>> {
        match work {
            Work::Tcp(streams) => tcp::one_way(self, streams),
            Work::TcpBothWays => tcp::both_ways(self),
            Work::Datagrams(traffic) => datagrams::measure(self, traffic),
            Work::Latency(share) => latency::measure(self, share),
        }
    }
}

fn reading(metric: &'static str, unit: &'static str, value: f64) -> Reading {
    Reading { metric, unit, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_a_name_of_its_own() {
        let kinds = [Kind::Tcp, Kind::Datagrams, Kind::Latency];
        let works: Vec<Work> = kinds.into_iter().flat_map(all).collect();
        assert_eq!(works.len(), 4 + 15 + 3);
        let mut names: Vec<String> = works.iter().map(Work::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), works.len());
        assert!(works.contains(&Work::Datagrams(CAPACITY)));
    }
}
