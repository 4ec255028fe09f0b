//! The shapes that scripts rely on: JSON keys and arrays, tables, traces, documents, generated files.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod fake;

use ctl::proto::*;
use fake::{Run, Script, Server};
use serde_json::{Value, json};

fn lab() -> Server {
    let server = Server::start(Script::default());
    server.ok(
        "network add pods --vni 1 --subnet fd00:1::/64 --gateway 10.1.1.1 --subnet 10.1.1.0/24 --gateway fd00:1::1",
    );
    server
}

fn keys(v: &Value) -> Vec<&str> {
    v.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn lists_are_arrays_whatever_their_length() {
    let server = Server::start(Script::default());
    for noun in ["network", "port", "port stats", "peer", "peer stats", "fdb", "route", "neigh"] {
        assert_eq!(server.json(noun), json!([]), "{noun}");
    }
    assert_eq!(server.json("drops")["drops"], json!([]));
    server.ok("network add pods --vni 1");
    for n in 1..=2 {
        server.ok(&format!("port add p{n} --network pods --netns n{n}"));
        server.ok(&format!("peer add node-{n} --remote 192.168.77.{n}"));
        for noun in ["port", "port show", "p", "port stats", "peer", "peer stats"] {
            assert_eq!(server.json(noun).as_array().unwrap().len(), n, "{noun}");
        }
    }
    assert_eq!(server.json("port show p2").as_array().unwrap().len(), 1);
    assert_eq!(server.json("port show p2 p1")[0]["name"], "p2");
}

#[test]
fn gateways_find_their_subnets() {
    let server = lab();
    let subnets = json!([
        {"cidr": "fd00:1::/64", "gateway": "fd00:1::1"},
        {"cidr": "10.1.1.0/24", "gateway": "10.1.1.1"},
    ]);
    assert_eq!(server.json("network show pods")[0]["subnets"], subnets);
}

#[test]
fn ports_and_peers() {
    let server = lab();
    server.ok(
        "port add web-0 --network pods --netns sub/ns --ip 10.1.1.2/24 --ip fd00:1::2/64 --ifname net1 \
         --mac 02:00:00:00:00:02 --mtu 1400 --no-offload --metadata pod=web --metadata uid=1=2 \
         --ingress-rate 50M --ingress-burst 64k --publish [fd00::9]:8080:80/udp",
    );
    let port = &server.json("port")[0];
    let expected = json!({
        "name": "web-0", "network": "pods", "vni": 1, "netns": port["netns"], "netns_path": "",
        "ifname": "net1", "ifindex": 0, "state": "up", "problem": "", "mac": "02:00:00:00:00:02",
        "ips": ["10.1.1.2/24", "fd00:1::2/64"], "mtu": 1450, "learning": false, "mac_limit": 0,
        "offload": false, "offloads": [], "default_route": true, "worker": 0, "up_ms": 0,
        "metadata": {"pod": "web", "uid": "1=2"}, "ingress_rate": 50_000_000, "ingress_burst": 64_000,
        "egress_rate": 0, "egress_burst": 0, "container_id": "", "cni_network": "",
        "mappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "fd00::9"}],
        "node": false, "masquerade": false, "no_masquerade": [],
    });
    assert_eq!(*port, expected);
    server.ok("port add node --network pods --node --masquerade --no-masquerade 172.16.0.0/12");
    let node = &server.json("port show node")[0];
    assert_eq!((&node["node"], &node["netns"], &node["ifname"]), (&json!(true), &json!(""), &json!("swd0")));
    assert_eq!((&node["masquerade"], &node["no_masquerade"]), (&json!(true), &json!(["172.16.0.0/12"])));
    // The daemon runs elsewhere, so a relative path was made absolute.
    let netns = port["netns"].as_str().unwrap();
    assert!(netns.starts_with('/') && netns.ends_with("/sub/ns"), "{netns}");

    server.ok("peer add node-b --remote [fd00::2]:8472 --pod-cidr 10.1.2.0/24 --pod-cidr fd00:2::/64");
    server.ok("peer add node-c --remote 192.168.77.3 --encap geneve --network pods --no-checksum");
    let peers = server.json("peer");
    let expected = json!({
        "name": "node-b", "remote": "fd00::2", "port": 8472, "encap": "vxlan",
        "pod_cidrs": ["10.1.2.0/24", "fd00:2::/64"], "router_mac": "", "network": null, "checksum": true,
        "mtu": 0, "state": "unknown", "problem": "", "last_rx_ms": null,
    });
    assert_eq!(peers[0], expected);
    assert_eq!((&peers[1]["port"], &peers[1]["encap"]), (&json!(6081), &json!("geneve")));
    assert_eq!((&peers[1]["network"], &peers[1]["checksum"]), (&json!("pods"), &json!(false)));
}

#[test]
fn counters_and_limits_of_ports() {
    let server = lab();
    server.ok("port add free --network pods --netns n1");
    let table = server.ok("port stats").out;
    assert!(!table.contains("QUEUED"), "{table}");
    server.ok("port add slow --network pods --netns n2 --ingress-rate 50M --ingress-burst 64k");
    let stats = server.json("port stats");
    assert_eq!((&stats[0]["ingress"], &stats[0]["rx_frames"]), (&json!(null), &json!(7)));
    let limit = json!({
        "rate": 50_000_000, "burst": 64_000, "queued_frames": 0, "queued_bytes": 9, "delayed_frames": 0,
        "pauses": 0, "paused_ms": 0, "dropped_packets": 0,
    });
    assert_eq!((&stats[1]["ingress"], &stats[1]["egress"]), (&limit, &json!(null)));
    let table = server.ok("port stats").out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with("IO ERRORS  IN/OUT BIT/S  QUEUED BYTES  LIMIT DROPS"), "{table}");
    assert!(
        lines[1].ends_with("  0") && lines[2].ends_with("  0          50M/-         9/-           0/-"),
        "{table}"
    );
}

