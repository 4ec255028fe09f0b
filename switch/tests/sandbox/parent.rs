//! Starting a case and looking at it.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::{CASE, Who};

/// An ordinary user.
pub const NOBODY: u32 = 65_534;
/// Whom the sandbox becomes when it was root.
pub const BECOMES: (u32, u32) = (65_532, 65_531);

/// A running case; killed when dropped.
pub struct Case {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a case said about one measure.
#[derive(Debug)]
pub struct Said {
    pub measure: String,
    pub achieved: bool,
    pub detail: String,
}

/// Can this machine run a case as this user? A test that cannot says so loudly.
pub fn possible(who: Who) -> bool {
    let root = rustix::process::geteuid().is_root();
    let namespaces = || {
        let mut command = Command::new("unshare");
        command.args(["-Urn", "true"]);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.status().is_ok_and(|s| s.success())
    };
    let possible = match who {
        Who::Root => root,
        Who::Namespace => namespaces(),
        Who::User => true,
    };
    if !possible {
        eprintln!("SKIPPED: this machine cannot run the case as {who:?}");
    }
    possible
}

impl Case {
    /// Starts a case in a directory that it may use.
    pub fn start(name: &str, who: Who, dir: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = match who {
            Who::Root | Who::User => Command::new(program),
            Who::Namespace => {
                let mut command = Command::new("unshare");
                command.arg("-Urn").arg(program);
                command
            }
        };
        if who != Who::Root && rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.env(CASE, name).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, stdin, stdout }
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// What it says up to `ready`.
    pub fn level(&mut self) -> Vec<Said> {
        let mut level = Vec::new();
        for line in self.stdout.by_ref() {
            let line = line.unwrap();
            if line == "ready" {
                return level;
            }
            let mut words = line.splitn(3, '\t').map(str::to_owned);
            let mut word = || words.next().unwrap_or_else(|| panic!("a measure, not {line:?}"));
            level.push(Said { measure: word(), achieved: word() == "true", detail: word() });
        }
        panic!("the case ended before it was ready: {:?}", self.process.wait());
    }

    /// Lets it go on, and waits for its end.
    pub fn end(mut self) -> ExitStatus {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"go\n");
        }
        let rest: Vec<String> = self.stdout.by_ref().map(Result::unwrap).collect();
        let status = self.process.wait().unwrap();
        if !rest.is_empty() {
            eprintln!("{}", rest.join("\n"));
        }
        status
    }

    /// A field of the `status` file of each thread.
    pub fn threads(&self, field: &str) -> Vec<String> {
        let mut values = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap() {
            let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let value = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
            values.push(value.unwrap_or_else(|| panic!("{field} in {text}")).trim().to_owned());
        }
        values
    }
}

/// The signal that ended it.
pub fn signal(status: ExitStatus) -> Option<i32> {
    status.signal()
}

/// A directory that every user can reach, with one below that belongs to whoever runs the case in the end.
pub fn directory(who: Who) -> tempfile::TempDir {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["own", "read", "outside"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), name).unwrap();
        // Nothing but Landlock keeps the case out of these.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::set_permissions(path.join("file"), std::fs::Permissions::from_mode(0o666)).unwrap();
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = if who == Who::Root { BECOMES } else { (NOBODY, NOBODY) };
            chown(&path, Some(uid), Some(gid)).unwrap();
            chown(path.join("file"), Some(uid), Some(gid)).unwrap();
        }
    }
    dir
}
