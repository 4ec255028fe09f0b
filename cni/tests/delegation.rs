//! An external IPAM plugin, here a script that logs what it was asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::path::{Path, PathBuf};

use common::daemon::{Seen, tombstones};
use common::{Call, Daemon, ipam, verbs};
use ctl::error::Reason;
use serde_json::{Value, json};

const ADDRESS: &str = r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.1.50/24","gateway":"10.1.1.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.1.53"]}}'"#;

/// Prints `said` and fails for one verb, and is good for the others.
fn fails_at(verb: &str, said: &str) -> String {
    format!(
        "if [ \"$CNI_COMMAND\" = {verb} ]; then echo '{said}'; exit 1; fi\nif [ \"$CNI_COMMAND\" = ADD ]; then {ADDRESS}; fi"
    )
}

struct Bench {
    daemon: Daemon,
    plugins: tempfile::TempDir,
    log: PathBuf,
}

impl Bench {
    fn new(body: &str) -> Self {
        let plugins = tempfile::tempdir().unwrap();
        let log = ipam(plugins.path(), body);
        Self { daemon: Daemon::start(), plugins, log }
    }

    fn call(&self, verb: &str) -> Call {
        self.configure(self.daemon.call(verb))
    }

    fn configure(&self, call: Call) -> Call {
        let path = format!("/nonexistent:{}", self.plugins.path().display());
        call.env("CNI_PATH", &path).with(json!({ "ipam": { "type": "fake-ipam", "subnet": "10.1.1.0/24" } }))
    }

    fn asked(&self) -> Vec<String> {
        verbs(&self.log)
    }
}

#[test]
fn add_takes_its_addresses() {
    let bench = Bench::new(&format!("if [ \"$CNI_COMMAND\" = ADD ]; then {ADDRESS}; fi"));
    let call = bench.call("ADD").with(json!({ "runtimeConfig": { "ips": ["10.1.1.50"] } }));
    let run = call.ok();
    let result = run.json();
    assert_eq!(run.err, "ADD\n", "its standard error is ours");
    assert_eq!(result["ips"], json!([{ "address": "10.1.1.50/24", "gateway": "10.1.1.1", "interface": 0 }]));
    assert_eq!(result["dns"], json!({ "nameservers": ["10.1.1.53"] }));
    let added = bench.daemon.seen().into_iter().find_map(|s| match s {
        Seen::Add(request) => Some(request),
        _ => None,
    });
    let request = added.unwrap();
    assert!(request.delegated);
    assert_eq!(request.ips, ["10.1.1.50/24"]);

    // The same environment and the same configuration.
    let log = std::fs::read_to_string(&bench.log).unwrap();
    let mut parts = log.trim_end().splitn(4, ' ');
    assert_eq!([parts.next(), parts.next(), parts.next()], [Some("ADD"), Some("c1"), Some("eth0")]);
    assert_eq!(serde_json::from_str::<Value>(parts.next().unwrap()).unwrap(), call.config);
}

#[test]
fn the_settings_of_the_network_win_over_its_dns() {
    let bench = Bench::new(ADDRESS);
    let own = json!({ "nameservers": ["10.1.1.1"] });
    assert_eq!(bench.call("ADD").with(json!({ "dns": own })).ok().json()["dns"], own);
}

#[test]
fn an_add_that_fails_there_is_undone_there() {
    let said = r#"{"cniVersion":"1.1.0","code":11,"msg":"no addresses","details":"wait"}"#;
    let bench = Bench::new(&fails_at("ADD", said));
    let e = bench.call("ADD").run().error();
    assert_eq!((e.code, e.details.as_str()), (11, "wait"), "its code and details are passed on");
    assert_eq!(e.msg, "IPAM plugin fake-ipam: ADD: no addresses");
    assert_eq!(bench.asked(), ["ADD", "DEL"]);
    assert!(bench.daemon.attached().is_empty());
}

#[test]
fn an_add_that_the_daemon_refuses_is_undone_there() {
    let bench = Bench::new(ADDRESS);
    // First the question whether it is there already, then the request.
    bench.daemon.refuse(Reason::PortNotFound, "no").refuse(Reason::Conflict, "10.1.1.50 is taken");
    let e = bench.call("ADD").run().error();
    assert_eq!(e.code, 100);
    assert_eq!(bench.asked(), ["ADD", "DEL"]);
}

#[test]
fn an_add_without_a_daemon_asks_for_no_address() {
    let mut bench = Bench::new(ADDRESS);
    bench.daemon.stop();
    assert_eq!(bench.call("ADD").run().error().code, 11);
    assert_eq!(bench.asked(), [""; 0]);
}