#[test]
fn long_ids_are_short_in_tables_and_enough_to_name_a_port() {
    let server = lab();
    let id = "4f2a90c1d3e5".to_owned() + &"7".repeat(52);
    let other = "4f2a90c1ffff".to_owned() + &"7".repeat(52);
    server.ok(&format!("port add {id}/eth0 --network pods --netns n1"));
    server.ok(&format!("port add {other}/eth0 --network pods --netns n2"));
    let table = server.ok("port show").out;
    assert!(table.contains("4f2a90c1d3e5/eth0  pods") && !table.contains(&id), "{table}");
    assert!(server.ok("--no-trunc port show").out.contains(&id));
    assert_eq!(server.json("port show 4f2a90c1d3e5/eth0")[0]["name"], format!("{id}/eth0"));
    assert_eq!(server.json("port stats 4f2a90c1f")[0]["name"], format!("{other}/eth0"));
    let run = server.swctl("port del 4f2a90c1");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("may be any of 2") && run.err.contains(&id), "{}", run.err);
    server.ok("port del 4f2a90c1d3e5/eth0");
    assert_eq!(server.json("port show").as_array().unwrap().len(), 1);
}

#[test]
fn fdb_has_the_keys_of_bridge() {
    let learned = FdbInfo {
        network: "pods".into(),
        vni: 1,
        mac: "0a:58:0a:01:02:15".into(),
        target: Some(fdb_info::Target::Peer("node-b".into())),
        dst: "192.0.2.12".into(),
        state: FdbState::Learned.into(),
        used: 4,
        updated: 9,
        stale: false,
    };
    let stale = FdbInfo { stale: true, ..learned.clone() };
    let router =
        FdbInfo { target: None, dst: String::new(), state: FdbState::Router.into(), ..learned.clone() };
    let server = Server::start(Script { fdb: vec![learned, stale, router], ..Default::default() });
    let expected = json!([
        {"mac": "0a:58:0a:01:02:15", "ifname": "@node-b", "dev": "@node-b", "dst": "192.0.2.12", "vni": 1,
         "network": "pods", "flags": [], "state": "learned", "used": 4, "updated": 9},
        {"mac": "0a:58:0a:01:02:15", "ifname": "@node-b", "dev": "@node-b", "dst": "192.0.2.12", "vni": 1,
         "network": "pods", "flags": ["stale"], "state": "learned", "used": 4, "updated": 9},
        {"mac": "0a:58:0a:01:02:15", "vni": 1, "network": "pods", "flags": ["router"], "state": "permanent",
         "used": 4, "updated": 9},
    ]);
    assert_eq!(server.json("f"), expected);
    let table = "\
MAC                PORT/PEER  DST         NETWORK  VNI  STATE      UPDATED
0a:58:0a:01:02:15  @node-b    192.0.2.12  pods     1    learned    9s
0a:58:0a:01:02:15  @node-b    192.0.2.12  pods     1    learned    9s
0a:58:0a:01:02:15  (router)   -           pods     1    permanent  -
";
    assert_eq!(server.ok("fdb").out, table);
    assert_eq!(server.ok("fdb show --no-headers").out.lines().count(), 3);

    assert_eq!(server.json("fdb flush --network pods --peer node-b"), json!({"removed": 3}));
    let expected = FlushFdbRequest { network: "pods".into(), port: String::new(), peer: "node-b".into() };
    assert_eq!(server.script(|s| s.flushed.clone()), [expected]);
}

