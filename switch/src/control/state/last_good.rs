//! The files of the last-known-good state: how it comes about, and how it takes the place of the newest one.
//!
//! Nothing is lost on the way: the newest state has its second name, durably, before another takes its place, and that
//! name is never given away again. When to do what: [`crate::control::good`].

use std::io;

use ctl::desired::DesiredState;

use super::{ASIDE, CURRENT, LINKED, Loaded, PREVIOUS, Store, TEMPORARY, decode, encode};

/// The newest state with which a process has lived for a while.
pub const GOOD: &str = "state.good";
/// Not proven yet. Worthless when found at start.
const CANDIDATE: &str = "state.good.tmp";
/// The beginning of the names of states that were put aside.
pub const SUSPECT: &str = "state.suspect";

/// A state with which the process ended over and over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The file.
    pub name: String,
    /// What it had in force; `None` if it cannot be read.
    pub generation: Option<u64>,
}

/// What came of falling back.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last-known-good state is the current one.
    Done {
        /// Its generation when it was proven.
        was: u64,
        /// Where the newer one is.
        kept: Suspect,
    },
    /// There is nothing to fall back on. Why.
    Nothing(String),
}

impl Store {
    /// Begins to prove the current state, which is to be of this generation. False if it is proven already.
    ///
    /// # Errors
    /// Those of the system; `InvalidData` when the file is another one, or damaged.
    pub fn nominate(&mut self, generation: u64) -> io::Result<bool> {
        let file = self.fs.read(CURRENT)?.ok_or(io::ErrorKind::NotFound)?;
        if !decode(&file).is_ok_and(|(_, found)| found == generation) {
            let text = format!("the file {CURRENT} is not that of generation {generation}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if self.fs.read(GOOD).is_ok_and(|good| good.as_ref() == Some(&file)) {
            return Ok(false);
        }
        self.fs.remove(CANDIDATE)?;
        self.fs.link(CURRENT, CANDIDATE).or_else(|_| self.copy(&file, CANDIDATE))?;
        Ok(true)
    }

    /// What was nominated last is proven.
    ///
    /// # Errors
    /// Those of the system. Then the one before it remains.
    pub fn promote(&mut self) -> io::Result<()> {
        self.fs.rename(CANDIDATE, GOOD)?;
        self.fs.sync_dir()
    }

    /// Makes the last-known-good state the current one, under a higher generation, and keeps the newer one aside.
    ///
    /// # Errors
    /// Those of the system. Then the disk has what was loaded, or this.
    pub fn fall_back(&mut self, loaded: &mut Loaded) -> io::Result<Outcome> {
        let Some(good) = self.fs.read(GOOD)? else {
            return Ok(Outcome::Nothing(format!("there is no {GOOD}")));
        };
        let (desired, was) = match decode(&good) {
            Ok(good) => good,
            Err(e) => return Ok(Outcome::Nothing(format!("{GOOD} cannot be used: {e}"))),
        };
        if desired == loaded.desired {
            return Ok(Outcome::Nothing(format!("{GOOD} has the same in it as {CURRENT}")));
        }
        let kept = Suspect { name: self.keep_suspect()?, generation: Some(loaded.generation) };
        let generation = loaded.generation.max(was) + 1;
        let file = encode(&desired, generation).map_err(io::Error::other)?;
        self.put(&file)?;
        // From here on all is done; what follows makes it hold better.
        let _ = self.settle(&file);
        take(loaded, desired, generation);
        Ok(Outcome::Done { was, kept })
    }

    /// Gives the current file a name under which nothing will replace it.
    fn keep_suspect(&mut self) -> io::Result<String> {
        let file = self.fs.read(CURRENT)?.ok_or(io::ErrorKind::NotFound)?;
        for number in 0..ASIDE {
            let name = format!("{SUSPECT}.{number}");
            if !self.fs.exists(&name)? {
                self.fs.link(CURRENT, &name).or_else(|_| self.copy(&file, &name))?;
            } else if self.fs.read(&name)?.as_ref() != Some(&file) {
                continue;
            }
            // Else one that did not come further than this was here before.
            self.fs.sync_dir()?;
            return Ok(name);
        }
        Err(io::Error::other(format!("too many files {SUSPECT}.*: look at them and remove them")))
    }

    /// For file systems without hard links.
    fn copy(&mut self, file: &[u8], name: &str) -> io::Result<()> {
        self.fs.remove(TEMPORARY)?;
        self.fs.create(TEMPORARY, file)?;
        self.fs.rename(TEMPORARY, name)
    }

    /// The file that is used when the current one is damaged has the same in it, or the newer state would be back with
    /// an old number. And what was fallen back on once is not fallen back on again: it has to be proven anew.
    fn settle(&mut self, file: &[u8]) -> io::Result<()> {
        self.fs.remove(LINKED)?;
        self.fs.create(LINKED, file)?;
        self.fs.rename(LINKED, PREVIOUS)?;
        self.fs.remove(GOOD)?;
        self.fs.sync_dir()
    }

    /// The states that were put aside and that nobody has taken away.
    ///
    /// # Errors
    /// Those of the system.
    pub fn suspects(&mut self) -> io::Result<Vec<Suspect>> {
        let mut list = Vec::new();
        for number in 0..ASIDE {
            let name = format!("{SUSPECT}.{number}");
            if self.fs.exists(&name)? {
                let file = self.fs.read(&name).ok().flatten();
                let generation = file.and_then(|file| decode(&file).ok()).map(|(_, generation)| generation);
                list.push(Suspect { name, generation });
            }
        }
        Ok(list)
    }

    /// Is it still there?
    #[must_use]
    pub fn is_kept(&mut self, suspect: &Suspect) -> bool {
        self.fs.exists(&suspect.name).unwrap_or(true)
    }
}

fn take(loaded: &mut Loaded, desired: DesiredState, generation: u64) {
    loaded.desired = desired;
    loaded.generation = generation;
}

#[cfg(test)]
#[path = "last_good_tests.rs"]
mod tests;
