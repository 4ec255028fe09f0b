//! Ports of the node that lead to pods (`portMappings`): the right pod answers, from wherever it is
//! asked; a claim that is taken is refused; and what a pod had goes with it.

use std::net::SocketAddr;
use std::time::Duration;

use lab::witness::{Transport, Witness, ask, has_sctp};
use lab::{Ns, Result, ensure, wait};
use serde_json::json;

use crate::support::{Cluster, CniPod, FAMILIES, PORT, SOON, mapping, note, nothing_left};

/// The port of the node that all of them want.
const HOST_PORT: u16 = 8080;

/// Three pods: one port on two host addresses and in two or three protocols.
struct Three {
    cluster: Cluster,
    local: CniPod,
    tcp: CniPod,
    udp: CniPod,
    _witnesses: Vec<Witness>,
}

fn three(name: &str) -> Result<Three> {
    let cluster = Cluster::new(name, &["a", "b"])?;
    let underlay = cluster.node("a")?.underlay4().to_string();
    let local = cluster.add_with(
        "a",
        "local",
        &[("portMappings", json!([mapping("127.0.0.1", HOST_PORT, "tcp")]))],
    )?;
    let tcp =
        cluster.add_with("a", "tcp", &[("portMappings", json!([mapping(&underlay, HOST_PORT, "tcp")]))])?;
    // A mapping of SCTP is made on every kernel, and asked where the kernel speaks it.
    let others = ["udp", "sctp"].map(|protocol| mapping(&underlay, HOST_PORT, protocol));
    if !has_sctp() {
        note("SCTP host ports are not asked: this kernel has no SCTP");
    }
    let udp = cluster.add_with("a", "udp", &[("portMappings", json!(others))])?;
    let witnesses = [&local, &tcp, &udp].into_iter().map(CniPod::witness).collect::<Result<_>>()?;
    Ok(Three { cluster, local, tcp, udp, _witnesses: witnesses })
}

impl Three {
    fn at(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.cluster.node("a")?.underlay4().into(), HOST_PORT))
    }

    /// Who answers on the node's address, asked from a namespace.
    fn right_pods_answer(&self, from: &Ns) -> Result<()> {
        let mut wanted = vec![(Transport::Tcp, &self.tcp), (Transport::Udp, &self.udp)];
        if has_sctp() {
            wanted.push((Transport::Sctp, &self.udp));
        }
        for (transport, pod) in wanted {
            let said = ask(from, transport, self.at()?, 1000)?;
            ensure!(said.name == pod.name(), "{transport:?} from {}: {said:?}", from.name());
        }
        Ok(())
    }
}

pub fn one_host_port_on_different_addresses_and_protocols_leads_to_different_pods() -> Result<()> {
    let three = three("hostport")?;
    let cluster = &three.cluster;
    let (a, b) = (cluster.node("a")?, cluster.node("b")?);
    let (near, far) = (cluster.add("a", "near")?, cluster.add("b", "far")?);
    // From another node, the node itself, pods here and elsewhere.
    for from in [b.ns(), a.ns(), near.ns(), far.ns()] {
        three.right_pods_answer(from)?;
    }
    let loopback = SocketAddr::new([127, 0, 0, 1].into(), HOST_PORT);
    let said = ask(a.ns(), Transport::Tcp, loopback, 1000)?;
    ensure!(said.name == three.local.name(), "127.0.0.1: {said:?}");
    cluster.check(&[])
}

pub fn a_pod_reaches_its_own_host_port() -> Result<()> {
    let three = three("hairpin")?;
    for pod in [&three.tcp, &three.udp] {
        three.right_pods_answer(pod.ns())?;
    }
    three.cluster.check(&[])
}

