//! Every request over a real Unix socket, against fakes of the kernel and the worker.
#![allow(clippy::needless_update)] // requests are written with the fields that matter

use std::time::Duration;

use ctl::client::Client;
use ctl::desired::{DesiredState, FdbEntry, Neighbour, NodePort, Place, Route, RouteTarget};
use ctl::error::{ApiError, Reason};
use ctl::proto;
use tokio::sync::oneshot;

use super::super::server::{Socket, serve};
use super::super::testing::{Bench, bench, network, peer, port, state};
use crate::datapath::Egress;
use crate::io::PortHealth;

struct Served {
    bench: Bench,
    client: Client,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(&dir.path().join("state"));
    let path = dir.path().join("run/swd.sock");
    let socket = Socket::bind(&path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let control = bench.control.clone();
    let task = tokio::spawn(async move {
        serve(control, socket, async { drop(stopped.await) }).await.unwrap();
    });
    let client = Client::connect(&path, Duration::from_secs(5)).await.unwrap();
    Served { bench, client, stop, task, dir }
}

/// One call, by method name.
macro_rules! call {
    ($s:expr, $method:ident, $request:ident { $($field:ident: $value:expr),* }) => {
        $s.client.call(async |stub| stub.$method(proto::$request { $($field: $value,)* ..Default::default() }).await).await
    };
}

mod attachments;

fn reason<T: std::fmt::Debug>(result: Result<T, ApiError>) -> Reason {
    result.unwrap_err().reason
}

async fn with_state(s: &mut Served, state: DesiredState) -> u64 {
    call!(s, apply, ApplyRequest { state: Some(state.into()), prune: true }).unwrap().generation
}

#[tokio::test]
async fn networks() {
    let mut s = served().await;
    let net = || Some(network("pods", 1, &["10.1.1.0/24"]).into());
    assert_eq!(
        call!(s, add_network, AddNetworkRequest { network: net() }).unwrap(),
        proto::Ack { generation: 1, changed: true }
    );
    assert_eq!(reason(call!(s, add_network, AddNetworkRequest { network: net() })), Reason::AlreadyExists);
    let again = call!(s, add_network, AddNetworkRequest { network: net(), may_exist: true }).unwrap();
    assert_eq!(again, proto::Ack { generation: 1, changed: false });
    let other = || Some(network("pods", 2, &[]).into());
    assert_eq!(
        reason(call!(s, add_network, AddNetworkRequest { network: other(), may_exist: true })),
        Reason::Conflict
    );
    let same_vni = || Some(network("more", 1, &[]).into());
    assert_eq!(reason(call!(s, add_network, AddNetworkRequest { network: same_vni() })), Reason::Conflict);
    assert_eq!(reason(call!(s, add_network, AddNetworkRequest {})), Reason::InvalidArgument);

    with_state(&mut s, state()).await;
    let list = call!(s, list_networks, ListNetworksRequest {}).unwrap().networks;
    assert_eq!(list.len(), 1);
    let info = &list[0];
    assert_eq!((info.mtu, info.ports, info.peers, info.fdb_entries, info.routes), (1450, 2, 1, 2, 3));
    assert_eq!(
        reason(call!(s, list_networks, ListNetworksRequest { names: vec!["x".into()] })),
        Reason::NetworkNotFound
    );

    let e = call!(s, delete_network, DeleteNetworkRequest { name: "pods".into() }).unwrap_err();
    assert_eq!((e.reason, e.message.contains("port web-0")), (Reason::InUse, true));
    with_state(&mut s, DesiredState { networks: state().networks, ..DesiredState::default() }).await;
    assert!(call!(s, delete_network, DeleteNetworkRequest { name: "pods".into() }).unwrap().changed);
    assert_eq!(
        reason(call!(s, delete_network, DeleteNetworkRequest { name: "pods".into() })),
        Reason::NetworkNotFound
    );
    assert!(
        !call!(s, delete_network, DeleteNetworkRequest { name: "pods".into(), if_exists: true })
            .unwrap()
            .changed
    );
}

#[tokio::test]
async fn ports() {
    let mut s = served().await;
    with_state(&mut s, DesiredState { networks: state().networks, ..DesiredState::default() }).await;
    let web = || Some(port("web-0", "pods", &["10.1.1.2/24"]).into());
    let ack = call!(s, add_port, AddPortRequest { port: web() }).unwrap();
    assert_eq!(ack, proto::Ack { generation: 2, changed: true });
    assert_eq!(reason(call!(s, add_port, AddPortRequest { port: web() })), Reason::AlreadyExists);
    assert!(!call!(s, add_port, AddPortRequest { port: web(), may_exist: true }).unwrap().changed);
    let lost = Some(port("lost", "nowhere", &[]).into());
    assert_eq!(reason(call!(s, add_port, AddPortRequest { port: lost })), Reason::NetworkNotFound);
    s.bench.opener.0.lock().unwrap().missing.push("gone".into());
    let gone = Some(port("gone", "pods", &[]).into());
    assert_eq!(reason(call!(s, add_port, AddPortRequest { port: gone })), Reason::NetnsNotFound);

    let list = call!(s, list_ports, ListPortsRequest {}).unwrap().ports;
    assert_eq!(list.len(), 1);
    let info = &list[0];
    assert_eq!((info.state(), info.mtu, info.vni, info.ifindex), (proto::ObjectState::Up, 1450, 1, 1));
    assert_eq!((info.mac.as_str(), info.netns_path.as_str()), ("0a:58:0a:01:01:02", "/run/netns/web-0"));
    assert_eq!(info.offloads, ["csum", "tso4", "tso6", "ecn", "uso4", "uso6"]);
    assert_eq!(
        reason(call!(s, list_ports, ListPortsRequest { names: vec!["x".into()] })),
        Reason::PortNotFound
    );
    assert_eq!(
        reason(call!(s, list_ports, ListPortsRequest { network: "x".into() })),
        Reason::NetworkNotFound
    );

    let stats = call!(s, port_stats, PortStatsRequest {}).unwrap().ports;
    assert_eq!((stats[0].name.as_str(), stats[0].counters), ("web-0", Some(proto::Counters::default())));
    assert_eq!(
        reason(call!(s, port_stats, PortStatsRequest { names: vec!["x".into()] })),
        Reason::PortNotFound
    );

    assert_eq!((stats[0].ingress, stats[0].egress), (None, None));

    s.bench.opener.0.lock().unwrap().health.insert("web-0".into(), PortHealth::NetnsGone);
    s.bench.opener.0.lock().unwrap().missing.push("web-0".into());
    s.bench.control.tick().await.unwrap();
    let info = call!(s, list_ports, ListPortsRequest {}).unwrap().ports.remove(0);
    assert_eq!((info.state(), info.problem.contains("not found")), (proto::ObjectState::Failed, true));
    let status = call!(s, get_status, GetStatusRequest {}).unwrap();
    assert_eq!((status.ports_up, status.ports_down, status.degraded.len()), (0, 1, 1));
    assert_eq!(
        (status.degraded[0].object.as_str(), status.degraded[0].hint.as_str()),
        ("port web-0", "make it")
    );
    // A client that asks for it again is told the truth.
    let e = call!(s, add_port, AddPortRequest { port: web(), may_exist: true });
    assert_eq!(reason(e), Reason::NetnsNotFound);
    s.bench.opener.0.lock().unwrap().missing.clear();
    s.bench.opener.0.lock().unwrap().health.clear();
    assert!(!call!(s, add_port, AddPortRequest { port: web(), may_exist: true }).unwrap().changed);
    assert_eq!(call!(s, get_status, GetStatusRequest {}).unwrap().ports_up, 1);

    assert!(call!(s, delete_port, DeletePortRequest { name: "web-0".into() }).unwrap().changed);
    assert_eq!(
        reason(call!(s, delete_port, DeletePortRequest { name: "web-0".into() })),
        Reason::PortNotFound
    );
    assert!(
        !call!(s, delete_port, DeletePortRequest { name: "web-0".into(), if_exists: true }).unwrap().changed
    );
    assert!(s.bench.opener.0.lock().unwrap().open.is_empty());
}

#[tokio::test]
async fn peers() {
    let mut s = served().await;
    with_state(&mut s, state()).await;
    let c = || Some(peer("node-c", "192.168.77.3", &[]).into());
    assert!(call!(s, add_peer, AddPeerRequest { peer: c() }).unwrap().changed);
    assert_eq!(reason(call!(s, add_peer, AddPeerRequest { peer: c() })), Reason::AlreadyExists);
    assert!(!call!(s, add_peer, AddPeerRequest { peer: c(), may_exist: true }).unwrap().changed);
    for remote in ["192.168.77.1", "fd00::1", "192.168.77.2"] {
        let bad = Some(peer("bad", remote, &[]).into());
        assert_eq!(reason(call!(s, add_peer, AddPeerRequest { peer: bad })), Reason::Conflict, "{remote}");
    }
    let list = call!(s, list_peers, ListPeersRequest {}).unwrap().peers;
    let names: Vec<_> = list.iter().map(|p| p.spec.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(names, ["node-b", "node-c"]);
    assert_eq!((list[0].port, list[0].mtu, list[0].router_mac.as_str()), (4789, 1450, "0e:53:c0:a8:4d:02"));
    assert_eq!(
        reason(call!(s, list_peers, ListPeersRequest { names: vec!["x".into()] })),
        Reason::PeerNotFound
    );
    assert_eq!((list[0].last_rx_ms, list[1].last_rx_ms), (None, None));
    let hear = {
        let core = s.bench.control.core().await;
        let c = Egress::Peer(crate::datapath::PeerId(core.ids.peers.get("node-c").unwrap()));
        core.ask(move |i| {
            let counters = i.datapath.counters.of(c);
            counters.receive(5000, 4);
            counters.accepted_ms = Some(i.now_ms);
        })
    };
    hear.unwrap().get().await.unwrap();
    let stats = call!(s, peer_stats, PeerStatsRequest {}).unwrap().peers;
    let shown: Vec<_> = stats
        .iter()
        .map(|p| (p.name.as_str(), p.counters.as_ref().unwrap()))
        .map(|(name, c)| (name, c.rx_frames, c.rx_segments, c.rx_bytes))
        .collect();
    assert_eq!(shown, [("node-b", 0, 0, 0), ("node-c", 1, 4, 5000)]);
    let list = call!(s, list_peers, ListPeersRequest {}).unwrap().peers;
    assert_eq!(list[0].last_rx_ms, None);
    assert!(list[1].last_rx_ms.is_some_and(|ms| ms < 60_000), "{:?}", list[1].last_rx_ms);
    assert_eq!(
        reason(call!(s, peer_stats, PeerStatsRequest { names: vec!["x".into()] })),
        Reason::PeerNotFound
    );

    let route: proto::Route = Route {
        network: "pods".into(),
        prefix: "10.7.0.0/16".parse().unwrap(),
        target: RouteTarget::Peer("node-b".into()),
    }
    .into();
    call!(s, add_route, AddRouteRequest { route: Some(route) }).unwrap();
    assert_eq!(reason(call!(s, delete_peer, DeletePeerRequest { name: "node-b".into() })), Reason::InUse);
    assert!(call!(s, delete_peer, DeletePeerRequest { name: "node-c".into() }).unwrap().changed);
    assert_eq!(
        reason(call!(s, delete_peer, DeletePeerRequest { name: "node-c".into() })),
        Reason::PeerNotFound
    );
    assert!(
        !call!(s, delete_peer, DeletePeerRequest { name: "node-c".into(), if_exists: true }).unwrap().changed
    );
}

#[tokio::test]
async fn fdb() {
    let mut s = served().await;
    with_state(&mut s, state()).await;
    let (web, id) = {
        let core = s.bench.control.core().await;
        (Egress::Port(core.up("web-0").unwrap().id), crate::datapath::NetId(0))
    };
    let learned: packet::MacAddr = "02:00:00:00:00:09".parse().unwrap();
    let learn = async |s: &Served| {
        let answer = s
            .bench
            .control
            .core()
            .await
            .ask(move |i| i.datapath.fdb_mut().learn(id, learned, web, 10, i.now_ms));
        answer.unwrap().get().await.unwrap();
    };
    learn(&s).await;
    let list = call!(s, list_fdb, ListFdbRequest {}).unwrap();
    let states: Vec<_> = list.entries.iter().map(|e| (e.mac.as_str(), e.state())).collect();
    use proto::FdbState::{Declared, Learned, Router, Static};
    assert_eq!(
        states,
        [
            ("02:00:00:00:00:09", Learned),
            ("0a:53:57:00:00:01", Router),
            ("0a:58:0a:01:01:02", Declared),
            ("0a:58:0a:01:01:03", Declared),
            ("0e:53:c0:a8:4d:01", Router),
        ]
    );
    assert_eq!(list.entries[0].target, Some(proto::fdb_info::Target::Port("web-0".into())));
    let one = call!(s, list_fdb, ListFdbRequest { port: "web-0".into(), limit: 1 }).unwrap();
    assert_eq!((one.entries.len(), one.total), (1, 2));
    assert_eq!(call!(s, list_fdb, ListFdbRequest { mac: learned.to_string() }).unwrap().total, 1);
    assert_eq!(call!(s, list_fdb, ListFdbRequest { peer: "node-b".into() }).unwrap().total, 0);
    assert_eq!(reason(call!(s, list_fdb, ListFdbRequest { network: "x".into() })), Reason::NetworkNotFound);
    assert_eq!(reason(call!(s, list_fdb, ListFdbRequest { port: "x".into() })), Reason::PortNotFound);
    assert_eq!(reason(call!(s, list_fdb, ListFdbRequest { peer: "x".into() })), Reason::PeerNotFound);
    assert_eq!(reason(call!(s, list_fdb, ListFdbRequest { mac: "x".into() })), Reason::InvalidArgument);

    let entry = |peer: &str| {
        let place = Place::Peer(peer.into());
        Some(FdbEntry { network: "pods".into(), mac: "02:00:00:00:00:09".parse().unwrap(), place }.into())
    };
    assert!(call!(s, add_fdb, AddFdbRequest { entry: entry("node-b") }).unwrap().changed);
    assert_eq!(reason(call!(s, add_fdb, AddFdbRequest { entry: entry("node-b") })), Reason::AlreadyExists);
    assert!(!call!(s, add_fdb, AddFdbRequest { entry: entry("node-b"), may_exist: true }).unwrap().changed);
    let list = call!(s, list_fdb, ListFdbRequest { mac: learned.to_string() }).unwrap().entries;
    assert_eq!((list.len(), list[0].state(), list[0].dst.as_str()), (1, Static, "192.168.77.2"));
    let pods = || String::from("pods");
    assert!(
        call!(s, delete_fdb, DeleteFdbRequest { network: pods(), mac: learned.to_string() }).unwrap().changed
    );
    assert_eq!(
        reason(call!(s, delete_fdb, DeleteFdbRequest { network: pods(), mac: learned.to_string() })),
        Reason::FdbNotFound
    );
    assert!(
        !call!(
            s,
            delete_fdb,
            DeleteFdbRequest { network: pods(), mac: learned.to_string(), if_exists: true }
        )
        .unwrap()
        .changed
    );
    let declared = String::from("0a:58:0a:01:01:02");
    assert_eq!(
        reason(call!(s, delete_fdb, DeleteFdbRequest { network: pods(), mac: declared })),
        Reason::InUse
    );
    learn(&s).await;
    assert!(
        call!(s, delete_fdb, DeleteFdbRequest { network: pods(), mac: learned.to_string() }).unwrap().changed
    );
    learn(&s).await;
    assert_eq!(call!(s, flush_fdb, FlushFdbRequest { peer: "node-b".into() }).unwrap().removed, 0);
    assert_eq!(call!(s, flush_fdb, FlushFdbRequest { network: pods() }).unwrap().removed, 1);
    // A static entry goes with its port.
    let place = Place::Port("web-1".into());
    let entry = FdbEntry { network: "pods".into(), mac: learned, place };
    call!(s, add_fdb, AddFdbRequest { entry: Some(entry.into()) }).unwrap();
    call!(s, delete_port, DeletePortRequest { name: "web-1".into() }).unwrap();
    assert_eq!(call!(s, list_fdb, ListFdbRequest { mac: learned.to_string() }).unwrap().total, 0);
}

#[tokio::test]
async fn routes_and_neighbours() {
    let mut s = served().await;
    let mut desired = state();
    let mac = "02:00:00:00:00:77".parse().unwrap();
    desired.neighbours.push(Neighbour { network: "pods".into(), ip: "10.1.1.77".parse().unwrap(), mac });
    with_state(&mut s, desired).await;
    let route = |prefix: &str, target| -> Option<proto::Route> {
        Some(Route { network: "pods".into(), prefix: prefix.parse().unwrap(), target }.into())
    };
    let hop = RouteTarget::NextHop("10.1.1.77".parse().unwrap());
    assert!(
        call!(s, add_route, AddRouteRequest { route: route("10.7.0.0/16", hop.clone()) }).unwrap().changed
    );
    assert_eq!(
        reason(call!(s, add_route, AddRouteRequest { route: route("10.7.0.0/16", hop.clone()) })),
        Reason::AlreadyExists
    );
    assert!(
        !call!(s, add_route, AddRouteRequest { route: route("10.7.0.0/16", hop), may_exist: true })
            .unwrap()
            .changed
    );
    let clash = route("10.1.1.0/24", RouteTarget::Blackhole);
    assert_eq!(reason(call!(s, add_route, AddRouteRequest { route: clash })), Reason::Conflict);
    assert_eq!(
        reason(call!(
            s,
            add_route,
            AddRouteRequest { route: route("10.8.0.0/16", RouteTarget::Peer("x".into())) }
        )),
        Reason::PeerNotFound
    );

    let list = call!(s, list_routes, ListRoutesRequest {}).unwrap().routes;
    let shown: Vec<_> =
        list.iter().map(|r| (r.route.as_ref().unwrap().prefix.as_str(), r.protocol.as_str())).collect();
    let expected = [
        ("10.1.1.0/24", "kernel"),
        ("10.1.2.0/24", "peer"),
        ("10.7.0.0/16", "static"),
        ("fd00:1::/64", "kernel"),
    ];
    assert_eq!(shown, expected);
    assert_eq!((list[0].prefsrc.as_str(), list[1].remote.as_str()), ("10.1.1.1", "192.168.77.2"));
    assert_eq!(
        reason(call!(s, list_routes, ListRoutesRequest { network: "x".into() })),
        Reason::NetworkNotFound
    );

    let get = call!(s, get_route, GetRouteRequest { network: "pods".into(), ip: "10.7.1.1".into() }).unwrap();
    assert_eq!(get.route.unwrap().route.unwrap().next_hop, "10.1.1.77");
    let neighbour = get.neighbour.unwrap();
    assert_eq!(
        (neighbour.mac.as_str(), neighbour.state()),
        ("02:00:00:00:00:77", proto::NeighbourState::Permanent)
    );
    let get = call!(s, get_route, GetRouteRequest { network: "pods".into(), ip: "10.1.2.9".into() }).unwrap();
    assert_eq!((get.route.unwrap().route.unwrap().peer.as_str(), get.neighbour), ("node-b", None));
    assert_eq!(
        reason(call!(s, get_route, GetRouteRequest { network: "pods".into(), ip: "8.8.8.8".into() })),
        Reason::RouteNotFound
    );

    let delete = |prefix: &str| (String::from("pods"), String::from(prefix));
    let (network, prefix) = delete("10.7.0.0/16");
    assert!(call!(s, delete_route, DeleteRouteRequest { network: network, prefix: prefix }).unwrap().changed);
    for prefix in ["10.7.0.0/16", "10.1.2.0/24", "10.1.1.0/24"] {
        let (network, prefix) = delete(prefix);
        assert_eq!(
            reason(call!(s, delete_route, DeleteRouteRequest { network: network, prefix: prefix })),
            Reason::RouteNotFound
        );
    }
    let (network, prefix) = delete("10.7.0.0/16");
    assert!(
        !call!(s, delete_route, DeleteRouteRequest { network: network, prefix: prefix, if_exists: true })
            .unwrap()
            .changed
    );

    let list = call!(s, list_neighbours, ListNeighboursRequest {}).unwrap().neighbours;
    let ips: Vec<_> = list.iter().map(|n| n.ip.as_str()).collect();
    assert_eq!(ips, ["10.1.1.2", "10.1.1.3", "10.1.1.77", "fd00:1::2", "fe80::858:aff:fe01:102"]);
    assert_eq!(
        reason(call!(s, list_neighbours, ListNeighboursRequest { network: "x".into() })),
        Reason::NetworkNotFound
    );
    assert_eq!(call!(s, flush_neighbours, FlushNeighboursRequest {}).unwrap().removed, 0);
}

#[tokio::test]
async fn status_generations_and_documents() {
    let mut s = served().await;
    let dry = call!(s, apply, ApplyRequest { state: Some(state().into()), dry_run: true }).unwrap();
    assert_eq!((dry.generation, dry.changes.len()), (0, 4));
    assert_eq!(with_state(&mut s, state()).await, 1);
    assert_eq!(with_state(&mut s, state()).await, 1, "nothing to change");
    let wait = call!(s, wait_generation, WaitGenerationRequest { generation: 1 }).unwrap();
    assert_eq!((wait.generation, wait.applied_generation), (1, 1));
    let e = call!(s, wait_generation, WaitGenerationRequest { generation: 2, timeout_ms: 20 });
    assert_eq!(reason(e), Reason::Timeout);
    // A waiter is woken by the change it waits for.
    let mut other = s.client.clone();
    let waiter = tokio::spawn(async move {
        let request = proto::WaitGenerationRequest { generation: 2, timeout_ms: 5000 };
        other.call(async |stub| stub.wait_generation(request).await).await
    });
    tokio::task::yield_now().await;
    call!(s, delete_port, DeletePortRequest { name: "web-1".into() }).unwrap();
    assert_eq!(waiter.await.unwrap().unwrap().applied_generation, 2);

    let status = call!(s, get_status, GetStatusRequest {}).unwrap();
    assert_eq!((status.generation, status.applied_generation, status.networks), (2, 2, 1));
    assert_eq!((status.ports_up, status.ports_down, status.peers_up, status.peers_down), (1, 0, 1, 0));
    assert_eq!((status.node.as_str(), status.underlay.as_str()), ("node-a", "192.168.77.1"));
    assert!(status.degraded.is_empty() && status.ledger.unwrap().balanced);

    let export = call!(s, export, ExportRequest {}).unwrap();
    let mut expected = state();
    expected.ports.pop();
    assert_eq!(DesiredState::try_from(export.state.unwrap()), Ok(expected));
    // A document may name what is not there yet: it is accepted, reported and tried again.
    s.bench.opener.0.lock().unwrap().missing.push("late".into());
    let mut more = state();
    more.ports.push(port("late", "pods", &["10.1.1.9/24"]));
    more.networks[0].mtu = Some(1500);
    // And works although the node has no address of its own on a subnet that the peer has as well.
    more.peers[0].pod_cidrs.clear();
    let mut node = port("node", "pods", &[]);
    (node.netns, node.ifname, node.node) = (String::new(), "swd0".into(), Some(NodePort::default()));
    more.ports.push(node);
    with_state(&mut s, more).await;
    let degraded = call!(s, get_status, GetStatusRequest {}).unwrap().degraded;
    let objects: Vec<_> = degraded.iter().map(|d| d.object.as_str()).collect();
    assert_eq!(objects, ["network pods", "port late", "port node"]);
    assert!(degraded[2].hint.contains("--node --ip ADDRESS-IN-10.1.1.0/24"), "{}", degraded[2].hint);
    assert_eq!(reason(call!(s, apply, ApplyRequest {})), Reason::InvalidArgument);
    let mut wrong = state();
    wrong.ports[0].network = "x".into();
    assert_eq!(
        reason(call!(s, apply, ApplyRequest { state: Some(wrong.into()), prune: true })),
        Reason::NetworkNotFound
    );
}

#[tokio::test]
async fn drops_and_traces() {
    use proto::trace_request::{From, What};
    let mut s = served().await;
    with_state(&mut s, state()).await;
    assert!(call!(s, list_drops, ListDropsRequest {}).unwrap().drops.is_empty());
    let all = call!(s, list_drops, ListDropsRequest { all: true }).unwrap();
    assert_eq!(all.drops.len(), crate::datapath::DropReason::COUNT);
    assert!(all.ledger.unwrap().balanced);

    let flow = |to: &str, proto: proto::IpProto| {
        let flow = proto::TraceFlow { destination: to.into(), proto: proto.into(), ..Default::default() };
        Some(What::Flow(flow))
    };
    let web = || Some(From::Port("web-0".into()));
    let trace = async |s: &mut Served, to: &str, proto| {
        call!(s, trace, TraceRequest { from: web(), what: flow(to, proto) })
    };
    use proto::IpProto::{Icmp, Tcp, Udp};
    use proto::TraceVerdict as V;
    // To a pod on this node, by MAC.
    let t = trace(&mut s, "10.1.1.3", Tcp).await.unwrap();
    assert_eq!((t.verdict(), t.outputs.len(), t.generation), (V::Forwarded, 1, 1), "{t:?}");
    assert_eq!(t.outputs[0].target, Some(proto::trace_output::Target::Port("web-1".into())));
    assert!(t.packet.contains("TCP 10.1.1.2:40000 > 10.1.1.3:80"), "{}", t.packet);
    let stages: Vec<_> = t.steps.iter().map(|s| s.stage.as_str()).collect();
    assert_eq!(stages, ["guard", "classify", "forward", "egress"]);
    // To a pod of the other node, by route; and there, from the frame that left here.
    let t = trace(&mut s, "10.1.2.5", Udp).await.unwrap();
    assert_eq!(t.verdict(), V::Forwarded, "{t:?}");
    let out = &t.outputs[0];
    assert_eq!(
        (out.vni, out.underlay_src.as_str(), out.underlay_dst.as_str()),
        (1, "192.168.77.1", "192.168.77.2")
    );
    assert!(t.steps.iter().any(|s| s.detail == "10.1.2.0/24 via peer node-b (192.168.77.2, vxlan)"), "{t:?}");
    let frame = out.frame.clone();
    let what = || Some(What::Frame(frame.clone()));
    let from = |f| Some(f);
    let t = call!(
        s,
        trace,
        TraceRequest { from: from(From::Underlay("192.168.77.9".into())), vni: 1, what: what() }
    )
    .unwrap();
    assert_eq!((t.verdict(), t.drop_reason.as_str()), (V::Dropped, "unknown-peer"));
    let t = call!(s, trace, TraceRequest { from: from(From::Peer("node-b".into())), vni: 7, what: what() })
        .unwrap();
    assert_eq!(
        (t.verdict(), t.drop_reason.as_str(), t.drop_stage.as_str()),
        (V::Dropped, "unknown-vni", "decap")
    );
    assert!(!t.hint.is_empty());
    let back =
        proto::TraceFlow { destination: "10.1.1.2".into(), source: "10.1.2.5".into(), ..Default::default() };
    let t = call!(
        s,
        trace,
        TraceRequest { from: from(From::Peer("node-b".into())), vni: 1, what: Some(What::Flow(back)) }
    )
    .unwrap();
    assert_eq!(t.verdict(), V::Forwarded, "{t:?}");
    // The gateway, an unknown neighbour, no route, IPv6.
    assert_eq!(trace(&mut s, "10.1.1.1", Icmp).await.unwrap().verdict(), V::Answered);
    let t = trace(&mut s, "10.1.1.200", Icmp).await.unwrap();
    assert!(
        t.packet.contains("ARP who has 10.1.1.200 tell 10.1.1.2") && t.steps[0].stage == "trace",
        "{t:?}"
    );
    let t = trace(&mut s, "8.8.8.8", Icmp).await.unwrap();
    assert_eq!((t.verdict(), t.drop_reason.as_str()), (V::Dropped, "no-route"));
    let t = trace(&mut s, "fd00:1::99", Tcp).await.unwrap();
    assert!(t.packet.contains("ICMPv6 fd00:1::2 > ff02::1:ff00:99 type 135"), "{}", t.packet);
    assert_eq!(trace(&mut s, "fd00:1::1", Icmp).await.unwrap().verdict(), V::Answered);
    // Sizes.
    let big = proto::TraceFlow {
        destination: "10.1.2.5".into(),
        proto: Udp.into(),
        size: 1500,
        ..Default::default()
    };
    let t = call!(s, trace, TraceRequest { from: web(), what: Some(What::Flow(big)) }).unwrap();
    assert_eq!((t.verdict(), t.drop_reason.as_str()), (V::Dropped, "too-big"), "{t:?}");
    // Errors.
    for (destination, size, ttl, dport) in [
        ("x", 0, 0, 0),
        ("10.1.1.3", 10, 0, 0),
        ("10.1.1.3", 70_000, 0, 0),
        ("10.1.1.3", 0, 256, 0),
        ("10.1.1.3", 0, 0, 70_000),
    ] {
        let bad =
            proto::TraceFlow { destination: destination.into(), size, ttl, dport, ..Default::default() };
        assert_eq!(
            reason(call!(s, trace, TraceRequest { from: web(), what: Some(What::Flow(bad)) })),
            Reason::InvalidArgument
        );
    }
    assert_eq!(reason(call!(s, trace, TraceRequest { from: web() })), Reason::InvalidArgument);
    assert_eq!(
        reason(call!(s, trace, TraceRequest { what: flow("10.1.1.3", Icmp) })),
        Reason::InvalidArgument
    );
    let nobody = Some(From::Port("x".into()));
    assert_eq!(
        reason(call!(s, trace, TraceRequest { from: nobody, what: flow("10.1.1.3", Icmp) })),
        Reason::PortNotFound
    );
    // Nothing of all that was counted.
    assert_eq!(call!(s, list_drops, ListDropsRequest {}).unwrap().ledger.unwrap().frames_in, 0);
}

#[tokio::test]
async fn the_socket_comes_and_goes() {
    use std::os::unix::fs::PermissionsExt as _;
    let s = served().await;
    let path = s.dir.path().join("run/swd.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let e = Socket::bind(&path).unwrap_err();
    assert!(e.to_string().contains("another swd answers"), "{e}");
    s.stop.send(()).unwrap();
    s.task.await.unwrap();
    assert!(!path.exists());
    // A stale one is replaced, a file is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Socket::bind(&path).unwrap());
    assert!(!path.exists());
    std::fs::write(&path, "x").unwrap();
    assert!(Socket::bind(&path).unwrap_err().to_string().contains("is no socket"));
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

/// Tools without our `.proto` find the service, and its description is the one it was built from.
#[tokio::test]
async fn the_service_describes_itself() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
    let s = served().await;
    let path = s.dir.path().join("run/swd.sock");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    let client = ServerReflectionClient::new(endpoint.connect().await.unwrap());
    let ask = async |question| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut replies =
            client.clone().server_reflection_info(tokio_stream::once(request)).await?.into_inner();
        replies.message().await.map(|reply| reply.unwrap().message_response.unwrap())
    };

    let list = ask(MessageRequest::ListServices(String::new())).await.unwrap();
    let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?} is no list of services") };
    let mut names: Vec<_> = list.service.into_iter().map(|ServiceResponse { name }| name).collect();
    names.sort();
    assert_eq!(names, ["grpc.reflection.v1.ServerReflection", "swd.v1.Switch"]);

    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let files = ask(symbol("swd.v1.Switch.AddPort")).await.unwrap();
    let MessageResponse::FileDescriptorResponse(files) = files else { panic!("{files:?} are no files") };
    let [file] = &files.file_descriptor_proto[..] else { panic!("one file describes the API") };
    let built_from = |file: &[u8]| ctl::DESCRIPTOR_SET.windows(file.len()).any(|part| part == file);
    assert!(file.len() > 1000 && built_from(file));
    assert_eq!(ask(symbol("swd.v1.Nothing")).await.unwrap_err().code(), tonic::Code::NotFound);
}
