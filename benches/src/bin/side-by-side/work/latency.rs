//! Request and response over UDP, one under way at a time: alone, and beside datagrams at a share of what the
//! contender itself was found to carry.

use benches::report::stats::percentiles;
use lab::{Error, Result};

use super::{Bench, CAPACITY, Reading, metric, reading};
use crate::load::echo::{PATIENCE, RoundTrips, ask};
use crate::load::flood::flood;

/// Round trip times from the first pod to the second and back.
pub fn measure(bench: &mut Bench<'_>, share: f64) -> Result<Vec<Reading>> {
    let (path, length) = (bench.stand.there(), bench.lengths.datagrams);
    if share <= 0.0 {
        return readings(&ask(path, length)?);
    }
    let capacity = match bench.capacity {
        Some(capacity) => capacity,
        None => flood(path, CAPACITY, length, None)?.received_rate,
    };
    bench.capacity = Some(capacity);
    if capacity < 1.0 {
        return Err(Error::failed("no datagram of the load arrives"));
    }
    let (load, asked) = std::thread::scope(|scope| {
        let load = scope.spawn(|| flood(path, CAPACITY, length, Some(share * capacity)));
        let asked = ask(path, length);
        (load.join().unwrap_or_else(|_| Err(Error::failed("the load panicked"))), asked)
    });
    let load = load?;
    let mut list = readings(&asked?)?;
    list.push(reading(metric::LOAD_OFFERED, "kpps", load.sent_rate / 1e3));
    list.push(reading(metric::LOAD_RECEIVED, "kpps", load.received_rate / 1e3));
    Ok(list)
}

/// A request without an answer counts as one that took as long as was waited for it: leaving it out would make the
/// worst switch look best.
fn readings(found: &RoundTrips) -> Result<Vec<Reading>> {
    let unanswered = std::iter::repeat_n(PATIENCE.as_secs_f64() * 1e6, found.unanswered);
    let all: Vec<f64> = found.micros.iter().copied().chain(unanswered).collect();
    let Some([p50, p99, p999]) = percentiles(&all, [0.5, 0.99, 0.999]) else {
        return Err(Error::failed("too short a run for a single request"));
    };
    Ok(vec![
        reading(metric::P50, "us", p50),
        reading(metric::P99, "us", p99),
        reading(metric::P999, "us", p999),
        reading(metric::REQUESTS, "requests", all.len() as f64),
        reading(metric::UNANSWERED, "requests", found.unanswered as f64),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_the_tail() {
        let found = |micros: &[f64], unanswered| {
            let list = readings(&RoundTrips { micros: micros.to_vec(), unanswered })?;
            Ok::<_, Error>(list.iter().map(|r| r.value).collect::<Vec<_>>())
        };
        assert_eq!(found(&[10.0; 98], 2).unwrap(), [10.0, 200_000.0, 200_000.0, 100.0, 2.0]);
        assert_eq!(found(&[10.0; 100], 0).unwrap(), [10.0, 10.0, 10.0, 100.0, 0.0]);
        assert_eq!(found(&[], 3).unwrap(), [200_000.0, 200_000.0, 200_000.0, 3.0, 3.0]);
        assert!(found(&[], 0).is_err());
    }
}
