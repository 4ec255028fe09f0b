//! The lab of the demo: what is made, and with which commands.

use crate::show::Screen;
use lab::wire::{Offloads, Underlay, WireOptions};
use lab::{Lab, Pod, Result};
use std::net::IpAddr;

/// A pod with its two addresses on the routed network.
pub struct PodPlace {
    /// The namespace.
    pub pod: Pod,
    /// IPv4 on network `pods`.
    pub v4: IpAddr,
    /// IPv6 on network `pods`.
    pub v6: IpAddr,
    /// IPv4 on network `lan`.
    pub lan: IpAddr,
}

/// Two nodes, four pods.
pub struct Topology {
    /// Namespaces and daemons.
    pub lab: Lab,
    /// The pods, two of each node.
    pub pods: Vec<PodPlace>,
}

/// What distinguishes the nodes.
const NODES: [(&str, &str, &str, [&str; 2]); 2] =
    [("node-a", "10.1.1", "fd00:1", ["web-0", "db-0"]), ("node-b", "10.1.2", "fd00:2", ["web-1", "db-1"])];

impl Topology {
    /// Makes everything; prints every `swctl` command.
    pub fn build(wire_like: bool, screen: &Screen) -> Result<Self> {
        screen.title("Two nodes, a switch on each")?;
        let offloads = if wire_like { Offloads::WireLike } else { Offloads::Veth };
        let underlay = Underlay::Veth(WireOptions { offloads, ..WireOptions::default() });
        let lab = Lab::new("").node(NODES[0].0).node(NODES[1].0).underlay(underlay).build()?;
        for node in lab.nodes() {
            screen.command(
                node.name(),
                &["swd", "--underlay", &node.underlay4().to_string(), "--node", node.name()],
            )?;
            node.start_swd(&["--node", node.name()])?;
        }
        let mut pods = Vec::new();
        for (at, (name, v4, v6, names)) in NODES.into_iter().enumerate() {
            let node = lab.node(name)?;
            let run = |args: &[&str]| -> Result<()> {
                let line: Vec<&str> = std::iter::once("swctl").chain(args.iter().copied()).collect();
                screen.command(name, &line)?;
                node.swctl_text(args).map(drop)
            };
            let (s4, g4) = (format!("{v4}.0/24"), format!("{v4}.1"));
            let (s6, g6) = (format!("{v6}::/64"), format!("{v6}::1"));
            // Routed: each node has a subnet of its own. Bridged: one segment over both nodes.
            run(&[
                "network",
                "add",
                "pods",
                "--vni",
                "1",
                "--subnet",
                &s4,
                "--gateway",
                &g4,
                "--subnet",
                &s6,
                "--gateway",
                &g6,
            ])?;
            run(&["network", "add", "lan", "--vni", "2", "--subnet", "10.9.0.0/24"])?;
            let (other, o4, o6, _) = NODES[1 - at];
            let remote = lab.node(other)?.underlay4().to_string();
            let (c4, c6) = (format!("{o4}.0/24"), format!("{o6}::/64"));
            run(&[
                "peer",
                "add",
                other,
                "--remote",
                &remote,
                "--network",
                "pods",
                "--pod-cidr",
                &c4,
                "--pod-cidr",
                &c6,
            ])?;
            let lan_peer = format!("{other}-lan");
            run(&["peer", "add", &lan_peer, "--remote", &remote, "--network", "lan"])?;
            for (n, pod_name) in names.into_iter().enumerate() {
                let pod = lab.pod(pod_name)?;
                let host = n + 2;
                let (i4, i6) = (format!("{v4}.{host}/24"), format!("{v6}::{host}/64"));
                let lan = format!("10.9.0.{}/24", at * 10 + host);
                let netns = pod.ns().name().to_owned();
                run(&[
                    "port",
                    "add",
                    pod_name,
                    "--network",
                    "pods",
                    "--netns",
                    &netns,
                    "--ip",
                    &i4,
                    "--ip",
                    &i6,
                ])?;
                let lan_port = format!("{pod_name}-lan");
                run(&[
                    "port",
                    "add",
                    &lan_port,
                    "--network",
                    "lan",
                    "--netns",
                    &netns,
                    "--ifname",
                    "eth1",
                    "--ip",
                    &lan,
                ])?;
                let bare = |cidr: &str| cidr.split('/').next().unwrap_or_default().parse::<IpAddr>();
                let address = |cidr: &str| bare(cidr).map_err(|e| lab::Error::failed(format!("{cidr}: {e}")));
                pods.push(PodPlace { pod, v4: address(&i4)?, v6: address(&i6)?, lan: address(&lan)? });
            }
        }
        for node in lab.nodes() {
            node.settle()?;
        }
        Ok(Self { lab, pods })
    }
}
