//! The last-known-good state: one with which this switch forwarded for a while.
//!
//! A state may be what ends the process: it has met a defect that no check knows. Then every start ends the same way,
//! and only another state helps. So one that has *held* is kept at hand: the current state is nominated, and a process
//! that lives for [`AFTER`] from then on proves it, whatever changes come meanwhile. On a node where pods come and go
//! all the time, what is kept is thus never older than twice that.
//!
//! Falling back costs the changes since then. They are kept beside it, and `swctl status` says so until they are taken
//! away.

use std::time::{Duration, Instant};

use super::state::last_good::{Outcome, Suspect};
use super::state::{Loaded, Store};

/// How long a process has to live with a state.
pub const AFTER: Duration = Duration::from_secs(60);

/// What is to be done for the last-known-good state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Nominate,
    Promote,
}

/// Finds out which state holds.
#[derive(Debug)]
pub struct Proving {
    after: Duration,
    /// The generation that is proven, as far as this process knows.
    proven: Option<u64>,
    /// The one that is nominated, and since when.
    candidate: Option<(u64, Instant)>,
    /// Not before then is something tried again that has failed.
    again_at: Option<Instant>,
}

impl Proving {
    /// Nothing is proven yet. See [`AFTER`].
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after, proven: None, candidate: None, again_at: None }
    }

    /// Does what is due, with a state of this generation in force.
    pub fn step(&mut self, store: &mut Store, generation: u64, now: Instant) {
        let done = match self.due(generation, now) {
            Due::Nothing => return,
            Due::Nominate => store.nominate(generation).map(|anew| self.nominated(generation, anew, now)),
            Due::Promote => store.promote().map(|()| self.promoted()),
        };
        if let Err(e) = done {
            tracing::warn!("the last-known-good state is not kept: {e}");
            self.failed(now);
        }
    }

    fn due(&self, generation: u64, now: Instant) -> Due {
        match self.candidate {
            _ if self.again_at.is_some_and(|at| now < at) => Due::Nothing,
            Some((_, since)) if now.saturating_duration_since(since) >= self.after => Due::Promote,
            Some(_) => Due::Nothing,
            // Nothing was ever declared: there is no file.
            None if generation == 0 || self.proven == Some(generation) => Due::Nothing,
            None => Due::Nominate,
        }
    }

    fn nominated(&mut self, generation: u64, anew: bool, now: Instant) {
        match anew {
            true => self.candidate = Some((generation, now)),
            false => self.proven = Some(generation),
        }
    }

    fn promoted(&mut self) {
        self.proven = self.candidate.take().map(|(generation, _)| generation);
    }

    fn failed(&mut self, now: Instant) {
        self.candidate = None;
        self.again_at = Some(now + self.after);
    }
}

/// The last-known-good state instead of the one that was loaded, if there is another one. To be called when switch
/// processes ended over and over.
#[must_use]
pub fn fall_back(store: &mut Store, mut loaded: Loaded) -> Loaded {
    match store.fall_back(&mut loaded) {
        Ok(Outcome::Done { was, kept }) => tracing::warn!(
            generation = loaded.generation,
            "the state of generation {was}, which held, takes the place of that of generation {}, which is kept as {}",
            kept.generation.unwrap_or_default(),
            kept.name
        ),
        Ok(Outcome::Nothing(why)) => {
            tracing::warn!("no last-known-good state to fall back on: {why}; going on with the current one");
        }
        Err(e) => {
            tracing::warn!("the last-known-good state cannot be used: {e}; going on with the current one")
        }
    }
    loaded
}

/// What `swctl status` says about states that were put aside: a message and the next step.
#[must_use]
pub fn alarm(suspects: &[Suspect], dir: &std::path::Path) -> Option<(String, String)> {
    let newest = suspects.last()?;
    let file = dir.join(&newest.name);
    let file = file.display();
    let (of, since) = match newest.generation {
        Some(generation) => {
            (format!(" of generation {generation}"), format!("began as generation {}", generation + 1))
        }
        None => (String::new(), "runs".to_owned()),
    };
    let others = match suspects.len() {
        1 => String::new(),
        n => format!(", and {} more beside it", n - 1),
    };
    let message = format!(
        "the switch process ended over and over with the state{of}: the last-known-good state took its place and {since}; \
         the newer one is kept as {file}{others}"
    );
    let hint = format!(
        "`tail -n +2 {file} > newer.json` gives its document, `swctl apply -f newer.json` brings back what is missing; \
         then remove or rename the file"
    );
    Some((message, hint))
}

#[cfg(test)]
#[path = "good_tests.rs"]
mod tests;
