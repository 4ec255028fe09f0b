//! Running the system's programs, for no longer than they may take.
//!
//! They are run without a shell and with a short input. One that does not end (the kernel's rules are locked by
//! somebody, there are too many to list, its disk is gone) is killed: whoever waits for it holds the state of the
//! control thread.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a program may take. A run takes some 5 ms, a listing of 10,000 rules some 200 ms.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Where system programs are, which a service often lacks in its PATH.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Bytes read at once: what a pipe holds.
const CHUNK: usize = 65_536;

/// Finds a program by name, in PATH and among those of the system.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from));
    directories.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs a program to its end, with `input` on its standard input.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::TimedOut`] when it did not end within [`LIMIT`] and was killed.
pub(super) fn run<A: AsRef<OsStr>>(program: PathBuf, args: &[A], input: Option<&[u8]>) -> io::Result<Output> {
    run_for(LIMIT, program, args, input)
}

fn run_for<A: AsRef<OsStr>>(
    limit: Duration,
    program: PathBuf,
    args: &[A],
    input: Option<&[u8]>,
) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let exchanged = Exchange::new(&mut child, input.unwrap_or_default())
        .and_then(|mut exchange| exchange.finish(Instant::now() + limit).map(|()| exchange));
    if exchanged.is_err() {
        // It may have ended this moment, which is as good.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let exchange = exchanged.map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => io::Error::new(e.kind(), format!("it did not end within {limit:?}")),
        _ => e,
    })?;
    // A program that gave up before it had read everything says why on its standard error.
    match exchange.refused {
        Some(e) if status.success() => Err(e),
        _ => Ok(Output { status, stdout: exchange.stdout.got, stderr: exchange.stderr.got }),
    }
}

/// What goes to a program and comes from it, without waiting for one of the pipes only.
struct Exchange<'a> {
    stdin: Option<ChildStdin>,
    input: &'a [u8],
    refused: Option<io::Error>,
    stdout: Stream,
    stderr: Stream,
    /// Tells of the program's end, where the kernel has such descriptors (Linux 5.3).
    ended: Option<OwnedFd>,
}

/// One of the program's outputs.
struct Stream {
    pipe: Option<Box<dyn Pipe>>,
    got: Vec<u8>,
}

trait Pipe: Read + AsFd {}
impl<T: Read + AsFd> Pipe for T {}

impl Stream {
    fn new(pipe: Option<impl Pipe + 'static>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe: pipe.map(|pipe| Box::new(pipe) as Box<dyn Pipe>), got: Vec::new() })
    }

    /// Takes what is there.
    fn drain(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.got.extend(chunk.iter().take(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl<'a> Exchange<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> io::Result<Self> {
        let stdin = child.stdin.take();
        if let Some(stdin) = &stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            stdin,
            input,
            refused: None,
            stdout: Stream::new(child.stdout.take())?,
            stderr: Stream::new(child.stderr.take())?,
            // Ours until we have waited for it, so the number is nobody else's.
            ended: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
        })
    }

    /// Goes on until the program has ended, or closed both its outputs where its end cannot be seen.
    fn finish(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.feed();
            // In this order: what it wrote before it ended is there when its end is seen.
            let ended = self.wait(deadline)?;
            self.stdout.drain()?;
            self.stderr.drain()?;
            if ended || self.ended.is_none() && self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
                break;
            }
        }
        if !self.input.is_empty() && self.refused.is_none() {
            self.refused = Some(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Writes what the program takes now.
    fn feed(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            match stdin.write(self.input) {
                _ if self.input.is_empty() => self.stdin = None,
                Ok(n) => self.input = self.input.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => (self.refused, self.stdin) = (Some(e), None),
            }
        }
    }

    /// Waits for something to do; true when the program has ended.
    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(4);
        // First, to be found again.
        fds.extend(self.ended.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        for stream in [&self.stdout, &self.stderr] {
            fds.extend(
                stream.pipe.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)),
            );
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&left)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(self.ended.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(limit: Duration, script: &str, input: Option<&[u8]>) -> io::Result<Output> {
        run_for(limit, find("sh").unwrap(), &["-c", script], input)
    }

    #[test]
    fn what_goes_in_and_comes_out() {
        assert_eq!(find("no-such-program"), None);
        let output = run(find("cat").unwrap(), &[] as &[&str], Some(b"text")).unwrap();
        assert_eq!(output.stdout, b"text");
        // More than the pipes hold, both ways at once and on both outputs.
        let big = vec![b'x'; 1 << 20];
        let output = sh(LIMIT, "tee /dev/stderr; echo end; exit 3", Some(&big)).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (big.len() + 4, big.len()));
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(sh(LIMIT, "cat", None).unwrap().stdout, b"");
    }

    #[test]
    fn a_program_that_does_not_read_on_is_no_broken_pipe() {
        let big = vec![b'x'; 1 << 20];
        let output = run(find("false").unwrap(), &[] as &[&str], Some(&big)).unwrap();
        assert!(!output.status.success());
        let e = run(find("true").unwrap(), &[] as &[&str], Some(&big)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::BrokenPipe, "it claims to have done what it never read");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        for stuck in ["exec sleep 1000", "exec sleep 1000 <&- >&- 2>&-", "cat >/dev/null; exec sleep 1000"] {
            let script = format!("echo $$ > {}; {stuck}", pid.display());
            let start = Instant::now();
            let e = sh(Duration::from_millis(200), &script, Some(b"text")).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::TimedOut, "{stuck}: {e}");
            assert!(e.to_string().contains("did not end within 200ms"), "{e}");
            assert!(start.elapsed() < Duration::from_secs(5), "{stuck}");
        }
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "it is left, dead or alive");
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let start = Instant::now();
        let output = sh(LIMIT, "echo said; sleep 8 & exit 0", None).unwrap();
        assert_eq!(output.stdout, b"said\n");
        assert!(start.elapsed() < Duration::from_secs(5), "its child has the pipe");
    }
}
