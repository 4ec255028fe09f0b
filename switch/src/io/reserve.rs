//! Descriptors that ports leave to everything else.
//!
//! A port is a descriptor in each process of the daemon. One that had the last of them would take from the process what
//! it needs to serve clients, to write its state, to come to a namespace, or to start another process: whoever then
//! wants to remove a port could not. So the last [`SPARE`] are not for ports, and a port that would need one is refused
//! with a sentence.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

use super::OpenError;

/// Descriptors that are not for ports.
pub const SPARE: u64 = 24;

/// Knows how many descriptors there are.
#[derive(Debug)]
pub struct Reserve {
    /// To be copied: a copy has the lowest number that is free, and so says how many are in use.
    probe: OwnedFd,
    /// Most that there may be; `None`: to be asked each time.
    limit: Option<u64>,
}

/// Descriptors that this process may have.
#[must_use]
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

impl Reserve {
    /// For a process that may ask for its limits.
    ///
    /// # Errors
    /// No descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { probe: eventfd(0, EventfdFlags::CLOEXEC)?, limit: None })
    }

    /// For a process that will not be allowed to ask.
    ///
    /// # Errors
    /// No descriptors.
    pub fn fixed() -> io::Result<Self> {
        Ok(Self { limit: Some(descriptors()), ..Self::new()? })
    }

    /// Is there one for another port?
    ///
    /// # Errors
    /// [`OpenError::Descriptors`] if not.
    pub fn room(&self) -> Result<(), OpenError> {
        let (used, limit) = self.count();
        if used.saturating_add(SPARE) > limit { Err(self.full()) } else { Ok(()) }
    }

    /// That there is none.
    #[must_use]
    pub fn full(&self) -> OpenError {
        let (used, limit) = self.count();
        OpenError::Descriptors { used, limit }
    }

    /// How many are in use, and how many there may be.
    fn count(&self) -> (u64, u64) {
        let limit = self.limit.unwrap_or_else(descriptors);
        let used = fcntl_dupfd_cloexec(&self.probe, 0).map_or(limit, |copy| copy.as_raw_fd() as u64);
        (used, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_not_for_ports() {
        let mut reserve = Reserve::fixed().unwrap();
        assert_eq!(reserve.limit, Some(descriptors()));
        reserve.room().unwrap();
        // Other tests open and close theirs meanwhile.
        reserve.limit = Some(SPARE);
        let e = reserve.room().unwrap_err();
        assert!(e.to_string().contains("of 24 descriptors"), "{e}");
        reserve.limit = Some(100_000);
        reserve.room().unwrap();
    }
}
