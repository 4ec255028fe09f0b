//! Adding is all or nothing, twice is once, deleting always works, and what others deleted goes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::fs::RealFs;
use super::super::testing::{Bench, FakeOpener, FullDisk, bench, bench_with, network, peer, settings};
use super::*;
use crate::datapath::NetId;
use crate::io::PortHealth;
use ctl::desired::{FdbEntry, NodePort};
use ctl::tombstone::Tombstone;
use proto::{AddAttachmentRequest, AttachmentKey};

fn key(id: &str) -> AttachmentKey {
    AttachmentKey { container_id: id.into(), ifname: "eth0".into() }
}

fn request(id: &str) -> AddAttachmentRequest {
    AddAttachmentRequest {
        key: Some(key(id)),
        cni_network: "cluster".into(),
        netns: format!("ns-{id}"),
        ..AddAttachmentRequest::default()
    }
}

fn clock() -> Clock {
    Clock { now: Instant::now(), unix_ms: 1_767_225_600_000 }
}

/// One network; the first is the gateway.
fn state(subnets: &[&str]) -> DesiredState {
    DesiredState { networks: vec![network("pods", 1, subnets)], ..DesiredState::default() }
}

async fn with(dir: &std::path::Path, subnets: &[&str]) -> Bench {
    let bench = bench(dir);
    bench.control.core().await.commit(state(subnets)).unwrap();
    bench
}

fn added(core: &mut Core, request: AddAttachmentRequest) -> Port {
    let added = add(core, request, clock()).unwrap();
    assert!(!added.existed);
    added.port
}

fn ips(port: &Port) -> Vec<String> {
    port.ips.iter().map(ToString::to_string).collect()
}

fn open(bench: &Bench) -> BTreeSet<String> {
    bench.opener.0.lock().unwrap().open.keys().cloned().collect()
}

#[tokio::test]
async fn an_attachment_is_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/30", "fd00:1::/64"]).await;
    let mut core = bench.control.core().await;
    let metadata = [("k8s/pod".to_owned(), "web".to_owned())].into();
    let bandwidth = Some(proto::Bandwidth { egress_rate: 1_000_000, ..proto::Bandwidth::default() });
    let port = added(&mut core, AddAttachmentRequest { metadata, bandwidth, mtu: 1400, ..request("c1") });
    assert_eq!((port.name.as_str(), port.netns.as_str(), port.ifname.as_str()), ("c1/eth0", "ns-c1", "eth0"));
    assert_eq!((ips(&port)[0].as_str(), port.ips.len()), ("10.1.1.2/30", 2));
    assert_eq!(port.metadata["k8s/pod"], "web");
    assert_eq!((port.metadata[ADDED].as_str(), port.mtu), ("1767225600000", Some(1400)));
    assert_eq!(port.bandwidth.unwrap().egress_rate, 1_000_000);
    let owner = port.attachment.clone().unwrap();
    assert_eq!((owner.cni_network.as_str(), owner.container_id.as_str()), ("cluster", "c1"));
    assert_eq!(core.desired.ports, std::slice::from_ref(&port));
    assert_eq!(core.up("c1/eth0").unwrap().spec.mac, port.mac.unwrap());
    drop(core);
    drop(bench);
    // And as durable as one.
    let bench = super::super::testing::bench(dir.path());
    let core = bench.control.core().await;
    assert_eq!(core.desired.ports, [port]);
    assert!(core.up("c1/eth0").is_some());
}

