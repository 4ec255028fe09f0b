//! How soon a switch process is started after the one before has ended.
//!
//! One that was ready and ends has had its time: it is replaced at once, from a budget that fills again, so that
//! something that ends it over and over costs a bounded part of the machine and pods are served in between. One that
//! was never ready will hardly be the next time: the pause doubles.

use std::time::{Duration, Instant};

/// Starts that cost no time, one after the other.
const BURST: u32 = 20;
/// Time in which one start is won back.
const REFILL: Duration = Duration::from_millis(500);
/// First and longest pause after one that was never ready.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Says how long to wait.
#[derive(Debug)]
pub struct Pace {
    /// When the budget would be full again.
    full_at: Instant,
    /// The last pause after one that was never ready.
    failed: Option<Duration>,
}

impl Pace {
    /// A full budget.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now, failed: None }
    }

    /// The pause before the next start, after the end of one that was `ready`, or was not.
    pub fn pause(&mut self, now: Instant, ready: bool) -> Duration {
        if !ready {
            let pause = self.failed.map_or(PAUSE.0, |last| (last * 2).min(PAUSE.1));
            self.failed = Some(pause);
            return pause;
        }
        self.failed = None;
        self.full_at = self.full_at.max(now) + REFILL;
        (self.full_at - now).saturating_sub(REFILL * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_of_starts_is_free_and_then_they_are_held_to_its_pace() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.pause(now, true), Duration::ZERO);
        }
        for _ in 0..10 {
            let pause = pace.pause(now, true);
            assert_eq!(pause, REFILL);
            now += pause;
        }
        now += REFILL * 3;
        for _ in 0..3 {
            assert_eq!(pace.pause(now, true), Duration::ZERO);
        }
        assert_eq!(pace.pause(now, true), REFILL);
    }

    #[test]
    fn one_that_is_never_ready_is_tried_ever_more_rarely() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let pauses: Vec<u128> = (0..9).map(|_| pace.pause(now, false).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.pause(now, true), Duration::ZERO);
        assert_eq!(pace.pause(now, false), PAUSE.0);
    }
}
