//! Who wants something of the monitor itself knocks here: a socket for its own user, with two fixed requests.
//!
//! `upgrade 1`, with a descriptor of a program: become that program, see [`super::handover`] and
//! [`super::succession`]. The answer is lines: `step WORDS` as things go on, then `done KEY=VALUE …` or `failed WORDS`.
//! The program comes as a descriptor so that nothing is looked up twice, nor in another's file system.
//!
//! `take-over 1`: leave everything to the monitor that asks, see [`super::takeover`].
//!
//! Clients of the switch cannot ask for this: what is run here is run with all privileges, and the switch process,
//! which reads what is hostile, has no way to this socket.

use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::mpsc;

/// Who connects has so long to say what it wants, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST: usize = 64;

/// Ask for the program to be replaced.
pub const UPGRADE: &str = "upgrade 1";
/// Ask for everything.
pub const TAKE_OVER: &str = "take-over 1";

/// What somebody wants.
#[derive(Debug)]
pub enum Knock {
    /// To have this program instead.
    Upgrade(OwnedFd, Caller),
    /// To have everything.
    TakeOver(UnixStream),
}

/// Who waits for an answer. One who does not listen is no reason to do anything else.
#[derive(Debug)]
pub struct Caller(UnixStream);

impl Caller {
    /// One who has waited since before this program ran.
    #[must_use]
    pub fn left(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// Something is about to be done.
    pub fn step(&self, words: &str) {
        self.line("step", words);
    }

    /// All is done.
    pub fn done(&self, words: &str) {
        self.line("done", words);
    }

    /// It was not done.
    pub fn failed(&self, words: &str) {
        self.line("failed", words);
    }

    fn line(&self, kind: &str, words: &str) {
        let _ = (&self.0).write_all(format!("{kind} {}\n", words.replace('\n', " ")).as_bytes());
    }
}

impl std::os::fd::AsFd for Caller {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Listens from now on. One is heard at a time.
///
/// # Errors
/// No thread or descriptors.
pub fn listen(listener: UnixListener) -> io::Result<mpsc::Receiver<Knock>> {
    listener.set_nonblocking(false)?;
    let (tell, told) = mpsc::channel(1);
    std::thread::Builder::new().name("swd-door".into()).spawn(move || {
        for caller in listener.incoming() {
            let heard = match caller {
                Ok(caller) => hear(caller),
                Err(e) => {
                    tracing::warn!("the monitor's socket: {e}");
                    // It may be that there are no descriptors just now.
                    std::thread::sleep(PATIENCE);
                    continue;
                }
            };
            match heard {
                Ok(Some(knock)) => {
                    if tell.blocking_send(knock).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(e) => tracing::warn!("somebody at the monitor's socket: {e}"),
            }
        }
    })?;
    Ok(told)
}

/// `None`: it has said nothing.
fn hear(caller: UnixStream) -> io::Result<Option<Knock>> {
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.set_write_timeout(Some(PATIENCE))?;
    let who = credentials(&caller)?;
    let refusal = match who.pid {
        _ if who.uid != rustix::process::geteuid().as_raw() => Some(format!("user {}", who.uid)),
        // Where there is only one user, the process that reads what is hostile has it too.
        pid if is_child(pid) => Some("the switch process".to_owned()),
        _ => None,
    };
    if let Some(who) = refusal {
        let e = format!("{who} may not ask the monitor for anything");
        Caller(caller).failed(&e);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, e));
    }
    let mut line = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(&caller, &mut [IoSliceMut::new(&mut line)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let said = line.get(..got).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    match (said.strip_suffix('\n'), fd) {
        (None, _) if got == 0 => Ok(None),
        (Some(UPGRADE), Some(program)) => Ok(Some(Knock::Upgrade(program, Caller(caller)))),
        (Some(TAKE_OVER), None) => Ok(Some(Knock::TakeOver(caller))),
        _ => {
            Caller(caller).failed("this monitor does not know such a request");
            Err(io::Error::new(io::ErrorKind::InvalidData, "it wants something unknown"))
        }
    }
}

/// Who connected, as it was then. Its process is 0 where it has no number in this namespace of processes.
fn credentials(caller: &UnixStream) -> io::Result<libc::ucred> {
    let mut who = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; `who` has the bytes that `len` says and is valid
    // whatever is written there, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            caller.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    if got == 0 { Ok(who) } else { Err(io::Error::last_os_error()) }
}

/// Has this process been started by this monitor, or by the program that it was before?
fn is_child(pid: libc::pid_t) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Pid::from_raw(pid).is_some_and(|pid| waitid(WaitId::Pid(pid), options).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn who_asks_is_known() {
        let (a, _b) = UnixStream::pair().unwrap();
        let who = credentials(&a).unwrap();
        assert_eq!(who.uid, rustix::process::geteuid().as_raw());
        assert_eq!(who.pid, std::process::id() as i32);
        assert!(!is_child(who.pid));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(is_child(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn said(line: &[u8]) -> (io::Result<Option<Knock>>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(line).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let heard = hear(ours);
        let mut answer = String::new();
        if !matches!(heard, Ok(Some(_))) {
            theirs.read_to_string(&mut answer).unwrap();
        }
        (heard, answer)
    }

    #[test]
    fn only_fixed_requests_are_heard() {
        assert!(matches!(said(b"take-over 1\n").0, Ok(Some(Knock::TakeOver(_)))));
        assert!(matches!(said(b"").0, Ok(None)));
        // Without a program there is nothing to become.
        for bad in [&b"upgrade 1\n"[..], b"take-over 2\n", b"take-over 1", b"\n", &[0xff; LONGEST]] {
            let (heard, answer) = said(bad);
            assert!(heard.is_err() && answer.starts_with("failed "), "{bad:?}: {answer}");
        }
    }
}
