//! Tables built step by step say what tables built at once say, and what did not change is the same object.

use super::super::testing::{network, peer, port, settings, state};
use super::*;
use ctl::desired::{FdbEntry, Neighbour, Route, RouteTarget};
use proptest::prelude::*;

fn numbered(ids: &mut Numbers, desired: &DesiredState) {
    fn follow(ids: &mut Ids, names: Vec<&String>) {
        let gone: Vec<String> =
            ids.iter().filter(|(_, n)| !names.iter().any(|x| x == n)).map(|(_, n)| n.to_owned()).collect();
        for name in gone {
            ids.release(&name);
        }
        for name in names {
            ids.take(name);
        }
    }
    follow(&mut ids.ports, desired.ports.iter().map(|p| &p.name).collect());
    follow(&mut ids.peers, desired.peers.iter().map(|p| &p.name).collect());
    follow(&mut ids.networks, desired.networks.iter().map(|n| &n.name).collect());
}

fn built(desired: &DesiredState) -> (Tables, Numbers) {
    let mut ids = Numbers::default();
    numbered(&mut ids, desired);
    (Publisher::new(7).build(1, &settings(), desired, &ids), ids)
}

/// Everything a table says, as text.
fn dump(tables: &Tables) -> Vec<String> {
    let mut lines = vec![format!("{:?}", tables.node)];
    for (i, p) in tables.ports.iter().enumerate() {
        lines.push(format!("port {i} {p:?}"));
    }
    for (i, p) in tables.peers.iter().enumerate() {
        let line = p.as_ref().map(|p| {
            let sample = |n: u8| p.sources.as_ref().map(|s| s.contains(IpAddr::from([10, 1, n, 1])));
            let sources = [sample(1), sample(2), sample(3)];
            (p.remote, p.port, p.encap, p.checksum, p.router_mac, p.mtu, sources)
        });
        lines.push(format!("peer {i} {line:?}"));
    }
    for (i, n) in tables.networks.iter().enumerate() {
        let Some(n) = n else {
            lines.push(format!("network {i} none"));
            continue;
        };
        let statics: BTreeMap<_, _> = n.statics.iter().collect();
        let neighbours: BTreeMap<_, _> = n.neighbours.iter().collect();
        let fib: Vec<_> = (0..=255u8)
            .flat_map(|b| [1, 2, 200].map(|c| n.fib.lookup(IpAddr::from([10, 1, b, c]))))
            .collect();
        lines.push(format!("network {i} {} {:?} {statics:?} {neighbours:?} {fib:?}", n.vni, n.gateways));
        lines.push(format!("{:?} {:?}", n.flood_from_port, n.flood_from_peer));
        lines.push(format!("{:?} {:?}", n.unknown_from_port, n.unknown_from_peer));
        lines.push(format!("{} {} {}", n.fib.len(), n.flood_unknown, n.ageing_ms));
    }
    let vnis: BTreeMap<_, _> = tables.by_vni.iter().collect();
    let remotes: BTreeMap<_, _> = tables.by_remote.iter().collect();
    let scoped: BTreeMap<_, _> = tables.by_remote_network.iter().collect();
    lines.push(format!("{vnis:?} {remotes:?} {scoped:?}"));
    lines
}

