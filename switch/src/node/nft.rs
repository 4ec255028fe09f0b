//! Running `nft`, and comparing what it lists.
//!
//! `nft` is the one program that every distribution's firewall goes through, and it knows the kernel's versions. It is
//! run with JSON in and out ([`super::program`]). A run takes some 5 ms; nothing here is on the data path.

use std::io;

use nftables::schema::Nftables;
use serde_json::Value;

use super::program::{self, find, run};

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
    /// `nft` did not end and was killed. What it was to do may have been done, or not.
    #[error(
        "{what}: nft did not end within {limit:?} and was killed: does somebody hold the rules, or are there very many? \
         try `nft list tables`", limit = program::LIMIT
    )]
    Stuck {
        /// What was tried.
        what: &'static str,
    },
    /// A parent process was asked, and it refused.
    #[error("{text}")]
    Told {
        /// What kind of refusal it is.
        reason: ctl::error::Reason,
        /// Why.
        text: String,
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

fn nft(what: &'static str, args: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, NodeError> {
    let program = find("nft").ok_or(NodeError::NoNft)?;
    let output = run(program, args, input).map_err(|cause| match cause.kind() {
        io::ErrorKind::TimedOut => NodeError::Stuck { what },
        _ => NodeError::Run { what, cause },
    })?;
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
}
