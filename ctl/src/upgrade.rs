//! Asking the monitor of a daemon to become another program.
//!
//! The monitor listens beside the control socket, for processes of its own user. The request is one line with the open
//! program as a descriptor, so that no path has to mean the same on both sides; the answer is lines: what is being
//! done, and how it ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{ApiError, Reason};

/// Longest time between two words of a monitor.
pub const PATIENCE: Duration = Duration::from_secs(45);

const REQUEST: &str = "upgrade 1\n";

/// Where the monitor of the daemon with this control socket listens.
#[must_use]
pub fn door(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".monitor");
    name.into()
}

/// What an upgrade came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The version before.
    pub from: String,
    /// The version now.
    pub to: String,
    /// How long frames waited, in microseconds.
    pub paused_us: u64,
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    door: PathBuf,
}

impl Monitor {
    /// Connects.
    ///
    /// # Errors
    /// [`Reason::Unreachable`] when nobody listens there, [`Reason::PermissionDenied`] when we may not connect.
    pub fn connect(socket: &Path) -> Result<Self, ApiError> {
        let door = door(socket);
        match UnixStream::connect(&door) {
            Ok(stream) => Ok(Self { stream, door }),
            Err(e) => Err(cannot_connect(&door, &e)),
        }
    }

    /// Where the program is now that the monitor was made from; there may be another one in its place.
    ///
    /// # Errors
    /// [`Reason::Internal`] when that cannot be found out, as from another process namespace.
    pub fn program(&self) -> Result<PathBuf, ApiError> {
        let unknown = |e: io::Error| {
            ApiError::new(Reason::Internal, format!("the program of the daemon cannot be found: {e}"))
                .hint("name it with --binary")
        };
        let pid = self.pid().map_err(unknown)?;
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(unknown)?;
        // What the kernel calls a file that was removed, or replaced.
        let text = path.to_string_lossy();
        Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
    }

    /// Process id of the monitor.
    fn pid(&self) -> io::Result<i32> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _inside = runtime.enter();
        let stream = self.stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let pid = tokio::net::UnixStream::from_std(stream)?.peer_cred()?.pid();
        self.stream.set_nonblocking(false)?;
        // There is no number for a process of another namespace of processes.
        pid.filter(|pid| *pid > 0).ok_or_else(|| io::Error::other("it runs in another container"))
    }

    /// Has the monitor become `program`. `limit` bounds each wait for a word of it; `on` hears what is being done.
    ///
    /// # Errors
    /// [`Reason::UpgradeFailed`] when the old version goes on, [`Reason::Timeout`], [`Reason::Unreachable`] when the
    /// monitor went away.
    pub fn upgrade(
        self,
        program: &File,
        limit: Duration,
        mut on: impl FnMut(&str),
    ) -> Result<Upgraded, ApiError> {
        let lost = |e: &io::Error| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ApiError::new(Reason::Timeout, format!("the monitor says nothing for {limit:?}"))
                    .hint("what became of it: swctl status")
            }
            _ => ApiError::new(Reason::Unreachable, format!("{}: {e}", self.door.display()))
                .hint("what became of it: swctl status"),
        };
        self.ask(program, limit).map_err(|e| lost(&e))?;
        for line in BufReader::new(&self.stream).lines() {
            let line = line.map_err(|e| lost(&e))?;
            match line.split_once(' ') {
                Some(("step", words)) => on(words),
                Some(("done", words)) => return Ok(done(words)),
                Some(("failed", words)) => {
                    let text = format!("not upgraded: {words}");
                    return Err(ApiError::new(Reason::UpgradeFailed, text)
                        .hint("what runs now: swctl status; why: the log of swd"));
                }
                // Of a later version.
                _ => {}
            }
        }
        let text = "the monitor closed the connection before it was done";
        Err(ApiError::new(Reason::Unreachable, text).hint("what runs now: swctl status; why: the log of swd"))
    }

    fn ask(&self, program: &File, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))?;
        let fds = [program.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        // A line this short is never split.
        sendmsg(&self.stream, &[IoSlice::new(REQUEST.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn done(words: &str) -> Upgraded {
    let words: HashMap<&str, &str> = words.split(' ').filter_map(|word| word.split_once('=')).collect();
    let text = |key: &str| words.get(key).copied().unwrap_or("unknown").to_owned();
    let paused_us = words.get("paused_us").and_then(|n| n.parse().ok()).unwrap_or(0);
    Upgraded { from: text("from"), to: text("to"), paused_us }
}

fn cannot_connect(door: &Path, e: &io::Error) -> ApiError {
    let shown = door.display();
    match e.kind() {
        io::ErrorKind::NotFound => ApiError::new(
            Reason::Unreachable,
            format!("cannot connect to {shown}: the socket does not exist"),
        )
        .hint("start swd, without --monitor=false; or name its socket with --socket"),
        io::ErrorKind::ConnectionRefused => {
            ApiError::new(Reason::Unreachable, format!("cannot connect to {shown}: nobody listens there"))
                .hint("swd has stopped; start it")
        }
        io::ErrorKind::PermissionDenied => {
            ApiError::new(Reason::PermissionDenied, format!("cannot connect to {shown}: permission denied"))
                .hint("run as the user that swd was started by")
        }
        _ => ApiError::new(Reason::Unreachable, format!("cannot connect to {shown}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    fn answered(lines: &str) -> (Result<Upgraded, ApiError>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("swd.sock");
        let listener = UnixListener::bind(door(&socket)).unwrap();
        let lines = lines.to_owned();
        let monitor = std::thread::spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(caller.try_clone().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, REQUEST);
            caller.write_all(lines.as_bytes()).unwrap();
        });
        let program = tempfile::tempfile().unwrap();
        let mut steps = Vec::new();
        let result = Monitor::connect(&socket).unwrap().upgrade(&program, Duration::from_secs(20), |step| {
            steps.push(step.to_owned());
        });
        monitor.join().unwrap();
        (result, steps)
    }

    #[test]
    fn what_the_monitor_says_is_understood() {
        let (result, steps) = answered("step one two\nstep three\nnews\ndone from=1 to=2 paused_us=1500\n");
        let wanted = Upgraded { from: "1".into(), to: "2".into(), paused_us: 1500 };
        assert_eq!((result.unwrap(), steps), (wanted, vec!["one two".to_owned(), "three".to_owned()]));
        let e = answered("step one\nfailed it hangs\n").0.unwrap_err();
        assert_eq!((e.reason, e.message.as_str()), (Reason::UpgradeFailed, "not upgraded: it hangs"));
        assert_eq!(answered("step one\n").0.unwrap_err().reason, Reason::Unreachable);
    }

    #[test]
    fn without_a_monitor_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let e = Monitor::connect(&dir.path().join("swd.sock")).unwrap_err();
        assert_eq!(e.reason, Reason::Unreachable);
        assert!(e.message.contains("swd.sock.monitor") && e.hint.contains("--monitor=false"), "{e:?}");
    }

    #[test]
    fn the_program_of_a_process_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("swd.sock");
        let _listener = UnixListener::bind(door(&socket)).unwrap();
        let program = Monitor::connect(&socket).unwrap().program().unwrap();
        assert_eq!(program, std::env::current_exe().unwrap());
    }
}
