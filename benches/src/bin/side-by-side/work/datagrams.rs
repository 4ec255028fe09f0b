//! Datagrams as fast as the sender can: how many arrive, and in what state.

use lab::Result;

use super::cpu::Meter;
use super::{Bench, CAPACITY, Reading, metric, reading};
use crate::load::Traffic;
use crate::load::flood::flood;

/// From the first pod to the second, open loop.
pub fn measure(bench: &mut Bench<'_>, traffic: Traffic) -> Result<Vec<Reading>> {
    let meter = Meter::start(bench.stand.pids())?;
    let report = flood(bench.stand.there(), traffic, bench.lengths.datagrams, None)?;
    let used = meter.stop()?;
    if traffic == CAPACITY {
        bench.capacity = Some(report.received_rate);
    }
    let percent = 100.0 * report.lost as f64 / report.sent.max(1) as f64;
    let mut list = vec![
        reading(metric::RECEIVED, "kpps", report.received_rate / 1e3),
        reading(metric::SENT, "kpps", report.sent_rate / 1e3),
        reading(metric::LOST, "%", percent),
        reading(metric::LOST_AT_SOCKET, "datagrams", report.lost_at_socket as f64),
        reading(metric::REORDERED, "datagrams", report.reordered as f64),
        reading(metric::DUPLICATED, "datagrams", report.duplicated as f64),
        reading(metric::CORRUPTED, "datagrams", report.corrupted as f64),
    ];
    list.extend(used.per(report.received as f64 / 1e6, "s/Mpkt"));
    Ok(list)
}
