//! A token bucket in exact integers.
//!
//! Credit is counted in billionths of a byte: a rate in bytes per second times a time in nanoseconds is a whole
//! number of them, so no refill rounds and nothing drifts, however often it is asked. Any `u64` is a valid rate,
//! burst, length or time; sums that leave 128 bits stay at the end of the range.
//!
//! Credit may become negative, by what was sent on the last bit of it. So a frame larger than the burst passes as
//! well, and over any time the bytes sent are at most `burst + rate * time` plus that one frame.

use super::Rate;

/// Billionths in one.
const UNIT: i128 = 1_000_000_000;
/// More credit than any burst, far from the ends of the range.
const PLENTY: i128 = i128::MAX / 4;

/// The right to send, filled by time and emptied by bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// Billionths of a byte.
    credit: i128,
    /// When `credit` was right, in nanoseconds.
    at_ns: u64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now_ns: u64) -> Self {
        let mut bucket = Self { rate, credit: PLENTY, at_ns: now_ns };
        bucket.cap();
        bucket
    }

    /// Its rate and burst.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Adds what the time since the last refill is worth. A time that lies before it adds nothing.
    ///
    /// While something waits for credit, the burst is no bound: what the caller could have sent earlier, had it
    /// looked at the clock more often, is not lost. Otherwise credit beyond the burst is.
    pub fn refill(&mut self, now_ns: u64, waiting: bool) {
        let elapsed = u128::from(now_ns.saturating_sub(self.at_ns));
        let earned = i128::try_from(u128::from(self.rate.bytes_per_second) * elapsed).unwrap_or(PLENTY);
        self.credit = self.credit.saturating_add(earned).min(PLENTY);
        self.at_ns = self.at_ns.max(now_ns);
        if !waiting {
            self.cap();
        }
    }

    /// Takes back credit beyond the burst.
    pub fn cap(&mut self) {
        self.credit = self.credit.min(i128::from(self.rate.burst_bytes) * UNIT);
    }

    /// Another rate since the last refill. Credit and debt stay, up to the new burst: changing a limit again and
    /// again must not be a way around it.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        self.cap();
    }

    /// Makes the credit inexhaustible, for a limit that ends.
    pub fn open(&mut self) {
        self.credit = PLENTY;
    }

    /// May the next frame leave?
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.credit > 0
    }

    /// Credit in whole bytes, rounded down; negative is debt.
    #[must_use]
    pub fn credit(&self) -> i128 {
        self.credit.div_euclid(UNIT)
    }

    /// Takes `bytes` of credit.
    pub fn charge(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(i128::from(bytes) * UNIT);
    }

    /// The first nanosecond at which there is credit, if nothing is sent before. In the past when there is some.
    #[must_use]
    pub fn ready_ns(&self) -> u64 {
        if self.has_credit() {
            return self.at_ns;
        }
        let missing = self.credit.saturating_neg().saturating_add(1).unsigned_abs();
        let wait = missing.div_ceil(u128::from(self.rate.bytes_per_second.max(1)));
        self.at_ns.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(bytes_per_second: u64, burst_bytes: u64) -> Rate {
        Rate { bytes_per_second, burst_bytes }
    }

    #[test]
    fn a_pause_is_worth_a_burst_and_no_more() {
        let mut b = Bucket::new(rate(1000, 500), 0);
        assert_eq!((b.credit(), b.has_credit(), b.ready_ns()), (500, true, 0));
        b.refill(10_000_000_000, false);
        assert_eq!(b.credit(), 500);
        b.charge(500);
        assert_eq!((b.credit(), b.has_credit()), (0, false));
        // One billionth of a byte after a millionth of a second is too little to see and enough to send.
        assert_eq!(b.ready_ns(), 10_000_000_001);
        b.refill(b.ready_ns(), true);
        assert!(b.has_credit());
    }

    #[test]
    fn who_looks_late_loses_nothing_while_something_waits() {
        let mut b = Bucket::new(rate(1_000_000, 10), 0);
        b.charge(1010);
        assert_eq!((b.credit(), b.ready_ns()), (-1000, 1_000_001));
        b.refill(5_000_000, true);
        assert_eq!(b.credit(), 4000, "five milliseconds are worth 5000 bytes, whatever the burst");
        b.cap();
        assert_eq!(b.credit(), 10);
    }

    #[test]
    fn another_rate_is_no_new_burst() {
        let mut b = Bucket::new(rate(1000, 500), 0);
        b.charge(700);
        b.refill(100_000_000, false);
        b.set_rate(rate(2000, 100_000));
        assert_eq!(b.credit(), -100, "a tenth of a second at the old rate paid half of the debt");
        b.refill(150_000_000, false);
        assert_eq!(b.credit(), 0);
        b.open();
        assert!(b.credit() > i128::from(u64::MAX));
        b.set_rate(rate(1, 5));
        assert_eq!(b.credit(), 5);
    }

    #[test]
    fn the_clock_may_stand_still_or_stumble() {
        let mut b = Bucket::new(rate(1000, 10), 1_000_000_000);
        b.charge(20);
        b.refill(500_000_000, true);
        assert_eq!(b.credit(), -10);
        b.refill(1_005_000_000, true);
        assert_eq!(b.credit(), -5);
    }

    /// One thing that happens to a bucket.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Wait(u64, bool),
        Send(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..5_000_000_000, any::<bool>()).prop_map(|(ns, waiting)| Event::Wait(ns, waiting)),
            (0u64..70_000).prop_map(Event::Send),
        ]
    }

    proptest! {
        /// The model keeps the credit as a fraction of two integers with the second as denominator, twice as fine
        /// as needed, and caps it where the text says. It must agree to the last billionth.
        #[test]
        fn agrees_with_a_rational_number(
            bps in 0u64..20_000_000_000,
            burst in 0u64..5_000_000_000,
            events in proptest::collection::vec(event(), 1..100),
        ) {
            const DENOMINATOR: u128 = 2_000_000_000;
            let mut bucket = Bucket::new(rate(bps, burst), 0);
            // Earned and spent so far, as numerators; both only grow, so unsigned is enough.
            let (mut earned, mut spent, mut now) = (u128::from(burst) * DENOMINATOR, 0u128, 0u64);
            for event in events {
                match event {
                    Event::Wait(ns, waiting) => {
                        now += ns;
                        bucket.refill(now, waiting);
                        earned += u128::from(bps) * u128::from(ns) * 2;
                        if !waiting {
                            earned = earned.min(spent + u128::from(burst) * DENOMINATOR);
                        }
                    }
                    Event::Send(bytes) => {
                        bucket.charge(bytes);
                        spent += u128::from(bytes) * DENOMINATOR;
                    }
                }
                prop_assert_eq!(bucket.has_credit(), earned > spent);
                prop_assert_eq!(bucket.credit * 2, earned as i128 - spent as i128);
                if bps > 0 && earned <= spent {
                    // The first whole nanosecond at which the fraction is above zero.
                    let ready = u128::from(bucket.ready_ns() - now);
                    prop_assert!(earned + ready * 2 * u128::from(bps) > spent);
                    prop_assert!(earned + (ready - 1) * 2 * u128::from(bps) <= spent);
                }
            }
        }

        /// Sends whenever it may: never above the curve, and never short of it by more than one frame.
        #[test]
        fn keeps_to_its_curve(
            bps in 1u64..2_000_000_000,
            burst in 1u64..1_000_000,
            frames in proptest::collection::vec(1u64..65_536, 1..200),
            late in 0u64..3_000_000,
        ) {
            let mut bucket = Bucket::new(rate(bps, burst), 0);
            let (mut now, mut sent) = (0u64, 0u128);
            for frame in frames {
                if !bucket.has_credit() {
                    now = bucket.ready_ns() + late;
                    bucket.refill(now, true);
                }
                prop_assert!(bucket.has_credit());
                let curve = u128::from(burst) + u128::from(bps) * u128::from(now) / 1_000_000_000;
                prop_assert!(sent <= curve);
                bucket.charge(frame);
                sent += u128::from(frame);
                let behind = curve as i128 - sent as i128;
                prop_assert_eq!(behind, bucket.credit());
            }
        }

        #[test]
        fn no_number_is_too_large(bps: u64, burst: u64, times: [u64; 4], bytes: [u64; 4]) {
            let mut bucket = Bucket::new(rate(bps, burst), times[0]);
            for (now, bytes) in times.into_iter().zip(bytes).cycle().take(64) {
                bucket.refill(now, bytes % 2 == 0);
                bucket.charge(bytes);
                prop_assert!(bucket.ready_ns() >= bucket.at_ns);
                prop_assert_eq!(bucket.credit() > 0 || bucket.has_credit(), bucket.has_credit());
            }
            bucket.set_rate(rate(burst, bps));
            prop_assert!(bucket.credit() <= i128::from(bps));
        }
    }

    #[test]
    fn the_largest_numbers_stay_in_order() {
        let mut b = Bucket::new(rate(u64::MAX, u64::MAX), 0);
        b.charge(u64::MAX);
        assert!(!b.has_credit());
        b.refill(u64::MAX, true);
        assert!(b.has_credit());
        let mut none = Bucket::new(rate(0, 1), 0);
        none.charge(u64::MAX);
        none.refill(u64::MAX - 1, true);
        assert_eq!((none.has_credit(), none.ready_ns()), (false, u64::MAX));
    }
}
