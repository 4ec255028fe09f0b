//! Tests against the running kernel, in namespaces of their own.
//!
//! A thread of the test runner cannot enter a user namespace, so each such test runs this very binary
//! again, for itself alone, below `unshare` (util-linux): as root of a private user, network and mount
//! namespace. Where that or `/dev/net/tun` is missing the tests say so loudly and pass, unless `CI=true`.

use std::process::Command;

use super::tap::features;

const INSIDE: &str = "SWD_TEST_INSIDE";

/// Runs `body` in fresh namespaces, in another process. `module` is the caller's `module_path!()`, `name` the test's
/// own function name, `tools` the programs it needs.
pub fn isolated(module: &str, name: &str, tools: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        sh("mount -t tmpfs none /run");
        sh("ip link set lo up");
        return body();
    }
    let probe = Command::new("unshare").args(["-Urnm", "--", "true"]).output();
    let missing = match (probe, features()) {
        (Ok(o), Ok(_)) if o.status.success() => tools
            .iter()
            .find(|tool| Command::new(tool).arg("--version").output().is_err())
            .map(|tool| format!("no `{tool}`")),
        (Ok(o), Ok(_)) => Some(format!("no user namespaces: {}", String::from_utf8_lossy(&o.stderr))),
        (Err(e), _) => Some(format!("no `unshare`: {e}")),
        (_, Err(e)) => Some(format!("/dev/net/tun: {e}")),
    };
    if let Some(missing) = missing {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name}: {missing}");
        eprintln!("SKIPPED {name}: {missing}");
        return;
    }
    let module = module.split_once("::").map_or("", |(_, m)| m);
    let output = Command::new("timeout")
        .args(["60", "unshare", "-Urnm", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{name}"), "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name}:\n{text}\n{errors}");
}

/// Runs a command, words separated by spaces, and returns what it printed.
pub fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every part is in the text.
pub fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part} in {text}");
    }
}
