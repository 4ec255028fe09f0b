//! Running other programs without a shell: arguments as a list, always with a time limit, output
//! collected, errors that quote the whole command and what it said.
//!
//! Programs may run inside a network namespace. Long-lived ones become a [`Daemon`], which is
//! killed by its own pid and waited for when dropped.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::enter::HOME;
use crate::error::{Context, Error, Result};
use crate::netns::Ns;

/// Time limit of a command that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// At most this much of each output stream is kept.
const MAX_OUTPUT: u64 = 64 * 1024 * 1024;

/// A command to be run, built up step by step.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    netns: Option<Arc<OwnedFd>>,
    inside: Option<Arc<Inside>>,
    stdin: Option<Vec<u8>>,
    descriptors: Vec<Arc<OwnedFd>>,
    timeout: Duration,
}

/// The namespaces of a machine besides its network's, see [`crate::runtimes::machine`].
#[derive(Debug)]
pub(crate) struct Inside {
    pub mount: OwnedFd,
    pub pids: OwnedFd,
    pub cgroup: OwnedFd,
    /// Files to which a process writes `0` to join the machine's cgroups.
    pub doors: Vec<OwnedFd>,
}

impl Inside {
    /// Moves the calling process, which must have no other thread, to the machine. Its process
    /// ids are another matter: they are given at birth, see [`Cmd::spawn`].
    fn enter(&self) -> std::io::Result<()> {
        for door in &self.doors {
            rustix::io::write(door, b"0")?;
        }
        move_into_link_name_space(self.cgroup.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
        move_into_link_name_space(self.mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
        Ok(())
    }
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output (invalid UTF-8 replaced).
    pub stdout: String,
    /// Standard error (invalid UTF-8 replaced).
    pub stderr: String,
}

impl Cmd {
    /// A command by name (looked up in PATH) or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            netns: None,
            inside: None,
            stdin: None,
            descriptors: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it inside a network namespace.
    pub fn within(mut self, ns: &Ns) -> Self {
        self.netns = Some(ns.fd());
        self
    }

    /// Runs it on a machine.
    pub(crate) fn inside(mut self, inside: &Arc<Inside>) -> Self {
        self.inside = Some(inside.clone());
        self
    }

    /// Puts another program in front, which is to run this one: its words come before.
    pub fn behind<S: AsRef<OsStr>>(mut self, words: &[S]) -> Self {
        let mut all = words.iter().map(|word| word.as_ref().to_owned());
        if let Some(first) = all.next() {
            let program = std::mem::replace(&mut self.program, first);
            let own = std::mem::take(&mut self.args);
            self.args = all.chain([program]).chain(own).collect();
        }
        self
    }

    /// A long-lived program gets these descriptors, from number 3 on.
    pub fn descriptors(mut self, fds: Vec<OwnedFd>) -> Self {
        self.descriptors = fds.into_iter().map(Arc::new).collect();
        self
    }

    /// Gives it this text on standard input.
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// Changes the time limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The command line as one would type it, for messages only.
    pub fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                line.push_str(&format!("'{arg}'"));
            } else {
                line.push_str(&arg);
            }
        }
        line
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.resolved().unwrap_or_else(|| self.program.clone().into()));
        command.args(&self.args);
        // Programs of the lab write their dot files into the sandbox, never into a real home; and
        // a lab program started from a lab program begins its own sandbox.
        command.env("HOME", HOME).env_remove("LAB_STAGE").env_remove("LAB_KEEP_FD");
        // Ordinary users often lack the directories of system programs.
        if let Ok(path) = std::env::join_paths(crate::install::directories()) {
            command.env("PATH", path);
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let (netns, inside) = (self.netns.clone(), self.inside.clone());
        // SAFETY: the closure runs between fork and exec. It makes system calls only, on a local
        // and on file descriptors that the closure itself keeps open; it allocates nothing and
        // takes no lock.
        unsafe {
            command.pre_exec(move || {
                // The sandbox blocks the signals that end it; others must not inherit that.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                if let Some(netns) = &netns {
                    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
                }
                if let Some(inside) = &inside {
                    inside.enter()?;
                }
                Ok(())
            });
        }
        command
    }

    /// Where the program is. Looked up by ourselves: a directory in PATH that this user cannot
    /// read would otherwise turn "not found" into "permission denied".
    fn resolved(&self) -> Option<PathBuf> {
        if self.program.as_encoded_bytes().contains(&b'/') {
            return Some(self.program.clone().into());
        }
        crate::install::find(self.program.to_str()?)
    }

    fn spawn(&self, mut command: Command) -> Result<Child> {
        if self.resolved().is_none() {
            let program = self.program.to_string_lossy();
            let hint = crate::install::hint(&program);
            return Err(Error::missing(format!(
                "cannot run {}: {program} is not installed ({hint})",
                self.line()
            )));
        }
        let spawned = match &self.inside {
            None => command.spawn(),
            Some(inside) => spawn_among(&inside.pids, &mut command),
        };
        spawned.map_err(|e| Error::failed(format!("cannot run {}: {e}", self.line())))
    }

    /// Runs it to its end and gives back whatever it said, also when it failed. Only a command
    /// that cannot be started, or that exceeds its time (it is killed), is an error.
    pub fn output(&self) -> Result<Output> {
        let mut command = self.command();
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), self.stdin.clone()) {
            std::thread::spawn(move || {
                // A program that ends before it has read everything is judged by its exit code.
                let _ = pipe.write_all(&text);
            });
        }
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let status = match wait_for_exit(&mut child, self.timeout) {
            Ok(Some(status)) => status,
            Ok(None) => {
                end(&mut child);
                let said = text_of(stderr);
                return Err(Error::failed(format!(
                    "{}: did not end within {:?}, killed; it said: {}",
                    self.line(),
                    self.timeout,
                    said.trim()
                )));
            }
            Err(e) => {
                end(&mut child);
                return Err(e).context(self.line());
            }
        };
        Ok(Output { code: code_of(status), stdout: text_of(stdout), stderr: text_of(stderr) })
    }

    /// Runs it to its end; anything but exit code 0 is an error. Gives back standard output.
    pub fn run(&self) -> Result<String> {
        let output = self.output()?;
        if output.code != 0 {
            let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
            return Err(Error::failed(format!(
                "{}: exit code {}: {}",
                self.line(),
                output.code,
                said.trim()
            )));
        }
        Ok(output.stdout)
    }

    /// Runs it and reads standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        let text = self.run()?;
        serde_json::from_str(&text).context(format!("output of {}", self.line()))
    }

    /// Starts it as a long-lived program whose output goes to the file `log` (appended).
    pub fn daemon(&self, name: &str, log: &Path) -> Result<Daemon> {
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
        let mut command = self.command();
        command.stdin(Stdio::null());
        command.stdout(open().context(log.display())?).stderr(open().context(log.display())?);
        let mut mappings = Vec::new();
        for (child_fd, fd) in (3..).zip(&self.descriptors) {
            mappings.push(FdMapping { parent_fd: fd.try_clone()?, child_fd });
        }
        if !mappings.is_empty() {
            command.fd_mappings(mappings).map_err(|e| Error::failed(e.to_string()))?;
        }
        crate::diag::remember_log(name, log);
        let child = self.spawn(command)?;
        Ok(Daemon { name: name.to_owned(), line: self.line(), log: log.to_owned(), child })
    }
}

