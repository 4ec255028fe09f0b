//! The lab of the demo: what is made, and with which commands.

use crate::containers::{Containers, Runtime};
use crate::show::Screen;
use lab::wire::{Offloads, Underlay, WireOptions};
use lab::{Lab, Node, Ns, Pod, Result};
use std::net::IpAddr;

/// A pod with its addresses.
pub struct PodPlace {
    /// Its name.
    pub name: String,
    /// Name of its port on network `pods`.
    pub port: String,
    /// Its namespace.
    pub ns: Ns,
    /// IPv4 on network `pods`.
    pub v4: IpAddr,
    /// IPv6 on network `pods`.
    pub v6: IpAddr,
    /// IPv4 on network `lan`, if it is there too.
    pub lan: Option<IpAddr>,
    /// Keeps a namespace that no runtime has made.
    pub _made: Option<Pod>,
}

/// Two nodes, four pods.
pub struct Topology<'l> {
    /// Namespaces and daemons.
    pub lab: &'l Lab,
    /// The pods, two of each node.
    pub pods: Vec<PodPlace>,
    containers: Vec<Containers<'l>>,
}

/// What distinguishes the nodes.
const NODES: [(&str, &str, &str, [&str; 2]); 2] =
    [("node-a", "10.1.1", "fd00:1", ["web-0", "db-0"]), ("node-b", "10.1.2", "fd00:2", ["web-1", "db-1"])];

/// The nodes and their wire.
pub fn lab(wire_like: bool) -> Result<Lab> {
    let offloads = if wire_like { Offloads::WireLike } else { Offloads::Veth };
    let underlay = Underlay::Veth(WireOptions { offloads, ..WireOptions::default() });
    Lab::new("").node(NODES[0].0).node(NODES[1].0).underlay(underlay).build()
}

/// Runs `swctl` with the words of a line, and shows it.
fn swctl(node: &Node, screen: &Screen, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    screen.command(node.name(), &[&["swctl"], &words[..]].concat())?;
    node.swctl_text(&words).map(drop)
}

impl<'l> Topology<'l> {
    /// Makes everything; prints every command.
    pub fn build(lab: &'l Lab, pods: Option<Runtime>, screen: &Screen) -> Result<Self> {
        screen.title("Two nodes, a switch on each")?;
        for node in lab.nodes() {
            if pods.is_some() {
                node.boot()?;
            }
            let underlay = node.underlay4().to_string();
            screen.command(node.name(), &["swd", "--underlay", &underlay, "--node", node.name()])?;
            node.start_swd(&["--node", node.name()])?;
        }
        let mut topology = Self { lab, pods: Vec::new(), containers: Vec::new() };
        for (at, (name, v4, v6, names)) in NODES.into_iter().enumerate() {
            let node = lab.node(name)?;
            let run = |line: &str| swctl(node, screen, line);
            // Routed: each node has a subnet of its own. Bridged: one segment over both nodes.
            run(&format!(
                "network add pods --vni 1 --subnet {v4}.0/24 --gateway {v4}.1 --subnet {v6}::/64 --gateway {v6}::1"
            ))?;
            let (other, o4, o6, _) = NODES[1 - at];
            let remote = lab.node(other)?.underlay4();
            run(&format!(
                "peer add {other} --remote {remote} --network pods --pod-cidr {o4}.0/24 --pod-cidr {o6}::/64"
            ))?;
            if pods.is_none_or(Runtime::has_second_network) {
                let (first, last) = (at * 10 + 2, at * 10 + 9);
                run(&format!(
                    "network add lan --vni 2 --subnet 10.9.0.0/24 --range 10.9.0.{first}-10.9.0.{last}"
                ))?;
                run(&format!("peer add {other}-lan --remote {remote} --network lan"))?;
            }
            match pods {
                None => {
                    for (n, pod) in names.into_iter().enumerate() {
                        topology.pods.push(by_hand(lab, node, screen, pod, (v4, v6), at * 10, n + 2)?);
                    }
                }
                Some(runtime) => {
                    run("port add node --network pods --node --masquerade")?;
                    let containers = Containers::start(node, runtime, screen)?;
                    for pod in names {
                        topology.pods.push(containers.run(pod, screen)?);
                    }
                    topology.containers.push(containers);
                }
            }
        }
        for node in lab.nodes() {
            node.settle()?;
        }
        Ok(topology)
    }

    /// Whether the nodes have ports of their own, by which packets leave the cluster.
    pub fn has_way_out(&self) -> bool {
        !self.containers.is_empty()
    }

    /// What to type in a lab left standing, if a runtime has started the pods.
    pub fn how_to_look_at_containers(&self) -> String {
        self.containers.iter().map(|c| format!("  {}\n", c.enter_command())).collect()
    }
}

/// A namespace with a port in both networks; `host` is the last part of its addresses, after `lan` in `lan`.
fn by_hand(
    lab: &Lab,
    node: &Node,
    screen: &Screen,
    name: &str,
    (v4, v6): (&str, &str),
    lan: usize,
    host: usize,
) -> Result<PodPlace> {
    let pod = lab.pod(name)?;
    let netns = pod.ns().name().to_owned();
    let (v4, v6) = (format!("{v4}.{host}"), format!("{v6}::{host}"));
    let lan = format!("10.9.0.{}", lan + host);
    let run = |line: &str| swctl(node, screen, line);
    run(&format!("port add {name} --network pods --netns {netns} --ip {v4}/24 --ip {v6}/64"))?;
    run(&format!("port add {name}-lan --network lan --netns {netns} --ifname eth1 --ip {lan}/24"))?;
    Ok(PodPlace {
        name: name.to_owned(),
        port: name.to_owned(),
        ns: pod.ns().clone(),
        v4: v4.parse()?,
        v6: v6.parse()?,
        lan: Some(lan.parse()?),
        _made: Some(pod),
    })
}
