//! tinc 1.0 in switch mode, without cipher and digest.

use lab::tinc::Tinc;
use lab::{Lab, Pod, Result};

use super::{BRIDGED, Built, MTU};

/// A daemon on each node.
pub fn across(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    let daemons = Tinc::join([lab.node("a")?, lab.node("b")?], pods, BRIDGED, MTU)?;
    let mut built = Built::new(BRIDGED)?;
    built.pids = daemons.iter().map(Tinc::pid).collect();
    Ok(built.with(daemons))
}