#[test]
fn a_small_state() {
    let mut desired = state();
    desired.ports.push(port("vm", "pods", &[]));
    desired.peers.push(peer("node-c", "192.168.77.3", &[]));
    desired.routes.push(Route {
        network: "pods".into(),
        prefix: "10.9.0.0/16".parse().unwrap(),
        target: RouteTarget::NextHop("10.1.1.3".parse().unwrap()),
    });
    desired.neighbours.push(Neighbour {
        network: "pods".into(),
        ip: "10.1.1.77".parse().unwrap(),
        mac: "02:00:00:00:00:77".parse().unwrap(),
    });
    let place = Place::Peer("node-c".into());
    desired.fdb.push(FdbEntry { network: "pods".into(), mac: "02:00:00:00:00:77".parse().unwrap(), place });
    assert_eq!(desired.check(), Ok(()));
    let (tables, ids) = built(&desired);
    let egress = |name: &str| {
        let port = ids.ports.get(name).map(|n| Egress::Port(PortId(n)));
        port.or_else(|| ids.peers.get(name).map(|n| Egress::Peer(PeerId(n)))).unwrap()
    };
    let network = tables.networks[0].as_ref().unwrap();
    let list = |names: &[&str]| names.iter().map(|n| egress(n)).collect::<Vec<_>>();
    assert_eq!(network.flood_from_port.to_vec(), list(&["web-0", "web-1", "vm", "node-c"]));
    assert_eq!(network.flood_from_peer.to_vec(), list(&["web-0", "web-1", "vm"]));
    assert_eq!(network.unknown_from_port.to_vec(), list(&["vm", "node-c"]));
    assert_eq!(network.unknown_from_peer.to_vec(), list(&["vm"]));
    let mac = |n: &str| n.parse::<MacAddr>().unwrap();
    assert_eq!(network.statics.len(), 3);
    assert_eq!(network.statics[&mac("0a:58:0a:01:01:02")], egress("web-0"));
    let far = network.neighbours[&"10.1.1.77".parse::<IpAddr>().unwrap()];
    assert_eq!(far, Adjacency { mac: mac("02:00:00:00:00:77"), egress: Some(egress("node-c")) });
    // web-0 speaks IPv6, so its link-local address is known; web-1 does not.
    assert_eq!(network.neighbours.len(), 1 + 3 + 1);
    let route = |ip: &str| network.fib.lookup(ip.parse().unwrap()).map(|(_, t)| t);
    assert_eq!(route("10.1.1.9"), Some(Target::Connected));
    assert_eq!(route("fd00:1::9"), Some(Target::Connected));
    assert_eq!(route("10.1.2.9"), Some(Target::Peer(PeerId(0))));
    assert_eq!(route("10.9.1.1"), Some(Target::NextHop("10.1.1.3".parse().unwrap())));
    assert_eq!(route("10.2.0.1"), None);
    let web = tables.ports[0].as_ref().unwrap();
    assert_eq!((web.guard, web.mtu, web.v4.len(), web.v6.len()), (Guard::Declared, 1450, 1, 2));
    assert_eq!(tables.ports[2].as_ref().unwrap().guard, Guard::Learning);
    assert!(
        tables.peers[0].as_ref().unwrap().sources.is_some()
            && tables.peers[1].as_ref().unwrap().sources.is_none()
    );
    assert_eq!(tables.node.router_mac.to_string(), "0e:53:c0:a8:4d:01");
}

#[test]
fn a_node_port() {
    let mut desired = state();
    let mut node = port("node", "pods", &[]);
    (node.netns, node.ifname) = (String::new(), "swd0".into());
    node.node = Some(desired::NodePort::default());
    desired.ports.push(node);
    desired.peers.push(peer("node-c", "192.168.77.3", &[]));
    assert_eq!(desired.check(), Ok(()));
    let (tables, ids) = built(&desired);
    let network = tables.networks[0].as_ref().unwrap();
    let id = PortId(ids.ports.get("node").unwrap());
    let mac = derive::port_mac(&settings(), &desired.ports[2]);
    assert_eq!(network.node, Some(NodeAttachment { port: id, mac }));
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(network.node_ips, [ip("10.1.1.1"), ip("fd00:1::1"), ip("192.168.77.1")]);
    assert_eq!(network.statics[&mac], Egress::Port(id));
    assert_eq!(tables.port(id).unwrap().guard, Guard::Node);
    // ARP for a gateway stays with the switch, although the node has its address.
    assert!(!network.neighbours.contains_key(&ip("10.1.1.1")));
    assert!(network.neighbours.contains_key(&IpAddr::V6(mac.link_local_v6())));
    let route = |text: &str| network.fib.lookup(ip(text)).map(|(_, t)| t);
    assert_eq!((route("8.8.8.8"), route("2001:db8::1")), (Some(Target::Node), Some(Target::Node)));
    assert_eq!((route("192.168.77.1"), route("10.1.1.9")), (Some(Target::Node), Some(Target::Connected)));
    // The node of a routed peer is reached by its own port; of the other peer nothing of that kind is known.
    assert_eq!(route("192.168.77.2"), Some(Target::Peer(PeerId(0))));
    assert_eq!(route("192.168.77.3"), Some(Target::Node));
    // Nothing unknown is behind the node, so nothing unknown is sent there.
    assert!(!network.unknown_from_peer.contains(&Egress::Port(id)));
    // An address of its own beside the gateway is a neighbour like any other.
    desired.ports[2].ips = vec!["10.1.1.250/24".parse().unwrap()];
    let (tables, _) = built(&desired);
    let network = tables.networks[0].as_ref().unwrap();
    assert_eq!(network.neighbours[&ip("10.1.1.250")].mac, mac);
    assert_eq!(network.node_ips, [ip("10.1.1.250"), ip("192.168.77.1")]);
    desired.ports[2].node = None;
    desired.ports.remove(2);
    assert_eq!(built(&desired).0.networks[0].as_ref().unwrap().fib.lookup(ip("8.8.8.8")), None);
}

