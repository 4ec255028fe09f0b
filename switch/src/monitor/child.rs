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

use super::heartbeat::Heartbeat;
use super::leftover::PidFile;

/// Says that this is the switch process, by the monitor's process id.
const MONITOR: &str = "SWD_MONITOR_PID";
/// How often one was started before.
const RESTARTS: &str = "SWD_RESTARTS";
/// How the one before ended.
const LAST_END: &str = "SWD_LAST_END";

/// What `ps` calls it.
pub const NAME: &str = "swd-switch";

const CHANNEL: RawFd = 3;
const LISTENER: RawFd = 4;
const HEARTBEAT: RawFd = 5;
const MEMORY: RawFd = 6;
const CONFIG: RawFd = 7;

/// What is handed over.
#[derive(Debug)]
pub struct Handed {
    /// To the monitor.
    pub channel: UnixStream,
    /// Clients connect here.
    pub listener: UnixListener,
    /// See [`Heartbeat`].
    pub heartbeat: OwnedFd,
    /// What is to outlive the process.
    pub memory: OwnedFd,
    /// See [`Birth::config`].
    pub config: OwnedFd,
}

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
    pub fn start(
        &self,
        handed: Handed,
        restarts: u64,
        last_end: Option<&str>,
    ) -> io::Result<tokio::process::Child> {
        let mut command = std::process::Command::new(&self.program);
        command.arg0(NAME).args(&self.args).env(MONITOR, std::process::id().to_string());
        command.env(RESTARTS, restarts.to_string()).env_remove("NOTIFY_SOCKET");
        match last_end {
            Some(text) => command.env(LAST_END, text),
            None => command.env_remove(LAST_END),
        };
        let mapping = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
        command
            .fd_mappings(vec![
                mapping(handed.channel.into(), CHANNEL),
                mapping(handed.listener.into(), LISTENER),
                mapping(handed.heartbeat, HEARTBEAT),
                mapping(handed.memory, MEMORY),
                mapping(handed.config, CONFIG),
            ])
            .map_err(|e| io::Error::other(e.to_string()))?;
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        if let Some(pid) = child.id() {
            self.pid_file.note(pid);
        }
        Ok(child)
    }
}

/// What the switch process finds.
#[derive(Debug)]
pub struct Inherited {
    /// The monitor's process.
    pub monitor: u32,
    /// How often a switch process was started before this one.
    pub restarts: u64,
    /// How the one before ended.
    pub last_end: Option<String>,
    /// To the monitor.
    pub channel: UnixStream,
    /// Clients connect here.
    pub listener: UnixListener,
    /// See [`Heartbeat`].
    pub heartbeat: Heartbeat,
    /// What is to outlive the process.
    pub memory: OwnedFd,
    /// See [`Birth::config`].
    pub config: String,
}

impl Inherited {
    /// Takes what the monitor has left; `None` in a process that no monitor has started. To be called once, first of
    /// all: descriptors are known by their numbers.
    ///
    /// # Errors
    /// The environment says there are descriptors, and there are not.
    pub fn take() -> io::Result<Option<Self>> {
        let word = |name: &str| std::env::var(name).ok();
        let Some(monitor) = word(MONITOR).and_then(|pid| pid.parse().ok()) else { return Ok(None) };
        // Somebody's environment may have the word without there being a monitor.
        if std::os::unix::process::parent_id() != monitor {
            return Err(io::Error::other(format!(
                "{MONITOR} is {monitor}, and that is not the parent: unset it"
            )));
        }
        Ok(Some(Self {
            monitor,
            restarts: word(RESTARTS).and_then(|n| n.parse().ok()).unwrap_or(0),
            last_end: word(LAST_END),
            channel: take(CHANNEL)?.into(),
            listener: take(LISTENER)?.into(),
            heartbeat: Heartbeat::from_fd(take(HEARTBEAT)?),
            memory: take(MEMORY)?,
            config: text_of(&take(CONFIG)?.into())?,
        }))
    }
}

/// A text that another process can read.
///
/// # Errors
/// No memory or descriptors.
pub fn text(text: &str) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("swd-config", MemfdFlags::CLOEXEC)?);
    file.write_all_at(text.as_bytes(), 0)?;
    Ok(file.into())
}

fn text_of(file: &File) -> io::Result<String> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only borrowed for this look; a number that is no descriptor is answered with an error.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|e| io::Error::other(format!("descriptor {number}: {e}")))?;
    // Programs that this process runs are not to have them.
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and put there by the monitor for this process to own; it is taken once, before anything
    // else opens descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
