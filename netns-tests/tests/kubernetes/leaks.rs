//! Nothing leaks: after hundreds of random events and the deletion of every pod, a node is as it was
//! before the first. Events are ADD, DEL, `kill -9` of the daemon, deletion while it is dead, and a
//! restart of the machine.
//!
//! 100 events; `LAB_EVENTS` sets another number, `LAB_SEED` another sequence.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lab::harness::setting;
use lab::impair::Rng;
use lab::{Context, Error, Node, Result, ensure, wait};
use serde_json::{Value, json};

use crate::churn::{healthy, reboot};
use crate::support::{Cluster, CniPod, attachments, mapping, note, nothing_left};

/// At most so many pods at a time.
const PODS: usize = 12;

/// Everything of a node that a pod could leave something in, one value for each kind.
type Snapshot = BTreeMap<&'static str, Value>;

fn snapshot(node: &Node) -> Result<Snapshot> {
    let ns = node.ns();
    let mut all = Snapshot::new();
    for (what, args) in [
        ("links", &["link", "show"][..]),
        ("addresses", &["addr", "show"]),
        ("IPv4 routes", &["-4", "route", "show", "table", "all"]),
        ("IPv6 routes", &["-6", "route", "show", "table", "all"]),
        ("permanent neighbours", &["neigh", "show", "nud", "permanent"]),
        ("rules", &["rule", "show"]),
    ] {
        all.insert(what, ns.ip_json(args)?);
    }
    all.insert("nftables", ns.cmd("nft").args(["-j", "list", "ruleset"]).json()?);
    for device in ["swd0", "all"] {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/route_localnet");
        let text = ns.run_in(|| std::fs::read_to_string(&path))?.context(&path)?;
        all.insert(
            if device == "all" { "route_localnet" } else { "route_localnet of swd0" },
            text.trim().into(),
        );
    }
    all.insert("desired state", node.swctl(&["export"])?);
    all.insert("files", files(node.dir())?.into());
    all.insert("namespaces", namespaces(node)?.into());
    all.insert("open files", open_files(node)?.into());
    for value in all.values_mut() {
        forget(value);
    }
    Ok(all)
}

