//! Ports: many, under load, and with their namespaces or devices taken away.

use std::time::{Duration, Instant};

use crate::common::{
    Host, Mode, Setup, World, add_host, add_network, endless, note, open_files, tcp_timeouts,
};
use lab::conserve::check;
use lab::flow::TcpFlow;
use lab::harness::setting;
use lab::probe::{PingOptions, ping, ping_with};
use lab::swd::SwdOptions;
use lab::{Context, Lab, Node, Result, ensure, wait};

/// The names of the devices in a pod, without the loopback.
fn devices(host: &Host) -> Result<Vec<String>> {
    let links = host.ns().ip_json(&["link"])?;
    let names = links.as_array().into_iter().flatten().filter_map(|l| l["ifname"].as_str());
    Ok(names.filter(|&n| n != "lo").map(str::to_owned).collect())
}

/// State and problem of a port.
fn state(node: &Node, port: &str) -> Result<(String, String)> {
    let shown = node.swctl(&["port", "show", port])?;
    let text = |key: &str| shown[0][key].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("problem")))
}

/// Pods in one subnet; more take another subnet of the network.
const SUBNET: u16 = 250;

/// Many ports on one node (`LAB_PORTS`): all work, and after their removal nothing is left of them. Some of the time is
/// spent on seeing what a daemon with so many does when there is nothing to do (`LAB_IDLE`, seconds).
pub fn many_ports() -> Result<()> {
    let (ports, idle) = (setting("LAB_PORTS", 200) as u16, setting("LAB_IDLE", 1));
    let lab = Lab::new("many").node("a").build()?;
    let a = lab.node("a")?;
    a.start_swd_with(&SwdOptions::default())?;
    let prefixes: Vec<_> =
        (0..ports.div_ceil(SUBNET)).map(|n| (format!("10.1.{n}"), format!("fd00:{n:x}"))).collect();
    let prefixes: Vec<_> = prefixes.iter().map(|(v4, v6)| (v4.as_str(), v6.as_str())).collect();
    add_network(a, "pods", 1, &prefixes, &[])?;
    let before = open_files(a)?;
    let mut times = Vec::new();
    let mut hosts = Vec::new();
    for n in 0..ports {
        let prefix = prefixes[usize::from(n / SUBNET)];
        let pod = lab.pod(&format!("p{n}"))?;
        let number = n % SUBNET + 2;
        let v4 = format!("{}.{number}", prefix.0).parse().context(n)?;
        let v6 = format!("{}::{number}", prefix.1).parse().context(n)?;
        let host = Host { pod, v4, v6 };
        let start = Instant::now();
        host.attach(a, &[])?;
        times.push(start.elapsed());
        hosts.push(host);
    }
    a.settle()?;
    let status = a.swctl(&["status"])?;
    ensure!(status["ports_up"] == ports, "{status}");
    // Each to another, in its subnet or elsewhere.
    for (n, from) in hosts.iter().enumerate() {
        let to = &hosts[(n + 1 + n * 7 % 300) % hosts.len()];
        if to.v4 != from.v4 {
            ping(from.ns(), to.ip(n % 2 == 0))?;
        }
    }
    let busy = a.busy(Duration::from_secs(idle))?;
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let tenth = times.len().div_ceil(10);
    note(format!(
        "{ports} ports: added in {:.1?} each (median of the first tenth), {:.1?} (of the last); the daemon idles with \
         {busy:.2} % of a processor",
        median(&times[..tenth]),
        median(&times[times.len() - tenth..]),
    ));
    let start = Instant::now();
    for host in &hosts {
        a.swctl_text(&["port", "del", host.pod.name()])?;
    }
    note(format!("{ports} ports removed in {:.1?} each", start.elapsed() / u32::from(ports)));
    // Devices are closed by a thread of their own.
    wait::until("all descriptors are closed", Duration::from_secs(60), || {
        (open_files(a).ok()? <= before).then_some(())
    })
    .context(format!("{before} open files before, now {}", open_files(a)?))?;
    for host in &hosts {
        let left = devices(host)?;
        ensure!(left.is_empty(), "{left:?} is left in {}", host.ns().name());
    }
    let ports = a.swctl(&["port", "show"])?;
    ensure!(ports == serde_json::json!([]), "{ports}");
    let fdb = a.swctl(&["fdb", "show"])?;
    let left = fdb.as_array().into_iter().flatten().filter(|e| !e["dev"].is_null()).count();
    ensure!(left == 0, "the FDB still names ports: {fdb}");
    // On the way to or from a port while it was removed.
    check(lab.nodes(), &["no-port", "egress-gone"])
}