#[tokio::test]
async fn twice_is_once() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24"]).await;
    let mut core = bench.control.core().await;
    let port = added(&mut core, request("c1"));
    let asked = |ips: &[&str]| ips.iter().map(ToString::to_string).collect::<Vec<String>>();
    let own = ips(&port);
    let again = [
        request("c1"),
        AddAttachmentRequest { network: "pods".into(), ips: own.clone(), ..request("c1") },
        AddAttachmentRequest { ips: own.clone(), delegated: true, ..request("c1") },
        AddAttachmentRequest { mac: port.mac.unwrap().to_string(), ..request("c1") },
        AddAttachmentRequest { metadata: [("other".to_owned(), "note".to_owned())].into(), ..request("c1") },
    ];
    for request in again {
        assert_eq!(add(&mut core, request, clock()), Ok(Added { port: port.clone(), existed: true }));
    }
    assert_eq!((core.generation, bench.opener.0.lock().unwrap().calls.len()), (2, 1));
    for (what, request) in [
        ("other network namespace:", AddAttachmentRequest { netns: "ns-x".into(), ..request("c1") }),
        ("other network:", AddAttachmentRequest { network: "x".into(), ..request("c1") }),
        ("other CNI network:", AddAttachmentRequest { cni_network: "x".into(), ..request("c1") }),
        ("other addresses:", AddAttachmentRequest { ips: asked(&["10.1.1.77"]), ..request("c1") }),
        ("other addresses:", AddAttachmentRequest { delegated: true, ..request("c1") }),
        (
            "other MAC, MTU:",
            AddAttachmentRequest { mac: "02:00:00:00:00:01".into(), mtu: 1300, ..request("c1") },
        ),
        ("other default route:", AddAttachmentRequest { default_route: Some(false), ..request("c1") }),
    ] {
        let e = add(&mut core, request, clock()).unwrap_err();
        assert_eq!(e.reason, Reason::Conflict, "{e}");
        assert!(e.message.contains(what) && e.message.contains(&own[0]), "{what} {e}");
        assert_eq!(e.hint, "delete it first: swctl port del c1/eth0");
    }
    assert_eq!((core.generation, &core.desired.ports), (2, &vec![port]));
}

#[tokio::test]
async fn twice_mends_what_broke_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24"]).await;
    let mut core = bench.control.core().await;
    added(&mut core, request("c1"));
    bench.opener.0.lock().unwrap().health.insert("ns-c1".into(), PortHealth::IfaceGone);
    assert!(add(&mut core, request("c1"), clock()).unwrap().existed);
    assert_eq!(bench.opener.0.lock().unwrap().calls, ["open ns-c1", "close ns-c1", "open ns-c1"]);
    // And says so when it cannot.
    bench.opener.0.lock().unwrap().missing.push("ns-c1".into());
    assert_eq!(add(&mut core, request("c1"), clock()).unwrap_err().reason, Reason::NetnsNotFound);
    assert!(core.up("c1/eth0").is_none());
    bench.opener.0.lock().unwrap().missing.clear();
    bench.opener.0.lock().unwrap().health.clear();
    assert!(add(&mut core, request("c1"), clock()).unwrap().existed);
    assert!(core.up("c1/eth0").is_some());
}

#[tokio::test]
async fn nothing_is_left_of_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::sync::Arc::new(AtomicBool::new(false));
    let fs = FullDisk(RealFs::open(dir.path()).unwrap(), full.clone());
    let bench = bench_with(settings(), Box::new(fs), FakeOpener::default());
    // One address only.
    bench.control.core().await.commit(state(&["10.1.1.0/30"])).unwrap();
    let mut core = bench.control.core().await;
    let before = core.desired.clone();
    bench.opener.0.lock().unwrap().missing.push("ns-c1".into());
    assert_eq!(add(&mut core, request("c1"), clock()).unwrap_err().reason, Reason::NetnsNotFound);
    full.store(true, Ordering::Relaxed);
    assert_eq!(add(&mut core, request("c2"), clock()).unwrap_err().reason, Reason::NotDurable);
    assert_eq!((&core.desired, core.generation, open(&bench)), (&before, 1, BTreeSet::new()));
    // Not ready while nothing can be written; noticed without a change once it can.
    let not_ready = readiness(&core, "pods", Instant::now());
    assert!(!not_ready.ready && !not_ready.degraded && not_ready.cause.contains("cannot be written"));
    let now = Instant::now();
    core.save_again(now).unwrap();
    full.store(false, Ordering::Relaxed);
    core.save_again(now + Duration::from_secs(1)).unwrap();
    assert!(core.unwritable().is_some(), "not before its time");
    core.save_again(now + Duration::from_secs(10)).unwrap();
    assert!(readiness(&core, "pods", Instant::now()).ready);
    // Nobody ever used the address: it does not rest.
    assert_eq!(ips(&added(&mut core, request("c3"))), ["10.1.1.2/30"]);
}

