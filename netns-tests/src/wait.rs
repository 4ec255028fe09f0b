//! Waiting for a state with a deadline, in one place, so that no test ever sleeps for a guess.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Pause between two looks at a state. Short against every deadline used here (seconds).
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `look` gives a value; after `limit` fails, naming `what`.
///
/// `look` runs at least once, and once more after the deadline, so a slow machine cannot fail a
/// state that was in fact reached.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        if let Some(value) = look() {
            return Ok(value);
        }
        if late {
            return Err(Error::failed(format!("{what}: not reached within {limit:?}")));
        }
        std::thread::sleep(PAUSE);
    }
}

/// As [`until`], for a condition that can itself fail; the last failure is part of the error.
pub fn until_ok<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = None;
    let found = until(what, limit, || match look() {
        Ok(value) => Some(value),
        Err(e) => {
            last = Some(e);
            None
        }
    });
    found.map_err(|e| match last {
        Some(cause) => Error::failed(format!("{e}; last: {cause}")),
        None => e,
    })
}
