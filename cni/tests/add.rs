//! ADD against a double of the daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::daemon::{Seen, tombstones};
use common::{Answer, Daemon};
use ctl::error::Reason;
use serde_json::{Value, json};

const NETNS: &str = "/run/netns/swd-cni-test-none";

/// Word for word what a runtime reads, for each version.
#[test]
fn the_result_of_each_version() {
    for (version, old, new) in [
        ("0.3.0", true, false),
        ("0.3.1", true, false),
        ("0.4.0", true, false),
        ("1.0.0", false, false),
        ("1.1.0", false, true),
    ] {
        let daemon = Daemon::start();
        let run = daemon.call("ADD").version(version).ok();
        assert_eq!(run.err, "");
        let mut interface = json!({ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": NETNS });
        if new {
            interface["mtu"] = 1450.into();
        }
        let mut ips = json!([
            { "address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 0 },
            { "address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 0 },
        ]);
        if old {
            ips[0]["version"] = "4".into();
            ips[1]["version"] = "6".into();
        }
        let expected = json!({
            "cniVersion": version,
            "interfaces": [interface],
            "ips": ips,
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.1.1" }, { "dst": "::/0", "gw": "fd00:1::1" }],
        });
        assert_eq!(run.json(), expected);
    }
}

#[test]
fn asks_for_what_the_runtime_wants() {
    let daemon = Daemon::start();
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=c1;X=1";
    let call = daemon.call("ADD").env("CNI_ARGS", args).with(json!({
        "network": "green",
        "mtu": 1400,
        "defaultRoute": false,
        "dns": { "nameservers": ["10.1.1.1"], "ndots": 5 },
        "runtimeConfig": {
            "ips": ["10.1.1.77/24"],
            "mac": "02:00:00:00:00:77",
            "bandwidth": { "ingressRate": 8000, "ingressBurst": 80000 },
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        },
        "a key of somebody else": { "x": 1 },
    }));
    let result = call.ok().json();
    let [Seen::Add(request)] = &daemon.seen()[..] else { panic!("one request") };
    assert_eq!((request.network.as_str(), request.mtu, request.netns.as_str()), ("green", 1400, NETNS));
    assert_eq!(
        (request.ips.as_slice(), request.mac.as_str()),
        (&["10.1.1.77/24".to_owned()][..], "02:00:00:00:00:77")
    );
    assert_eq!((request.delegated, request.default_route), (false, Some(false)));
    assert_eq!(request.bandwidth.unwrap().ingress_rate, 8000);
    assert_eq!(request.mappings.len(), 1);
    let metadata: Vec<_> = request.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(metadata, ["k8s/infra-container=c1", "k8s/namespace=default", "k8s/pod=web-0", "k8s/uid=u"]);

    assert!(result.get("routes").is_none(), "no default route was asked for");
    assert_eq!(result["dns"], json!({ "nameservers": ["10.1.1.1"], "ndots": 5 }));
    assert_eq!(result["interfaces"][0]["mtu"], 1400);
}

#[test]
fn after_another_plugin_of_the_chain() {
    let daemon = Daemon::start();
    let previous = json!({
        "cniVersion": "0.4.0",
        "interfaces": [{ "name": "net1", "mac": "02:00:00:00:00:aa", "sandbox": NETNS, "vendor": 1 }],
        "ips": [{ "version": "4", "address": "192.0.2.2/24", "interface": 0 }],
        "dns": { "search": ["here"] },
        "vendor": [1, 2],
    });
    let result = daemon.call("ADD").version("0.4.0").with(json!({ "prevResult": previous })).ok().json();
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!((&result["dns"], &result["vendor"]), (&previous["dns"], &previous["vendor"]));
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 1);
    assert_eq!(result["ips"][2]["interface"], 1);
}

/// What can be known to be wrong is refused before anything is made.
#[test]
fn bad_configurations_reach_nobody() {
    let daemon = Daemon::start();
    for (keys, key) in [
        (json!({ "mtu": "big" }), "`mtu`"),
        (json!({ "socket": "relative" }), "`socket`"),
        (json!({ "prevResult": [] }), "`prevResult`"),
        (json!({ "prevResult": { "ips": 5 } }), "`prevResult.ips`"),
        (json!({ "dns": 5 }), "`dns`"),
        (json!({ "ipam": { "type": "../x" } }), "`ipam.type`"),
        (json!({ "runtimeConfig": { "portMappings": [{}] } }), "`runtimeConfig.portMappings[0]`"),
    ] {
        let e = daemon.call("ADD").with(keys).fails();
        assert!(e.code == 7 && e.msg.contains(key), "{e:?}");
    }
    assert!(daemon.seen().is_empty());
}

/// A runtime that lost the answer asks again and gets it.
#[test]
fn twice() {
    let daemon = Daemon::start();
    let first = daemon.call("ADD").ok().json();
    assert_eq!(daemon.call("ADD").ok().json(), first);
    assert_eq!(daemon.attached(), ["c1/eth0"]);
    let other: Value = daemon.call("ADD").env("CNI_IFNAME", "net1").ok().json();
    assert_ne!(other["ips"], first["ips"]);
}

/// The reader of this error looks at a pod that does not start: it names the pod, the cause and the next step.
#[test]
fn the_daemon_does_not_run() {
    let mut daemon = Daemon::start();
    let call = daemon.call("ADD").env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0");
    for cause in ["nobody listens there", "the socket does not exist"] {
        if cause.starts_with("nobody") {
            daemon.kill()
        } else {
            daemon.stop()
        }
        let e = call.fails();
        assert_eq!(e.code, 11);
        let socket = daemon.socket().display().to_string();
        assert_eq!(
            e.msg,
            format!("cannot add eth0 of pod default/web-0: cannot connect to {socket}: {cause}")
        );
        assert!(e.details.starts_with("start swd on this node"), "{e:?}");
        assert_eq!(e.version, "1.1.0");
    }
    assert!(
        tombstones(&daemon.tombstones()).is_empty(),
        "nothing was asked of it, so there is nothing to undo"
    );
}

#[test]
fn refusals_of_the_daemon() {
    let daemon = Daemon::start();
    for (reason, code) in [
        (Reason::NetworkNotFound, 7),
        (Reason::InvalidArgument, 7),
        (Reason::NetnsNotFound, 8),
        (Reason::Limit, 11),
        (Reason::NotDurable, 11),
        (Reason::Conflict, 100),
        (Reason::AlreadyExists, 100),
        (Reason::Internal, 102),
        (Reason::Unimplemented, 102),
    ] {
        daemon.refuse(reason, "the cause");
        let e = daemon.call("ADD").version("0.3.1").fails();
        assert_eq!((e.code, e.version.as_str()), (code, "0.3.1"), "{reason}");
        assert_eq!(e.msg, "cannot add eth0 of container c1: the cause");
        assert!(e.details == "the next step" || reason == Reason::Unimplemented, "{e:?}");
    }
    assert!(tombstones(&daemon.tombstones()).is_empty(), "it answered, so there is nothing left");
}

/// The daemon is killed after it made the attachment and before it says so: a tombstone makes it go away again,
/// and the next ADD of the same container begins by honouring it.
#[test]
fn the_answer_does_not_come() {
    let mut daemon = Daemon::start();
    daemon.answer(Answer::Vanish);
    let e = daemon.call("ADD").fails();
    assert_eq!(e.code, 11, "{e:?}");
    assert_eq!(daemon.attached(), ["c1/eth0"]);
    assert_eq!(tombstones(&daemon.tombstones()), ["c1/eth0 of pods"]);

    daemon.restart();
    daemon.seen();
    daemon.call("ADD").ok();
    let order: Vec<_> = daemon.seen().iter().map(|s| matches!(s, Seen::Delete(_))).collect();
    assert_eq!(order, [true, false]);
    assert_eq!(daemon.attached(), ["c1/eth0"]);
    assert!(tombstones(&daemon.tombstones()).is_empty());
}

/// Another container's tombstone is none of its business.
#[test]
fn tombstones_of_others_stay() {
    let daemon = Daemon::start();
    ctl::tombstone::Tombstone::new("c2", "eth0", "pods").write(&daemon.tombstones()).unwrap();
    daemon.call("ADD").ok();
    assert_eq!(daemon.seen().len(), 1);
    assert_eq!(tombstones(&daemon.tombstones()), ["c2/eth0 of pods"]);
}

/// A node that starts: all at once, each with an address of its own, then all away.
#[test]
fn sixteen_at_once() {
    let daemon = Daemon::start();
    let calls = |verb: &str| -> Vec<_> {
        (0..16).map(|n| daemon.call(verb).env("CNI_CONTAINERID", &format!("c{n}")).start()).collect()
    };
    let runs: Vec<_> = calls("ADD").into_iter().map(common::Run::of).collect();
    let mut ips: Vec<_> = runs.iter().map(|r| r.json()["ips"][0]["address"].to_string()).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 16);
    assert_eq!(daemon.attached().len(), 16);
    for run in calls("DEL").into_iter().map(common::Run::of) {
        assert_eq!((run.code, run.out.as_str()), (0, ""));
    }
    assert!(daemon.attached().is_empty());
}