#[tokio::test]
async fn every_address_once_then_none_then_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/28"]).await;
    let mut given = BTreeSet::new();
    // From many tasks, as runtimes ask.
    let tasks: Vec<_> = (0..13)
        .map(|n| {
            let control = bench.control.clone();
            tokio::spawn(async move { added(&mut *control.core().await, request(&format!("c{n}"))) })
        })
        .collect();
    for task in tasks {
        assert!(given.insert(ips(&task.await.unwrap()).remove(0)));
    }
    let mut core = bench.control.core().await;
    let e = add(&mut core, request("late"), clock()).unwrap_err();
    assert_eq!(e.reason, Reason::Limit);
    let report = readiness(&core, "", Instant::now());
    assert_eq!((report.ready, report.degraded, report.free_addresses), (false, false, 0));
    assert_eq!(report.cause, "network pods has no IPv4 address left: 13 of 13 are in use");
    assert!(delete(&mut core, &key("c4")).unwrap());
    assert_eq!(add(&mut core, request("late"), clock()).unwrap_err().reason, Reason::Limit);
    let report = readiness(&core, "", Instant::now());
    assert!(report.cause.contains("12 of 13 are in use, 1 were just released"), "{}", report.cause);
    let later = Clock { now: Instant::now() + super::super::ipam::QUARANTINE, ..clock() };
    let port = add(&mut core, request("late"), later).unwrap().port;
    assert!(given.contains(&ips(&port)[0]));
    assert_eq!(readiness(&core, "", later.now).free_addresses, 0);
}

#[tokio::test]
async fn addresses_by_request_and_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24", "fd00:1::/64"]).await;
    let mut core = bench.control.core().await;
    let asking = |id: &str, ips: &[&str], delegated| {
        let ips = ips.iter().map(ToString::to_string).collect();
        AddAttachmentRequest { ips, delegated, ..request(id) }
    };
    let port = added(&mut core, asking("c1", &["10.1.1.9"], false));
    assert_eq!((ips(&port)[0].as_str(), port.ips.len()), ("10.1.1.9/24", 2));
    let port = added(&mut core, asking("c2", &["fd00:1::9/128", "10.1.1.10/24"], false));
    assert_eq!(ips(&port), ["10.1.1.10/24", "fd00:1::9/64"]);
    let port = added(&mut core, asking("c3", &["10.1.1.11/25", "10.1.1.12"], true));
    assert_eq!(ips(&port), ["10.1.1.11/25", "10.1.1.12/24"]);
    assert_eq!(ips(&added(&mut core, asking("c4", &[], true))), [""; 0]);
    for (reason, word, ips, delegated) in [
        (Reason::Conflict, "already belongs to port c1/eth0", ["10.1.1.9"], false),
        (Reason::Conflict, "already belongs to port c3/eth0", ["10.1.1.11"], false),
        (Reason::Conflict, "already belongs to port c1/eth0", ["10.1.1.9/24"], true),
        (Reason::Conflict, "is the gateway of network pods", ["10.1.1.1"], false),
        (Reason::InvalidArgument, "not a host", ["10.1.1.255"], false),
        (Reason::InvalidArgument, "no subnet of network pods", ["10.7.1.1"], false),
        (Reason::InvalidArgument, "needs a prefix length", ["10.7.1.1"], true),
        (Reason::InvalidArgument, "`10.1.1` is not an IP address", ["10.1.1"], false),
        (Reason::InvalidArgument, "`10.1.1.1/33` is not a CIDR", ["10.1.1.1/33"], false),
    ] {
        let e = add(&mut core, asking("c9", &ips, delegated), clock()).unwrap_err();
        assert!(e.reason == reason && e.message.contains(word), "{word}: {e}");
    }
    assert_eq!(core.desired.ports.len(), 4);
}

