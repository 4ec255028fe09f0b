//! When the newest state seems to be what ends the switch process, so that the next one is told to fall back on the last
//! state that is known to have held.
//!
//! The monitor reads no state: it gives a word, and the switch process does the rest
//! ([`crate::control::good::fall_back`]). One word is for one crash loop. What has not helped is not tried again before
//! a switch process has lived for a while, because no other state can have been proven earlier.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many lives, one after the other, ended unasked ...
pub const LIVES: usize = 5;
/// ... within this time, from the start of the first to the end of the last, make a crash loop.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Says whether the next switch process is to fall back.
#[derive(Debug, Default)]
pub struct Fallback {
    /// When those began that ended last.
    starts: VecDeque<Instant>,
    /// The next one is told.
    word: bool,
    /// One that was told became ready, and ended all the same.
    spent: bool,
    /// One that was told has ended.
    tried: bool,
}

impl Fallback {
    /// Is the next one to fall back?
    #[must_use]
    pub const fn word(&self) -> bool {
        self.word
    }

    /// Has one that was to fall back ended too?
    #[must_use]
    pub const fn tried(&self) -> bool {
        self.tried
    }

    /// One that began at `started` has ended unasked; was it ready? True if the next one is to fall back and this one
    /// was not.
    pub fn ended(&mut self, started: Instant, now: Instant, ready: bool) -> bool {
        if now.saturating_duration_since(started) >= WITHIN {
            *self = Self::default();
            return false;
        }
        self.tried |= self.word;
        // One that ended before it was ready may not have come to it.
        if self.word && ready {
            self.word = false;
            self.spent = true;
        }
        self.starts.push_back(started);
        if self.starts.len() > LIVES {
            self.starts.pop_front();
        }
        let full = self.starts.len() == LIVES;
        let loops = full && self.starts.front().is_some_and(|&first| now - first <= WITHIN);
        let begins = loops && !self.spent && !self.word;
        self.word |= begins;
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lives of this length, one after the other; for each whether the word begins with its end.
    fn live(fallback: &mut Fallback, now: &mut Instant, lives: &[(Duration, bool)]) -> Vec<bool> {
        let each = lives.iter().map(|&(length, ready)| {
            let started = *now;
            *now += length;
            fallback.ended(started, *now, ready)
        });
        each.collect()
    }

    #[test]
    fn five_lives_in_a_minute_are_a_loop() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        let told = live(&mut fallback, &mut now, &[(SECOND * 12, true); 5]);
        assert_eq!(told, [false, false, false, false, true]);
        assert!(fallback.word() && !fallback.tried());
    }

    #[test]
    fn five_lives_in_more_than_a_minute_are_none() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        let told = live(&mut fallback, &mut now, &[(SECOND * 13, true); 50]);
        assert!(!told.contains(&true) && !fallback.word());
    }

    #[test]
    fn a_long_life_does_not_count() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        let mut lives = vec![(SECOND, true); 4];
        lives.push((SECOND * 3600, true));
        lives.extend([(SECOND, true); 4]);
        assert!(!live(&mut fallback, &mut now, &lives).contains(&true));
        assert_eq!(live(&mut fallback, &mut now, &[(SECOND, true)]), [true]);
    }

    #[test]
    fn what_did_not_help_is_not_tried_again_before_a_long_life() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        live(&mut fallback, &mut now, &[(SECOND, true); 5]);
        assert!(!live(&mut fallback, &mut now, &[(SECOND, true); 50]).contains(&true));
        assert!(!fallback.word() && fallback.tried());
        live(&mut fallback, &mut now, &[(SECOND * 60, true)]);
        assert!(!fallback.tried());
        assert_eq!(live(&mut fallback, &mut now, &[(SECOND, true); 5]).last(), Some(&true));
    }

    #[test]
    fn the_word_stands_until_one_that_was_told_is_ready() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::now());
        live(&mut fallback, &mut now, &[(SECOND / 10, false); 5]);
        for _ in 0..10 {
            assert!(fallback.word());
            assert_eq!(live(&mut fallback, &mut now, &[(SECOND / 10, false)]), [false]);
        }
        live(&mut fallback, &mut now, &[(SECOND / 10, true)]);
        assert!(!fallback.word());
    }
}
