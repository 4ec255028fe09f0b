//! The daemon of one node ends, politely or not, with traffic running, and comes back by itself to
//! what it was.

use std::time::{Duration, Instant};

use crate::common::{Host, Mode, Setup, World, endless, note};
use lab::conserve::check;
use lab::flow::TcpFlow;
use lab::probe::{PingOptions, ping, ping_with};
use lab::{Context, Result, ensure, wait};
use serde_json::Value;

/// New connections must work again within this time from the end of the old daemon.
const LIMIT: Duration = Duration::from_secs(3);

/// What a pod sees of its device.
fn seen(host: &Host) -> Result<(Value, Value, Vec<String>)> {
    let link = host.ns().ip_json(&["link", "show", "dev", "eth0"])?;
    let addresses = host.ns().ip_json(&["address", "show", "dev", "eth0", "scope", "global"])?;
    let mut all: Vec<String> = addresses[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or("-"), a["prefixlen"]))
        .collect();
    for family in ["-4", "-6"] {
        let routes = host.ns().ip_json(&[family, "route", "show", "default"])?;
        all.extend(routes.as_array().into_iter().flatten().map(|r| r["gateway"].to_string()));
    }
    all.sort();
    Ok((link[0]["address"].clone(), link[0]["mtu"].clone(), all))
}

fn outage(name: &str, mode: Mode, kill: bool) -> Result<()> {
    let world = World::build(&Setup::new(name, mode))?;
    let (a, near, beside, far) = (world.a()?, &world.near, &world.beside, &world.far);
    a.swctl_text(&["route", "add", "10.99.0.0/16", "--blackhole"])?;
    a.swctl_text(&["fdb", "add", "02:00:00:00:00:77", "--peer", "b"])?;
    for (from, to) in [(near, far), (far, near), (near, beside)] {
        ping(from.ns(), to.ip(false))?;
        ping(from.ns(), to.ip(true))?;
    }
    let before = (a.swctl(&["export"])?, seen(near)?, seen(beside)?);
    let routes = a.swctl(&["route", "show"])?;
    let mut flows = Vec::new();
    for (what, from, to, v6) in
        [("out", near, far, false), ("in", far, near, true), ("local", near, beside, false)]
    {
        flows.push((what, TcpFlow::start(from.ns(), to.ns(), to.ip(v6), &endless())?));
    }
    for (what, flow) in &flows {
        flow.wait_progress(2_000_000, Duration::from_secs(10)).context(format!("{what}, before"))?;
    }
    let pid = a.swd_pid()?;
    let start = Instant::now();
    if kill {
        a.kill9()?;
    }
    a.restart()?;
    let answers = start.elapsed();
    ensure!(a.swd_pid()? != pid, "the daemon is the same");
    let once = PingOptions { count: 1, wait: Duration::from_millis(200), ..PingOptions::default() };
    for (from, to) in [(near, far), (far, near), (near, beside)] {
        for v6 in [false, true] {
            wait::until("new traffic", LIMIT.saturating_sub(start.elapsed()), || {
                (ping_with(from.ns(), to.ip(v6), &once).ok()?.received == 1).then_some(())
            })
            .context(format!("{} to {}, v6 {v6}", from.pod.name(), to.pod.name()))?;
        }
    }
    let works = start.elapsed();
    let after = (a.swctl(&["export"])?, seen(near)?, seen(beside)?);
    ensure!(after == before, "not as before:\n{after:?}\n{before:?}");
    ensure!(a.swctl(&["route", "show"])? == routes, "routes: {}", a.swctl(&["route", "show"])?);
    let status = a.swctl_output(&["status"])?;
    ensure!(status.code == 0, "status: {}", status.stdout);
    let mut resumed = Vec::new();
    for (what, flow) in &flows {
        flow.wait_progress(2_000_000, Duration::from_secs(20)).context(format!("{what}, after"))?;
        resumed.push(format!("{what} {:.1?}", start.elapsed()));
    }
    for (what, flow) in flows {
        flow.finish().context(what)?;
    }
    note(format!(
        "{name}: daemon answers after {answers:.1?}, new traffic by {works:.1?}, old TCP flows survived: {}",
        resumed.join(", ")
    ));
    // Until its first tables are published the new daemon knows nobody.
    check(world.lab.nodes(), &["unknown-peer", "unknown-vni"])
}

pub fn restart_bridged() -> Result<()> {
    outage("rsbr", Mode::Bridged, false)
}

pub fn restart_routed() -> Result<()> {
    outage("rsrt", Mode::Routed, false)
}

pub fn kill_bridged() -> Result<()> {
    outage("kbr", Mode::Bridged, true)
}

pub fn kill_routed() -> Result<()> {
    outage("krt", Mode::Routed, true)
}