#[tokio::test]
async fn what_a_request_must_have() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    let mut core = bench.control.core().await;
    let error = |core: &mut Core, request| add(core, request, clock()).unwrap_err();
    let e = error(&mut core, request("c1"));
    assert_eq!((e.reason, e.hint.contains("swctl network add")), (Reason::NetworkNotFound, true));
    core.commit(state(&["10.1.1.0/24"])).unwrap();
    let bad = [
        ("container id is missing", AddAttachmentRequest { key: None, ..request("c1") }),
        (
            "interface name is missing",
            AddAttachmentRequest {
                key: Some(AttachmentKey { ifname: String::new(), ..key("c1") }),
                ..request("c1")
            },
        ),
        ("cannot be a name", request("c 1")),
        ("namespace is empty", AddAttachmentRequest { netns: String::new(), ..request("c1") }),
        ("CNI network is missing", AddAttachmentRequest { cni_network: String::new(), ..request("c1") }),
        (
            "`swd/added` is reserved",
            AddAttachmentRequest {
                metadata: [("swd/added".to_owned(), "0".to_owned())].into(),
                ..request("c1")
            },
        ),
        (
            "network pods has no port of the node",
            AddAttachmentRequest { mappings: vec![mapping(8080)], ..request("c1") },
        ),
    ];
    for (word, request) in bad {
        let e = error(&mut core, request);
        assert!(e.reason == Reason::InvalidArgument && e.message.contains(word), "{word}: {e}");
    }
    let unknown = AddAttachmentRequest { network: "x".into(), ..request("c1") };
    assert_eq!(error(&mut core, unknown).reason, Reason::NetworkNotFound);
    let mut two = core.desired.clone();
    two.networks.push(network("more", 2, &[]));
    core.commit(two).unwrap();
    let e = error(&mut core, request("c1"));
    assert_eq!(
        (e.reason, e.message.as_str()),
        (Reason::InvalidArgument, "there are 2 networks (pods, more): name one of them")
    );
    // The port of somebody else is not an attachment, whatever its name.
    let mut by_hand = super::super::testing::port("c1/eth0", "pods", &[]);
    by_hand.netns = "elsewhere".into();
    core.add_port(by_hand).unwrap();
    let named = AddAttachmentRequest { network: "pods".into(), ..request("c1") };
    assert_eq!(error(&mut core, named).reason, Reason::Conflict);
    assert_eq!(delete(&mut core, &key("c1")), Ok(false));
    assert_eq!(core.desired.ports.len(), 1);
}

fn mapping(host_port: u32) -> proto::PortMapping {
    proto::PortMapping { host_port, container_port: 80, ..proto::PortMapping::default() }
}

#[tokio::test]
async fn a_reused_address_has_another_mac() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24", "fd00:1::/64"]).await;
    let mut core = bench.control.core().await;
    let own_mac = AddAttachmentRequest { mac: "02:00:00:00:00:07".into(), ..request("own") };
    assert_eq!(added(&mut core, own_mac).mac.unwrap().to_string(), "02:00:00:00:00:07");
    let at = |id: &str, ip: &str| AddAttachmentRequest { ips: vec![ip.into()], ..request(id) };
    let first = added(&mut core, at("c1", "10.1.1.9")).mac.unwrap();
    delete(&mut core, &key("c1")).unwrap();
    let second = added(&mut core, at("c2", "10.1.1.9")).mac.unwrap();
    assert_ne!(first, second);
    delete(&mut core, &key("c2")).unwrap();
    assert_eq!(added(&mut core, at("c1", "10.1.1.9")).mac.unwrap(), first, "it follows from key and address");
    // The same address, one pod after the other; then many pods at once.
    let of = |id: usize, ip: &str| {
        let port = super::super::testing::port(&format!("{id:064x}/eth0"), "pods", &[ip]);
        mac(&port)
    };
    for ip in ["10.1.1.9/24", "fd00:1::9/64"] {
        let same = (0..10_000).filter(|&id| of(id, ip) == of(id + 1, ip)).count();
        assert!(same < 5, "{same} of 10000 with {ip}");
    }
    let all: BTreeSet<MacAddr> =
        (0..20_000_u32).map(|n| of(n as usize, &format!("fd00::{n:x}/64"))).collect();
    assert_eq!(all.len(), 20_000);
    assert!(all.iter().all(|mac| mac.is_unicast() && mac.0[0] & 2 == 2 && mac.0[1] != 0x53));
}

