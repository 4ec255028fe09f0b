//! VDE: `vde_switch` with TAP pods; across nodes with `vde_plug` as a cable over UDP.

use lab::vde::Vde;
use lab::{Lab, Pod, Result};

use super::{BRIDGED, Built, MTU};

/// Both pods at one switch.
pub fn one_node(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let node = lab.node("a")?;
    let mut vde = Vde::start(node.ns(), &node.dir().join("vde"), 2)?;
    for (pod, address) in pods.iter().zip(BRIDGED) {
        vde.attach(pod, &[address], MTU)?;
    }
    let mut built = Built::new(BRIDGED)?;
    built.pids = vde.pids();
    Ok(built.with(vde))
}

/// A switch on each node.
pub fn across(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let mut built = Built::new(BRIDGED)?;
    for ((node, other), (pod, address)) in [(a, b), (b, a)].into_iter().zip(pods.iter().zip(BRIDGED)) {
        let mut vde = Vde::start(node.ns(), &node.dir().join("vde"), 1)?;
        vde.connect(node, other)?;
        vde.attach(pod, &[address], MTU)?;
        built.pids.extend(vde.pids());
        built = built.with(vde);
    }
    Ok(built)
}