#[test]
fn ports_of_tunnels_are_ours_and_those_of_peers() {
    let with = |ports: &[Option<u16>]| {
        let peers = ports.iter().enumerate();
        let peers = peers.map(|(n, port)| ctl::desired::Peer {
            port: *port,
            ..peer(&format!("node-{n}"), &format!("192.168.77.{}", n + 2), &[])
        });
        let desired = DesiredState { peers: peers.collect(), ..state() };
        built(&desired).0.node.tunnel_ports
    };
    assert_eq!(with(&[]), [4789, 6081]);
    assert_eq!(with(&[None, Some(8472), Some(4789), Some(443), Some(8472)]), [443, 4789, 6081, 8472]);
}

#[test]
fn of_equal_prefixes_the_nearer_counts() {
    let mut desired = state();
    let cidr: IpNet = "10.1.2.0/24".parse().unwrap();
    let own = desired::Peer { network: Some("pods".into()), ..peer("own", "192.168.77.3", &["10.1.2.0/24"]) };
    desired.peers.push(own);
    let name = |d: &DesiredState, p: IpNet| format!("{:?}", routes(&settings(), d, &d.networks[0])[&p].kind);
    assert!(name(&desired, cidr).contains("own"));
    desired.routes.push(Route { network: "pods".into(), prefix: cidr, target: RouteTarget::Blackhole });
    assert!(name(&desired, cidr).contains("Blackhole"));
    desired.peers[0].pod_cidrs = vec!["10.1.1.0/24".parse().unwrap()];
    assert_eq!(name(&desired, "10.1.1.0/24".parse().unwrap()), "None");
}

#[test]
fn what_has_no_number_is_left_out_everywhere() {
    let mut desired = state();
    let place = Place::Port("web-1".into());
    desired.fdb.push(FdbEntry { network: "pods".into(), mac: "02:00:00:00:00:01".parse().unwrap(), place });
    let mut ids = Numbers::default();
    numbered(&mut ids, &desired);
    ids.ports.release("web-1");
    ids.peers.release("node-b");
    let tables = Publisher::new(7).build(1, &settings(), &desired, &ids);
    let network = tables.networks[0].as_ref().unwrap();
    assert_eq!((tables.ports.len(), tables.peers.len(), tables.by_remote.len()), (1, 0, 0));
    assert_eq!((network.statics.len(), network.flood_from_port.len(), network.fib.len()), (1, 1, 2));
}

#[test]
fn unchanged_objects_are_shared() {
    let mut desired = state();
    desired.networks.push(network("other", 2, &["10.1.1.0/24"]));
    let mut ids = Numbers::default();
    numbered(&mut ids, &desired);
    let mut publisher = Publisher::new(7);
    let before = publisher.build(1, &settings(), &desired, &ids);
    desired.ports.push(port("db-0", "other", &["10.1.1.2/24"]));
    numbered(&mut ids, &desired);
    let after = publisher.build(2, &settings(), &desired, &ids);
    let same =
        |at: usize| Arc::ptr_eq(before.networks[at].as_ref().unwrap(), after.networks[at].as_ref().unwrap());
    assert!(same(0) && !same(1));
    assert!(Arc::ptr_eq(before.ports[0].as_ref().unwrap(), after.ports[0].as_ref().unwrap()));
    assert!(Arc::ptr_eq(before.peers[0].as_ref().unwrap(), after.peers[0].as_ref().unwrap()));
}

