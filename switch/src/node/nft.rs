//! Running `nft`, and comparing what it lists.
//!
//! `nft` is the one program that every distribution's firewall goes through, and it knows the kernel's versions. It is
//! run without a shell, with JSON in and out. A run takes some 5 ms; nothing here is on the data path.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nftables::schema::Nftables;
use serde_json::Value;

/// Where system programs are, which a service often lacks in its PATH.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Why the node's kernel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The name of the table is none.
    #[error("{0:?} cannot name a table: expected letters, digits, . _ and -, starting with a letter")]
    TableName(String),
    /// There is no `nft`.
    #[error("`nft` is not installed, so nothing can be translated: install the package nftables")]
    NoNft,
    /// Not allowed.
    #[error("nft: {0}; it takes CAP_NET_ADMIN in the user namespace that owns the network namespace")]
    Permission(String),
    /// `nft` refused.
    #[error("{what}: nft: {said}{}", modules(said))]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Its own words.
        said: String,
    },
    /// `nft` could not be run, or what it said could not be read.
    #[error("{what}: {cause}")]
    Run {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        cause: io::Error,
    },
}

/// The next step where the kernel has no word for a part of a rule.
fn modules(said: &str) -> &'static str {
    let lacks = ["No such file or directory", "not supported"].iter().any(|words| said.contains(words));
    if lacks {
        "; a module may be missing: `modprobe -a nf_tables nft_nat nft_masq nft_fib_inet nft_ct`"
    } else {
        ""
    }
}

/// Finds a program by name, in PATH and among those of the system.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from));
    directories.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs a program to its end, with `input` on its standard input.
pub(super) fn run<A: AsRef<OsStr>>(program: PathBuf, args: &[A], input: Option<&[u8]>) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = match (child.stdin.take(), input) {
        (Some(mut stdin), Some(input)) => stdin.write_all(input),
        _ => Ok(()),
    };
    let output = child.wait_with_output()?;
    // A program that gave up before it had read everything says why on its standard error.
    if output.status.success() {
        written?;
    }
    Ok(output)
}

fn nft(what: &'static str, args: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, NodeError> {
    let program = find("nft").ok_or(NodeError::NoNft)?;
    let output = run(program, args, input).map_err(|cause| NodeError::Run { what, cause })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // The first line says it; what follows quotes the rule.
    let said =
        said.lines().find(|l| !l.trim().is_empty()).unwrap_or("it failed without a word").trim().to_owned();
    if said.contains("Operation not permitted") {
        return Err(NodeError::Permission(said));
    }
    Err(NodeError::Refused { what, said })
}

/// Hands a transaction to the kernel: all of it, or nothing.
pub(super) fn commit(what: &'static str, rules: &Nftables<'_>) -> Result<(), NodeError> {
    let failed = |e: serde_json::Error| NodeError::Run { what, cause: e.into() };
    let text = serde_json::to_vec(rules).map_err(failed)?;
    nft(what, &["-j", "-f", "-"], Some(&text)).map(drop)
}

/// Lists something as JSON.
pub(super) fn list(what: &'static str, args: &[&str]) -> Result<Value, NodeError> {
    let args: Vec<&str> = ["-j", "list"].iter().chain(args).copied().collect();
    let text = nft(what, &args, None)?;
    serde_json::from_slice(&text).map_err(|e| NodeError::Run { what, cause: e.into() })
}

/// Lists the table `name`, in the form that [`normal`] makes; `None` if there is no such table.
pub(super) fn table(name: &str) -> Result<Option<Value>, NodeError> {
    match list("listing the table", &["table", "inet", name]) {
        Ok(listing) => Ok(Some(normal(listing))),
        Err(NodeError::Refused { said, .. }) if said.contains("No such file or directory") => Ok(None),
        Err(e) => Err(e),
    }
}

/// A listing without what says nothing about its meaning: handles, counters, the order of sets.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(key, _)| key != "handle")
            .map(|(key, value)| match key.as_str() {
                "counter" | "metainfo" => (key, Value::Null),
                "elem" | "set" | "flags" => (key, sorted(normal(value))),
                _ => (key, normal(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        other => other,
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(mut items) => {
            items.sort_by_cached_key(Value::to_string);
            Value::Array(items)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn listings_are_compared_by_meaning() {
        let one = json!({"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "x", "handle": 3, "elem": ["1.1.1.1", {"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"rule": {"handle": 4, "expr": [{"counter": {"packets": 7, "bytes": 9}}, {"drop": null}]}}]});
        let two = json!({"nftables": [{"metainfo": {"version": "1.1.0"}},
            {"set": {"name": "x", "handle": 8, "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, "1.1.1.1"]}},
            {"rule": {"handle": 9, "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"drop": null}]}}]});
        assert_eq!(normal(one.clone()), normal(two.clone()));
        let mut other = two;
        other["nftables"][2]["rule"]["expr"][1] = json!({"accept": null});
        assert_ne!(normal(one), normal(other), "the order of statements and their kind count");
    }

    #[test]
    fn a_program_that_does_not_read_on_is_no_broken_pipe() {
        let big = vec![b'x'; 1 << 20];
        let output = run(find("false").unwrap(), &[] as &[&str], Some(&big)).unwrap();
        assert!(!output.status.success());
        assert_eq!(find("no-such-program"), None);
        let output = run(find("cat").unwrap(), &[] as &[&str], Some(b"text")).unwrap();
        assert_eq!(output.stdout, b"text");
    }
}
