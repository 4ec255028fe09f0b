//! The switch process of a monitor that was killed.
//!
//! It is killed with its monitor, and is not gone at once: its descriptors are closed one after the other, and as long as
//! it has them the next daemon is refused the sockets and the devices. Who it is, a file beside the control socket says,
//! which the monitor writes for each process that it starts: `PID START MONITOR`. The second is when that process was
//! started as `/proc/PID/stat` has it, because process ids are used again; the third is the monitor's process id: as long
//! as that is its parent, nobody was killed, and there is nothing to wait for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Which of the fields behind the name in `/proc/PID/stat` are the parent and the time of the start.
const PARENT: usize = 1;
const START: usize = 19;

/// The file.
#[derive(Clone, Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// That of the daemon with this control socket.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(".switch-pid");
        Self(path.into())
    }

    /// Remembers a process that was started. Without the file a start after a kill may take longer.
    pub fn note(&self, pid: u32) {
        let (_, start) = parent_and_start(pid).unwrap_or_default();
        let line = format!("{pid} {start} {}\n", std::process::id());
        if let Err(e) = std::fs::write(&self.0, line) {
            tracing::warn!("{}: {e}", self.0.display());
        }
    }

    /// Removes the file, when that process is gone.
    pub fn forget(&self) {
        // One that stays names a process that is not there.
        let _ = std::fs::remove_file(&self.0);
    }

    /// Waits until the process that was remembered last is gone, or for as long as `patience`; false if it is still there.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let Ok(line) = std::fs::read_to_string(&self.0) else { return true };
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[pid, start, monitor] = words.as_slice() else { return true };
        pid.parse().map_or(true, |pid: u32| gone(pid, start, monitor, patience).unwrap_or(true))
    }
}

/// Waits for the end of the process that was started then and whose monitor is no more.
fn gone(pid: u32, start: &str, monitor: &str, patience: Duration) -> io::Result<bool> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let process = match pidfd_open(id, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    };
    // Asked once the descriptor is there, so that it is about the same process.
    match parent_and_start(pid) {
        Some((parent, began)) if began == start && parent != monitor => {}
        _ => return Ok(true),
    }
    let limit = Instant::now() + patience;
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Who has started a process, and when, in ticks since the machine's start.
fn parent_and_start(pid: u32) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have anything in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(((*fields.get(PARENT)?).to_owned(), (*fields.get(START)?).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, kill_process};
    use std::process::Command;

    #[test]
    fn waits_for_the_process_that_was_noted_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = PidFile::beside(&dir.path().join("swd.sock"));
        let at_once = Duration::ZERO;
        assert!(file.wait(at_once), "nothing was noted");
        // One that has lost its parent.
        let line = "sleep 60 >/dev/null 2>&1 & echo $!";
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        file.note(pid.unsigned_abs());
        assert!(!file.wait(at_once), "it runs");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| file.wait(Duration::from_secs(60)));
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            assert!(waiting.join().unwrap());
        });
        assert!(file.wait(at_once));
        // One that has its parent yet.
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        file.note(child.id());
        assert!(file.wait(at_once));
        child.kill().unwrap();
        child.wait().unwrap();
        // Another process that has its id by now.
        std::fs::write(&file.0, format!("{} 1 1\n", std::process::id())).unwrap();
        assert!(file.wait(at_once));
        for nonsense in ["", "x y z", "-1 3 1", "99999999999 2 1", "7"] {
            std::fs::write(&file.0, nonsense).unwrap();
            assert!(file.wait(at_once), "{nonsense:?}");
        }
        file.forget();
        assert!(!file.0.exists());
    }
}
