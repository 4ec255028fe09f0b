//! A service manager for one daemon, as far as the daemon can tell: it listens at `NOTIFY_SOCKET`, keeps descriptors, and
//! hands them to the next process in the daemon's place. Written after systemd's own rules (systemd.service(5),
//! sd_pid_notify_with_fds(3), sd_listen_fds(3)), so that what works here works there.

use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::cmd::Cmd;
use crate::error::{Context, Error, Result};
use crate::wait;

/// How often the daemon has to show signs of life. It does so three times as often.
pub const WATCHDOG: Duration = Duration::from_millis(1500);
/// Most descriptors of a datagram (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;
/// The process id is known only after the fork, and has to be in the environment.
const WITH_PID: &str = "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$0\" \"$@\"";
/// For states that are reached in milliseconds on a machine with nothing else to do.
const SOON: Duration = Duration::from_secs(10);

/// What the daemon has said.
#[derive(Debug, Default)]
struct Said {
    kept: Vec<(String, OwnedFd)>,
    /// Names of descriptors that were handed over without `FDPOLL=0`.
    polled: BTreeSet<String>,
    ready: u64,
    stopping: u64,
    alive: u64,
    status: String,
}

/// The service manager. It ends when dropped.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    said: Arc<Mutex<Said>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Manager {
    /// Starts one that listens in a directory.
    pub fn start(dir: &Path) -> Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).context(path.display())?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (said, stop) = (Arc::<Mutex<Said>>::default(), Arc::new(AtomicBool::new(false)));
        let (hears, stopped) = (said.clone(), stop.clone());
        let listener = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                if let Some((text, fds)) = receive(&socket)
                    && let Ok(mut said) = hears.lock()
                {
                    said.hear(&text, fds);
                }
            }
        });
        Ok(Self { path, said, stop, listener: Some(listener) })
    }

    /// A command as it starts the daemon: with its words, and all that it has kept.
    pub(crate) fn prepare(&self, cmd: Cmd) -> Result<Cmd> {
        let said = self.said()?;
        let names: Vec<&str> = said.kept.iter().map(|(name, _)| name.as_str()).collect();
        let mut cmd = cmd
            .behind(&["sh", "-c", WITH_PID])
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        if !names.is_empty() {
            cmd = cmd.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let fds = said.kept.iter().map(|(_, fd)| fd.try_clone()).collect::<std::io::Result<Vec<_>>>();
        Ok(cmd.descriptors(fds?))
    }

    /// Names of the descriptors that it keeps, sorted; each as often as there are descriptors.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.said()?.kept.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        Ok(names)
    }

    /// How often the daemon was ready, and how often it said that it stops.
    pub fn ready_and_stopping(&self) -> Result<(u64, u64)> {
        let said = self.said()?;
        Ok((said.ready, said.stopping))
    }

    /// What the daemon says of itself.
    pub fn status(&self) -> Result<String> {
        Ok(self.said()?.status.clone())
    }

    /// Fails if a descriptor was deposited in a way that would lose it as soon as its device is down.
    pub fn check_deposits(&self) -> Result<()> {
        let said = self.said()?;
        crate::ensure!(said.polled.is_empty(), "deposited without FDPOLL=0: {:?}", said.polled);
        Ok(())
    }

    /// Waits until the daemon was ready so often.
    pub fn is_ready(&self, times: u64) -> Result<()> {
        wait::until_ok(&format!("READY=1 for the {times}. time"), SOON, || {
            let ready = self.said()?.ready;
            if ready == times { Ok(()) } else { Err(Error::failed(format!("{ready} times"))) }
        })
    }

    /// Signs of life within a time. They must not be rarer than twice in [`WATCHDOG`], a loaded machine aside.
    pub fn alive(&self, during: Duration) -> Result<u64> {
        let before = self.said()?.alive;
        let end = Instant::now() + during;
        wait::until("the time is over", during * 2, || (Instant::now() >= end).then_some(()))?;
        Ok(self.said()?.alive - before)
    }

    fn said(&self) -> Result<std::sync::MutexGuard<'_, Said>> {
        self.said.lock().map_err(|_| Error::failed("the service manager panicked"))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(listener) = self.listener.take() {
            // It never panics; joining only makes sure that it is gone.
            let _ = listener.join();
        }
    }
}

impl Said {
    fn hear(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let says = |line: &str| text.lines().any(|l| l == line);
        self.ready += u64::from(says("READY=1"));
        self.stopping += u64::from(says("STOPPING=1"));
        self.alive += u64::from(says("WATCHDOG=1"));
        if let Some(status) = value("STATUS") {
            status.clone_into(&mut self.status);
        }
        let name = value("FDNAME").unwrap_or("stored").to_owned();
        if says("FDSTOREREMOVE=1") {
            self.kept.retain(|(other, _)| *other != name);
        } else if says("FDSTORE=1") {
            if !says("FDPOLL=0") {
                self.polled.insert(name.clone());
            }
            for fd in fds {
                // What is there already is closed, whatever it is called.
                if !self.kept.iter().any(|(_, kept)| same(kept, &fd)) {
                    self.kept.push((name.clone(), fd));
                }
            }
        }
    }
}

/// Are these the same open file?
fn same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let (pid, file) = (std::process::id(), 0);
    // SAFETY: kcmp(2) with KCMP_FILE compares two descriptors of this process and touches no memory of it.
    unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, file, a.as_raw_fd(), b.as_raw_fd()) == 0 }
}

/// One datagram; `None` if none came.
fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds.extend(list);
        }
    }
    Some((String::from_utf8_lossy(bytes.get(..got)?).into_owned(), fds))
}