/// A mapping that names no address serves both families.
pub fn a_host_port_without_an_address_serves_every_address_of_the_node() -> Result<()> {
    let cluster = Cluster::new("hostany", &["a", "b"])?;
    let (a, b) = (cluster.node("a")?, cluster.node("b")?);
    let wanted = [("portMappings", json!([mapping("", HOST_PORT, "tcp"), mapping("", HOST_PORT, "udp")]))];
    let pod = cluster.add_with("a", "pod", &wanted)?;
    let far = cluster.add("b", "far")?;
    let _witness = pod.witness()?;
    for v6 in FAMILIES {
        let at = SocketAddr::new(a.underlay(v6), HOST_PORT);
        for transport in [Transport::Tcp, Transport::Udp] {
            for from in [b.ns(), a.ns(), far.ns(), pod.ns()] {
                let said = ask(from, transport, at, 1000)?;
                ensure!(said.name == pod.name(), "{at} from {}: {said:?}", from.name());
            }
        }
    }
    cluster.check(&[])
}

pub fn a_host_port_that_is_taken_is_refused_and_the_owner_named() -> Result<()> {
    let three = three("hosttaken")?;
    let cluster = &three.cluster;
    let a = cluster.node("a")?;
    let before = a.swctl(&["export"])?;
    let underlay = a.underlay4().to_string();
    // The same claim, and one for all addresses, which contains it.
    for host_ip in [underlay.as_str(), ""] {
        let wanted = [("portMappings", json!([mapping(host_ip, HOST_PORT, "tcp")]))];
        let (_pod, container) = cluster.container(&format!("late{}", host_ip.len()), &wanted)?;
        let refusal = cluster.plugin("a")?.add_refused(&container)?;
        ensure!(refusal.code >= 100, "a conflict is none of the specification's codes: {refusal:?}");
        let named = refusal.msg.contains(&three.tcp.attached.container.id)
            || host_ip.is_empty() && refusal.msg.contains(&three.local.attached.container.id);
        ensure!(named && refusal.msg.contains(&HOST_PORT.to_string()), "{refusal:?}");
    }
    ensure!(a.swctl(&["export"])? == before, "a refused ADD left something");
    three.right_pods_answer(a.ns())?;
    cluster.check(&[])
}

pub fn host_ports_go_with_their_pod_and_others_stay() -> Result<()> {
    let three = three("hostgone")?;
    let cluster = &three.cluster;
    let b = cluster.node("b")?;
    three.right_pods_answer(b.ns())?;
    let plugin = cluster.plugin("a")?;
    plugin.del(&three.tcp.attached)?;
    ensure!(ask(b.ns(), Transport::Tcp, three.at()?, 10).is_err(), "TCP is answered after DEL");
    let said = ask(b.ns(), Transport::Udp, three.at()?, 10)?;
    ensure!(said.name == three.udp.name(), "UDP after DEL of the other: {said:?}");
    plugin.del(&three.udp.attached)?;
    ensure!(ask(b.ns(), Transport::Udp, three.at()?, 10).is_err(), "UDP is answered after DEL");
    plugin.del(&three.local.attached)?;
    nothing_left(cluster.node("a")?)?;
    cluster.check(&[])
}

/// The asker of a UDP service keeps its source port while the pod behind is replaced (conntrack must
/// not hold it to the old one): the next datagram goes to the new pod.
pub fn a_udp_asker_with_a_fixed_port_reaches_the_pod_that_took_over() -> Result<()> {
    let cluster = Cluster::new("udpcycle", &["a", "b"])?;
    let (a, b) = (cluster.node("a")?, cluster.node("b")?);
    let wanted = [("portMappings", json!([mapping("", 5353, "udp")]))];
    let at = SocketAddr::new(a.underlay4().into(), 5353);
    let source = SocketAddr::new(b.underlay4().into(), 40_000);
    let plugin = cluster.plugin("a")?;
    for name in ["first", "second", "third"] {
        let pod = cluster.add_with("a", name, &wanted)?;
        let _witness = Witness::everywhere(pod.ns(), name, PORT)?;
        let said = wait::until_ok(&format!("{name} answers"), SOON.min(Duration::from_secs(3)), || {
            lab::witness::ask_as(b.ns(), Transport::Udp, Some(source), at, 100)
        })?;
        ensure!(said.name == name, "{said:?}");
        plugin.del(&pod.attached)?;
    }
    nothing_left(a)?;
    cluster.check(&[])
}
