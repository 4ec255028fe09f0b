//! Bulk TCP by iperf3, with cubic: with bbr everything halves and differences vanish.

use lab::probe::{IperfOptions, IperfReport, iperf};
use lab::{Error, Result};

use super::cpu::Meter;
use super::{Bench, Reading, metric, reading};
use crate::load::flood::Path;

/// From the first pod to the second.
pub fn one_way(bench: &Bench<'_>, streams: u32) -> Result<Vec<Reading>> {
    let meter = Meter::start(bench.stand.pids())?;
    let report = run(bench.stand.there(), streams, bench.lengths.tcp)?;
    readings(&meter, &[report])
}

/// One stream each way at the same time. What is reported is their sum.
pub fn both_ways(bench: &Bench<'_>) -> Result<Vec<Reading>> {
    let (stand, seconds) = (bench.stand, bench.lengths.tcp);
    let meter = Meter::start(stand.pids())?;
    let (there, back) = (stand.there(), stand.back());
    let [there, back] = std::thread::scope(|scope| {
        let other = scope.spawn(move || run(back, 1, seconds));
        let there = run(there, 1, seconds);
        [there, other.join().unwrap_or_else(|_| Err(Error::failed("iperf3 panicked")))]
    });
    readings(&meter, &[there?, back?])
}

fn run(path: Path<'_>, streams: u32, seconds: u32) -> Result<IperfReport> {
    let options = IperfOptions { seconds, streams, congestion: "cubic", ..IperfOptions::default() };
    let report = iperf(path.from, path.to, path.at.into(), &options)?;
    if report.congestion != options.congestion {
        return Err(Error::missing(format!("TCP cubic is not allowed here ({})", report.congestion)));
    }
    Ok(report)
}

fn readings(meter: &Meter, reports: &[IperfReport]) -> Result<Vec<Reading>> {
    let used = meter.stop()?;
    let bits: f64 = reports.iter().map(|r| r.bits_per_second).sum();
    let bytes: f64 = reports.iter().filter_map(|r| r.json["end"]["sum_received"]["bytes"].as_f64()).sum();
    let again: u64 = reports.iter().map(|r| r.retransmits).sum();
    let mut list = vec![
        reading(metric::THROUGHPUT, "Gbit/s", bits / 1e9),
        reading(metric::RETRANSMITS, "segments", again as f64),
    ];
    list.extend(used.per(bytes / 1e9, "s/GB"));
    Ok(list)
}
