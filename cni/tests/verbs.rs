//! DEL, CHECK, GC and STATUS against a double of the daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::daemon::{Seen, tombstones};
use common::{Answer, Daemon};
use ctl::error::Reason;
use ctl::proto::{AttachmentKey, Readiness};
use serde_json::{Value, json};

#[test]
fn del_says_nothing_and_may_be_repeated() {
    let daemon = Daemon::start();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        daemon.call("ADD").ok();
        for _ in 0..2 {
            let run = daemon.call("DEL").version(version).ok();
            assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
            assert!(daemon.attached().is_empty());
        }
    }
    daemon.call("DEL").env("CNI_CONTAINERID", "never-added").ok();
    assert!(tombstones(&daemon.tombstones()).is_empty());
}

/// By container and interface, whatever the namespace path leads to by now.
#[test]
fn del_looks_at_no_namespace() {
    let daemon = Daemon::start();
    for netns in ["", "/nonexistent", "/proc/self/ns/net"] {
        daemon.call("ADD").ok();
        daemon.call("ADD").env("CNI_IFNAME", "net1").ok();
        daemon.call("DEL").env("CNI_NETNS", netns).ok();
        assert_eq!(daemon.attached(), ["c1/net1"], "{netns}");
        daemon.seen();
        daemon.call("DEL").env("CNI_NETNS", netns).env("CNI_IFNAME", "net1").ok();
        let key = AttachmentKey { container_id: "c1".into(), ifname: "net1".into() };
        assert_eq!(daemon.seen(), [Seen::Delete(key)]);
    }
}

#[test]
fn del_without_a_daemon_leaves_a_tombstone() {
    let mut daemon = Daemon::start();
    let del = |daemon: &Daemon, id: &str| daemon.call("DEL").env("CNI_CONTAINERID", id);
    daemon.answer(Answer::Vanish);
    del(&daemon, "vanished").ok();
    daemon.kill();
    del(&daemon, "refused").ok();
    daemon.stop();
    let run = del(&daemon, "absent").ok();
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    del(&daemon, "absent").ok();
    let expected = ["absent/eth0 of pods", "refused/eth0 of pods", "vanished/eth0 of pods"];
    assert_eq!(tombstones(&daemon.tombstones()), expected);
}

/// A daemon that takes the request and does not answer: five seconds, then as if it were gone.
#[test]
fn del_with_a_daemon_that_hangs() {
    let daemon = Daemon::start();
    daemon.answer(Answer::Hang);
    daemon.call("DEL").ok();
    assert_eq!(tombstones(&daemon.tombstones()), ["c1/eth0 of pods"]);
}

/// Before the daemon was started for the first time since boot there is not even its directory.
#[test]
fn del_makes_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/swd/swd.sock");
    common::Call::new("DEL", &socket).ok();
    assert_eq!(tombstones(&dir.path().join("run/swd/deleted")), ["c1/eth0 of pods"]);
}

#[test]
fn del_that_can_note_nothing_fails() {
    let mut daemon = Daemon::start();
    daemon.stop();
    std::fs::write(daemon.tombstones(), "in the way").unwrap();
    let e = daemon.call("DEL").fails();
    assert_eq!(e.code, 11);
    let dir = daemon.tombstones().display().to_string();
    assert!(e.msg.contains("the socket does not exist") && e.msg.contains(&dir), "{e:?}");
}

#[test]
fn del_of_a_key_that_no_file_can_have() {
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.call("DEL").env("CNI_CONTAINERID", &"a".repeat(300)).ok();
    assert!(tombstones(&daemon.tombstones()).is_empty());
}

#[test]
fn del_that_the_daemon_refuses() {
    let daemon = Daemon::start();
    daemon.refuse(Reason::NotDurable, "the disk is full");
    let e = daemon.call("DEL").fails();
    assert_eq!((e.code, e.msg.as_str()), (11, "cannot delete eth0 of container c1: the disk is full"));
    daemon.refuse(Reason::PortNotFound, "port c1/eth0 does not exist");
    daemon.call("DEL").ok();
    assert!(tombstones(&daemon.tombstones()).is_empty());
}

fn checked(daemon: &Daemon, version: &str) -> common::Call {
    let result = daemon.call("ADD").version(version).ok().json();
    daemon.seen();
    daemon.call("CHECK").version(version).with(json!({ "prevResult": result }))
}

#[test]
fn check_hands_on_what_the_runtime_believes() {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let daemon = Daemon::start();
        let mut call = checked(&daemon, version);
        // What a later plugin of the chain may have done: another MAC, an interface and an address of its own.
        let previous = &mut call.config["prevResult"];
        previous["interfaces"][0]["mac"] = "02:00:00:00:00:99".into();
        previous["interfaces"].as_array_mut().unwrap().push(json!({ "name": "ifb0" }));
        previous["ips"].as_array_mut().unwrap().push(json!({ "address": "192.0.2.9/32", "interface": 1 }));
        let run = call.ok();
        assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
        let [Seen::Check(request)] = &daemon.seen()[..] else { panic!("one request") };
        assert_eq!(request.ips, ["10.1.1.2/24", "fd00:1::2/64"]);
        assert_eq!(
            (request.cni_network.as_str(), request.netns.as_str()),
            ("pods", "/run/netns/swd-cni-test-none")
        );
    }
}

