//! An address that changes hands: the new pod gets nothing that was meant for the old one, and nobody
//! has to wait for a cache to learn where the address is now.

use std::io::{ErrorKind, Read as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lab::cniclient::Container;
use lab::packet_socket::PacketSocket;
use lab::plan::Plan;
use lab::probe::ping;
use lab::rawframe::Udp;
use lab::witness::Transport;
use lab::{Context, Error, Node, Ns, Result, ensure, wait};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{Cluster, CniPod, FAMILIES, expect};

/// Both nodes share one subnet; each gives out its own part of it.
pub fn bridged(node: &Node, plan: &mut Plan) {
    plan.subnets =
        vec![("10.1.0.0/24".into(), "10.1.0.1".into()), ("fd00:a::/64".into(), "fd00:a::1".into())];
    let first = u32::from(node.index()) * 50;
    plan.ranges = vec![
        format!("10.1.0.{first}-10.1.0.{}", first + 49),
        format!("fd00:a::{first}-fd00:a::{}", first + 49),
    ];
    plan.node_port = None;
    for peer in &mut plan.peers {
        peer.pod_cidrs.clear();
    }
}

/// The MAC at which the kernel of a namespace believes an address to be.
fn neighbour(ns: &Ns, ip: IpAddr) -> Result<String> {
    let list = ns.ip_json(&["neigh", "show", "to", &ip.to_string(), "dev", "eth0"])?;
    let mac = list[0]["lladdr"].as_str().map(str::to_owned);
    mac.ok_or_else(|| Error::failed(format!("{}: no neighbour {ip}: {list}", ns.name())))
}

/// Sends frames to a MAC that is no more, without end, until told; counts them.
fn pester(from: &CniPod, to: &CniPod, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut frames = Vec::new();
    for v6 in FAMILIES {
        let udp = Udp {
            eth_src: from.attached.mac,
            eth_dst: to.attached.mac,
            src: (from.ip(v6)?, 9),
            dst: (to.ip(v6)?, 9),
            ttl: 64,
            payload: b"for the old pod",
        };
        frames.push(udp.frame()?);
    }
    let socket = PacketSocket::open(from.ns(), "eth0", false)?;
    while !stop.load(Relaxed) {
        for frame in &frames {
            socket.send(frame)?;
            sent.fetch_add(1, Relaxed);
        }
        // A pace, not a wait: two thousand frames a second.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A socket that hears every interface of a namespace, also those that come later: a device is watched
/// from its first frame on.
fn everything(ns: &Ns) -> Result<Socket> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket =
        ns.run_in(|| Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(all))))??;
    // Room for some ten thousand frames; limited by the kernel's own maximum.
    socket.set_recv_buffer_size(16 << 20)?;
    Ok(socket)
}

