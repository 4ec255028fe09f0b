//! Signs of life of the monitor itself, for the service manager: it is started anew when it hangs.
//!
//! They come from a task of the monitor's own loop, so a loop that does not turn sends none. The thread that answers
//! the switch process has its own account, [`Work`]: when one request takes longer than all that it may wait for, the
//! task falls silent on purpose. Nothing else would notice, because the switch process waits for that answer, and its
//! monitor does not count this as a hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

/// How long one request may take. Programs that are run for one are killed after 10 s, and there are a few at most.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks where nobody asks for signs of life.
const LOOK: Duration = Duration::from_secs(2);

/// What the answering thread is doing.
#[derive(Debug, Default)]
pub struct Work {
    busy: AtomicBool,
    done: AtomicU64,
}

impl Work {
    /// A request has come.
    pub fn begins(&self) {
        self.busy.store(true, Relaxed);
    }

    /// It was done.
    pub fn ends(&self) {
        self.done.fetch_add(1, Relaxed);
        self.busy.store(false, Relaxed);
    }

    /// Is something being done?
    #[must_use]
    pub fn busy(&self) -> bool {
        self.busy.load(Relaxed)
    }
}

/// Tells a thread that works for long from one that is stuck.
#[derive(Debug)]
struct Look {
    done: u64,
    since: Instant,
}

impl Look {
    const fn new(now: Instant) -> Self {
        Self { done: 0, since: now }
    }

    /// Has one request taken too long by now?
    fn stuck(&mut self, work: &Work, now: Instant) -> bool {
        let done = work.done.load(Relaxed);
        if !work.busy() || done != self.done {
            *self = Self { done, since: now };
        }
        now - self.since >= PATIENCE
    }
}

/// Says `WATCHDOG=1` three times in `every` as long as all is well, and `STATUS=` whenever `status` has another answer.
/// Never ends.
pub async fn keep_alive(
    work: Arc<Work>,
    every: Option<Duration>,
    notify: fn(&str),
    status: impl Fn() -> Option<String>,
) {
    let mut looks = tokio::time::interval(every.map_or(LOOK, |every| every / 3).min(LOOK));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = Look::new(Instant::now());
    let (mut said, mut silent) = (String::new(), false);
    loop {
        looks.tick().await;
        let stuck = look.stuck(&work, Instant::now());
        if stuck && !silent {
            tracing::error!("a request of the switch process has taken {PATIENCE:?}: the monitor is stuck");
        }
        silent = stuck;
        if every.is_some() && !stuck {
            notify("WATCHDOG=1");
        }
        if let Some(now) = status().filter(|now| *now != said) {
            notify(&format!("STATUS={now}"));
            said = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_that_takes_too_long_is_told_from_many() {
        let (work, start) = (Work::default(), Instant::now());
        let mut look = Look::new(start);
        // Idle for long.
        assert!(!look.stuck(&work, start + PATIENCE * 2));
        // Busy whenever somebody looks, each time with another request.
        let mut now = start + PATIENCE * 2;
        for _ in 0..100 {
            work.begins();
            now += Duration::from_secs(5);
            assert!(!look.stuck(&work, now));
            work.ends();
        }
        // With one and the same.
        work.begins();
        now += Duration::from_secs(1);
        assert!(!look.stuck(&work, now));
        assert!(!look.stuck(&work, now + PATIENCE - Duration::from_millis(1)));
        assert!(look.stuck(&work, now + PATIENCE));
        work.ends();
        assert!(!look.stuck(&work, now + PATIENCE * 2));
    }
}
