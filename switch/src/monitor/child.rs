//! How the switch process comes into being: this program once more, with descriptors at fixed numbers and a few words
//! in its environment.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use serde::{Deserialize, Serialize};

use super::heartbeat::Heartbeat;
use super::leftover::PidFile;
use super::process::Process;
use super::succession;
use crate::control::fs::MAX_FILE;

/// Says that this is the switch process, by the monitor's process id.
const MONITOR: &str = "SWD_MONITOR_PID";
/// What became of those before, as [`History`].
const RESTARTS: &str = "SWD_RESTARTS";
const UPGRADES: &str = "SWD_UPGRADES";
const LAST_END: &str = "SWD_LAST_END";
/// It is to use the last-known-good state.
const FALL_BACK: &str = "SWD_FALL_BACK";

/// What `ps` calls it.
pub const NAME: &str = "swd-switch";

const CHANNEL: RawFd = 3;
const LISTENER: RawFd = 4;
const HEARTBEAT: RawFd = 5;
const MEMORY: RawFd = 6;
const CONFIG: RawFd = 7;
const ORDERS: RawFd = 8;
const OUTBOX: RawFd = 9;
const STATE: RawFd = 10;
/// Descriptors that are to be known by the same number in the new process have a higher one.
pub const FREE: RawFd = 32;
/// Says that [`STATE`] is there.
const STANDBY: &str = "SWD_STANDBY";

/// What is handed over.
#[derive(Debug)]
pub struct Handed {
    /// To the monitor.
    pub channel: UnixStream,
    /// From the monitor, see [`super::orders`].
    pub orders: UnixStream,
    /// Clients connect here.
    pub listener: UnixListener,
    /// See [`Heartbeat`].
    pub heartbeat: OwnedFd,
    /// What is to outlive the process.
    pub memory: OwnedFd,
    /// See [`Birth::config`].
    pub config: OwnedFd,
    /// Where it leaves what is declared for one that takes over from it.
    pub outbox: OwnedFd,
    /// It is to use the last-known-good state.
    pub fall_back: bool,
    /// What is declared, in the format of the state file, where another process forwards that this one is to take over
    /// from.
    pub state: Option<OwnedFd>,
}

/// The switch processes of a monitor so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// How often one was started because another had ended.
    pub restarts: u64,
    /// How often one took over from another that was well.
    pub upgrades: u64,
    /// How the last one ended that was not told to.
    pub last_end: Option<String>,
}

/// How much sooner a switch process is ended than its monitor, in thousandths of the memory there is (proc(5),
/// `oom_score_adj`).
const SOONER: i32 = 200;

/// Starts switch processes.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The configuration file as the monitor has read it; empty if there is none. Somebody may be editing the file
    /// when the next process starts.
    pub config: String,
    /// Where the next monitor looks for who was started last.
    pub pid_file: PidFile,
}

impl Birth {
    /// Starts one.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(&self, handed: Handed, history: &History) -> io::Result<Process> {
        let mut command = std::process::Command::new(&self.program);
        command.arg0(NAME).args(&self.args).env(MONITOR, std::process::id().to_string());
        command.env(RESTARTS, history.restarts.to_string()).env(UPGRADES, history.upgrades.to_string());
        command.env_remove(STANDBY).env_remove(LAST_END).env_remove(FALL_BACK);
        if handed.fall_back {
            command.env(FALL_BACK, "1");
        }
        for word in crate::notify::WORDS {
            command.env_remove(word);
        }
        succession::forget(&mut command);
        if let Some(text) = &history.last_end {
            command.env(LAST_END, text);
        }
        let mapping = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
        let mut mappings = vec![
            mapping(handed.channel.into(), CHANNEL),
            mapping(handed.listener.into(), LISTENER),
            mapping(handed.heartbeat, HEARTBEAT),
            mapping(handed.memory, MEMORY),
            mapping(handed.config, CONFIG),
            mapping(handed.orders.into(), ORDERS),
            mapping(handed.outbox, OUTBOX),
        ];
        if let Some(state) = handed.state {
            command.env(STANDBY, "1");
            mappings.push(mapping(state, STATE));
        }
        command.fd_mappings(mappings).map_err(|e| io::Error::other(e.to_string()))?;
        let process = Process::spawn(&mut command)?;
        ends_first(process.id());
        Ok(process)
    }
}