#[test]
fn routes_have_the_keys_of_ip() {
    let server = lab();
    server.ok("peer add node-b --remote 192.168.77.2");
    server.ok("route add 10.9.0.0/16 --network pods --via 10.1.1.9");
    server.ok("route add ::/0 --peer node-b");
    server.ok("r add 10.8.0.0/16 --blackhole");
    let routes = server.json("r");
    let expected = json!({
        "dst": "10.9.0.0/16", "gateway": "10.1.1.9", "dev": "pods", "protocol": "static", "metrics": [],
        "flags": [], "family": "inet", "network": "pods", "vni": 0,
    });
    assert_eq!(routes[0], expected);
    assert_eq!((&routes[1]["dst"], &routes[1]["dev"]), (&json!("default"), &json!("@node-b")));
    assert_eq!(routes[1]["family"], "inet6");
    assert_eq!((&routes[2]["type"], routes[2].get("dev")), (&json!("blackhole"), None));
    let got = server.json("route get 10.9.4.4");
    assert_eq!((&got[0]["gateway"], &got[0]["neighbour"]), (&json!("10.1.1.9"), &Value::Null));
    server.ok("network add other --vni 2");
    let run = server.swctl("route get 10.9.4.4");
    assert_eq!(run.code, 2);
    assert!(run.err.contains("say which with --network: there are pods, other"), "{}", run.err);
}

#[test]
fn neighbours_have_the_keys_of_ip() {
    let neighbour = NeighbourInfo {
        network: "pods".into(),
        vni: 1,
        ip: "10.1.1.9".into(),
        mac: "02:00:00:00:00:09".into(),
        state: NeighbourState::Reachable.into(),
        target: Some(neighbour_info::Target::Port("web-0".into())),
        ..Default::default()
    };
    let server = Server::start(Script { neighbours: vec![neighbour], ..Default::default() });
    let expected = json!([{
        "dst": "10.1.1.9", "dev": "web-0", "lladdr": "02:00:00:00:00:09", "state": ["REACHABLE"],
        "network": "pods", "vni": 1, "used": 0, "updated": 0, "queued": 0,
    }]);
    assert_eq!(server.json("n"), expected);
}

#[test]
fn drops_and_their_sources() {
    let drops = ListDropsReply {
        drops: vec![DropCount {
            reason: "spoofed-ip".into(),
            stage: "guard".into(),
            count: 12,
            description: "the source address is not the port's".into(),
        }],
        sources: vec![DropSource {
            reason: "spoofed-ip".into(),
            source: Some(drop_source::Source::Port("web-0".into())),
            count: 12,
        }],
        ledger: Some(Ledger { frames_in: 20, frames_forwarded: 8, frames_dropped: 12, ..Default::default() }),
    };
    let server = Server::start(Script { drops, ..Default::default() });
    let expected = json!([{
        "reason": "spoofed-ip", "stage": "guard", "count": 12,
        "description": "the source address is not the port's",
        "sources": [{"dev": "web-0", "count": 12}],
    }]);
    let report = server.json("drops");
    assert_eq!((keys(&report), &report["drops"]), (vec!["drops", "ledger"], &expected));
    assert_eq!((&report["ledger"]["frames_in"], &report["ledger"]["balanced"]), (&json!(20), &json!(false)));
    assert_eq!(report["ledger"], server.json("drops --by source")["ledger"]);
    assert_eq!(server.json("drops --by source")["drops"], expected);
    let table = "\
REASON      STAGE  COUNT  DESCRIPTION
spoofed-ip  guard  12     the source address is not the port's

frames in 20 = forwarded 8 + answered 0 + dropped 12
";
    assert_eq!(server.ok("drops").out, table);
    assert_eq!(server.ok("drops --by source --no-headers").out, "spoofed-ip  web-0  12\n");
}