/// One change among a few names, so that names come, go and come back.
fn change() -> impl Strategy<Value = (u8, u8, u8, bool)> {
    (0..7u8, 0..4u8, 0..3u8, any::<bool>())
}

fn apply(desired: &mut DesiredState, (kind, which, where_, flag): (u8, u8, u8, bool)) {
    let net = format!("n{where_}");
    if kind != 0 && !desired.networks.iter().any(|n| n.name == net) {
        return;
    }
    match kind {
        0 => {
            desired.networks.retain(|n| n.name != net);
            desired.ports.retain(|p| p.network != net);
            desired.peers.retain(|p| p.network.as_ref() != Some(&net));
            desired.routes.retain(|r| r.network != net);
            desired.fdb.retain(|e| e.network != net);
            if flag {
                desired.networks.push(network(
                    &net,
                    u32::from(where_) + 1 + u32::from(which) * 10,
                    &["10.1.1.0/24"],
                ));
            }
        }
        1 | 2 => {
            let name = format!("p{which}");
            desired.ports.retain(|p| p.name != name);
            desired.fdb.retain(|e| e.place != Place::Port(name.clone()));
            if kind == 2 {
                let ip = format!("10.1.1.{}/24", which + 2);
                let ips = [ip.as_str()];
                desired.ports.push(port(&name, &net, if flag { &ips } else { &[] }));
            }
        }
        3 => {
            let name = format!("b{which}");
            desired.peers.retain(|p| p.name != name);
            desired.routes.retain(|r| r.target != RouteTarget::Peer(name.clone()));
            if flag {
                let cidr = format!("10.1.{which}.0/24");
                let cidrs = if where_ == 0 { vec![] } else { vec![cidr.as_str()] };
                let mut peer = peer(&name, &format!("192.168.77.{}", which + 2), &cidrs);
                peer.network = (where_ == 2).then_some(net);
                desired.peers.push(peer);
            }
        }
        4 => {
            let prefix: IpNet = format!("10.1.{}.0/24", which + 100).parse().unwrap();
            desired.routes.retain(|r| r.network != net || r.prefix != prefix);
            if flag {
                let target = match desired.peers.first() {
                    Some(p) if which % 2 == 0 => RouteTarget::Peer(p.name.clone()),
                    _ => RouteTarget::Blackhole,
                };
                desired.routes.push(Route { network: net, prefix, target });
            }
        }
        5 => {
            let mac = MacAddr([2, 0, 0, 0, 0, which]);
            desired.fdb.retain(|e| e.network != net || e.mac != mac);
            if let (true, Some(p)) = (flag, desired.ports.iter().find(|p| p.network == net)) {
                let place = Place::Port(p.name.clone());
                desired.fdb.push(FdbEntry { network: net, mac, place });
            }
        }
        _ => {
            for n in desired.networks.iter_mut().filter(|n| n.name == net) {
                n.flood = flag;
                n.ageing_seconds = 100 + u32::from(which);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn step_by_step_equals_at_once(changes in proptest::collection::vec(change(), 1..40)) {
        let mut desired = DesiredState::default();
        let (mut ids, mut publisher) = (Numbers::default(), Publisher::new(7));
        for (generation, c) in changes.into_iter().enumerate() {
            apply(&mut desired, c);
            let peers: Vec<String> = desired.peers.iter().map(|p| p.name.clone()).collect();
            desired.routes.retain(|r| !matches!(&r.target, RouteTarget::Peer(p) if !peers.contains(p)));
            prop_assert_eq!(desired.check(), Ok(()));
            numbered(&mut ids, &desired);
            let stepwise = publisher.build(generation as u64, &settings(), &desired, &ids);
            let at_once = Publisher::new(7).build(generation as u64, &settings(), &desired, &ids);
            prop_assert_eq!(dump(&stepwise), dump(&at_once));
        }
    }
}
