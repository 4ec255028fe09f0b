//! Open vSwitch with its userspace datapath (`datapath_type=netdev`) and TAP pods.

use lab::ovs::{Encap, Ovs};
use lab::{Lab, Pod, Result};

use super::{BRIDGED, Built, MTU};

pub const TOOLS: &[&str] = &["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-appctl"];

/// Both pods at one bridge.
pub fn one_node(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let node = lab.node("a")?;
    let ovs = Ovs::start(node.ns(), &node.dir().join("ovs"))?;
    for (pod, address) in pods.iter().zip(BRIDGED) {
        ovs.attach_tap(pod, &[address], &[], MTU)?;
    }
    let mut built = Built::new(BRIDGED)?;
    built.pids = vec![ovs.pid()];
    Ok(built.with(ovs))
}

/// A bridge on each node and a VXLAN port between them.
pub fn across(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let switches = [Ovs::start_on(a)?, Ovs::start_on(b)?];
    for ((ovs, remote), (pod, address)) in switches.iter().zip([b, a]).zip(pods.iter().zip(BRIDGED)) {
        ovs.add_tunnel("tun0", Encap::Vxlan, remote.underlay4().into(), 1)?;
        ovs.attach_tap(pod, &[address], &[], MTU)?;
    }
    let mut built = Built::new(BRIDGED)?;
    built.pids = switches.iter().map(Ovs::pid).collect();
    Ok(built.with(switches))
}
