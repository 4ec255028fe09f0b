//! The Kubernetes network model: every pod reaches every pod, nodes reach pods and pods reach nodes
//! without translation, and the outside sees the node.

use std::net::{IpAddr, SocketAddr};

use lab::probe::ping;
use lab::witness::{Transport, Witness, ask_here};
use lab::{Context, Error, Result, ensure};
use serde_json::Value;

use crate::reuse::bridged;
use crate::support::{Cluster, CniPod, FAMILIES, OUT, PORT, expect, node_ip, node_witness};

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Three nodes from three files, four pods on each: all 132 ordered pairs, TCP and UDP, both families.
pub fn every_pod_reaches_every_pod_and_is_seen_by_its_own_address() -> Result<()> {
    let cluster = Cluster::new("pairs", &["a", "b", "c"])?;
    let mut pods = Vec::new();
    for node in ["a", "b", "c"] {
        for n in 0..4 {
            pods.push(cluster.add(node, &format!("{node}{n}"))?);
        }
    }
    let witnesses = pods.iter().map(CniPod::witness).collect::<Result<Vec<_>>>()?;
    for from in &pods {
        let asked = from.ns().run_in(|| ask_all(from, &pods))??;
        ensure!(asked == 44, "{} asked {asked} times", from.name());
    }
    drop(witnesses);
    cluster.check(&[])
}

fn ask_all(from: &CniPod, pods: &[CniPod]) -> Result<usize> {
    let mut asked = 0;
    for to in pods.iter().filter(|to| to.name() != from.name()) {
        for v6 in FAMILIES {
            for transport in BOTH {
                let what = format!("{} asks {} over {transport:?}, v6: {v6}", from.name(), to.name());
                let said = ask_here(transport, None, to.at(v6)?, 100).context(&what)?;
                ensure!(said.name == to.name() && said.source == from.ip(v6)?, "{what}: {said:?}");
                asked += 1;
            }
        }
    }
    Ok(asked)
}

/// Health probes of an agent on the node, and processes that share the node's network.
pub fn a_node_reaches_pods_here_and_elsewhere_with_its_address_on_the_network() -> Result<()> {
    let cluster = Cluster::new("nodepod", &["a", "b"])?;
    let pods = [cluster.add("a", "near")?, cluster.add("b", "far")?];
    let a = cluster.node("a")?;
    let _witnesses = [pods[0].witness()?, pods[1].witness()?];
    for pod in &pods {
        for v6 in FAMILIES {
            for transport in BOTH {
                expect(a.ns(), transport, pod.at(v6)?, 1000, pod.name(), node_ip(a, v6)?)?;
            }
            ping(a.ns(), pod.ip(v6)?)?;
        }
    }
    cluster.check(&[])
}

/// Its node and another, by their addresses on the network and where their tunnels end. A node has one
/// end of tunnels: what it has in the other family is, from elsewhere, part of the outside.
pub fn a_pod_reaches_nodes_and_they_see_its_address() -> Result<()> {
    let cluster = Cluster::new("podnode", &["a", "b"])?;
    let pod = cluster.add("a", "pod")?;
    let a = cluster.node("a")?;
    for name in ["a", "b"] {
        let node = cluster.node(name)?;
        for v6 in FAMILIES {
            for ip in [node.underlay(v6), node_ip(node, v6)?] {
                let outside = name == "b" && ip == node.underlay(true);
                let source = if outside { a.underlay(true) } else { pod.ip(v6)? };
                let at = SocketAddr::new(ip, PORT);
                let _witness = Witness::at(node.ns(), name, at)?;
                for transport in BOTH {
                    expect(pod.ns(), transport, at, 1000, name, source)?;
                }
                ping(pod.ns(), ip)?;
            }
        }
    }
    cluster.check(&[])
}

pub fn a_pod_reaches_itself_by_its_own_address() -> Result<()> {
    let cluster = Cluster::new("self", &["a"])?;
    let pod = cluster.add("a", "pod")?;
    let _witness = pod.witness()?;
    for v6 in FAMILIES {
        for transport in BOTH {
            expect(pod.ns(), transport, pod.at(v6)?, 1000, pod.name(), pod.ip(v6)?)?;
        }
    }
    cluster.check(&[])
}

/// `out` has no route to pods, so an answer comes only if it saw the node.
pub fn the_outside_sees_the_address_of_the_node() -> Result<()> {
    let cluster = Cluster::new("outside", &["a", "b", OUT])?;
    let (a, out) = (cluster.node("a")?, cluster.node(OUT)?);
    let pod = cluster.add("a", "pod")?;
    for v6 in FAMILIES {
        let _witness = node_witness(out, v6)?;
        let at = SocketAddr::new(out.underlay(v6), PORT);
        for transport in BOTH {
            expect(pod.ns(), transport, at, 1000, OUT, a.underlay(v6))?;
        }
        ping(pod.ns(), out.underlay(v6))?;
    }
    cluster.check(&[])
}

