//! What was achieved, as data: for `swctl status`, the log and the tests.

use super::seccomp::{SeccompError, ThreadKind};

/// One measure of the sandbox, and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its name, stable: clients compare it.
    pub measure: String,
    /// Does it hold, in full? What holds in part does not.
    pub achieved: bool,
    /// What holds, or why it does not.
    pub detail: String,
}

impl Measure {
    /// A measure that holds with `Ok`, and does not with `Err`; either says more.
    #[must_use]
    pub fn new(measure: &str, outcome: Result<String, String>) -> Self {
        let achieved = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|problem| problem);
        Self { measure: measure.to_owned(), achieved, detail }
    }

    /// The system-call filter of a thread.
    #[must_use]
    pub fn filter(kind: ThreadKind, outcome: Result<(), SeccompError>) -> Self {
        let outcome = outcome.map(|()| format!("{} system calls", kind.calls())).map_err(|e| e.to_string());
        Self::new(&format!("seccomp-{}", kind.name()), outcome)
    }
}

/// How far this process is shut in. The default is a process that was never meant to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// In the order in which they were taken.
    pub measures: Vec<Measure>,
}

impl Level {
    /// Is there a sandbox, and does every measure of it hold?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.measures.is_empty() && self.measures.iter().all(|m| m.achieved)
    }

    /// Adds what else was done, such as the filters of threads that began later.
    pub fn extend(&mut self, more: impl IntoIterator<Item = Measure>) {
        self.measures.extend(more);
    }

    pub(super) fn note(&mut self, measure: &str, outcome: Result<String, String>) {
        self.measures.push(Measure::new(measure, outcome));
    }
}
