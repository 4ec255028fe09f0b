//! What a switch process has learned and counted is there in the next one.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{Host, Mode, Setup, World};
use crate::process::{SOON, healthy, kill_switch, read_log, written};
use lab::capture::Capture;
use lab::conserve::{Ledger, check};
use lab::probe::{PingOptions, ping, ping_with};
use lab::{Context, Error, Node, Result, ensure, wait};
use serde_json::Value;

/// Waits until everything before this call is remembered: one write may have begun before it. What is pinged meanwhile
/// is what makes a write necessary.
fn is_remembered(node: &Node, from: &Host, to: &Host) -> Result<()> {
    let before = written(node)?;
    wait::until_ok(&format!("{} remembers", node.name()), SOON, || {
        once(from, to.ip(false))?;
        let now = written(node)?;
        if now >= before + 2 {
            Ok(())
        } else {
            Err(Error::failed(format!("written {now} times, before {before}")))
        }
    })
}

/// One question, one answer.
fn once(from: &Host, to: IpAddr) -> Result<()> {
    let options = PingOptions { count: 1, ..PingOptions::default() };
    let report = ping_with(from.ns(), to, &options)?;
    ensure!(report.received == 1, "{}", report.text);
    Ok(())
}

/// The one entry of the FDB for a MAC that was learned.
fn entry(node: &Node, host: &Host) -> Result<Value> {
    let mac = mac(host)?;
    let shown = node.swctl(&["fdb", "show", "--mac", &mac])?;
    match shown.as_array().map(Vec::as_slice) {
        Some([one]) if one["state"] == "learned" => Ok(one.clone()),
        _ => Err(Error::failed(format!("{} on {}: {shown}", host.pod.name(), node.name()))),
    }
}

fn is_stale(entry: &Value) -> bool {
    entry["flags"].as_array().is_some_and(|flags| flags.contains(&"stale".into()))
}

fn mac(host: &Host) -> Result<String> {
    Ok(lab::netns::format_mac(host.ns().mac("eth0")?))
}

/// All counters that a node shows, each with where it stands.
fn counters(node: &Node) -> Result<Vec<(String, u64)>> {
    fn walk(value: &Value, path: &str, found: &mut Vec<(String, u64)>) {
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| walk(value, &format!("{path} {key}"), found))
            }
            Value::Array(rows) => {
                for row in rows {
                    // Rows come in any order, and reasons that occurred later are among them.
                    let name =
                        ["name", "reason", "dev"].iter().find_map(|key| row[key].as_str()).unwrap_or("-");
                    walk(row, &format!("{path} {name}"), found);
                }
            }
            Value::Number(n) => found.extend(n.as_u64().map(|n| (path.to_owned(), n))),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for command in [["drops"].as_slice(), &["port", "stats"], &["peer", "stats"]] {
        walk(&node.swctl(command)?, &command.join(" "), &mut found);
    }
    Ok(found)
}

/// The ones that are smaller than before, or gone.
fn backwards(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<String> {
    let now = |path: &str| after.iter().find(|(p, _)| p == path).map(|(_, n)| *n);
    let lost = before.iter().filter(|(path, n)| now(path).is_none_or(|now| now < *n));
    lost.map(|(path, n)| format!("{path}: {n}, now {:?}", now(path))).collect()
}

/// How many frames for a host came by at somebody else's device while something was done.
fn overheard(bystander: &Host, host: &Host, during: impl FnOnce() -> Result<()>) -> Result<usize> {
    let mac = host.ns().mac("eth0")?;
    let capture = Capture::start(bystander.ns(), "eth0")?;
    during()?;
    // What was flooded before this answer has passed the bystander before it.
    once(bystander, host.ip(false))?;
    let captured = capture.stop();
    Ok(captured.count(|frame| !frame.raw.outgoing && frame.raw.bytes.starts_with(&mac)))
}

pub fn what_was_learned_comes_back() -> Result<()> {
    let learning: &[&str] = &["--learning"];
    let setup = Setup { ports: [learning; 3], ..Setup::new("learned", Mode::Bridged) };
    let world = World::build(&setup)?;
    let (a, b, near, beside, far) = (world.a()?, world.b()?, &world.near, &world.beside, &world.far);
    a.swctl_text(&["route", "add", "10.99.0.0/16", "--blackhole"])?;
    let hosts = [near, beside, far];
    for (from, to) in [(near, far), (beside, far), (near, beside)] {
        ping(from.ns(), to.ip(false))?;
        ping(from.ns(), to.ip(true))?;
    }
    // From here on nobody has to ask who is where: only what is sent on purpose is sent.
    for (from, to) in hosts.iter().flat_map(|from| hosts.iter().map(move |to| (from, to))) {
        if from.v4 != to.v4 {
            let mac = mac(to)?;
            from.ns().ip([format!("neigh replace {} lladdr {mac} nud permanent dev eth0", to.v4)])?;
        }
    }
    let options = PingOptions { count: 3, wait: Duration::from_millis(100), ..PingOptions::default() };
    ensure!(ping_with(near.ns(), "10.99.0.1".parse()?, &options)?.received == 0, "a blackhole answers");
    ensure!(Ledger::read(a)?.dropped() >= 3, "nothing fell into the blackhole: {:?}", Ledger::read(a)?);

    // What forgetting looks like: the first frame for somebody goes to everybody.
    // Unless the other has said something by itself in between.
    wait::until_ok("something is overheard of a frame that is flooded", SOON, || {
        a.swctl_text(&["fdb", "flush"])?;
        ensure!(overheard(beside, far, || once(near, far.ip(false)))? > 0, "nothing is overheard");
        Ok(())
    })?;
    for (from, to) in [(near, far), (beside, far), (near, beside)] {
        once(from, to.ip(false))?;
    }

    for node in [a, b] {
        let context = format!("kill on {}", node.name());
        // Its own pods are declared; learned are those of the other node.
        let known: &[&Host] = if node.name() == "a" { &[far] } else { &[near, beside] };
        for host in known {
            ensure!(!is_stale(&entry(node, host)?), "{context}: {} is stale before", host.pod.name());
        }
        let before = counters(node)?;
        is_remembered(node, near, far)?;
        let places =
            known.iter().map(|host| Ok(entry(node, host)?["ifname"].clone())).collect::<Result<Vec<_>>>()?;
        kill_switch(node).context(&context)?;
        // Waits for the next process.
        let after = counters(node)?;
        let lost = backwards(&before, &after);
        ensure!(lost.is_empty(), "{context}: counters went back: {lost:?}");
        for (host, place) in known.iter().zip(&places) {
            let entry = entry(node, host).context(&context)?;
            ensure!(is_stale(&entry), "{context}: not stale: {entry}");
            ensure!(entry["ifname"] == *place, "{context}: {entry} was at {place}");
        }
        let flooded = overheard(beside, far, || once(near, far.ip(false)))?;
        ensure!(flooded == 0, "{context}: {flooded} frames were flooded");
        once(near, beside.ip(false))?;
        for host in known {
            let entry = entry(node, host)?;
            ensure!(!is_stale(&entry), "{context}: stale although it was seen: {entry}");
        }
        healthy(node)?;
        ensure!(read_log(node)? == 1, "{context}: the log has other ends");
    }
    check(world.lab.nodes(), &["no-route", "blackhole"])
}