#[tokio::test]
async fn deleting_leaves_nothing_and_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24"]).await;
    let mut core = bench.control.core().await;
    assert_eq!(delete(&mut core, &key("c1")), Ok(false));
    let port = added(&mut core, request("c1"));
    let entry = FdbEntry {
        network: "pods".into(),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        place: Place::Port(port.name.clone()),
    };
    let next = DesiredState { fdb: vec![entry], ..core.desired.clone() };
    core.commit(next).unwrap();
    // Heard before the address was declared, from wherever.
    let (ip, other): (IpAddr, IpAddr) = (port.ips[0].addr(), "10.1.1.200".parse().unwrap());
    let up = core.up(&port.name).unwrap().id;
    let hear = core.ask(move |i| {
        for ip in [ip, other] {
            let owner = crate::datapath::Egress::Peer(crate::datapath::PeerId(9));
            i.datapath.neighbours_mut().confirm((NetId(0), ip), MacAddr([2; 6]), owner, i.now_ms, true);
        }
        i.datapath.fdb_mut().learn(
            NetId(0),
            MacAddr([6; 6]),
            crate::datapath::Egress::Port(up),
            10,
            i.now_ms,
        );
    });
    hear.unwrap().get().await.unwrap();
    assert_eq!(delete(&mut core, &key("c1")), Ok(true));
    assert_eq!(delete(&mut core, &key("c1")), Ok(false));
    assert_eq!((core.desired.ports.len(), core.desired.fdb.len(), open(&bench)), (0, 0, BTreeSet::new()));
    let left = core.ask(|i| {
        let neighbours: Vec<IpAddr> = i.datapath.neighbours().iter().map(|n| n.ip).collect();
        (neighbours, i.datapath.fdb().len())
    });
    assert_eq!(left.unwrap().get().await.unwrap(), (vec![other], 0));
}

#[tokio::test]
async fn collecting_takes_one_change_and_one_cni_network() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24"]).await;
    let mut core = bench.control.core().await;
    core.add_port(super::super::testing::port("by-hand", "pods", &[])).unwrap();
    for id in ["c3", "c1", "c2"] {
        added(&mut core, request(id));
    }
    added(&mut core, AddAttachmentRequest { cni_network: "other".into(), ..request("c4") });
    let before = core.generation;
    let mut collect = |cni_network: &str, valid: &[&str]| {
        let valid = valid.iter().map(|id| key(id)).collect();
        let request = proto::CollectAttachmentsRequest { cni_network: cni_network.into(), valid };
        let keys = super::collect(&mut core, &request)?;
        Ok::<_, ApiError>((
            keys.into_iter().map(|k| k.container_id).collect::<Vec<_>>(),
            core.generation - before,
        ))
    };
    assert_eq!(collect("", &[]).unwrap_err().reason, Reason::InvalidArgument);
    assert_eq!(collect("cluster", &["c1", "c2", "c3"]), Ok((vec![], 0)));
    assert_eq!(collect("cluster", &["c2", "unknown", ""]), Ok((vec!["c1".into(), "c3".into()], 1)));
    assert_eq!(collect("cluster", &[]), Ok((vec!["c2".into()], 2)));
    assert_eq!(collect("cluster", &[]), Ok((vec![], 2)));
    assert_eq!(open(&bench), ["by-hand", "ns-c4"].map(str::to_owned).into());
}

