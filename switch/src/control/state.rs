//! The desired state on disk: what was acknowledged survives `kill -9` and loss of power at any moment.
//!
//! A save writes the whole state to a new file, waits for the disk, keeps the old file as `state.prev`, renames
//! the new one into place and waits for the directory. Only then is a change acknowledged. A reader finds the
//! old state or the new one, never a mixture; the header carries a checksum over everything, so that what the
//! disk mangled is recognised. See `docs/state-file.md` for the format.
//!
//! Nothing that cannot be read is ever erased or overwritten: it is set aside under another name.

use std::fmt::Write as _;
use std::io;

use ctl::desired::document::Notation;
use ctl::desired::{DesiredState, Port};

use super::fs::Fs;

pub mod advice;
pub mod last_good;

/// The current state.
pub const CURRENT: &str = "state";
/// The one before.
pub const PREVIOUS: &str = "state.prev";
/// Being written; worthless when found at start.
pub const TEMPORARY: &str = "state.tmp";
/// Held locked by the daemon that uses the directory.
pub const LOCK: &str = "lock";
const LINKED: &str = "state.prev.tmp";
const MAGIC: &str = "swd-state 1";
/// Names tried for an unreadable file that is set aside.
const ASIDE: usize = 100;

/// A state as loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The document.
    pub desired: DesiredState,
    /// Its generation; 0 before the first change.
    pub generation: u64,
    /// What had to be done to get it, to be reported until somebody acts.
    pub problem: Option<String>,
    /// Ports of the state before it. The devices of those that are not in this one may not have been removed: the
    /// process may have ended between writing the state and following it.
    pub before: Vec<Port>,
}

/// Why there is no state to start with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files are there, and neither can be used.
    #[error(
        "no usable state: {current}; {previous}. To start with an empty state move both files away; \
         to restore one put it at the name `{CURRENT}`"
    )]
    Unusable {
        /// About the current file.
        current: String,
        /// About the previous file.
        previous: String,
    },
    /// The directory does not work.
    #[error("state directory: {0}")]
    Io(#[from] io::Error),
}

/// Writes and reads the state of one directory.
pub struct Store {
    fs: Box<dyn Fs>,
    /// The last save failed half-way: what is on the disk may be newer than what was acknowledged.
    unsure: bool,
}

/// Puts header and payload together.
///
/// # Errors
/// When the document cannot be written as text.
pub fn encode(desired: &DesiredState, generation: u64) -> Result<Vec<u8>, String> {
    let payload = desired.to_text(Notation::Json).map_err(|e| e.message)?;
    let mut file = header(generation, payload.as_bytes());
    file.push_str(&payload);
    Ok(file.into_bytes())
}

fn header(generation: u64, payload: &[u8]) -> String {
    let mut text = format!("{MAGIC} generation={generation} length={}", payload.len());
    let mut crc = crc32fast::Hasher::new();
    crc.update(text.as_bytes());
    crc.update(payload);
    let _ = writeln!(text, " crc32={:08x}", crc.finalize());
    text
}