/// Takes out what differs between two looks at the same thing: handles, counters, numbers of devices that
/// were made anew, ages.
fn forget(value: &mut Value) {
    const NOISE: [&str; 10] = [
        "handle",
        "packets",
        "bytes",
        "ifindex",
        "link_index",
        "metainfo",
        "valid_life_time",
        "preferred_life_time",
        "expires",
        // A device whose carrier went and came is UP, and UNKNOWN before.
        "operstate",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !NOISE.contains(&key.as_str()));
            map.values_mut().for_each(forget);
        }
        Value::Array(list) => {
            list.iter_mut().for_each(forget);
            list.retain(|v| *v != json!({}));
            // The kernel lists in the order in which things were made.
            list.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

fn files(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context(dir.display())? {
        let path = entry?.path();
        if path.is_dir() {
            // An empty directory is what is left of tombstones, and no leak.
            found.extend(files(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}

/// The namespaces of the same lab.
fn namespaces(node: &Node) -> Result<Vec<String>> {
    let lab = node.ns().name().strip_suffix(node.name()).unwrap_or_default();
    Ok(lab::netns::list()?.into_iter().filter(|name| name.starts_with(lab)).collect())
}

/// What the processes of the daemon have open, without the numbers of sockets and pipes.
fn open_files(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pid in node.swd_pids()? {
        let dir = format!("/proc/{pid}/fd");
        for entry in std::fs::read_dir(&dir).context(&dir)? {
            // One that is closed while we look is not open.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            found.push(target.split(":[").next().unwrap_or(&target).to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// What differs, a line for each kind.
fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let differing = before.iter().filter(|(what, value)| after.get(*what) != Some(*value));
    differing.map(|(what, value)| format!("{what}: before {value}, after {}", after[what])).collect()
}

/// Waits until a node is as it was: the reaper takes a moment to close devices.
fn as_before(node: &Node, before: &Snapshot) -> Result<()> {
    wait::until_ok(&format!("{} is as it was", node.name()), Duration::from_secs(5), || {
        let left = difference(before, &snapshot(node)?);
        if left.is_empty() { Ok(()) } else { Err(Error::failed(left.join("\n"))) }
    })
}

fn add(cluster: &Cluster, rng: &mut Rng, number: u64) -> Result<CniPod> {
    let mut runtime = Vec::new();
    if rng.chance(0.3) {
        let port = 20_000 + number as u16;
        let host = if rng.chance(0.3) { "127.0.0.1" } else { "" };
        runtime.push(("portMappings", json!([mapping(host, port, "tcp"), mapping("", port, "udp")])));
    }
    if rng.chance(0.2) {
        runtime.push(("bandwidth", json!({ "ingressRate": 20_000_000, "egressRate": 20_000_000 })));
    }
    cluster.add_with("a", &format!("p{number}"), &runtime)
}

pub fn nothing_is_left_after_random_adds_deletes_kills_and_reboots() -> Result<()> {
    let (events, seed) = (setting("LAB_EVENTS", 100), setting("LAB_SEED", 1));
    run(events, seed).context(format!("LAB_EVENTS={events} LAB_SEED={seed}"))
}

fn run(events: u64, seed: u64) -> Result<()> {
    let cluster = Cluster::new("leaks", &["a", "b"])?;
    let a = cluster.node("a")?;
    let plugin = cluster.plugin("a")?;
    // What the first pod with everything switches on for good (forwarding) is part of "before".
    plugin.del(&add(&cluster, &mut Rng::new(0), 0)?.attached)?;
    a.restart()?;
    let before = snapshot(a)?;
    let mut rng = Rng::new(seed);
    let mut pods: Vec<CniPod> = Vec::new();
    let mut tally: BTreeMap<&str, u32> = BTreeMap::new();
    for number in 1..=events {
        let what = match rng.below(100) {
            0..45 if pods.len() < PODS => "ADD",
            0..80 => "DEL",
            80..88 => "kill -9",
            88..94 => "kill -9, DEL, start",
            94..97 => "GC",
            _ => "reboot",
        };
        let event = || format!("event {number}, {what}, with {} pods", pods.len());
        let context = event();
        let victim = |rng: &mut Rng, pods: &mut Vec<CniPod>| {
            let at = rng.below(pods.len() as u64) as usize;
            (at < pods.len()).then(|| pods.swap_remove(at))
        };
        let done = match what {
            "ADD" => add(&cluster, &mut rng, number).map(|pod| pods.push(pod)),
            "DEL" => victim(&mut rng, &mut pods).map_or(Ok(()), |pod| {
                if rng.chance(0.3) {
                    // The namespace first, as some runtimes do.
                    let attached = pod.attached.clone();
                    drop(pod);
                    plugin.del(&attached)
                } else {
                    plugin.del(&pod.attached)
                }
            }),
            "kill -9" => a.kill9().and_then(|()| a.restart()),
            "kill -9, DEL, start" => {
                a.kill9()?;
                for _ in 0..3 {
                    if let Some(pod) = victim(&mut rng, &mut pods) {
                        plugin.del(&pod.attached).context("DEL without a daemon")?;
                    }
                }
                a.restart()
            }
            "GC" => {
                let gone = victim(&mut rng, &mut pods);
                plugin.gc(pods.iter().map(|p| &p.attached)).map(|()| drop(gone))
            }
            _ => {
                reboot(a)?;
                let gone: Vec<_> = pods.drain(..).map(|p| p.attached).collect();
                a.restart()?;
                gone.iter().try_for_each(|attached| plugin.del(attached))
            }
        };
        done.context(&context)?;
        *tally.entry(what).or_default() += 1;
        let there = attachments(a)?.len();
        ensure!(there == pods.len(), "{context}: {there} attachments, {} pods", pods.len());
    }
    for pod in pods.drain(..) {
        plugin.del(&pod.attached)?;
    }
    nothing_left(a)?;
    healthy(a)?;
    as_before(a, &before).context(format!("after {tally:?}"))?;
    note(&format!("leaks: LAB_SEED={seed}, {tally:?}"));
    cluster.check(&["egress-gone"])
}

/// One pod with everything, from one daemon that is never restarted: DEL takes all of it away.
pub fn delete_leaves_the_node_as_it_was() -> Result<()> {
    let cluster = Cluster::new("leaksone", &["a", "b"])?;
    let a = cluster.node("a")?;
    let all = [
        ("portMappings", json!([mapping("127.0.0.1", 8080, "tcp"), mapping("", 8081, "udp")])),
        ("bandwidth", json!({ "ingressRate": 20_000_000, "egressRate": 20_000_000 })),
    ];
    // The state file gets its predecessor with the first change.
    cluster.plugin("a")?.del(&cluster.add("a", "first")?.attached)?;
    let before = snapshot(a)?;
    let pod = cluster.add_with("a", "pod", &all)?;
    ensure!(!difference(&before, &snapshot(a)?).is_empty(), "the pod left no trace while it was there");
    cluster.plugin("a")?.del(&pod.attached)?;
    wait::until("the pod has nothing but its loopback", Duration::from_secs(5), || {
        let links = pod.ns().ip_json(&["link", "show"]).ok()?;
        (links.as_array().map(Vec::len) == Some(1)).then_some(())
    })?;
    drop(pod);
    as_before(a, &before)?;
    cluster.check(&[])
}
