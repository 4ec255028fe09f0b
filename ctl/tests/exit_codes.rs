//! Every documented exit code, and what is printed with it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod fake;

use ctl::error::{ApiError, Reason};
use ctl::proto::*;
use fake::{Script, Server, swctl};

const NETWORK: &str = "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1";

fn error(run: &fake::Run) -> serde_json::Value {
    assert_eq!(run.out, "");
    let value: serde_json::Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"]);
    let mut keys: Vec<_> = value["error"].as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, ["code", "hint", "message", "reason"]);
    value["error"].clone()
}

#[test]
fn zero_when_done() {
    let server = Server::start(Script::default());
    let run = server.ok(NETWORK);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    assert_eq!(server.ok("status").err, "");
    assert_eq!(server.ok("wait --generation 1").out, "");
    assert_eq!(server.json("wait --generation 1")["applied_generation"], 1);
}

#[test]
fn one_when_the_daemon_refuses() {
    let server = Server::start(Script::default());
    server.ok(NETWORK);
    let run = server.swctl("network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1");
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    assert_eq!(
        run.err,
        "swctl: network pods exists\n  reason: ALREADY_EXISTS\n  hint: pass --may-exist where that is fine\n"
    );
    let e = error(&server.swctl("-o json network add other --vni 1"));
    assert_eq!((&e["code"], &e["reason"]), (&"FAILED_PRECONDITION".into(), &"CONFLICT".into()));
    assert_eq!(e["message"], "network other: VNI 1 already belongs to network pods");
    let e = ApiError::new(Reason::NetnsNotFound, "port x: network namespace /run/netns/none does not exist");
    server.script(|s| s.port_error = Some(e));
    let run = server.swctl("port add x --network pods --netns none");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("NETNS_NOT_FOUND"), "{}", run.err);
}

#[test]
fn two_on_usage() {
    let server = Server::start(Script::default());
    for args in [
        "",
        "nonsense",
        "network add",
        "network add pods",
        "network add pods --vni 0",
        "network add pods --vni 16777216",
        "network add pods --vni 1 --subnet 10.1.1.1/24",
        "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.2.1",
        "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1 --gateway 10.1.1.2",
        "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.255",
        "network add pods --vni 1 --subnet 10.1.1.0/24 --subnet 10.1.0.0/16",
        "network add pods --vni 1 --gateway 10.1.1.1",
        "network add @pods --vni 1",
        "network add pods --vni 1 --mtu 100",
        "network add pods --vni 1 --subnet fd00::/64 --mtu 1000",
        "port add web-0 --network pods",
        "port add web-0 --network pods --netns a --ip 10.1.1.2",
        "port add web-0 --network pods --netns a --ip 10.1.1.999/24",
        "port add web-0 --network pods --netns a --ip 224.0.0.1/24",
        "port add web-0 --network pods --netns a --mac 01:00:00:00:00:00",
        "port add web-0 --network pods --netns a --mac 0a:58",
        "port add web-0 --network pods --netns a --ifname sixteencharacter",
        "port add web-0 --network pods --netns ..",
        "peer add node-b",
        "peer add node-b --remote node-b.example",
        "peer add node-b --remote 192.168.77.2:0",
        "peer add node-b --remote 192.168.77.2:1 --port 2",
        "peer add node-b --remote 192.168.77.2 --encap gre",
        "peer add node-b --remote 192.168.77.2 --pod-cidr 10.1.2.1/24",
        "peer add node-b --remote 0.0.0.0",
        "fdb add 02:00:00:00:00:01 --network pods",
        "fdb add ff:ff:ff:ff:ff:ff --network pods --port web-0",
        "fdb add 02:00:00:00:00:01 --network pods --port web-0 --peer node-b",
        "route add default --network pods --via 10.1.1.1",
        "route add 10.9.0.0/16 --network pods",
        "route add 10.9.0.0/16 --network pods --via fd00::1",
        "route add 10.9.0.0/16 --network pods --blackhole --unreachable",
        "route get 10.1.1.300",
        "trace --from web-0",
        "trace --to 10.1.1.2",
        "trace --from web-0 --to 10.1.1.2 --dport 80",
        "trace --from-peer node-b --to 10.1.1.2",
        "wait",
        "--timeout 0 status",
        "-o yaml status",
        "apply",
    ] {
        let run = server.swctl(args);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "swctl {args}: {}", run.err);
        assert!(!run.err.is_empty(), "swctl {args}");
        let json = server.swctl(&format!("-o json {args}"));
        assert_eq!(json.code, 2, "swctl -o json {args}");
        if !args.contains("-o") && !args.is_empty() {
            assert_eq!(error(&json)["reason"], "USAGE", "swctl {args}");
        }
    }
}

#[test]
fn usage_errors_say_what_was_meant() {
    let server = Server::start(Script::default());
    for (args, text) in [
        ("network add pods --vni 1 --subnet 10.1.1.1/24", "did you mean 10.1.1.0/24?"),
        ("network add pods --vni 0", "expected a number from 1 to 16777215"),
        (
            "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.2.1",
            "gateway 10.1.2.1 lies in no --subnet",
        ),
        ("port add web-0 --network pods --netns a --ip 10.1.1.2", "such as 10.1.1.0/24"),
        ("port add web-0 --network pods --netns a --mac 0a:58", "six hexadecimal bytes"),
    ] {
        let run = server.swctl(args);
        assert!(run.err.contains(text), "swctl {args}: {}", run.err);
    }
}