#[test]
fn check_reports_every_problem() {
    let daemon = Daemon::start();
    let call = checked(&daemon, "1.1.0");
    daemon.answer(Answer::Problems(vec!["the device is down".into(), "address 10.1.1.2 is gone".into()]));
    let e = call.fails();
    assert_eq!(e.code, 101);
    assert_eq!(e.msg, "eth0 of container c1: the device is down; address 10.1.1.2 is gone");
}

#[test]
fn check_of_what_was_never_added() {
    let daemon = Daemon::start();
    let call = checked(&daemon, "1.1.0").env("CNI_CONTAINERID", "c2");
    let e = call.fails();
    assert!(e.code == 3 && e.msg.contains("c2/eth0"), "{e:?}");
}

#[test]
fn check_needs_the_result_of_add() {
    let daemon = Daemon::start();
    let call = checked(&daemon, "1.1.0");
    for (previous, code) in
        [(Value::Null, 7), (json!(5), 7), (json!({}), 101), (json!({ "interfaces": [] }), 101)]
    {
        let e = call.clone().with(json!({ "prevResult": previous })).fails();
        assert!(e.code == code && e.msg.contains("prevResult"), "{e:?}");
    }
    assert!(daemon.seen().is_empty());
}

#[test]
fn check_without_a_daemon() {
    let mut daemon = Daemon::start();
    let call = checked(&daemon, "0.4.0");
    daemon.stop();
    let e = call.fails();
    assert_eq!((e.code, e.version.as_str()), (11, "0.4.0"));
}

fn valid(keys: &[(&str, &str)]) -> Value {
    keys.iter().map(|(id, ifname)| json!({ "containerID": id, "ifname": ifname })).collect()
}

#[test]
fn gc_deletes_what_is_not_listed_in_its_own_network() {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let daemon = Daemon::start();
        for id in ["a", "b", "c"] {
            daemon.call("ADD").env("CNI_CONTAINERID", id).ok();
        }
        daemon.call("ADD").env("CNI_CONTAINERID", "other").with(json!({ "name": "more" })).ok();
        // Without containers to name, runtimes leave the variables empty.
        let gc = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
            .into_iter()
            .fold(daemon.call("GC"), |c, k| c.env(k, ""));
        let run = gc.clone().with(json!({ key: valid(&[("b", "eth0"), ("c", "eth1")]) })).ok();
        assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
        assert_eq!(daemon.attached(), ["b/eth0", "other/eth0"]);
        gc.with(json!({ key: [] })).ok();
        assert_eq!(daemon.attached(), ["other/eth0"]);
    }
}

#[test]
fn gc_without_a_list_deletes_nothing() {
    let daemon = Daemon::start();
    daemon.call("ADD").ok();
    daemon.seen();
    for keys in [
        json!({}),
        json!({ "cni.dev/valid-attachments": null }),
        json!({ "cni.dev/valid-attachments": [{}] }),
    ] {
        let e = daemon.call("GC").with(keys).fails();
        assert!(e.code == 7 && e.msg.contains("cni.dev/valid-attachments"), "{e:?}");
    }
    assert!(daemon.seen().is_empty());
}

#[test]
fn gc_that_fails_says_so() {
    let mut daemon = Daemon::start();
    let gc = daemon.call("GC").with(json!({ "cni.dev/valid-attachments": [] }));
    daemon.refuse(Reason::NotDurable, "the disk is full");
    let e = gc.fails();
    assert_eq!((e.code, e.msg.as_str()), (11, "cannot clean up network pods: the disk is full"));
    daemon.stop();
    assert_eq!(gc.fails().code, 11);
}

#[test]
fn status_of_a_daemon_that_is_ready() {
    let daemon = Daemon::start();
    let run = daemon.call("STATUS").with(json!({ "network": "green" })).ok();
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    let [Seen::Readiness(request)] = &daemon.seen()[..] else { panic!("one request") };
    assert_eq!(request.network, "green");
}

#[test]
fn status_of_a_daemon_that_is_not() {
    let daemon = Daemon::start();
    for (degraded, code) in [(false, 50), (true, 51)] {
        let readiness = Readiness {
            degraded,
            cause: "no addresses left".into(),
            hint: "delete pods".into(),
            ..Default::default()
        };
        daemon.answer(Answer::Readiness(readiness));
        let e = daemon.call("STATUS").fails();
        assert_eq!((e.code, e.details.as_str()), (code, "delete pods"));
        assert!(e.msg.contains("no addresses left"), "{e:?}");
    }
    daemon.refuse(Reason::NetworkNotFound, "network green does not exist");
    assert_eq!(daemon.call("STATUS").fails().code, 50);
}

/// Gone, it forwards nothing either.
#[test]
fn status_without_a_daemon() {
    let mut daemon = Daemon::start();
    daemon.kill();
    assert_eq!(daemon.call("STATUS").fails().code, 51);
    daemon.stop();
    let e = daemon.call("STATUS").fails();
    assert!(e.code == 51 && e.msg.contains("the socket does not exist"), "{e:?}");
}

/// Slow, it may forward: its worker does not wait for it.
#[test]
fn status_of_a_daemon_that_hangs() {
    let daemon = Daemon::start();
    daemon.answer(Answer::Hang);
    let e = daemon.call("STATUS").fails();
    assert!(e.code == 50 && e.msg.contains("no answer"), "{e:?}");
}