/// Where memory runs out, the kernel ends a switch process before its monitor: one that dies is replaced within
/// milliseconds and costs no device, and the monitor holds what it is replaced with. Without `/proc` the kernel decides
/// by size alone, which is mostly the same.
fn ends_first(pid: u32) {
    let own =
        std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|s| s.trim().parse::<i32>().ok());
    if let Some(own) = own {
        let raised = own.saturating_add(SOONER).min(1000);
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), raised.to_string());
    }
}

/// What the switch process finds.
#[derive(Debug)]
pub struct Inherited {
    /// The monitor's process.
    pub monitor: u32,
    /// What became of those before.
    pub history: History,
    /// Those before ended over and over: use the last-known-good state.
    pub fall_back: bool,
    /// To the monitor.
    pub channel: UnixStream,
    /// From the monitor, see [`super::orders`].
    pub orders: UnixStream,
    /// Clients connect here.
    pub listener: UnixListener,
    /// See [`Heartbeat`].
    pub heartbeat: Heartbeat,
    /// What is to outlive the process.
    pub memory: OwnedFd,
    /// See [`Birth::config`].
    pub config: String,
    /// See [`Handed::outbox`].
    pub outbox: File,
    /// See [`Handed::state`].
    pub state: Option<Vec<u8>>,
}

impl Inherited {
    /// Takes what the monitor has left; `None` in a process that no monitor has started. To be called once, first of
    /// all: descriptors are known by their numbers.
    ///
    /// # Errors
    /// The environment says there are descriptors, and there are not.
    pub fn take() -> io::Result<Option<Self>> {
        let word = |name: &str| std::env::var(name).ok();
        let number = |name: &str| word(name).and_then(|n| n.parse().ok()).unwrap_or(0);
        let Some(monitor) = word(MONITOR).and_then(|pid| pid.parse().ok()) else { return Ok(None) };
        // Somebody's environment may have the word without there being a monitor.
        if std::os::unix::process::parent_id() != monitor {
            return Err(io::Error::other(format!(
                "{MONITOR} is {monitor}, and that is not the parent: unset it"
            )));
        }
        let history =
            History { restarts: number(RESTARTS), upgrades: number(UPGRADES), last_end: word(LAST_END) };
        let state = word(STANDBY).map(|_| bytes_of(&take(STATE)?.into())).transpose()?;
        Ok(Some(Self {
            monitor,
            history,
            fall_back: word(FALL_BACK).is_some(),
            channel: take(CHANNEL)?.into(),
            orders: take(ORDERS)?.into(),
            listener: take(LISTENER)?.into(),
            heartbeat: Heartbeat::from_fd(take(HEARTBEAT)?),
            memory: take(MEMORY)?,
            config: String::from_utf8(bytes_of(&take(CONFIG)?.into())?).map_err(io::Error::other)?,
            outbox: take(OUTBOX)?.into(),
            state,
        }))
    }
}

/// Bytes that another process can read.
///
/// # Errors
/// No memory or descriptors.
pub fn document(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("swd-document", MemfdFlags::CLOEXEC)?);
    rewrite(&file, bytes)?;
    Ok(file.into())
}

/// Puts these bytes in place of others.
///
/// # Errors
/// No memory.
pub fn rewrite(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(bytes, 0)
}

/// What [`document`] was made of.
///
/// # Errors
/// It is longer than a state file may be; those of reading.
pub fn bytes_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a document of {length} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Takes a descriptor that is known by its number.
///
/// # Errors
/// There is none.
pub(super) fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only borrowed for this look; a number that is no descriptor is answered with an error.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|e| io::Error::other(format!("descriptor {number}: {e}")))?;
    // Programs that this process runs are not to have them.
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and put there by the monitor for this process to own; it is taken once, before anything
    // else opens descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