/// Its DEL would free the address that is in use.
#[test]
fn a_repeated_add_does_not_reach_it() {
    let bench = Bench::new(ADDRESS);
    bench.call("ADD").ok();
    let e = bench.call("ADD").run().error();
    assert!(e.code == 100 && e.msg.contains("there already"), "{e:?}");
    assert_eq!(bench.asked(), ["ADD"]);
    assert_eq!(bench.daemon.attached(), ["c1/eth0"]);
}

#[test]
fn del_reaches_it_in_every_case() {
    let mut bench = Bench::new(ADDRESS);
    bench.call("ADD").ok();
    bench.call("DEL").env("CNI_NETNS", "").ok();
    bench.call("DEL").ok();
    bench.daemon.refuse(Reason::NotDurable, "the disk is full");
    assert_eq!(bench.call("DEL").run().error().code, 11);
    bench.daemon.stop();
    bench.call("DEL").ok();
    assert_eq!(bench.asked(), ["ADD", "DEL", "DEL", "DEL", "DEL"]);
    assert_eq!(tombstones(&bench.daemon.tombstones()), ["c1/eth0 of pods"]);
}

#[test]
fn every_verb_reaches_it_and_its_errors_come_back() {
    for (verb, keys) in [
        ("DEL", json!({})),
        ("CHECK", json!({ "prevResult": { "interfaces": [{ "name": "eth0", "sandbox": "/x" }] } })),
        ("GC", json!({ "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }] })),
        ("STATUS", json!({})),
    ] {
        let good = Bench::new(&fails_at("NONE", ""));
        good.call("ADD").ok();
        let run = good.call(verb).with(keys.clone()).ok();
        assert_eq!(run.out, "");
        assert_eq!(good.asked(), ["ADD", verb]);

        let bad = Bench::new(&fails_at(verb, r#"{"code":50,"msg":"broken"}"#));
        bad.call("ADD").ok();
        let e = bad.call(verb).with(keys).run().error();
        assert_eq!((e.code, e.msg), (50, format!("IPAM plugin fake-ipam: {verb}: broken")));
    }
}

/// The first failure decides the code, and both are told.
#[test]
fn two_failures() {
    let bench = Bench::new(&fails_at("GC", r#"{"code":7,"msg":"broken"}"#));
    bench.daemon.refuse(Reason::NotDurable, "the disk is full");
    let e = bench.call("GC").with(json!({ "cni.dev/valid-attachments": [] })).run().error();
    assert_eq!(e.code, 11);
    assert!(e.msg.contains("the disk is full") && e.msg.contains("broken"), "{e:?}");
}

#[test]
fn one_that_cannot_be_used() {
    let bench = Bench::new("");
    let missing = bench.call("ADD").with(json!({ "ipam": { "type": "none" } })).run().error();
    assert!(missing.code == 103 && missing.msg.contains("none"), "{missing:?}");
    let pathless = bench.call("ADD").env("CNI_PATH", "").run().error();
    assert!(pathless.code == 4 && pathless.msg.contains("CNI_PATH"), "{pathless:?}");
    let silent = bench.call("ADD").run().error();
    assert!(silent.code == 103 && silent.msg.contains("not JSON"), "{silent:?}");

    let killed = Bench::new("if [ \"$CNI_COMMAND\" = ADD ]; then kill -9 $$; fi");
    let e = killed.call("ADD").run().error();
    assert!(e.code == 103 && e.msg.contains("signal"), "{e:?}");
    assert_eq!(killed.asked(), ["ADD", "DEL"]);

    let routes =
        Bench::new(r#"echo '{"ips":[{"address":"10.1.1.5/24"}],"routes":[{"dst":"192.0.2.0/24"}]}'"#);
    let e = routes.call("ADD").run().error();
    assert!(e.code == 2 && e.msg.contains("192.0.2.0/24"), "{e:?}");
    assert_eq!(routes.asked(), ["ADD", "DEL"]);
}

/// More than a pipe holds, in both directions at once.
#[test]
fn a_large_configuration_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fake-ipam");
    let script = format!("#!/bin/sh\nhead -c 200000 /dev/zero | tr '\\0' ' '\ncat >/dev/null\n{ADDRESS}\n");
    ctl::atomic::write(&path, 0o755, script.as_bytes()).unwrap();
    let daemon = Daemon::start();
    let path: &Path = dir.path();
    let call = daemon.call("ADD").env("CNI_PATH", &path.display().to_string());
    call.with(json!({ "ipam": { "type": "fake-ipam" }, "filler": "x".repeat(300_000) })).ok();
}
