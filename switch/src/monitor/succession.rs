//! The monitor becomes another program: the next version, or the one before.
//!
//! `execve` keeps the process: its number, its children and its descriptors. So a service manager sees nothing, pods
//! keep their devices, and the switch process keeps its parent. What the new program has to know is written down
//! before ([`super::estate`]), and a rehearsal has shown before that it can read it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::child::{FREE, bytes_of, document, take};
use super::estate::{self, Estate};

/// Names the descriptor of what is left, in the environment of the program that the monitor becomes.
const ESTATE: &str = "SWD_ESTATE";
/// The same, in the environment of one that is only asked whether it could.
const REHEARSAL: &str = "SWD_REHEARSAL";
/// Descriptors of a service manager, in the environment of the program that it started.
const HANDED: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// Time that a program has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What it answers begins with this, and its version follows.
const GREETING: &str = "swd ";
const LONGEST_ANSWER: u64 = 200;

/// A program that was opened: what is at its path later does not matter.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
}

impl Program {
    /// From a descriptor of the file.
    ///
    /// # Errors
    /// No descriptors.
    pub fn new(file: &impl AsFd) -> io::Result<Self> {
        // Descriptors below are given other meanings in a child.
        Ok(Self { file: fcntl_dupfd_cloexec(file, FREE)? })
    }

    /// By which path to run it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Asks it whether it could take what the document describes, with these arguments. Returns its version.
    ///
    /// # Errors
    /// A sentence: it is no such program, it does not answer, or says no.
    pub fn rehearse(&self, args: &[OsString], left: &OwnedFd) -> Result<String, String> {
        let inherited = fcntl_dupfd_cloexec(left, FREE).map_err(|e| e.to_string())?;
        let copy = keep_open(inherited.as_fd()).map_err(|e| e.to_string())?;
        let mut command = Command::new(self.path());
        forget(&mut command).args(args).env(REHEARSAL, copy.to_string());
        for word in crate::notify::WORDS {
            command.env_remove(word);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("it cannot be run: {e}"))?;
        drop(inherited);
        let limit = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("it does not answer within {} s", PATIENCE.as_secs()));
                }
                Err(e) => return Err(e.to_string()),
            }
        };
        let said = child.stdout.take().map(answer).unwrap_or_default();
        if !status.success() {
            let why = child.stderr.take().map(answer).unwrap_or_default();
            let why = why
                .lines()
                .find(|line| !line.is_empty())
                .unwrap_or_default()
                .trim_start_matches("swd: ")
                .to_owned();
            return Err(if why.is_empty() { format!("it refuses ({status})") } else { why });
        }
        match said.trim().strip_prefix(GREETING) {
            Some(version) if !version.is_empty() => Ok(version.to_owned()),
            _ => Err("it is no swd that can take over from another".into()),
        }
    }

    /// Becomes it. Returns only when that fails, and then everything is as before.
    pub fn become_it(&self, args: &[OsString], left: &OwnedFd, fds: &[BorrowedFd<'_>]) -> io::Error {
        let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let work = || -> io::Result<io::Error> {
            // The document is taken by its number too, with the numbers of the rest before it.
            let mut whole = Vec::new();
            for number in [numbers.len() as RawFd].iter().chain(&numbers) {
                whole.extend(number.to_le_bytes());
            }
            whole.extend(bytes_of(&File::from(left.try_clone()?))?);
            let whole = document(&whole)?;
            let number = keep_open(whole.as_fd())?;
            for fd in fds {
                keep_open(*fd)?;
            }
            let mut command = Command::new(self.path());
            command.args(args).env(ESTATE, number.to_string());
            // What was handed to this program is handed on otherwise.
            for word in HANDED {
                command.env_remove(word);
            }
            // SAFETY: the closure runs in this process, right before it becomes another program, and makes only calls
            // that may be made then.
            unsafe { command.pre_exec(|| signals(libc::SIG_BLOCK)) };
            Ok(command.exec())
        };
        let failed = work().unwrap_or_else(|e| e);
        for fd in fds {
            let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        let _ = signals(libc::SIG_UNBLOCK);
        failed
    }
}

/// What a program has printed, as far as it matters.
fn answer(from: impl io::Read) -> String {
    let mut text = Vec::new();
    let _ = from.take(LONGEST_ANSWER).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Lets the next program have it, by this number.
fn keep_open(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    fcntl_setfd(fd, FdFlags::empty())?;
    Ok(fd.as_raw_fd())
}

/// A signal to end must not meet a program that does not wait for it yet: it waits until [`listening`].
fn signals(how: libc::c_int) -> io::Result<()> {
    // SAFETY: a set is a plain value that `sigemptyset` fills in; the calls read and write it and nothing else.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Signals are waited for from now on; those that have come meanwhile come now.
pub fn listening() {
    let _ = signals(libc::SIG_UNBLOCK);
}

/// Is this process only asked whether it could take over? To be called when all arguments have been looked at.
///
/// # Errors
/// It could not: why.
pub fn rehearsal() -> io::Result<bool> {
    let Some(number) = std::env::var(REHEARSAL).ok().and_then(|n| n.parse().ok()) else { return Ok(false) };
    estate::rehearse(&take(number)?.into())?;
    Ok(true)
}

/// How a program answers that was asked.
#[must_use]
pub fn greeting(version: &str) -> String {
    format!("{GREETING}{version}")
}

/// What the program before this one has left, in the same process; `None` in one that was started. To be called once,
/// first of all.
///
/// # Errors
/// What is left cannot be read.
pub fn inherit() -> io::Result<Option<Estate>> {
    let Some(number) = std::env::var(ESTATE).ok().and_then(|n| n.parse().ok()) else { return Ok(None) };
    let whole = bytes_of(&take(number)?.into())?;
    let short = || io::Error::new(io::ErrorKind::InvalidData, "what was left is cut short");
    let mut numbers = whole.as_slice();
    let mut next = || -> io::Result<RawFd> {
        let (first, rest) = numbers.split_first_chunk().ok_or_else(short)?;
        numbers = rest;
        Ok(RawFd::from_le_bytes(*first))
    };
    let count = next()?;
    let mut fds = Vec::new();
    for _ in 0..count {
        fds.push(take(next()?)?);
    }
    let text = File::from(document(numbers)?);
    Estate::read(&text, fds).map(Some)
}

/// Takes the words that were for this process from the environment of one that it starts.
pub fn forget(command: &mut Command) -> &mut Command {
    command.env_remove(ESTATE).env_remove(REHEARSAL)
}