/// Takes a file apart.
///
/// # Errors
/// A sentence for people.
pub fn decode(file: &[u8]) -> Result<(DesiredState, u64), String> {
    let end = file.iter().take(200).position(|&b| b == b'\n').ok_or("it has no header line")?;
    let (line, payload) = (&file[..end], &file[end + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| "its header line is not text")?;
    if !line.starts_with("swd-state ") {
        return Err("it is no state file".into());
    }
    if !line.starts_with(MAGIC) || line.as_bytes().get(MAGIC.len()) != Some(&b' ') {
        return Err(format!("its version is unknown (`{line}`): was it written by a newer swd?"));
    }
    let field = |name: &str| {
        line.split(' ').find_map(|w| w.strip_prefix(name)).ok_or_else(|| format!("its header lacks {name}"))
    };
    let generation: u64 = field("generation=")?.parse().map_err(|_| "its generation is no number")?;
    let length: usize = field("length=")?.parse().map_err(|_| "its length is no number")?;
    if payload.len() != length {
        return Err(format!("it is {} bytes long instead of {length}", payload.len()));
    }
    // Comparing the whole line leaves no bit of it unchecked.
    if header(generation, payload).trim_end() != line {
        return Err("its checksum does not match its content".into());
    }
    let text = std::str::from_utf8(payload).map_err(|_| "it is not UTF-8")?;
    let desired = DesiredState::parse(text, Notation::Json).map_err(|e| e.message)?;
    desired.check().map_err(|e| e.message)?;
    Ok((desired, generation))
}

/// A state that another process has in force.
///
/// # Errors
/// As [`decode`].
pub fn handed(file: &[u8]) -> Result<Loaded, String> {
    decode(file).map(|(desired, generation)| Loaded {
        desired,
        generation,
        problem: None,
        before: Vec::new(),
    })
}

impl Store {
    /// A store in one directory, which nobody else may use meanwhile.
    #[must_use]
    pub fn new(fs: Box<dyn Fs>) -> Self {
        Self { fs, unsure: false }
    }

    /// Reads the newest state that is whole.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&mut self) -> Result<Loaded, LoadError> {
        let current = self.fs.read(CURRENT);
        if let Ok(Some(file)) = &current
            && let Ok((desired, generation)) = decode(file)
        {
            return Ok(Loaded { desired, generation, problem: None, before: self.previous_ports() });
        }
        let previous = self.fs.read(PREVIOUS);
        if let (Ok(None), Ok(None)) = (&current, &previous) {
            let desired = DesiredState::default();
            return Ok(Loaded { desired, generation: 0, problem: None, before: Vec::new() });
        }
        let current = complaint(CURRENT, &current);
        let Ok(Some(file)) = &previous else {
            return Err(LoadError::Unusable { current, previous: complaint(PREVIOUS, &previous) });
        };
        let (desired, generation) = decode(file).map_err(|e| LoadError::Unusable {
            current: current.clone(),
            previous: format!("{PREVIOUS}: {e}"),
        })?;
        // The lost state had the next number, and somebody may have seen it.
        let next = generation + 1;
        let kept = self.set_aside(encode(&desired, next).ok().as_deref())?;
        let problem = format!(
            "{current}{kept}; running with the state before it, of generation {generation}: \
             later changes are lost"
        );
        Ok(Loaded { desired, generation: next, problem: Some(problem), before: Vec::new() })
    }

    /// The ports of the previous state; none if it cannot be read, which is no loss as long as the current one can.
    fn previous_ports(&mut self) -> Vec<Port> {
        let file = self.fs.read(PREVIOUS).ok().flatten();
        file.and_then(|file| decode(&file).ok()).map_or_else(Vec::new, |(state, _)| state.ports)
    }

    /// Moves an unreadable file out of the way of the next save, and puts `file`, the previous state under a
    /// number of its own, in its place: else the numbers would go back when the next file is lost as well.
    fn set_aside(&mut self, file: Option<&[u8]>) -> io::Result<String> {
        let mut kept = String::new();
        for number in 0..ASIDE {
            let name = format!("{CURRENT}.bad.{number}");
            match self.fs.link(CURRENT, &name) {
                Ok(()) => kept = format!(" (kept as {name})"),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            // Without room for it the previous file serves as it is.
            if file.is_none_or(|file| self.put(file).is_err()) {
                self.restore()?;
            }
            return Ok(kept);
        }
        Err(io::Error::other("too many files state.bad.*: look at them and remove them"))
    }

    /// Makes a state durable that another process had in force, unless it is on this disk already.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn ensure(&mut self, desired: &DesiredState, generation: u64) -> io::Result<()> {
        match self.fs.read(CURRENT) {
            Ok(Some(file)) if decode(&file).is_ok_and(|(d, g)| g == generation && d == *desired) => Ok(()),
            _ => self.save(desired, generation),
        }
    }

    /// Makes this the current file, and leaves the previous one alone.
    fn put(&mut self, file: &[u8]) -> io::Result<()> {
        self.fs.remove(TEMPORARY)?;
        self.fs.create(TEMPORARY, file)?;
        self.fs.rename(TEMPORARY, CURRENT)?;
        self.fs.sync_dir()
    }

    /// Makes the previous file the current one again.
    fn restore(&mut self) -> io::Result<()> {
        self.fs.remove(TEMPORARY)?;
        // A copy, so that a hand that edits one file in place leaves the other alone.
        let copied = match self.fs.read(PREVIOUS)? {
            Some(file) => self.fs.create(TEMPORARY, &file),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        if copied.is_err() {
            self.fs.remove(TEMPORARY)?;
            self.fs.link(PREVIOUS, TEMPORARY)?;
        }
        self.fs.rename(TEMPORARY, CURRENT)?;
        self.fs.sync_dir()
    }

    /// Makes the state durable. After an error the disk holds the old state, as far as that could be seen to.
    ///
    /// # Errors
    /// Those of the system, naming the step.
    pub fn save(&mut self, desired: &DesiredState, generation: u64) -> io::Result<()> {
        let file = encode(desired, generation).map_err(io::Error::other)?;
        let step = |what: &'static str| {
            move |e: io::Error| io::Error::new(e.kind(), format!("{what} the state file: {e}"))
        };
        self.fs.remove(TEMPORARY).map_err(step("removing an unfinished"))?;
        if let Err(e) = self.fs.create(TEMPORARY, &file) {
            // A full disk must not stay full on our account.
            let _ = self.fs.remove(TEMPORARY);
            return Err(step("writing")(e));
        }
        // A current file that was never acknowledged must not become the fallback.
        let had = if self.unsure { true } else { self.keep_previous().map_err(step("keeping"))? };
        let replaced = self.fs.rename(TEMPORARY, CURRENT).map_err(step("replacing"));
        // An error does not say that nothing was done.
        if replaced.is_err() && !matches!(self.fs.read(CURRENT), Ok(Some(found)) if found == file) {
            return replaced;
        }
        let synced = replaced.and_then(|()| self.fs.sync_dir().map_err(step("syncing the directory of")));
        if synced.is_err() {
            let undone = if had { self.restore() } else { self.undo_first() };
            self.unsure = undone.is_err();
            return synced;
        }
        self.unsure = false;
        Ok(())
    }

    /// There was no state before this one.
    fn undo_first(&mut self) -> io::Result<()> {
        self.fs.remove(CURRENT)?;
        self.fs.sync_dir()
    }

    /// Gives the current file its second name; false when there is none yet.
    fn keep_previous(&mut self) -> io::Result<bool> {
        self.fs.remove(LINKED)?;
        match self.fs.link(CURRENT, LINKED) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(_) => {
                // Not every file system has hard links.
                let Some(file) = self.fs.read(CURRENT)? else { return Ok(false) };
                self.fs.create(LINKED, &file)?;
            }
        }
        self.fs.rename(LINKED, PREVIOUS)?;
        Ok(true)
    }

    /// May the disk hold a state that was not acknowledged?
    #[must_use]
    pub fn unsure(&self) -> bool {
        self.unsure
    }
}

fn complaint(name: &str, read: &io::Result<Option<Vec<u8>>>) -> String {
    match read {
        Ok(None) => format!("{name}: it is missing"),
        Ok(Some(file)) => format!("{name}: {}", decode(file).err().unwrap_or_default()),
        Err(e) => format!("{name}: {e}"),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
