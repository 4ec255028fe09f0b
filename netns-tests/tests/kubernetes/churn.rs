//! Pods that come and go while the daemon starts, dies, or is not there: what a runtime sees of it, and
//! what is left.

use std::time::Duration;

use lab::cniclient::Attached;
use lab::probe::ping;
use lab::witness::Transport;
use lab::{Context, Error, Node, Result, ensure, wait};

use crate::support::{
    Cluster, CniPod, FAMILIES, SOON, attachments, expect, nothing_left, plan_of, tombstones,
};

/// Every port is up and nothing is degraded.
pub fn healthy(node: &Node) -> Result<()> {
    wait::until_ok(&format!("{} is healthy", node.name()), SOON, || {
        let output = node.swctl_output(&["status"])?;
        if output.code == 0 { Ok(()) } else { Err(Error::failed(output.stdout + &output.stderr)) }
    })
}

/// A node that starts: each pod gets an address of its own and works when its ADD returns.
pub fn sixteen_pods_added_in_parallel_get_different_addresses_and_all_work() -> Result<()> {
    let cluster = Cluster::new("parallel", &["a", "b"])?;
    let asker = cluster.add("b", "asker")?;
    let mut sandboxes = Vec::new();
    for n in 0..16 {
        sandboxes.push(cluster.container(&format!("p{n}"), &[])?);
    }
    let plugin = cluster.plugin("a")?;
    let pods = std::thread::scope(|scope| {
        let adds: Vec<_> = sandboxes
            .into_iter()
            .map(|(pod, container)| {
                let plugin = &plugin;
                scope.spawn(move || Ok(CniPod { attached: plugin.add(&container)?, pod }))
            })
            .collect();
        let join = |add: std::thread::ScopedJoinHandle<'_, Result<CniPod>>| {
            add.join().unwrap_or_else(|_| Err(Error::failed("an ADD panicked")))
        };
        adds.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut ips: Vec<_> = pods.iter().flat_map(|p| p.attached.ips.clone()).collect();
    ips.sort();
    ips.dedup();
    ensure!(ips.len() == 32, "{} different addresses: {ips:?}", ips.len());
    for pod in &pods {
        let _witness = pod.witness()?;
        for v6 in FAMILIES {
            expect(asker.ns(), Transport::Tcp, pod.at(v6)?, 100, pod.name(), asker.ip(v6)?)?;
        }
        ensure!(plugin.check(&pod.attached)?.is_ok(), "CHECK of {}", pod.name());
    }
    cluster.check(&[])
}

/// Before the socket is there, ADD says so with "try again later", and never anything else; the first
/// that gets through works.
pub fn an_add_while_the_daemon_starts_is_told_the_true_cause() -> Result<()> {
    let cluster = Cluster::new("starting", &["a"])?;
    let a = cluster.node("a")?;
    let plugin = cluster.plugin("a")?;
    let (pod, container) = cluster.container("pod", &[])?;
    a.stop_swd()?;
    let refusal = plugin.add_refused(&container)?;
    let socket = a.socket().display().to_string();
    let cause = |msg: &str| {
        msg.contains(&format!("cannot connect to {socket}: "))
            && msg.contains("default/pod")
            && (msg.ends_with("the socket does not exist") || msg.ends_with("nobody listens there"))
    };
    ensure!(refusal.code == 11 && cause(&refusal.msg), "{refusal:?}");
    ensure!(refusal.details.contains("start swd"), "no next step: {refusal:?}");
    let status = plugin.status()?;
    ensure!(status.as_ref().is_err_and(|r| r.code == 51), "STATUS without a daemon: {status:?}");
    let attached = std::thread::scope(|scope| -> Result<Attached> {
        let start = scope.spawn(|| a.restart());
        let attached = wait::until("an ADD gets through", Duration::from_secs(10), || {
            match plugin.try_add(&container) {
                Ok(Ok(attached)) => Some(Ok(attached)),
                Ok(Err(refusal)) if refusal.code == 11 && cause(&refusal.msg) => None,
                Ok(Err(refusal)) => Some(Err(Error::failed(format!("{refusal:?}")))),
                Err(e) => Some(Err(e)),
            }
        })?;
        start.join().unwrap_or_else(|_| Err(Error::failed("the start panicked")))?;
        attached
    })?;
    let status = plugin.status()?;
    ensure!(status.is_ok(), "STATUS after the start: {status:?}");
    ping(a.ns(), attached.ip(false)?)?;
    ping(pod.ns(), crate::support::node_ip(a, true)?)?;
    ensure!(tombstones(a)?.is_empty(), "an ADD that reached nobody left {:?}", tombstones(a)?);
    cluster.check(&[])
}

/// The runtime deletes 50 pods while the daemon is dead: all succeed at once, and at its start the
/// daemon opens none of them and frees what they had.
pub fn fifty_pods_deleted_while_the_daemon_is_dead_are_reaped_at_its_start() -> Result<()> {
    let cluster = Cluster::new("fifty", &["a", "b"])?;
    let a = cluster.node("a")?;
    let plugin = cluster.plugin("a")?;
    let far = cluster.add("b", "far")?;
    let stays = cluster.add("a", "stays")?;
    let pods = (0..50).map(|n| cluster.add("a", &format!("p{n}"))).collect::<Result<Vec<_>>>()?;
    a.kill9()?;
    for pod in &pods {
        plugin.del(&pod.attached)?;
    }
    // A runtime may ask again.
    plugin.del(&pods[0].attached)?;
    ensure!(tombstones(a)?.len() == 50, "{} tombstones", tombstones(a)?.len());
    a.restart()?;
    let left = attachments(a)?;
    ensure!(left.len() == 1 && left[0].contains(&stays.attached.container.id), "{left:?}");
    ensure!(tombstones(a)?.is_empty(), "left: {:?}", tombstones(a)?);
    healthy(a)?;
    for pod in &pods {
        let links = pod.ns().ip_json(&["link", "show"])?;
        ensure!(links.as_array().map(Vec::len) == Some(1), "{} still has {links}", pod.name());
    }
    ping(stays.ns(), far.ip(true)?)?;
    plugin.del(&stays.attached)?;
    nothing_left(a)?;
    cluster.check(&[])
}

/// The machine restarts: namespaces, devices, rules and /run are gone, the state file is not.
pub fn after_a_reboot_pods_can_be_added_and_the_old_ones_deleted() -> Result<()> {
    let cluster = Cluster::new("reboot", &["a", "b"])?;
    let a = cluster.node("a")?;
    let plugin = cluster.plugin("a")?;
    let far = cluster.add("b", "far")?;
    let old = (0..4).map(|n| cluster.add("a", &format!("old{n}"))).collect::<Result<Vec<_>>>()?;
    let attached: Vec<Attached> = old.iter().map(|p| p.attached.clone()).collect();
    reboot(a)?;
    drop(old);
    a.restart()?;
    // The attachments of pods that are no more are shown as what they are, and hold up nobody.
    let status = a.swctl_output(&["status"])?;
    ensure!(status.code == 6, "ports without a namespace are not reported: {}", status.stdout);
    let new = cluster.add("a", "new")?;
    for v6 in FAMILIES {
        ping(new.ns(), far.ip(v6)?)?;
        ping(a.ns(), new.ip(v6)?)?;
        ensure!(attached.iter().all(|old| old.ip(v6).ok() != new.ip(v6).ok()), "an address is used twice");
    }
    // The runtime deletes two of which it knows, and later lists what it has: nothing of the rest.
    plugin.del(&attached[0])?;
    plugin.del_unknown(&attached[1].container)?;
    plugin.gc([&new.attached])?;
    let left = attachments(a)?;
    ensure!(left.len() == 1 && left[0].contains(&new.attached.container.id), "after GC: {left:?}");
    healthy(a)?;
    plugin.del(&new.attached)?;
    nothing_left(a)?;
    cluster.check(&[])
}

/// What a restart of the machine takes from a node.
pub fn reboot(node: &Node) -> Result<()> {
    node.kill9()?;
    node.ns().cmd("nft").args(["flush", "ruleset"]).run()?;
    for v6 in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        node.ns().sysctl(&format!("net.{}", v6.replace('/', ".")), "0")?;
    }
    let gone = node.dir().join("deleted");
    match std::fs::remove_dir_all(&gone) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(gone.display()),
        _ => Ok(()),
    }
}

