//! The protocol of a service manager (sd_notify(3), sd_listen_fds(3)): it is told in datagrams how the daemon is, it
//! keeps descriptors for it, and hands them to the next one in its place.
//!
//! A few words of environment and one socket, so no library. What is not there is no error: a daemon started by hand
//! has nobody to tell. Words are read once, at the start; programs that this process runs are not to have them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, socket_with, sockopt,
};
use rustix::pipe::{PipeFlags, pipe_with};

/// Words that are for the process that was started, and for no process that it starts.
pub const WORDS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// A service manager that does not read for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same, where we have to wait.
const BARRIER: Duration = Duration::from_secs(5);
/// Most descriptors of one datagram. The kernel would take 253; a port has two.
pub const MAX_FDS: usize = 4;

/// Somebody who wants to know.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    to: SocketAddrUnix,
}

impl Notifier {
    /// Whoever listens at `NOTIFY_SOCKET`; `None` where nobody does.
    ///
    /// # Errors
    /// The word is no address of a Unix socket, or there are no descriptors.
    pub fn from_env() -> io::Result<Option<Self>> {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(word) => Self::new(word.as_encoded_bytes()).map(Some),
            None => Ok(None),
        }
    }

    /// Whoever listens at a path, or at an abstract name, which begins with `@`.
    ///
    /// # Errors
    /// As [`Notifier::from_env`].
    pub fn new(word: &[u8]) -> io::Result<Self> {
        let to = match word {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(word)?,
            _ => {
                let text = format!("NOTIFY_SOCKET {:?} is no path", String::from_utf8_lossy(word));
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, to })
    }

    /// Says something, such as `READY=1`; at most [`MAX_FDS`] descriptors go along.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` when nobody has read for a second.
    pub fn say(&self, words: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one datagram"));
        }
        let parts = [IoSlice::new(words.as_bytes())];
        loop {
            match sendmsg_addr(&self.socket, &self.to, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }
}

impl Notifier {
    /// Waits until all that was said before has been heard (sd_notify_barrier(3), since systemd 246), for a while: older
    /// ones close the descriptor unheard, which is as good.
    fn has_heard(&self) -> io::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        self.say("BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        let limit = Timespec { tv_sec: BARRIER.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&limit))?;
        Ok(())
    }
}

/// Says something to whoever wants to know. One who does not listen is no reason to end.
pub fn tell(words: &str) {
    let told = Notifier::from_env().and_then(|to| to.map_or(Ok(()), |to| to.say(words, &[])));
    if let Err(e) = told {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}

/// How often the service manager wants to hear `WATCHDOG=1` from this process at least; `None`: it does not care.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let word = |name: &str| std::env::var(name).ok();
    // Without the second word it is meant for whoever reads it.
    if word("WATCHDOG_PID").is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    interval(&word("WATCHDOG_USEC")?)
}

fn interval(microseconds: &str) -> Option<Duration> {
    microseconds.parse().ok().filter(|us| *us > 0).map(Duration::from_micros)
}

/// Takes the descriptors that were kept for this process, each with its name. To be called once, before anything else
/// opens descriptors.
///
/// # Errors
/// The environment says that there are descriptors, and there are not.
pub fn take_descriptors() -> io::Result<Vec<(String, OwnedFd)>> {
    let word = |name: &str| std::env::var(name).ok();
    if word("LISTEN_PID") != Some(std::process::id().to_string()) {
        return Ok(Vec::new());
    }
    let count: RawFd = word("LISTEN_FDS").and_then(|n| n.parse().ok()).unwrap_or(0);
    let names = word("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut taken = Vec::new();
    for number in FIRST..FIRST.saturating_add(count.max(0)) {
        // SAFETY: only borrowed for this look; a number that is no descriptor is answered with an error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(borrowed)
            .map_err(|e| io::Error::other(format!("LISTEN_FDS is {count}, but descriptor {number}: {e}")))?;
        fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
        // SAFETY: it is open, and handed to this process to own; each number is taken once, before anything else
        // opens descriptors.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        debug_assert_eq!(fd.as_raw_fd(), number);
        taken.push((names.next().unwrap_or_default().to_owned(), fd));
    }
    Ok(taken)
}

/// Closes the descriptors that were kept for this process, which has no use for them, and has them kept no longer: a
/// device that somebody holds cannot be attached to.
///
/// # Errors
/// As [`take_descriptors`].
pub fn decline_descriptors() -> io::Result<()> {
    let taken = take_descriptors()?;
    let (false, Some(manager)) = (taken.is_empty(), Notifier::from_env()?) else { return Ok(()) };
    for (name, fd) in taken {
        drop(fd);
        manager.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])?;
    }
    manager.has_heard()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn words_and_descriptors_come_in_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        notifier.say("FDSTORE=1\nFDNAME=a", &[files[0].as_fd(), files[1].as_fd()]).unwrap();
        let mut bytes = [0; 100];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&manager, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                fds.extend(list);
            }
        }
        assert_eq!(&bytes[..got.bytes], b"FDSTORE=1\nFDNAME=a");
        let inode = |file: std::fs::File| file.metadata().unwrap().ino();
        let got: Vec<u64> = fds.into_iter().map(|fd| inode(fd.into())).collect();
        assert_eq!(got, files.map(inode));
    }

    #[test]
    fn abstract_names_are_names() {
        let name = format!("swd-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(format!("@{name}").as_bytes()).unwrap().say("READY=1", &[]).unwrap();
        let mut bytes = [0; 100];
        let got = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..got], b"READY=1");
    }

    #[test]
    fn what_is_no_address_is_an_error() {
        assert!(Notifier::new(b"relative").is_err());
        assert!(Notifier::new(b"").is_err());
        assert!(Notifier::new(b"/nobody/listens/here").unwrap().say("READY=1", &[]).is_err());
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("10000000"), Some(Duration::from_secs(10)));
        for none in ["", "0", "-1", "soon"] {
            assert_eq!(interval(none), None, "{none}");
        }
    }
}
