//! The state directory and the lock that makes it one daemon's.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use switch::control::fs::RealFs;
use switch::control::state::LOCK;

use super::Failure;

/// How long another process of this daemon may take to let go of it: one that was killed, or that hands over.
const LEFTOVER: Duration = Duration::from_secs(3);

/// A directory, and perhaps its lock.
pub struct StateDir {
    shown: String,
    fs: RealFs,
    lock: Option<OwnedFd>,
}

impl StateDir {
    /// Opens it, or makes it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let fs = RealFs::open(path).map_err(|e| format!("state directory {shown}: {e}"))?;
        Ok(Self { shown, fs, lock: None })
    }

    /// Makes it this process's own. `patient`: the one that has it is about to end.
    pub fn claim(&mut self, patient: bool) -> Result<(), Failure> {
        let limit = Instant::now() + LEFTOVER;
        while self.lock.is_none() {
            self.lock = self.fs.lock(LOCK).map_err(|e| format!("state directory {}: {e}", self.shown))?;
            if self.lock.is_none() {
                if !patient || Instant::now() >= limit {
                    return Err(format!("another swd uses the state directory {}", self.shown).into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Lets another process have it.
    pub fn release(&mut self) {
        self.lock = None;
    }
}