/// `kill -9` after each ADD: the pods added before keep their addresses and work again, and the next
/// ADD gets others.
pub fn pods_survive_kill_9_between_adds() -> Result<()> {
    let cluster = Cluster::new("kills", &["a", "b"])?;
    let a = cluster.node("a")?;
    let far = cluster.add("b", "far")?;
    let mut pods: Vec<CniPod> = Vec::new();
    for n in 0..5 {
        pods.push(cluster.add("a", &format!("p{n}"))?);
        a.kill9()?;
        a.restart()?;
        healthy(a)?;
        for pod in &pods {
            ping(pod.ns(), far.ip(n % 2 == 0)?)?;
            ensure!(cluster.plugin("a")?.check(&pod.attached)?.is_ok(), "CHECK of {}", pod.name());
        }
    }
    let mut ips: Vec<_> = pods.iter().flat_map(|p| p.attached.ips.clone()).collect();
    ips.sort();
    ips.dedup();
    ensure!(ips.len() == 10, "addresses were given twice: {ips:?}");
    // The other node sends into the gap.
    cluster.check(&["egress-gone"])
}

/// A node gets another underlay address; its peers learn it from their plan. No entry leads to the old
/// one any more, and traffic goes on.
pub fn a_node_with_a_new_underlay_address_is_found_by_its_peers_new_plan() -> Result<()> {
    let cluster = Cluster::new("moves", &["a", "b", "c"])?;
    let (a, b) = (cluster.node("a")?, cluster.node("b")?);
    let (near, far) = (cluster.add("a", "near")?, cluster.add("b", "far")?);
    let _witness = far.witness()?;
    for v6 in FAMILIES {
        expect(near.ns(), Transport::Tcp, far.at(v6)?, 100, far.name(), near.ip(v6)?)?;
    }
    let (old, new) = (b.underlay4(), std::net::Ipv4Addr::new(192, 168, 77, 102));
    b.ns().ip([format!("addr del {old}/24 dev uplink0"), format!("addr add {new}/24 dev uplink0")])?;
    let mut plan = plan_of(b, cluster.lab.nodes());
    plan.underlay = new.into();
    b.write_plan(&plan)?;
    b.restart()?;
    healthy(b)?;
    for node in [a, cluster.node("c")?] {
        let mut plan = plan_of(node, cluster.lab.nodes());
        for peer in plan.peers.iter_mut().filter(|p| p.name == "b") {
            peer.remote = new.into();
        }
        node.write_plan(&plan)?;
        node.apply_plan(&plan)?;
        node.settle()?;
    }
    for v6 in FAMILIES {
        expect(near.ns(), Transport::Tcp, far.at(v6)?, 100, far.name(), near.ip(v6)?)?;
        expect(a.ns(), Transport::Tcp, far.at(v6)?, 100, far.name(), crate::support::node_ip(a, v6)?)?;
        ping(far.ns(), near.ip(v6)?)?;
    }
    // The pod sees the underlay's address of the node, and no translation, at its new place.
    for node in [a, cluster.node("c")?] {
        for what in ["fdb", "neigh", "route", "peer"] {
            let shown = node.swctl(&[what, "show"])?.to_string();
            ensure!(!shown.contains(&old.to_string()), "{}: swctl {what} knows {old}: {shown}", node.name());
        }
        let before = node.swctl(&["export"])?;
        node.restart()?;
        ensure!(before == node.swctl(&["export"])?, "the file says otherwise than the daemon had it");
    }
    cluster.check(&["unknown-peer"])
}