#[test]
fn status_keys() {
    let server = lab();
    let status = server.json("status");
    let mut expected = [
        "version",
        "node",
        "underlay",
        "router_mac",
        "pid",
        "uptime_ms",
        "generation",
        "applied_generation",
        "workers",
        "networks",
        "ports_up",
        "ports_down",
        "peers_up",
        "peers_down",
        "offload",
        "sandbox",
        "monitor",
        "watch",
        "ledger",
        "degraded",
    ];
    expected.sort_unstable();
    let mut found = keys(&status);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((&status["degraded"], &status["underlay"]), (&json!([]), &Value::Null));
    assert_eq!(status["sandbox"], json!([]));
    assert!(server.swctl("status").out.contains("sandbox     none, one process does everything"));
}

#[test]
fn what_is_missing_of_the_sandbox_is_said() {
    let measure = |measure: &str, achieved, detail: &str| SandboxMeasure {
        measure: measure.into(),
        achieved,
        detail: detail.into(),
    };
    let user = measure("user", true, "user 65532");
    let sandbox = vec![user.clone(), measure("landlock", false, "this kernel has none")];
    let server = Server::start(Script { sandbox, ..Default::default() });
    let status = server.json("status");
    assert_eq!(status["sandbox"][0], json!({"measure": "user", "achieved": true, "detail": "user 65532"}));
    assert_eq!(status["sandbox"][1]["achieved"], json!(false));
    let run = server.swctl("status");
    assert_eq!(run.code, 0, "a kernel that lacks something degrades nothing");
    assert!(run.out.contains("sandbox     1 of 2 measures\n"), "{}", run.out);
    assert!(run.out.contains("no landlock: this kernel has none\n"), "{}", run.out);
    let server = Server::start(Script { sandbox: vec![user], ..Default::default() });
    assert!(server.swctl("status").out.contains("sandbox     1 of 1 measures\n"));
}

#[test]
fn restarts_and_their_cause_are_said() {
    let monitor = |restarts, last_end: &str| Script {
        monitor: Some(MonitorInfo { pid: 7, restarts, last_end: last_end.into(), upgrades: restarts / 2 }),
        ..Default::default()
    };
    let server = Server::start(monitor(0, ""));
    assert_eq!(
        server.json("status")["monitor"],
        json!({"pid": 7, "restarts": 0, "upgrades": 0, "last_end": ""})
    );
    assert!(server.swctl("status").out.contains("monitor     pid 7, no restarts\n"));
    let server = Server::start(monitor(2, "signal 9"));
    assert!(
        server.swctl("status").out.contains("monitor     pid 7, upgrades 1, restarts 2, last: signal 9\n")
    );
    let server = Server::start(Script::default());
    assert_eq!(server.json("status")["monitor"], json!(null));
    assert!(server.swctl("status").out.contains("monitor     none"));
}

fn step(stage: &str, detail: &str) -> TraceStep {
    TraceStep { stage: stage.into(), detail: detail.into(), node: String::new() }
}

fn to_peer() -> TraceReply {
    let output = TraceOutput {
        target: Some(trace_output::Target::Peer("node-b".into())),
        vni: 7,
        frame: vec![0xab; 60],
        underlay_src: "192.168.77.1".into(),
        underlay_dst: "192.168.77.2".into(),
    };
    TraceReply {
        node: "node-a".into(),
        packet: "icmp 10.1.1.2 -> 10.1.2.2".into(),
        steps: vec![step("guard", "source allowed"), step("route", "10.1.2.0/24 via @node-b")],
        verdict: TraceVerdict::Forwarded.into(),
        outputs: vec![output],
        ..Default::default()
    }
}

fn at_node_b(verdict: TraceVerdict) -> TraceReply {
    let port = trace_output::Target::Port("db-0".into());
    let forwarded = verdict == TraceVerdict::Forwarded;
    TraceReply {
        node: "node-b".into(),
        steps: vec![step("decap", "known peer")],
        verdict: verdict.into(),
        drop_reason: if forwarded { String::new() } else { "spoofed-ip".into() },
        drop_stage: if forwarded { String::new() } else { "guard".into() },
        hint: if forwarded { String::new() } else { "look".into() },
        outputs: vec![TraceOutput { target: Some(port), ..Default::default() }],
        ..Default::default()
    }
}

