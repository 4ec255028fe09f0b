//! What a runtime sees before any verb does its work: environment, standard input, versions, errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{Call, Daemon};
use serde_json::json;

const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];
const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn nobody(verb: &str) -> Call {
    Call::new(verb, "/nonexistent/swd.sock".as_ref())
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let run = nobody("ADD").without("CNI_COMMAND").run();
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert!(run.err.starts_with("CNI plugin swd-cni "), "{run:?}");
    assert!(
        run.err.contains("CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        "{run:?}"
    );
}

#[test]
fn version_option() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_swd-cni")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.starts_with(concat!("swd-cni ", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
}

#[test]
fn unknown_commands() {
    for verb in ["", "FOO", "add"] {
        let e = nobody(verb).fails();
        assert_eq!(e.code, 4);
        assert!(e.msg.contains("CNI_COMMAND"), "{e:?}");
        assert!(SUPPORTED.contains(&e.version.as_str()), "{e:?}");
    }
}

/// All that are missing are named, and an empty variable is a missing one.
#[test]
fn missing_variables() {
    for (verb, names) in [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ] {
        let mut call = nobody(verb);
        for name in names.split(',') {
            call = call.env(name, "");
        }
        let e = call.fails();
        assert!(e.code == 4 && e.msg.contains(names), "{verb}: {e:?}");
        for name in names.split(',') {
            call = call.without(name);
        }
        let e = call.fails();
        assert!(e.code == 4 && e.msg.contains(names), "{verb}: {e:?}");
    }
}

#[test]
fn del_needs_no_namespace_and_status_no_path() {
    let daemon = Daemon::start();
    daemon.call("DEL").env("CNI_NETNS", "").env("CNI_PATH", "").ok();
    daemon.call("DEL").without("CNI_NETNS").without("CNI_PATH").without("CNI_ARGS").ok();
    daemon.call("STATUS").env("CNI_CONTAINERID", "").env("CNI_IFNAME", "").without("CNI_PATH").ok();
    daemon.call("ADD").without("CNI_PATH").ok();
}

#[test]
fn bad_identifiers() {
    for (key, value) in
        [("CNI_CONTAINERID", "-a"), ("CNI_CONTAINERID", "a/b"), ("CNI_IFNAME", "a/b"), ("CNI_IFNAME", "..")]
    {
        for verb in ["ADD", "DEL", "CHECK"] {
            let e = nobody(verb).env(key, value).fails();
            assert!(e.code == 4 && e.msg.contains(key), "{verb} {key}={value}: {e:?}");
        }
    }
}

#[test]
fn standard_input() {
    for verb in VERBS {
        for (stdin, code) in [
            ("", 6),
            ("not json", 6),
            ("[]", 6),
            (r#"{"cniVersion":"1.1.0"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":"a b"}"#, 7),
            (r#"{"name":"pods"}"#, 1),
            (r#"{"cniVersion":"2.0.0","name":"pods"}"#, 1),
        ] {
            assert_eq!(nobody(verb).stdin(stdin.as_bytes()).fails().code, code, "{verb} {stdin}");
        }
    }
    let e = nobody("ADD").version("1.2.0").fails();
    assert_eq!(e.details, "config is \"1.2.0\", plugin supports [0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0]");
    let e = nobody("ADD").stdin(&vec![b' '; (16 << 20) + 1]).fails();
    assert_eq!(e.code, 5);
}

/// A verb that a version does not have, for every version.
#[test]
fn verbs_of_each_version() {
    for version in SUPPORTED {
        for (verb, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
            let e = nobody(verb).version(version).fails();
            assert_eq!(e.code == 1, version < since, "{verb} {version}: {e:?}");
            assert_eq!(e.version, version);
            assert!(e.code != 1 || e.msg.contains(verb), "{e:?}");
        }
    }
}

#[test]
fn version_never_fails() {
    for (stdin, expected) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"1.1.0","name":"pods"}"#, "1.1.0"),
        (r#"{"cniVersion":5}"#, "1.1.0"),
        ("rubbish", "1.1.0"),
        ("", "1.1.0"),
    ] {
        // As libcni probes.
        let probe = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
            .into_iter()
            .fold(nobody("VERSION"), |c, k| c.env(k, "dummy"));
        let run = probe.env("CNI_CONTAINERID", "").stdin(stdin.as_bytes()).ok();
        assert_eq!(run.json(), json!({ "cniVersion": expected, "supportedVersions": SUPPORTED }));
        assert_eq!(run.err, "");
    }
}

/// The node's own namespace, before anything is done. DEL is not among them: it touches no namespace, and the path
/// may lead to the node by now because process ids are used again.
#[test]
fn the_namespace_of_the_node() {
    let daemon = Daemon::start();
    for verb in ["ADD", "CHECK"] {
        let call = daemon.call(verb).env("CNI_NETNS", "/proc/self/ns/net").with(json!({ "prevResult": {} }));
        let e = call.fails();
        assert_eq!(e.code, 8, "{e:?}");
        assert!(daemon.seen().is_empty());
    }
    daemon.call("DEL").env("CNI_NETNS", "/proc/self/ns/net").ok();
    daemon.call("ADD").env("CNI_NETNS", "/proc/self/ns/net").env("CNI_NETNS_OVERRIDE", "TRUE").ok();
}

#[test]
fn arguments() {
    let daemon = Daemon::start();
    for bad in ["X=1", "IP", "IP=here"] {
        let e = daemon.call("ADD").env("CNI_ARGS", bad).fails();
        assert!(e.code == 4 && e.msg.contains("CNI_ARGS"), "{bad}: {e:?}");
    }
    assert!(daemon.seen().is_empty());
    // What ADD refuses does not keep DEL from deleting.
    daemon.call("DEL").env("CNI_ARGS", "X").with(json!({ "mtu": "big", "runtimeConfig": 5 })).ok();
}