/// The frames that the socket has heard so far.
fn arrived(socket: &Socket) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        match (&*socket).read(&mut buffer) {
            Ok(n) => frames.push(buffer[..n].to_vec()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(frames),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The pod `old` on `from_node` goes and its addresses come back at once on `to_node`.
fn hands_over(name: &str, from_node: &str, to_node: &str) -> Result<()> {
    let cluster = Cluster::planned(name, &["a", "b"], bridged)?;
    let (near, far) = (cluster.add("a", "near")?, cluster.add("b", "far")?);
    let old = cluster.add(from_node, "old")?;
    for asker in [&near, &far] {
        for v6 in FAMILIES {
            ping(asker.ns(), old.ip(v6)?)?;
            ensure!(
                neighbour(asker.ns(), old.ip(v6)?)? == lab::netns::format_mac(old.attached.mac),
                "{} has no neighbour entry to begin with",
                asker.name()
            );
        }
    }
    let wanted = json!([old.ip(false)?.to_string(), old.ip(true)?.to_string()]);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (new, captured) = std::thread::scope(|scope| -> Result<_> {
        let senders = [&near, &far].map(|asker| scope.spawn(|| pester(asker, &old, &stop, &sent)));
        let work = || -> Result<_> {
            cluster.plugin(from_node)?.del(&old.attached)?;
            let (pod, container) = cluster.container("new", &[("ips", wanted.clone())])?;
            let everything = everything(pod.ns())?;
            let new = CniPod { attached: cluster.plugin(to_node)?.add(&container)?, pod };
            ensure!(new.ips() == old.ips(), "{:?} instead of {:?}", new.ips(), old.ips());
            ensure!(new.attached.mac != old.attached.mac, "the MAC came with the address");
            // Long before their own caches (15 to 45 s) would ask again.
            for asker in [&near, &far] {
                for v6 in FAMILIES {
                    let what = format!("{} knows the new MAC", asker.name());
                    wait::until(&what, Duration::from_secs(2), || {
                        let mac = neighbour(asker.ns(), new.ip(v6).ok()?).ok()?;
                        (mac == lab::netns::format_mac(new.attached.mac)).then_some(())
                    })?;
                    ping(asker.ns(), new.ip(v6)?)?;
                }
            }
            let _witness = new.witness()?;
            for asker in [&near, &far] {
                expect(asker.ns(), Transport::Tcp, new.at(false)?, 100, "new", asker.ip(false)?)?;
            }
            let goal = sent.load(Relaxed) + 500;
            wait::until("500 more frames for the old pod", Duration::from_secs(10), || {
                (sent.load(Relaxed) >= goal).then_some(())
            })?;
            Ok((new, arrived(&everything)?))
        };
        let result = work();
        stop.store(true, Relaxed);
        for sender in senders {
            sender.join().map_err(|_| Error::failed("a sender panicked"))??;
        }
        result
    })?;
    let to = |mac: [u8; 6]| captured.iter().filter(|frame| frame.starts_with(&mac)).count();
    let (stray, own) = (to(old.attached.mac), to(new.attached.mac));
    ensure!(stray == 0, "{stray} frames for the old pod reached the new one");
    ensure!(own > 10, "only {own} frames for the new pod were seen");
    // The other node remembers the old MAC behind the node that floods it there.
    cluster.check(&["egress-gone", "reflection"])
}

impl CniPod {
    fn ips(&self) -> &[IpAddr] {
        &self.attached.ips
    }
}

pub fn an_address_reused_at_once_on_its_node_brings_no_frames_for_the_old_pod() -> Result<()> {
    hands_over("reusehere", "a", "a")
}

pub fn an_address_reused_at_once_on_another_node_brings_no_frames_for_the_old_pod() -> Result<()> {
    hands_over("reusethere", "a", "b")
}

/// While the daemon is away a pod ends and the path that stood for it comes to stand for another, as the numbers of
/// processes do: the old pod's port stays out of it, and can be deleted.
pub fn a_path_that_leads_to_another_pod_after_a_restart_is_not_followed() -> Result<()> {
    let cluster = Cluster::new("recycled", &["a"])?;
    let a = cluster.node("a")?;
    let plugin = cluster.plugin("a")?;
    let stays = cluster.add("a", "stays")?;
    let (old, container) = cluster.container("old", &[])?;
    let (new, other) = cluster.container("new", &[])?;
    let path = a.dir().join("netns-of-4711");
    let leads_to = |ns: &Ns| -> Result<()> {
        let next = path.with_extension("next");
        std::os::unix::fs::symlink(ns.path(), &next)?;
        Ok(std::fs::rename(next, &path)?)
    };
    leads_to(old.ns())?;
    let container = Container::new(&container.id, path.clone());
    let attached = plugin.add(&container)?;
    let port = format!("{}/eth0", container.id);
    a.kill9()?;
    drop(old);
    leads_to(new.ns())?;
    a.restart()?;
    // It has no interface, and it is said why and what to do.
    let links = new.ns().ip_json(&["link", "show"])?;
    ensure!(links.as_array().map(Vec::len) == Some(1), "the new pod was given {links}");
    let shown = a.swctl(&["port", "show", &port])?;
    ensure!(shown[0]["state"] == "failed", "{shown}");
    let status = a.swctl_output(&["status"])?;
    ensure!(status.code == 6, "{}", status.stdout);
    for words in ["was replaced by another of the same name", "CNI DEL or GC", &port] {
        ensure!(status.stdout.contains(words), "no `{words}` in {}", status.stdout);
    }
    let refusal = plugin.check(&attached)?;
    ensure!(refusal.as_ref().is_err_and(|r| r.code == 101), "CHECK: {refusal:?}");
    // The new pod's own ADD works beside it, with another address; the others never noticed.
    let new = CniPod { attached: plugin.add(&other)?, pod: new };
    ensure!(new.attached.ips != attached.ips, "an address is used twice");
    ping(stays.ns(), new.ip(true)?)?;
    plugin.del(&attached)?;
    ping(stays.ns(), new.ip(false)?)?;
    cluster.check(&[])
}

/// Two addresses: the second pod gets the other one, the third none, and is told when there will be.
pub fn a_released_address_rests_before_it_is_given_again() -> Result<()> {
    let cluster = Cluster::planned("quarantine", &["a"], |_, plan| {
        plan.ranges = vec!["10.1.1.10-10.1.1.11".into(), "fd00:1::10-fd00:1::11".into()];
    })?;
    let plugin = cluster.plugin("a")?;
    let first = cluster.add("a", "first")?;
    plugin.del(&first.attached)?;
    let second = cluster.add("a", "second")?;
    for v6 in FAMILIES {
        ensure!(second.ip(v6)? != first.ip(v6)?, "{} was given again at once", first.ip(v6)?);
    }
    let (pod, container) = cluster.container("third", &[])?;
    let refusal = plugin.add_refused(&container)?;
    ensure!(
        refusal.code == 11
            && refusal.msg.contains("just released")
            && refusal.details.contains("try again in"),
        "{refusal:?}"
    );
    let status = plugin.status()?;
    ensure!(status.is_err(), "STATUS says ready without an address to give: {status:?}");
    // Who asks for it by name gets it.
    let wanted = json!([first.ip(false)?.to_string(), first.ip(true)?.to_string()]);
    let named = plugin.add(&container.with("ips", wanted)).context("an explicit request")?;
    ensure!(named.ips == first.attached.ips, "{:?}", named.ips);
    drop(pod);
    cluster.check(&[])
}
