//! A child process, known by its number and by a descriptor of it.
//!
//! The descriptor is what lets the monitor become another program and still know its child (pidfd_open(2), since Linux
//! 5.3): children stay children over `execve`, and objects of a library do not.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A child. One that is dropped is ended.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// Those of the system.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // What the library knows about it is let go of; nothing waits for it but this.
        let child = command.spawn()?;
        Self::adopt(child.id())
    }

    /// One that the program before this one has started, in the same process.
    ///
    /// # Errors
    /// There is no such process, or no descriptors.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, which is as long as this.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { pid, fd, ended: None })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is no child of this process.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended {
                return Ok(status);
            }
            if let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                self.ended = Some(ExitStatus::from_raw(status.as_raw()));
                continue;
            }
            self.fd.readable().await?.clear_ready();
        }
    }

    /// Sends a signal; one that has ended needs none.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = pidfd_send_signal(self.fd.get_ref(), signal);
        }
    }

    /// Ends it at once and waits until it has.
    ///
    /// # Errors
    /// It is no child of this process.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.signal(Signal::KILL);
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "the one under test waits for it")]
    fn its_end_is_seen_whoever_started_it() {
        run(async {
            let mut seven = Process::spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
            assert_eq!(seven.wait().await.unwrap().code(), Some(7));
            assert_eq!(seven.wait().await.unwrap().code(), Some(7));

            let child = Command::new("sleep").arg("600").spawn().unwrap();
            let mut sleeper = Process::adopt(child.id()).unwrap();
            assert_eq!(sleeper.kill().await.unwrap().signal(), Some(9));
        });
    }

    #[test]
    fn one_that_is_dropped_is_gone() {
        run(async {
            let sleeper = Process::spawn(Command::new("sleep").arg("600")).unwrap();
            let pid = sleeper.id();
            drop(sleeper);
            assert!(Process::adopt(pid).is_err());
        });
    }
}
