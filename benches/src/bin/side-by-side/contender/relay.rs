//! The bare relay: what a userspace switch could reach at best.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab::cmd::Daemon;
use lab::{Lab, Node, Pod, Result, wait};

use super::{BRIDGED, Built, MTU};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 4789;

/// From TAP to TAP.
pub fn one_node(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    local(lab, pods, &[])
}

/// Complete standard packets only at the TAPs.
pub fn one_node_no_offload(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    local(lab, pods, &["--no-offload"])
}

/// One write per frame.
pub fn one_node_no_merge(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    local(lab, pods, &["--no-merge"])
}

/// From TAP to tunnel, and from tunnel to TAP.
pub fn across(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    tunnel(lab, pods, &[])
}

/// Complete standard packets only at the TAPs.
pub fn across_no_offload(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    tunnel(lab, pods, &["--no-offload"])
}

/// One write per frame.
pub fn across_no_merge(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    tunnel(lab, pods, &["--no-merge"])
}

/// One receive per datagram.
pub fn across_no_gro(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    tunnel(lab, pods, &["--no-udp-gro"])
}

/// One send per datagram.
pub fn across_no_segment(lab: &Lab, pods: &[Pod; 2]) -> Result<Built> {
    tunnel(lab, pods, &["--no-udp-segment"])
}

fn local(lab: &Lab, pods: &[Pod; 2], without: &[&str]) -> Result<Built> {
    let relay = start(lab.node("a")?, &[&pods[0], &pods[1]], None, without)?;
    address(pods)?;
    let mut built = Built::new(BRIDGED)?;
    built.pids = vec![relay.pid()];
    Ok(built.with(relay))
}

fn tunnel(lab: &Lab, pods: &[Pod; 2], without: &[&str]) -> Result<Built> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let relays = [
        start(a, &[&pods[0]], Some((a.underlay4(), b.underlay4())), without)?,
        start(b, &[&pods[1]], Some((b.underlay4(), a.underlay4())), without)?,
    ];
    address(pods)?;
    let mut built = Built::new(BRIDGED)?;
    built.pids = relays.iter().map(Daemon::pid).collect();
    Ok(built.with(relays))
}

/// Starts it and waits until its TAPs are there.
fn start(node: &Node, pods: &[&Pod], ends: Option<(Ipv4Addr, Ipv4Addr)>, without: &[&str]) -> Result<Daemon> {
    let mut cmd = node.cmd(lab::swd::binary("bare-relay")?).args(["--mtu", &MTU.to_string()]).args(without);
    for pod in pods {
        cmd = cmd.arg("--tap").arg(pod.ns().path());
    }
    if let Some((local, remote)) = ends {
        cmd = cmd.args(["--local", &format!("{local}:{PORT}"), "--remote", &format!("{remote}:{PORT}")]);
    }
    let log = node.dir().join("bare-relay.log");
    let mut relay = cmd.daemon(&format!("bare-relay on {}", node.name()), &log)?;
    wait::until("bare-relay is ready", LIMIT, || {
        let said = std::fs::read_to_string(&log).ok()?;
        (said.contains("ready") || relay.check_running().is_err()).then_some(())
    })?;
    relay.check_running()?;
    Ok(relay)
}

fn address(pods: &[Pod; 2]) -> Result<()> {
    pods.iter().zip(BRIDGED).try_for_each(|(pod, cidr)| pod.ns().ip([format!("addr add {cidr} dev eth0")]))
}