/// Bulk TCP on one node and across nodes does not notice that other ports come and go.
pub fn ports_come_and_go_under_load() -> Result<()> {
    const ROUNDS: u16 = 8;
    let world = World::build(&Setup::new("churn", Mode::Bridged))?;
    let lab = &world.lab;
    let (a, b) = (world.a()?, world.b()?);
    let prefix = ("10.1.1", "fd00:1");
    ping(world.near.ns(), world.far.ip(false))?;
    ping(world.near.ns(), world.beside.ip(false))?;
    let timeouts = || tcp_timeouts(world.near.ns());
    let (before, options) = (timeouts()?, endless());
    let across = TcpFlow::start(world.near.ns(), world.far.ns(), world.far.ip(false), &options)?;
    let local = TcpFlow::start(world.near.ns(), world.beside.ns(), world.beside.ip(true), &options)?;
    let moves = |what: &str| {
        across.wait_progress(1_000_000, Duration::from_secs(5)).context(format!("across nodes, {what}"))?;
        local.wait_progress(1_000_000, Duration::from_secs(5)).context(format!("on one node, {what}"))
    };
    moves("at first")?;
    let mut hosts = Vec::new();
    for n in 0..4 {
        let node = if n % 2 == 0 { a } else { b };
        hosts.push((node, add_host(lab, node, &format!("x{n}"), prefix, 100 + n, &[])?));
    }
    for round in 0..ROUNDS {
        moves(&format!("with all ports, round {round}"))?;
        ping(hosts[0].1.ns(), hosts[1].1.ip(round % 2 == 0))?;
        for (node, host) in &hosts {
            node.swctl_text(&["port", "del", host.pod.name()])?;
        }
        moves(&format!("with ports removed, round {round}"))?;
        for (node, host) in &hosts {
            host.attach(node, &[])?;
        }
    }
    let after = timeouts()?;
    let (across, local) = (across.finish()?, local.finish()?);
    note(format!(
        "under {ROUNDS} rounds of churn: across {:.1} Gb/s ({} sent again), local {:.1} Gb/s ({} sent again)",
        across.bits_per_second() / 1e9,
        across.retransmits,
        local.bits_per_second() / 1e9,
        local.retransmits
    ));
    ensure!(after == before, "{} retransmission timeouts: {across:?} {local:?}", after - before);
    // What a port still had in its queue when it was removed, and what was on the way to it.
    check(lab.nodes(), &["egress-gone", "no-port", "reflection"])
}

/// A pod's namespace is deleted under the switch.
pub fn a_namespace_goes() -> Result<()> {
    let world = World::build(&Setup::new("nsgone", Mode::Bridged))?;
    let (lab, a) = (&world.lab, world.a()?);
    let prefix = ("10.1.1", "fd00:1");
    let gone = add_host(lab, a, "gone", prefix, 8, &[])?;
    let back = add_host(lab, a, "back", prefix, 9, &[])?;
    ping(world.near.ns(), gone.ip(false))?;
    ping(world.near.ns(), back.ip(true))?;
    let healthy = a.swctl_output(&["status"])?;
    ensure!(healthy.code == 0, "status before: {}", healthy.stdout);
    let flow = TcpFlow::start(world.beside.ns(), world.far.ns(), world.far.ip(false), &endless())?;
    let moves = |what: &str| flow.wait_progress(1_000_000, Duration::from_secs(5)).context(what.to_owned());
    moves("at first")?;
    gone.pod.delete();
    back.pod.delete();
    for port in ["gone", "back"] {
        wait::until(&format!("port {port} is reported"), Duration::from_secs(20), || {
            let (state, problem) = state(a, port).ok()?;
            (state != "up" && problem.contains("namespace")).then_some(())
        })?;
    }
    moves("after the namespaces are gone")?;
    let status = a.swctl_output(&["-o", "json", "status"])?;
    ensure!(status.code == 6, "status exits with {}: {}", status.code, status.stdout);
    for port in ["port gone", "port back"] {
        ensure!(status.stdout.contains(port), "status does not name {port}: {}", status.stdout);
    }
    let dead = PingOptions { count: 1, wait: Duration::from_millis(300), ..PingOptions::default() };
    ensure!(ping_with(world.near.ns(), gone.v4.into(), &dead)?.received == 0, "a dead pod answers");
    a.swctl_text(&["port", "del", "gone"])?;
    moves("after the port is deleted")?;
    // A new namespace of the old name: the port comes back by itself.
    let back = Host { pod: lab.pod("back")?, ..back };
    wait::until("the port is back", Duration::from_secs(20), || {
        (state(a, "back").ok()?.0 == "up").then_some(())
    })?;
    ping(world.near.ns(), back.ip(false))?;
    ping(world.far.ns(), back.ip(true))?;
    let healthy = a.swctl_output(&["status"])?;
    ensure!(healthy.code == 0, "status after: {}", healthy.stdout);
    // The name is free for another port.
    let again = add_host(lab, a, "gone", prefix, 8, &[])?;
    ping(world.far.ns(), again.ip(false))?;
    moves("at the end")?;
    flow.finish()?;
    // Reflection: what the first node floods because it has forgotten the pod, the other still knows to be there.
    check(lab.nodes(), &["egress-gone", "no-port", "tx-down", "reflection"])
}

/// Somebody deletes the device inside the pod: it is made again with the same addresses.
pub fn a_device_goes() -> Result<()> {
    let world = World::build(&Setup::new("devgone", Mode::Routed))?;
    let a = world.a()?;
    let near = &world.near;
    ping(world.far.ns(), near.ip(false))?;
    let mac = near.ns().mac("eth0")?;
    near.ns().ip(["link del eth0"])?;
    wait::until("the device is back", Duration::from_secs(20), || {
        let up = state(a, "near").ok()?.0 == "up";
        (up && near.ns().mac("eth0").ok()? == mac).then_some(())
    })?;
    for v6 in [false, true] {
        ping(world.far.ns(), near.ip(v6))?;
        ping(near.ns(), world.beside.ip(v6))?;
    }
    check(world.lab.nodes(), &["egress-gone", "no-port", "tx-down"])
}