#[test]
fn three_when_an_object_is_missing() {
    let server = Server::start(Script::default());
    server.ok(NETWORK);
    for (args, reason) in [
        ("port show none", "PORT_NOT_FOUND"),
        ("port stats none", "PORT_NOT_FOUND"),
        ("port del none", "PORT_NOT_FOUND"),
        ("port add a --network none --netns a", "NETWORK_NOT_FOUND"),
        ("network show none", "NETWORK_NOT_FOUND"),
        ("network del none", "NETWORK_NOT_FOUND"),
        ("peer del none", "PEER_NOT_FOUND"),
        ("peer show none", "PEER_NOT_FOUND"),
        ("route del 10.9.0.0/16", "ROUTE_NOT_FOUND"),
        ("route get 10.9.0.1", "ROUTE_NOT_FOUND"),
        ("fdb del 02:00:00:00:00:01", "FDB_NOT_FOUND"),
    ] {
        let run = server.swctl(args);
        assert_eq!((run.code, run.out.as_str()), (3, ""), "swctl {args}: {}", run.err);
        assert!(run.err.contains(reason), "swctl {args}: {}", run.err);
        let e = error(&server.swctl(&format!("-o json {args}")));
        assert_eq!((&e["code"], &e["reason"]), (&"NOT_FOUND".into(), &reason.into()), "swctl {args}");
    }
}

#[test]
fn four_when_nobody_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.sock");
    let run = swctl(&missing, &["status"]);
    assert_eq!(run.code, 4);
    assert_eq!(
        run.err,
        format!(
            "swctl: cannot connect to {}: the socket does not exist\n  reason: UNREACHABLE\n  hint: start \
             swd, or name its socket with --socket or SWCTL_SOCKET\n",
            missing.display()
        )
    );
    let e = error(&swctl(&missing, &["status", "-o", "json"]));
    assert_eq!((&e["code"], &e["reason"]), (&"UNAVAILABLE".into(), &"UNREACHABLE".into()));

    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let run = swctl(&missing, &["--socket", stale.to_str().unwrap(), "port"]);
    assert_eq!(run.code, 4);
    assert!(run.err.contains("nobody listens there"), "{}", run.err);
}

#[test]
fn five_when_it_takes_too_long() {
    let server = Server::start(Script { hang: true, ..Default::default() });
    let run = server.swctl("--timeout 50ms status");
    assert_eq!(run.code, 5, "{}", run.err);
    assert!(run.err.contains("within 50ms") && run.err.contains("TIMEOUT"), "{}", run.err);
    let run = server.swctl("wait --generation 9 --timeout 1s");
    assert_eq!(run.code, 5, "{}", run.err);
    assert!(run.err.contains("the generation did not come"), "{}", run.err);

    // Somebody listens and never says a word.
    let mute = server.dir.path().join("mute.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&mute).unwrap();
    let run = swctl(&mute, &["--timeout", "50ms", "port"]);
    assert_eq!(run.code, 5, "{}", run.err);
}

#[test]
fn six_when_something_is_wrong() {
    let degraded = Degraded {
        object: "port web-0".into(),
        message: "network namespace \u{1b}[31mweb-0 does not exist".into(),
        hint: "make it".into(),
    };
    let server = Server::start(Script { degraded: vec![degraded], ..Default::default() });
    let run = server.swctl("status");
    assert_eq!((run.code, run.err.as_str()), (6, ""));
    assert!(run.out.contains("WARN  port web-0: network namespace \\u{1b}[31mweb-0"), "{}", run.out);
    let run = server.swctl("status -o json");
    assert_eq!(run.code, 6);
    let status: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(status["degraded"][0]["object"], "port web-0");
}

#[test]
fn idempotent_forms() {
    let server = Server::start(Script::default());
    let port = "port add web-0 --network pods --netns web-0 --ip 10.1.1.2/24";
    for (args, changed) in [
        (NETWORK.to_owned(), true),
        (format!("{NETWORK} --may-exist"), false),
        (port.to_owned(), true),
        (format!("{port} --may-exist"), false),
        ("peer add node-b --remote 192.168.77.2 --pod-cidr 10.1.2.0/24".to_owned(), true),
        ("peer add node-b --remote 192.168.77.2 --pod-cidr 10.1.2.0/24 --may-exist".to_owned(), false),
        ("route add 10.9.0.0/16 --via 10.1.1.9".to_owned(), true),
        ("route add 10.9.0.0/16 --via 10.1.1.9 --may-exist".to_owned(), false),
        ("fdb add 02:00:00:00:00:09 --peer node-b".to_owned(), true),
        ("fdb add 02:00:00:00:00:09 --peer node-b --may-exist".to_owned(), false),
        ("fdb del 02:00:00:00:00:09 --if-exists".to_owned(), true),
        ("fdb del 02:00:00:00:00:09 --if-exists".to_owned(), false),
        ("route del 10.9.0.0/16 --if-exists".to_owned(), true),
        ("route del 10.9.0.0/16 --if-exists".to_owned(), false),
        ("peer del node-b --if-exists".to_owned(), true),
        ("peer del node-b --if-exists".to_owned(), false),
        ("port del web-0 --if-exists".to_owned(), true),
        ("port del web-0 --if-exists".to_owned(), false),
        ("network del pods --if-exists".to_owned(), true),
        ("network del pods --if-exists".to_owned(), false),
    ] {
        assert_eq!(server.json(&args)["changed"], changed, "swctl {args}");
    }
    server.ok(NETWORK);
    server.ok(port);
    let run = server.swctl("port add web-0 --network pods --netns other --may-exist");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("CONFLICT"), "{}", run.err);
    let run = server.swctl("network del pods --if-exists");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("network pods is in use by port web-0"), "{}", run.err);
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let server = Server::start(Script::default());
    server.ok(NETWORK);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_swctl"))
        .arg("--socket")
        .arg(server.socket())
        .args(["network", "show"])
        .stdout(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
