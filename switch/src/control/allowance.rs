//! How often something may happen: so many times at once, and after that at an even pace.
//!
//! For what is repeated by somebody else's will: lines in the log about a port that changes all the time, and opening a
//! device that a pod deletes over and over. Each name has an allowance of its own, so that none uses up another's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names are forgotten when there are more and they have their whole allowance again.
const NAMES: usize = 1024;

/// An allowance for each of many names.
#[derive(Debug)]
pub struct Allowance {
    burst: u32,
    every: Duration,
    used: HashMap<String, Used>,
}

#[derive(Debug)]
struct Used {
    /// All of it is there again then.
    whole_at: Instant,
    refused: u64,
}

impl Allowance {
    /// `burst` times at once, and one more after each `every`.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, used: HashMap::new() }
    }

    /// Takes one; returns how often that was refused since it was last granted. `None`: it is refused.
    pub fn take(&mut self, name: &str, now: Instant) -> Option<u64> {
        if self.used.len() > NAMES {
            self.used.retain(|_, used| used.whole_at > now);
        }
        let used = self.used.entry(name.to_owned()).or_insert(Used { whole_at: now, refused: 0 });
        let whole_at = used.whole_at.max(now) + self.every;
        if whole_at > now + self.every * self.burst {
            used.refused += 1;
            return None;
        }
        used.whole_at = whole_at;
        Some(std::mem::take(&mut used.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_pace() {
        let (mut allowance, start) = (Allowance::new(3, Duration::from_secs(10)), Instant::now());
        let mut take = |name: &str, s: u64| allowance.take(name, start + Duration::from_secs(s));
        assert_eq!([0, 0, 0, 0, 1].map(|s| take("a", s)), [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(take("b", 1), Some(0), "another's");
        assert_eq!([10, 11, 20].map(|s| take("a", s)), [Some(2), None, Some(1)]);
        assert_eq!([100, 100, 100, 100].map(|s| take("a", s)), [Some(0), Some(0), Some(0), None]);
    }

    #[test]
    fn names_are_forgotten() {
        let (mut allowance, start) = (Allowance::new(1, Duration::from_secs(1)), Instant::now());
        (0..5000).for_each(|n: u64| {
            allowance.take(&n.to_string(), start + Duration::from_millis(n * 10));
        });
        assert!(allowance.used.len() <= NAMES + 1, "{}", allowance.used.len());
    }
}
