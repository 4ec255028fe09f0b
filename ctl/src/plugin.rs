//! Running a CNI plugin: the other half of the protocol, for `swctl cni run` and for the plugin itself, which runs
//! IPAM plugins.
//!
//! The plugin inherits our environment and standard error. It may end, or answer, without reading all of its
//! configuration.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A binary that is being replaced cannot be run for a moment. The runtimes' library tries as often, and this far
/// apart.
const BUSY_ATTEMPTS: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The plugin `kind` in the directories of a `CNI_PATH`. A kind with a directory in it is nowhere: it could lead
/// out of them.
#[must_use]
pub fn find(path: &str, kind: &str) -> Option<PathBuf> {
    if kind.is_empty() || kind.contains('/') || kind == "." || kind == ".." {
        return None;
    }
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(dir).join(kind))
        .find(|p| is_executable(p))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs a plugin to its end, with these variables besides our own and the configuration on its standard input.
/// There is no bound on the time: how long an IPAM plugin may take is its own and the runtime's affair.
///
/// # Errors
/// When it cannot be run. How it ended, and what it wrote, is in the output.
pub fn run<'a>(
    binary: &Path,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    config: &[u8],
) -> io::Result<Output> {
    let mut command = Command::new(binary);
    command.envs(variables).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = spawn(&mut command)?;
    let (stdin, config) = (child.stdin.take(), config.to_vec());
    // A thread, so that neither side waits for the other when both pipes are full.
    let feeder = std::thread::Builder::new().spawn(move || stdin.map(|mut stdin| stdin.write_all(&config)));
    let output = child.wait_with_output()?;
    // It ends with the plugin at the latest; what it could not write nobody wanted.
    let _ = feeder?.join();
    Ok(output)
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    command.spawn()
}

/// The error that a plugin printed, in the words of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// See the specification; from 100 on the plugin's own.
    pub code: u64,
    /// What went wrong.
    pub msg: String,
    /// More of it; may be empty.
    pub details: String,
}

/// The error of a plugin that failed; `None` when it printed none.
#[must_use]
pub fn refusal(output: &Output) -> Option<Refusal> {
    let said: Value = serde_json::from_slice(&output.stdout).ok()?;
    let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
    Some(Refusal { code: said["code"].as_u64()?, msg: text("msg"), details: text("details") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, mode: u32, body: &str) -> PathBuf {
        let path = dir.join(name);
        crate::atomic::write(&path, mode, format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
        path
    }

    #[test]
    fn plugins_are_found_in_their_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = script(dir.path(), "a", 0o755, "");
        script(dir.path(), "data", 0o644, "");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let path = format!("/nonexistent::{}", dir.path().display());
        assert_eq!(find(&path, "a"), Some(plugin));
        for kind in ["data", "sub", "none", "", ".", "..", "sub/../a", "/bin/sh"] {
            assert_eq!(find(&path, kind), None, "{kind}");
        }
        assert_eq!(find("", "sh"), None);
    }

    #[test]
    fn what_goes_in_and_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let echo = script(dir.path(), "echo", 0o755, "printf '%s ' \"$CNI_COMMAND\"; cat");
        let output = run(&echo, [("CNI_COMMAND", "ADD")], b"config").unwrap();
        assert_eq!(output.stdout, b"ADD config");
        // More than the pipes hold, and a plugin that reads nothing.
        let large = vec![b'x'; 1 << 20];
        assert_eq!(run(&echo, [], &large).unwrap().stdout.len(), large.len() + 1);
        let deaf = script(dir.path(), "deaf", 0o755, "exec <&-; echo '{\"code\":11,\"msg\":\"m\"}'; exit 3");
        let output = run(&deaf, [], &large).unwrap();
        assert_eq!(output.status.code(), Some(3));
        let expected = Refusal { code: 11, msg: "m".into(), details: String::new() };
        assert_eq!(refusal(&output), Some(expected));
        let silent = script(dir.path(), "silent", 0o755, "echo oops; exit 1");
        assert_eq!(refusal(&run(&silent, [], b"").unwrap()), None);
        assert!(run(&dir.path().join("none"), [], b"").is_err());
    }
}