fn trace(verdict: TraceVerdict, args: &str) -> (Server, Server, Run) {
    let a = Server::start(Script { traces: vec![to_peer()], ..Default::default() });
    let b = Server::start(Script { traces: vec![at_node_b(verdict)], ..Default::default() });
    let socket = b.socket();
    let run = a
        .swctl(&format!("trace --from web-0 --to 10.1.2.2 --peer-socket node-b={} {args}", socket.display()));
    (a, b, run)
}

#[test]
fn a_trace_goes_on_at_the_peer() {
    let (a, b, run) = trace(TraceVerdict::Forwarded, "--proto tcp --dport 443 --ttl 3 --size 900");
    let expected = "\
synthetic packet  icmp 10.1.1.2 -> 10.1.2.2  (not sent)
 1 node-a  guard  source allowed
 2 node-a  route  10.1.2.0/24 via @node-b
 3 node-b  decap  known peer
verdict: DELIVERED to port db-0 at node-b
";
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, expected, ""));
    let asked = a.script(|s| s.traced.remove(0));
    let flow = TraceFlow {
        destination: "10.1.2.2".into(),
        proto: IpProto::Tcp.into(),
        dport: 443,
        ttl: 3,
        size: 900,
        ..Default::default()
    };
    assert_eq!(asked.what, Some(trace_request::What::Flow(flow)));
    let asked = b.script(|s| s.traced.remove(0));
    assert_eq!(asked.from, Some(trace_request::From::Underlay("192.168.77.1".into())));
    assert_eq!((asked.vni, asked.what), (7, Some(trace_request::What::Frame(vec![0xab; 60]))));
}

#[test]
fn a_trace_that_ends_in_a_drop() {
    let (_a, _b, run) = trace(TraceVerdict::Dropped, "");
    assert_eq!(run.code, 6);
    let end = "verdict: DROPPED at node-b, stage guard (spoofed-ip)\nhint: look\n";
    assert!(run.out.ends_with(end), "{}", run.out);

    let (_a, _b, run) = trace(TraceVerdict::Dropped, "-o json");
    assert_eq!(run.code, 6);
    let v: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&v["verdict"], &v["node"]), (&json!("dropped"), &json!("node-b")));
    assert_eq!((&v["drop_stage"], &v["drop_reason"]), (&json!("guard"), &json!("spoofed-ip")));
    assert_eq!(v["steps"].as_array().unwrap().len(), 3);
    // What node-b put out is an answer, not the packet.
    assert_eq!(v["delivered"], json!([]));
    assert_eq!(v["outputs"][0]["dev"], "@node-b");
}

#[test]
fn a_trace_without_the_peers_socket() {
    let a = Server::start(Script { traces: vec![to_peer()], ..Default::default() });
    let run = a.ok("trace --from web-0 --frame ff:ff:ff:ff:ff:ff0200000000010800");
    assert!(run.out.ends_with("verdict: SENT to peer node-b by node-a\n"), "{}", run.out);
    assert_eq!(a.swctl("trace --from web-9 --to 10.1.1.1").code, 3);
}

#[test]
fn a_trace_in_a_loop_ends() {
    let a = Server::start(Script { traces: vec![to_peer(); 100], ..Default::default() });
    let run =
        a.swctl(&format!("trace --from web-0 --to 10.1.2.2 --peer-socket node-b={}", a.socket().display()));
    assert_eq!(run.code, 1);
    assert!(run.err.contains("more than 16 nodes"), "{}", run.err);
    assert_eq!(a.script(|s| s.traced.len()), 16);
}

