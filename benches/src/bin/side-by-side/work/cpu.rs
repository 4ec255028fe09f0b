//! CPU time: of the switch's processes, and of the whole machine.
//!
//! A kernel switch has no process: its work is done on the time of whoever sends, mostly in the senders' own
//! system calls, and cannot be told from theirs. So for every contender the whole machine's time is taken too,
//! generators and all; being the same for everybody, they leave the differences comparable.
//!
//! Both come from the kernel's tables (`/proc/PID/stat`, `/proc/stat`) in ticks of 10 ms.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

use lab::{Context, Error, Result};

use super::{Reading, metric, reading};
use crate::load::ticks_per_second;

/// Readings at the beginning.
pub struct Meter {
    pids: Vec<u32>,
    switch: f64,
    machine: f64,
}

/// Seconds of CPU time used since.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By the switch's processes, if it has any.
    switch: Option<f64>,
    machine: f64,
}

impl Meter {
    pub fn start(pids: &[u32]) -> Result<Self> {
        Ok(Self { pids: pids.to_vec(), switch: of_processes(pids)?, machine: of_machine()? })
    }

    pub fn stop(&self) -> Result<Used> {
        let switch = of_processes(&self.pids)? - self.switch;
        let machine = of_machine()? - self.machine;
        Ok(Used { switch: (!self.pids.is_empty()).then_some(switch), machine })
    }
}

/// Share of all CPUs that is busy, looked at for a while in which this program does nothing.
pub fn busy(over: Duration) -> Result<f64> {
    let (begin, before) = (Instant::now(), of_machine()?);
    std::thread::sleep(over);
    let used = of_machine()? - before;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok((used / (begin.elapsed().as_secs_f64() * cpus as f64)).clamp(0.0, 1.0))
}

impl Used {
    /// Per unit of work, of which so many were done; nothing where nothing was.
    pub fn per(&self, units: f64, unit: &'static str) -> Vec<Reading> {
        if units <= 0.0 {
            return Vec::new();
        }
        let switch = self.switch.map(|used| reading(metric::SWITCH_CPU, unit, used / units));
        switch.into_iter().chain([reading(metric::MACHINE_CPU, unit, self.machine / units)]).collect()
    }
}

fn of_processes(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = read_to_string(&path).context(&path)?;
        ticks += process_ticks(&text).ok_or_else(|| Error::failed(format!("{path}: {text}")))?;
    }
    Ok(ticks as f64 / ticks_per_second())
}

fn of_machine() -> Result<f64> {
    let text = read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = machine_ticks(&text).ok_or_else(|| Error::failed("/proc/stat has no cpu line"))?;
    Ok(ticks as f64 / ticks_per_second())
}

/// User and system time. The name, in brackets, may contain anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|word| word.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

/// All but idle, waiting and stolen time.
fn machine_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Option<Vec<u64>> = line.split_whitespace().take(7).map(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, interrupts, soft] = times?.try_into().ok()?;
    Some(user + nice + system + interrupts + soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 30 12 13 14 20 0 1 0 99 0 0";
        assert_eq!(process_ticks(stat), Some(42));
        assert_eq!(process_ticks("42 (a) R 1"), None);
        assert_eq!(machine_ticks("cpu  1 2 3 1000 1000 4 5 6 7 8\ncpu0 9 9"), Some(15));
        assert_eq!(machine_ticks("cpu  1 2 3"), None);
        assert!((0.0..=1.0).contains(&busy(Duration::from_millis(20)).unwrap()));
        let own = Meter::start(&[std::process::id()]).unwrap();
        assert!(own.stop().unwrap().switch.is_some());
        assert!(Meter::start(&[u32::MAX]).is_err(), "a process that is gone is noticed");
    }

    #[test]
    fn kernel_switches_have_no_process() {
        let metrics = |switch| -> Vec<_> {
            Used { switch, machine: 3.0 }.per(2.0, "s").iter().map(|r| (r.metric, r.value)).collect()
        };
        assert_eq!(metrics(None), [(metric::MACHINE_CPU, 1.5)]);
        assert_eq!(metrics(Some(1.0)), [(metric::SWITCH_CPU, 0.5), (metric::MACHINE_CPU, 1.5)]);
        assert!(Used { switch: None, machine: 1.0 }.per(0.0, "s").is_empty());
    }
}