/// A range that is declared to know pods sees them; it has a route back, as such a range must.
pub fn a_range_without_masquerade_sees_the_address_of_the_pod() -> Result<()> {
    let exempt: [IpAddr; 2] = ["172.20.0.9".parse()?, "fd99::9".parse()?];
    let cluster = Cluster::planned("nomasq", &["a", OUT], |_, plan| {
        if let Some(port) = &mut plan.node_port {
            port.no_masquerade = vec!["172.20.0.0/16".into(), "fd99::/64".into()];
        }
    })?;
    let (a, out) = (cluster.node("a")?, cluster.node(OUT)?);
    let pod = cluster.add("a", "pod")?;
    out.ns().ip([
        "addr add 172.20.0.9/32 dev lo".to_owned(),
        "addr add fd99::9/128 dev lo".to_owned(),
        format!("route add 10.1.1.0/24 via {}", a.underlay4()),
        format!("route add fd00:1::/64 via {}", a.underlay6()),
    ])?;
    a.ns().ip([
        format!("route add 172.20.0.0/16 via {}", out.underlay4()),
        format!("route add fd99::/64 via {}", out.underlay6()),
    ])?;
    for (v6, ip) in FAMILIES.into_iter().zip(exempt) {
        let at = SocketAddr::new(ip, PORT);
        let _exempt = Witness::at(out.ns(), OUT, at)?;
        let _other = node_witness(out, v6)?;
        for transport in BOTH {
            expect(pod.ns(), transport, at, 1000, OUT, pod.ip(v6)?)?;
            let other = SocketAddr::new(out.underlay(v6), PORT);
            expect(pod.ns(), transport, other, 1000, OUT, a.underlay(v6))?;
        }
    }
    cluster.check(&[])
}

/// Requests and datagrams of 2,000 and 65,000 bytes: fragments through tunnel and translation.
pub fn large_requests_pass_between_nodes_and_to_the_outside() -> Result<()> {
    let cluster = Cluster::new("large", &["a", "b", OUT])?;
    let (a, out) = (cluster.node("a")?, cluster.node(OUT)?);
    let (near, far) = (cluster.add("a", "near")?, cluster.add("b", "far")?);
    let _witness = far.witness()?;
    for v6 in FAMILIES {
        let _outside = node_witness(out, v6)?;
        let outside = SocketAddr::new(out.underlay(v6), PORT);
        // The answer to the outside's neighbour question is not what is tested here.
        for ip in [far.ip(v6)?, out.underlay(v6)] {
            ping(near.ns(), ip)?;
        }
        for size in [2000, 65_000] {
            for transport in BOTH {
                expect(near.ns(), transport, far.at(v6)?, size, far.name(), near.ip(v6)?)?;
                let ask_outside = || expect(near.ns(), transport, outside, size, OUT, a.underlay(v6));
                if v6 && transport == Transport::Udp {
                    // Only the sender fragments IPv6: by its first answer the outside learns the MTU of pods.
                    ask_outside().or_else(|_| ask_outside())?;
                } else {
                    ask_outside()?;
                }
            }
        }
    }
    cluster.check(&[])
}

/// On a subnet that both nodes have, the gateway's address is no node's own: status says so, and its command helps.
pub fn a_node_on_a_shared_subnet_is_told_that_it_needs_an_address_of_its_own() -> Result<()> {
    let cluster = Cluster::planned("stretched", &["a", "b"], |node, plan| {
        let port = plan.node_port.take();
        bridged(node, plan);
        plan.node_port = port;
    })?;
    let far = cluster.add("b", "far")?;
    for node in cluster.members() {
        let output = node.swctl_output(&["-o", "json", "status"])?;
        let status: Value = serde_json::from_str(&output.stdout)?;
        let degraded = status["degraded"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [only] = degraded else { return Err(Error::failed(format!("degraded: {status}"))) };
        ensure!(output.code == 6 && only["object"] == "port node", "{only}");
        let hint = only["hint"].as_str().unwrap_or_default();
        let commands = hint.split_once(": ").map(|(_, commands)| commands).unwrap_or_default();
        let own = format!("{:x}", u32::from(node.index()) + 0xf0);
        let commands = commands
            .replace("ADDRESS-IN-10.1.0.0/24", &format!("10.1.0.{}/24", u32::from(node.index()) + 240))
            .replace("ADDRESS-IN-fd00:a::/64", &format!("fd00:a::{own}/64"));
        for command in commands.split(" && ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            let (swctl, arguments) = words.split_first().ok_or("the hint has no command")?;
            ensure!(*swctl == "swctl", "the hint is {hint}");
            node.swctl_text(arguments)?;
        }
    }
    for node in cluster.members() {
        node.settle()?;
        for v6 in FAMILIES {
            ping(node.ns(), far.ip(v6)?).context(node.name())?;
        }
    }
    cluster.check(&[])
}

/// What comes up from the file is what the file says, and a second start changes nothing.
pub fn a_node_comes_up_from_one_file_again_and_again() -> Result<()> {
    let cluster = Cluster::new("again", &["a", "b"])?;
    let a = cluster.node("a")?;
    let pod = cluster.add("a", "pod")?;
    let far = cluster.add("b", "far")?;
    let _witness = far.witness()?;
    let before = a.swctl(&["export"])?;
    for _ in 0..3 {
        a.restart()?;
        let after = a.swctl(&["export"])?;
        ensure!(before == after, "the desired state changed: {before} became {after}");
        lab::wait::until_ok("the pod's port is back", crate::support::SOON, || {
            match a.swctl_output(&["status"])?.code {
                0 => Ok(()),
                code => Err(Error::failed(format!("status: exit code {code}"))),
            }
        })?;
        expect(pod.ns(), Transport::Tcp, far.at(false)?, 100, far.name(), pod.ip(false)?)?;
    }
    cluster.check(&[])
}