#[tokio::test]
async fn tombstones_are_carried_out_before_ports_are_opened_and_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, graves) = (dir.path().join("state"), dir.path().join("deleted"));
    let settings = super::super::Settings { tombstones: Some(graves.clone()), ..settings() };
    let start =
        || bench_with(settings.clone(), Box::new(RealFs::open(&state_dir).unwrap()), FakeOpener::default());
    let files = || std::fs::read_dir(&graves).map_or(0, Iterator::count);
    {
        let bench = start();
        let mut core = bench.control.core().await;
        core.commit(state(&["10.1.1.0/24"])).unwrap();
        let by_hand = super::super::testing::port("c5/eth0", "pods", &[]);
        core.add_port(Port { netns: "ns-c5".into(), ..by_hand }).unwrap();
        for id in ["c1", "c2", "c3"] {
            added(&mut core, request(id));
        }
    }
    let bury = |id: &str, time: u64| {
        Tombstone { time, ..Tombstone::new(id, "eth0", "cluster") }.write(&graves).unwrap();
    };
    let added_at = clock().unix_ms / 1000;
    bury("c1", added_at + 5);
    bury("c2", added_at - 1);
    bury("never-heard-of", added_at);
    // The port of that name is no attachment.
    bury("c5", added_at);
    let bench = start();
    // What it has left behind goes before anything is opened.
    let calls = ["discard ns-c1", "open ns-c5", "open ns-c2", "open ns-c3"];
    assert_eq!(bench.opener.0.lock().unwrap().calls, calls);
    assert_eq!((files(), bench.control.core().await.generation), (0, 6));
    // What cannot be read stays and is in nobody's way; what cannot be written waits.
    std::fs::write(graves.join("half"), "{").unwrap();
    bury("c3", 0);
    bench.control.tick().await.unwrap();
    bench.control.tick().await.unwrap();
    assert_eq!((files(), open(&bench)), (1, ["ns-c2", "ns-c5"].map(str::to_owned).into()));
    drop(bench);
    assert_eq!(start().control.core().await.desired.ports.len(), 2);
}

#[tokio::test]
async fn a_tombstone_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::sync::Arc::new(AtomicBool::new(false));
    let fs = FullDisk(RealFs::open(&dir.path().join("state")).unwrap(), full.clone());
    let graves = dir.path().join("deleted");
    let settings = super::super::Settings { tombstones: Some(graves.clone()), ..settings() };
    let bench = bench_with(settings, Box::new(fs), FakeOpener::default());
    bench.control.core().await.commit(state(&["10.1.1.0/24"])).unwrap();
    added(&mut *bench.control.core().await, request("c1"));
    Tombstone::new("c1", "eth0", "cluster").write(&graves).unwrap();
    full.store(true, Ordering::Relaxed);
    bench.control.tick().await.unwrap();
    bench.control.tick().await.unwrap();
    assert!(graves.join("c1:eth0").exists() && bench.control.core().await.up("c1/eth0").is_some());
    full.store(false, Ordering::Relaxed);
    bench.control.core().await.save_again(Instant::now() + Duration::from_secs(60)).unwrap();
    bench.control.tick().await.unwrap();
    assert!(!graves.join("c1:eth0").exists() && open(&bench).is_empty());
}

