//! The sandbox seen from outside: it passes exit codes on, can be left standing, goes when its
//! foreground process is killed, and says plainly what is missing.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getuid, kill_process};

fn shell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-shell"));
    command.env_remove("CI").env_remove("LAB_NO_SKIP").stdin(Stdio::null());
    command
}

/// Whether this machine can make a sandbox for us at all; the namespace suites say so loudly.
fn sandbox_possible() -> bool {
    let output = shell().output().unwrap();
    !String::from_utf8_lossy(&output.stderr).contains("SKIPPED")
}

fn gone(pid: u32) {
    let path = format!("/proc/{pid}/ns/net");
    lab::wait::until(&format!("process {pid} is gone"), Duration::from_secs(10), || {
        std::fs::read_link(Path::new(&path)).is_err().then_some(())
    })
    .unwrap();
}

#[test]
fn exit_codes_and_output_pass() {
    if !sandbox_possible() {
        return;
    }
    let output = shell().output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "node-a\nnode-b\n", "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let status =
        shell().args(["ip", "netns", "exec", "nowhere", "true"]).stderr(Stdio::null()).status().unwrap();
    assert_ne!(status.code(), Some(0));
    let status = shell().args(["awk", "BEGIN { exit 42 }"]).status().unwrap();
    assert_eq!(status.code(), Some(42));
}

#[test]
fn kept_labs_stand_until_killed() {
    if !sandbox_possible() {
        return;
    }
    // `output` waits for the end of file, so this also shows that the kept process lets go of it.
    let output = shell().arg("--keep").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = text.lines().find(|l| l.contains("kill ")).unwrap();
    let pid: u32 = line.split_whitespace().last().unwrap().parse().unwrap();
    let enter = text.lines().find_map(|l| l.split_once("nsenter ").map(|(_, rest)| rest)).unwrap();
    let arguments: Vec<&str> = enter.trim_end_matches(" bash").split_whitespace().collect();
    let inside = Command::new("nsenter").args(arguments).args(["ip", "netns"]).output().unwrap();
    let names = String::from_utf8_lossy(&inside.stdout);
    assert!(names.contains("node-a") && names.contains("node-b"), "{inside:?}");
    let id = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    gone(pid);
}

#[test]
fn killing_the_foreground_process_ends_everything() {
    if !sandbox_possible() {
        return;
    }
    // Prints its own network namespace, then stays.
    let script = "readlink /proc/self/ns/net; exec cat /dev/zero > /dev/null";
    let mut child = shell().args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut namespace = String::new();
    reader.read_line(&mut namespace).unwrap();
    assert!(namespace.starts_with("net:["), "{namespace}");
    child.kill().unwrap();
    child.wait().unwrap();
    // End of file: nobody holds the other end of the pipe any more.
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    lab::wait::until("no process is left in the namespace", Duration::from_secs(10), || {
        let anyone = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read_link(entry.path().join("ns/net"))
                .is_ok_and(|link| link.to_string_lossy() == namespace.trim())
        });
        (!anyone).then_some(())
    })
    .unwrap();
}

#[test]
fn what_is_missing_is_named_and_fails_where_nothing_may_be_skipped() {
    // Only root can become somebody for whom the device is closed; and only where it is.
    use std::os::unix::fs::PermissionsExt;
    let closed = std::fs::metadata("/dev/net/tun").is_ok_and(|m| m.permissions().mode() & 0o006 == 0);
    if !getuid().is_root() || !closed {
        return;
    }
    // The program itself must be readable for that user.
    let copy = tempfile();
    std::fs::copy(env!("CARGO_BIN_EXE_lab-shell"), &copy).unwrap();
    let run = |ci: bool| {
        let mut command = Command::new(&copy);
        command.uid(65534).gid(65534).current_dir("/").env_remove("CI").env_remove("LAB_NO_SKIP");
        if ci {
            command.env("CI", "true");
        }
        command.output().unwrap()
    };
    let (skipped, failed) = (run(false), run(true));
    std::fs::remove_file(&copy).unwrap();
    let text = String::from_utf8_lossy(&skipped.stderr);
    assert!(text.contains("SKIPPED") && text.contains("/dev/net/tun is not accessible"), "{text}");
    assert!(text.contains("chmod 0666 /dev/net/tun"), "{text}");
    assert_eq!(skipped.status.code(), Some(0));
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("FAILED"));
}

fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("lab-shell-{}", std::process::id()))
}
