//! Signs of life: a file in memory that threads of the switch process write to and the monitor reads.
//!
//! A thread that waits for ever, spins for ever or is stopped writes nothing; one that is alive writes at least every
//! [`EVERY`]. A number that the monitor saw before is no sign of life, whatever it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

/// Longest time between two beats of a thread that is well.
pub const EVERY: Duration = Duration::from_millis(250);

/// Who is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Forwards frames.
    Worker,
    /// Talks to clients.
    Control,
}

impl Thread {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Worker, Self::Control];

    const fn offset(self) -> u64 {
        self as u64 * 8
    }

    /// How long it may give no sign of life. The control thread waits for disks, and meanwhile frames are forwarded.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Worker => Duration::from_secs(2),
            Self::Control => Duration::from_secs(15),
        }
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "forwarding thread",
            Self::Control => "control thread",
        }
    }
}

/// The file.
#[derive(Debug)]
pub struct Heartbeat(File);

impl Heartbeat {
    /// A new one.
    ///
    /// # Errors
    /// No memory or descriptors.
    pub fn create() -> io::Result<Self> {
        let file = File::from(memfd_create("swd-heartbeat", MemfdFlags::CLOEXEC)?);
        file.set_len(Thread::ALL.len() as u64 * 8)?;
        Ok(Self(file))
    }

    /// What [`Heartbeat::as_fd`] of another process is.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }

    /// To be handed to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The pulse of one thread.
    ///
    /// # Errors
    /// No descriptors.
    pub fn pulse(&self, thread: Thread) -> io::Result<Pulse> {
        Ok(Pulse { file: self.0.try_clone()?, thread, beats: 0, next_ms: 0 })
    }

    /// What each thread wrote last.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&self) -> io::Result<[u64; Thread::ALL.len()]> {
        let mut beats = [0; Thread::ALL.len()];
        for (thread, beat) in Thread::ALL.into_iter().zip(&mut beats) {
            let mut bytes = [0; 8];
            self.0.read_exact_at(&mut bytes, thread.offset())?;
            *beat = u64::from_le_bytes(bytes);
        }
        Ok(beats)
    }
}

/// Writes the signs of life of one thread.
#[derive(Debug)]
pub struct Pulse {
    file: File,
    thread: Thread,
    beats: u64,
    next_ms: u64,
}

impl Pulse {
    /// Called as often as one likes; writes when it is time. `now_ms` never goes back.
    pub fn beat(&mut self, now_ms: u64) {
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + EVERY.as_millis() as u64;
        self.beats += 1;
        // A thread that cannot write looks dead, which is what it soon will be.
        let _ = self.file.write_all_at(&self.beats.to_le_bytes(), self.thread.offset());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_seen_by_thread_and_no_more_often_than_needed() {
        let heartbeat = Heartbeat::create().unwrap();
        let other = Heartbeat::from_fd(heartbeat.as_fd().try_clone_to_owned().unwrap());
        let mut worker = other.pulse(Thread::Worker).unwrap();
        assert_eq!(heartbeat.read().unwrap(), [0, 0]);
        for now_ms in 0..1000 {
            worker.beat(now_ms);
        }
        assert_eq!(heartbeat.read().unwrap(), [4, 0]);
        other.pulse(Thread::Control).unwrap().beat(7);
        assert_eq!(heartbeat.read().unwrap(), [4, 1]);
    }
}
