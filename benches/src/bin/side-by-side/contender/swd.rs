//! Ours, as it always runs: guard, counters and trace hooks on.

use lab::{Lab, Node, Pod, Result};

use super::{BRIDGED, Built, GATEWAYS, MTU, ROUTED};

const NO_OFFLOAD: &[&str] = &["--no-offload"];

/// Both pods on one node, in one network.
pub fn one_node(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    stretched(lab, pods, ["a", "a"], &[])
}

/// The same, with complete standard packets only at the ports.
pub fn one_node_no_offload(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    stretched(lab, pods, ["a", "a"], NO_OFFLOAD)
}

/// One network stretched over both nodes.
pub fn bridged(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    stretched(lab, pods, ["a", "b"], &[])
}

/// The same, with complete standard packets only at the ports.
pub fn bridged_no_offload(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    stretched(lab, pods, ["a", "b"], NO_OFFLOAD)
}

fn stretched(lab: &Lab, pods: &[Pod; 2], places: [&str; 2], port: &[&str]) -> Result<Built> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, "10.1.1.0/24", "10.1.1.1")?;
        node.add_peer(other, false, &[])?;
    }
    attach(lab, pods, places, BRIDGED, port)
}

/// A subnet per node.
pub fn routed(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    const SUBNETS: [&str; 2] = ["10.1.1.0/24", "10.1.2.0/24"];
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let sides = [(a, b, SUBNETS, GATEWAYS[0]), (b, a, [SUBNETS[1], SUBNETS[0]], GATEWAYS[1])];
    for (node, other, [own, far], gateway) in sides {
        start(node, own, &gateway.to_string())?;
        node.add_peer(other, false, &["--pod-cidr", far])?;
    }
    attach(lab, pods, ["a", "b"], ROUTED, &[])
}

fn start(node: &Node, subnet: &str, gateway: &str) -> Result<()> {
    node.start_swd(&["--mtu", &MTU.to_string()])?;
    let network = ["network", "add", "pods", "--vni", "1", "--subnet", subnet, "--gateway", gateway];
    node.swctl_text(&network).map(drop)
}

fn attach(
    lab: &Lab,
    pods: &[Pod; 2],
    places: [&str; 2],
    addresses: [&str; 2],
    port: &[&str],
) -> Result<Built> {
    for ((place, pod), address) in places.iter().zip(pods).zip(addresses) {
        lab.node(place)?.add_port_with(pod, "pods", &[address], port)?;
    }
    let mut built = Built::new(addresses)?;
    built.ledger = true;
    // A node without a pod takes no part; its daemon would only add what it costs to be there.
    for node in lab.nodes() {
        node.settle()?;
        if places.contains(&node.name()) {
            built.pids.push(node.switch_pid()?);
        }
    }
    Ok(built)
}
