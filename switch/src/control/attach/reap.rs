//! Attachments that were deleted while the daemon did not answer.
//!
//! The CNI plugin notes them in files, see [`ctl::tombstone`]. They are deleted before ports are opened at start, and
//! then as part of the regular look at devices. All of this happens while the state is locked: nobody can add an
//! attachment between the reading of a tombstone and its removal.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use ctl::desired::{Port, attachment};
use ctl::tombstone::{self, Tombstone};

use super::super::core::Core;

/// Most tombstones read at once; each look takes what the last one left.
const AT_ONCE: usize = 4096;

/// The directory of tombstones, and what was said about it.
#[derive(Debug)]
pub struct Reaper {
    dir: Option<PathBuf>,
    /// Problems that were logged, by file: each once, however often it is met.
    logged: HashMap<PathBuf, String>,
}

impl Reaper {
    /// One for this directory, which need not exist.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, logged: HashMap::new() }
    }

    /// Logs a problem unless it is the last one of this file.
    fn complain(&mut self, path: &Path, problem: String) {
        if self.logged.get(path) != Some(&problem) {
            tracing::warn!("tombstones: {}: {problem}", path.display());
            self.logged.insert(path.to_owned(), problem);
        }
    }
}

impl Core {
    /// Deletes the attachments that tombstones name in one change, and then the tombstones. What goes wrong is
    /// logged, and tried again the next time.
    pub(in super::super) fn reap(&mut self) {
        let Some(dir) = self.reaper.dir.clone() else { return };
        match self.bury(&dir) {
            Ok(()) => {
                self.reaper.logged.remove(&dir);
            }
            Err(problem) => self.reaper.complain(&dir, problem),
        }
    }

    fn bury(&mut self, dir: &Path) -> Result<(), String> {
        let listing =
            tombstone::list(dir, AT_ONCE).map_err(|e| format!("the directory cannot be read: {e}"))?;
        let found: HashSet<&Path> = listing
            .tombstones
            .iter()
            .map(|(path, _)| path.as_path())
            .chain(listing.unreadable.iter().map(|(path, _)| path.as_path()))
            .collect();
        self.reaper.logged.retain(|path, _| path == dir || found.contains(path.as_path()));
        for (path, problem) in &listing.unreadable {
            self.reaper.complain(path, problem.clone());
        }
        if listing.tombstones.is_empty() {
            return Ok(());
        }
        let named: HashMap<String, &Tombstone> = listing
            .tombstones
            .iter()
            .map(|(_, t)| (attachment::port_name(&t.container_id, &t.ifname), t))
            .collect();
        let dead = |port: &&Port| {
            port.attachment.is_some() && named.get(&port.name).is_some_and(|t| is_about(t, port))
        };
        let names: HashSet<String> = self.desired.ports.iter().filter(dead).map(|p| p.name.clone()).collect();
        super::remove(self, &names).map_err(|e| format!("attachments cannot be deleted: {e}"))?;
        for name in &names {
            tracing::info!(port = name, "deleted by its tombstone");
        }
        for (path, _) in &listing.tombstones {
            if let Err(e) = tombstone::remove(path) {
                self.reaper.complain(path, format!("it cannot be removed: {e}"));
            }
        }
        Ok(())
    }
}

/// Is a tombstone about this attachment, and not about one of the same key before it? It has seconds where the
/// attachment has milliseconds, so within one second it counts; the plugin removes what it replaces. A tombstone
/// without a time, or an attachment without, leaves only the key to go by.
fn is_about(tombstone: &Tombstone, port: &Port) -> bool {
    let added: u64 = port.metadata.get(super::ADDED).and_then(|ms| ms.parse().ok()).unwrap_or(0);
    tombstone.time == 0 || added / 1000 <= tombstone.time
}
