//! Progress on standard error, with an estimate of the remaining time.

use std::io::{self, Write as _};
use std::time::Instant;

use benches::report::number;

use crate::work::Reading;

/// What is planned, in seconds as guessed beforehand; the guess is corrected by how long things really take.
pub struct Progress {
    begin: Instant,
    planned: f64,
    done: f64,
}

impl Progress {
    /// With so much work ahead.
    pub fn new(planned: f64) -> Self {
        Self { begin: Instant::now(), planned, done: 0.0 }
    }

    /// A piece of work that was to take so long is over.
    pub fn step(&mut self, guess: f64) {
        self.done += guess;
    }

    /// The remaining time, in seconds.
    fn remaining(&self) -> f64 {
        let left = (self.planned - self.done).max(0.0);
        // Too early to know better.
        if self.done < 3.0 { left } else { left * self.begin.elapsed().as_secs_f64() / self.done }
    }

    /// Says what was found.
    pub fn say(&self, what: &str, readings: &[Reading]) -> io::Result<()> {
        let left = self.remaining();
        let shown: Vec<String> =
            readings.iter().take(3).map(|r| format!("{} {} {}", r.metric, number(r.value), r.unit)).collect();
        let clock = format!("{:3.0}:{:02.0}", (left / 60.0).floor(), (left % 60.0).floor());
        writeln!(io::stderr(), "{clock} left  {what}  {}", shown.join(", "))
    }

    /// Says what went wrong.
    pub fn complain(&self, what: &str, cause: &dyn std::fmt::Display) -> io::Result<()> {
        writeln!(io::stderr(), "           {what}: {cause}")
    }
}