#[test]
fn export_and_apply() {
    let server = lab();
    server.ok("port add web-0 --network pods --netns web-0 --ip 10.1.1.2/24");
    server.ok("peer add node-b --remote 192.168.77.2 --pod-cidr 10.1.2.0/24");
    server.ok("route add 10.9.0.0/16 --peer node-b");
    server.ok("fdb add 02:00:00:00:00:09 --port web-0");
    let other = Server::start(Script::default());
    for (format, name) in [("table", "state.toml"), ("json", "state.json")] {
        let text = server.ok(&format!("-o {format} export")).out;
        let file = server.dir.path().join(name);
        std::fs::write(&file, &text).unwrap();
        let file = file.display();
        let changes = other.json(&format!("apply -f {file} --dry-run"))["changes"].clone();
        if name == "state.toml" {
            assert_eq!(changes.as_array().unwrap().len(), 5);
            assert_eq!(changes[0], json!({"action": "add", "kind": "network", "name": "pods"}));
            assert_eq!(other.desired(), ctl::desired::DesiredState::default());
            let table = other.ok(&format!("apply -f {file}")).out;
            assert!(table.starts_with("ACTION  KIND     NAME\nadd     network  pods\n"), "{table}");
        }
        assert_eq!(other.desired(), server.desired());
        assert_eq!(other.json(&format!("apply -f {file} --prune"))["changes"], json!([]));
    }
    std::fs::write(server.dir.path().join("one.toml"), "[[networks]]\nname = \"pods\"\nvni = 1\n").unwrap();
    let one = server.dir.path().join("one.toml");
    let pruned = other.json(&format!("apply --prune -f {}", one.display()))["changes"].clone();
    assert_eq!(pruned[0], json!({"action": "update", "kind": "network", "name": "pods"}));
    assert_eq!(pruned.as_array().unwrap().len(), 5);

    std::fs::write(&one, "[[networks]]\nname = \"pods\"\nvni = 1\nvlan = 3\n").unwrap();
    let run = other.swctl(&format!("apply -f {}", one.display()));
    assert_eq!(run.code, 1);
    assert!(run.err.contains("line 4") && run.err.contains("vlan"), "{}", run.err);
    let run = other.swctl("apply -f /nonexistent/file");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("cannot read /nonexistent/file"), "{}", run.err);
}

#[test]
fn completions_and_man_pages() {
    let server = Server::start(Script::default());
    for shell in ["bash", "zsh", "fish"] {
        let script = server.ok(&format!("completion {shell}")).out;
        assert!(script.contains("swctl") && script.contains("pod-cidr"), "{shell}");
    }
    let script = server.dir.path().join("swctl.bash");
    std::fs::write(&script, server.ok("completion bash").out).unwrap();
    assert!(std::process::Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    let dir = server.dir.path().join("man/man1");
    server.ok(&format!("man {}", dir.display()));
    let pages: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for page in ["swctl.1", "swctl-port.1", "swctl-port-add.1", "swctl-trace.1"] {
        assert!(pages.iter().any(|p| p == page), "{page} is not among {pages:?}");
    }
    let text = std::fs::read_to_string(dir.join("swctl.1")).unwrap();
    assert!(text.contains("Exit codes") && text.contains("swctl"), "{text}");
    assert!(server.ok("--help").out.contains("cannot be reached"));
    assert!(server.ok("--version").out.starts_with("swctl "));
}

#[test]
fn large_answers_pass() {
    let entry = |n: u64| FdbInfo {
        network: "pods".into(),
        mac: packet::MacAddr::from_u64(0x0200_0000_0000 + n).to_string(),
        target: Some(fdb_info::Target::Port("web-0".into())),
        ..Default::default()
    };
    // More than the 4 MiB at which gRPC libraries stop unless told otherwise.
    let server = Server::start(Script { fdb: (0..150_000).map(entry).collect(), ..Default::default() });
    assert_eq!(server.ok("fdb --no-headers").out.lines().count(), 150_000);
}

#[test]
fn the_blocking_client_and_the_descriptor() {
    let server = lab();
    let timeout = std::time::Duration::from_secs(10);
    let mut client = ctl::client::BlockingClient::connect(server.socket(), timeout).unwrap();
    let request = ListNetworksRequest::default();
    let reply = client.call(async |s| s.list_networks(request).await).unwrap();
    assert_eq!(reply.networks.len(), 1);
    let request = DeleteNetworkRequest { name: "none".into(), if_exists: false };
    let e = client.call(async |s| s.delete_network(request).await).unwrap_err();
    assert_eq!(e, ctl::error::ApiError::no_network("none"));
    drop(server);
    let e = client.call(async |s| s.get_status(GetStatusRequest {}).await).unwrap_err();
    assert_eq!(e.reason, ctl::error::Reason::Unreachable, "{e:?}");

    let words = String::from_utf8_lossy(ctl::DESCRIPTOR_SET);
    assert!(words.contains("swd.v1") && words.contains("WaitGeneration"));
}

#[test]
fn the_document_in_the_manual_is_sound() {
    let manual = include_str!("../../docs/swctl.md");
    let text = manual.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = ctl::desired::DesiredState::parse(text, ctl::desired::document::Notation::Toml).unwrap();
    file.check().unwrap();
    let server = Server::start(Script::default());
    let path = server.dir.path().join("manual");
    std::fs::write(&path, text).unwrap();
    server.ok(&format!("apply --prune -f {}", path.display()));
    assert_eq!(server.desired(), file);
}
