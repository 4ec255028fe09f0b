//! The kernel's own switches and routers, over veth pods.

use lab::kernel::{KernelBridge, Remote, RoutedVxlan, VxlanOptions, connect_pod};
use lab::{Lab, Pod, Result};

use super::{BRIDGED, Built, GATEWAYS, MTU, ROUTED};

/// A bridge.
pub fn bridge(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let bridge = KernelBridge::plain(lab.node("a")?.ns(), MTU)?;
    for (pod, address) in pods.iter().zip(BRIDGED) {
        bridge.attach(pod, &[address], &[])?;
    }
    Ok(Built::new(BRIDGED)?.with(bridge))
}

/// A bridge on each node, joined by VXLAN devices that learn.
pub fn vxlan_bridged(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let options = VxlanOptions { mtu: Some(MTU), ..VxlanOptions::new(1) };
    let bridges = [KernelBridge::vxlan(a, &options)?, KernelBridge::vxlan(b, &options)?];
    for (bridge, remote) in bridges.iter().zip([b, a]) {
        bridge.flood_to(remote.underlay4().into())?;
    }
    for ((bridge, pod), address) in bridges.iter().zip(pods).zip(BRIDGED) {
        bridge.attach(pod, &[address], &[])?;
    }
    Ok(Built::new(BRIDGED)?.with(bridges))
}

/// A subnet per node, routed into VXLAN devices: Flannel's way.
pub fn vxlan_routed(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    const SUBNETS: [[&str; 1]; 2] = [["10.1.1.0/24"], ["10.1.2.0/24"]];
    let nodes = [lab.node("a")?, lab.node("b")?];
    let options = VxlanOptions { mtu: Some(MTU), ..VxlanOptions::new(1) };
    let [a, b] = nodes;
    let routers = [
        RoutedVxlan::new(a, &options, &["10.1.1.0/32"], &["10.1.1.1/24"])?,
        RoutedVxlan::new(b, &options, &["10.1.2.0/32"], &["10.1.2.1/24"])?,
    ];
    for ((router, other), (node, subnet)) in
        routers.iter().zip(routers.iter().rev()).zip(nodes.iter().rev().zip(SUBNETS.iter().rev()))
    {
        router.add_remote(&Remote {
            underlay: node.underlay4().into(),
            router_mac: other.router_mac(),
            pod_cidrs: subnet,
        })?;
    }
    for (((router, pod), address), gateway) in routers.iter().zip(pods).zip(ROUTED).zip(GATEWAYS) {
        router.attach(pod, &[address], &[gateway.into()])?;
    }
    Ok(Built::new(ROUTED)?.with(routers))
}

/// A subnet per node and routes between the nodes: no tunnel, the least that can be done across nodes.
pub fn routing(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let nodes = [lab.node("a")?, lab.node("b")?];
    for (((node, other), pod), (address, gateway)) in
        nodes.iter().zip(nodes.iter().rev()).zip(pods).zip(ROUTED.iter().zip(GATEWAYS))
    {
        node.ns().sysctl("net.ipv4.ip_forward", "1")?;
        let port = connect_pod(node.ns(), pod, &[address], &[gateway.into()], MTU)?;
        let far = if gateway == GATEWAYS[0] { "10.1.2.0/24" } else { "10.1.1.0/24" };
        node.ns().ip([
            format!("addr add {gateway}/24 dev {port}"),
            format!("route add {far} via {}", other.underlay4()),
        ])?;
    }
    Built::new(ROUTED)
}