#[tokio::test]
async fn a_check_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.1.0/24", "fd00:1::/64"]).await;
    let mut core = bench.control.core().await;
    let unknown = proto::CheckAttachmentRequest { key: Some(key("c1")), ..Default::default() };
    assert_eq!(check(&mut core, &unknown).unwrap_err().reason, Reason::PortNotFound);
    let mut node = super::super::testing::port("node", "pods", &[]);
    (node.netns, node.node) = (String::new(), Some(NodePort::default()));
    let mut next = core.desired.clone();
    next.ports.push(node);
    core.commit(next).unwrap();
    let asking =
        AddAttachmentRequest { ips: vec!["10.1.1.9".into()], mappings: vec![mapping(80)], ..request("c1") };
    let port = added(&mut core, asking);
    let good = || proto::CheckAttachmentRequest {
        key: Some(key("c1")),
        cni_network: "cluster".into(),
        netns: "ns-c1".into(),
        ips: ips(&port),
    };
    assert_eq!(check(&mut core, &good()), Ok(vec![]));
    assert_eq!(check(&mut core, &unknown), Ok(vec![]), "what is not told is not compared");
    let wrong = proto::CheckAttachmentRequest {
        cni_network: "other".into(),
        netns: "ns-x".into(),
        ips: vec!["10.1.1.8/24".into(), ips(&port)[1].clone()],
        ..good()
    };
    let expected = [
        "it belongs to CNI network cluster, not other",
        "it is in network namespace ns-c1, not ns-x",
        "address 10.1.1.8/24 is not its own",
        "the runtime does not know its address 10.1.1.9/24",
    ];
    assert_eq!(check(&mut core, &wrong).unwrap(), expected);
    let bad = proto::CheckAttachmentRequest { ips: vec!["10.1.1.8".into()], ..good() };
    assert_eq!(check(&mut core, &bad).unwrap_err().reason, Reason::InvalidArgument);
    for (health, said) in [
        (PortHealth::NetnsGone, "its network namespace is gone"),
        (PortHealth::NetnsReplaced, "its network namespace was replaced by another of the same name"),
        (PortHealth::IfaceGone, "its device was deleted, renamed or moved to another namespace"),
        (PortHealth::Down, "its interface was set down inside the pod"),
        (PortHealth::MtuChanged { found: 900 }, ""),
        (
            PortHealth::MacChanged { found: MacAddr([2, 0, 0, 0, 0, 1]) },
            "its interface has MAC 02:00:00:00:00:01 now, so its frames are dropped",
        ),
    ] {
        bench.opener.0.lock().unwrap().health.insert("ns-c1".into(), health);
        assert_eq!(check(&mut core, &good()).unwrap().join(", "), said);
    }
    bench.opener.0.lock().unwrap().health.insert("ns-c1".into(), PortHealth::NetnsGone);
    bench.opener.0.lock().unwrap().missing.push("ns-c1".into());
    core.look_after(&[], Instant::now()).unwrap();
    let problems = check(&mut core, &good()).unwrap();
    assert!(
        problems.len() == 1 && problems[0].starts_with("it has no device: network namespace"),
        "{problems:?}"
    );
    bench.opener.0.lock().unwrap().health.clear();
    bench.opener.0.lock().unwrap().missing.clear();
    core.look_after(&[], Instant::now() + Duration::from_secs(60)).unwrap();
    let mut next = core.desired.clone();
    next.ports.retain(|p| p.node.is_none());
    core.commit(next).unwrap();
    let problems = check(&mut core, &good()).unwrap();
    assert!(
        problems.len() == 1
            && problems[0].contains("not in force")
            && problems[0].contains("no port in network pods"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn readiness_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench_with(
        super::super::Settings { underlay: None, ..settings() },
        Box::new(RealFs::open(dir.path()).unwrap()),
        FakeOpener::default(),
    );
    let mut core = bench.control.core().await;
    let report = |core: &Core, name: &str| {
        let r = readiness(core, name, Instant::now());
        assert_eq!(r.ready, r.cause.is_empty());
        (r.ready, r.degraded, r.cause, r.free_addresses)
    };
    assert_eq!(report(&core, ""), (false, false, "there is no network yet".into(), 0));
    core.commit(state(&["10.1.1.0/24", "fd00:1::/64"])).unwrap();
    assert_eq!(report(&core, ""), (true, false, String::new(), 253));
    assert_eq!(report(&core, "x"), (false, false, "network x does not exist".into(), 0));
    let mut next = core.desired.clone();
    next.peers.push(peer("b", "192.168.77.2", &["10.1.2.0/24"]));
    next.networks[0].ranges = vec!["10.1.1.9".parse().unwrap()];
    core.commit(next).unwrap();
    let cause =
        "peer b cannot be reached: this switch has no underlay; network pods has no IPv6 address to give";
    assert_eq!(report(&core, "pods"), (false, true, cause.into(), 0));
    // Layer 2 only: there is nothing to run out of.
    core.commit(state(&[])).unwrap();
    assert_eq!(report(&core, "pods"), (true, false, String::new(), 0));
}

#[tokio::test]
async fn the_cost_of_one_more_is_one_device_and_one_publication() {
    let dir = tempfile::tempdir().unwrap();
    let bench = with(dir.path(), &["10.1.0.0/16", "fd00:1::/64"]).await;
    let mut core = bench.control.core().await;
    for n in 0..1000 {
        added(&mut core, request(&format!("c{n}")));
    }
    let all: BTreeSet<IpNet> = core.desired.ports.iter().flat_map(|p| p.ips.clone()).collect();
    let macs: BTreeSet<MacAddr> = core.desired.ports.iter().filter_map(|p| p.mac).collect();
    assert_eq!((all.len(), macs.len()), (2000, 1000));
    core.ask(|_| ()).unwrap().get().await.unwrap();
    assert_eq!(bench.opener.0.lock().unwrap().calls.len(), 1000);
    let log = bench.heard.log.lock().unwrap().clone();
    let count = |word: &str| log.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((count("add"), count("publish")), (1000, 1002));
}