/// Starts a process with ids of another namespace. Children get theirs from the thread that starts
/// them, so a thread of its own goes there, and no other child is born abroad.
fn spawn_among(pids: &OwnedFd, command: &mut Command) -> std::io::Result<Child> {
    std::thread::scope(|scope| {
        let spawn = scope.spawn(|| {
            move_into_link_name_space(pids.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
            command.spawn()
        });
        spawn.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it panicked")))
    })
}

/// A long-lived child process. Dropping it kills it (SIGKILL, by pid) and waits for it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    line: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails if it has ended, quoting the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Error::failed(format!(
                "{} ({}) ended with {status}; its log ends with:\n{}",
                self.name,
                self.line,
                crate::diag::tail(&self.log)
            ))),
        }
    }

    /// Sends SIGTERM and waits; an error if it is still there after `limit`. Gives the exit code.
    pub fn terminate(&mut self, limit: Duration) -> Result<i32> {
        self.signal(Signal::TERM)?;
        match wait_for_exit(&mut self.child, limit)? {
            Some(status) => Ok(code_of(status)),
            None => Err(Error::failed(format!("{} ignored SIGTERM for {limit:?}", self.name))),
        }
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context(format!("kill {}", self.name))?;
        self.child.wait().context(format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Waits until it ends by itself; the exit code, or an error after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        match wait_for_exit(&mut self.child, limit)? {
            Some(status) => Ok(code_of(status)),
            None => Err(Error::failed(format!("{} ({}) did not end within {limit:?}", self.name, self.line))),
        }
    }

    /// Sends any signal; no error if the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal).context(format!("signal {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Both fail only when the process is gone already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits for the end of a child with a time limit; `None` when the limit passes first.
pub(crate) fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(child.try_wait()?),
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

type Collected = std::sync::mpsc::Receiver<Vec<u8>>;

fn collect(pipe: impl Read + Send + 'static) -> Collected {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error leaves what was read before it, which is all there is to show.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
        let _ = tx.send(bytes);
    });
    rx
}

/// The collected text. A grandchild that keeps the pipe open must not hang us: after the child's
/// end the reader gets two more seconds.
fn text_of(collected: Option<Collected>) -> String {
    let bytes = collected.and_then(|rx| rx.recv_timeout(Duration::from_secs(2)).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
