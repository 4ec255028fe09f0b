//! Our plugin in one chain with the stock ones: addresses from `host-local` and `static`, `loopback` before,
//! `tuning` and `portmap` after.

use lab::cmd::Output;
use lab::runtimes::containerd::Containerd;
use lab::runtimes::cri::PodSpec;
use lab::runtimes::cri::proto::{PortMapping, Protocol};
use lab::runtimes::{conf, image};
use lab::{Node, Result, ensure};
use serde_json::{Value, json};

use crate::podman::on;
use crate::support::{
    CONFLIST, Cluster, NETWORK, Runtime, address, attachment, attachments, fetch, nothing_left, url,
};

/// A chain in which ours has the addresses of an IPAM plugin.
fn chain(node: &Node, name: &str, ipam: &Value) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": name,
        "plugins": [
            { "type": "loopback" },
            { "type": "swd-cni", "socket": node.socket(), "network": NETWORK, "ipam": ipam },
            { "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.accept_redirects": "0", "net.core.somaxconn": "511" } },
            { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
        ],
    })
}

fn host_local() -> Value {
    json!({
        "type": "host-local",
        "ranges": [
            [{ "subnet": "10.1.1.0/24", "rangeStart": "10.1.1.100", "rangeEnd": "10.1.1.101", "gateway": "10.1.1.1" }],
            [{ "subnet": "fd00:1::/64", "rangeStart": "fd00:1::100", "rangeEnd": "fd00:1::101", "gateway": "fd00:1::1" }],
        ],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    })
}

fn fixed() -> Value {
    json!({
        "type": "static",
        "addresses": [
            { "address": "10.1.1.120/24", "gateway": "10.1.1.1" },
            { "address": "fd00:1::120/64", "gateway": "fd00:1::1" },
        ],
    })
}

/// The addresses that host-local holds for a network.
fn held(node: &Node, network: &str) -> Result<Vec<String>> {
    let dir = node.machine()?.cni_state_dir().join("networks").join(network);
    let mut held = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.parse::<std::net::IpAddr>().is_ok() {
            held.push(name);
        }
    }
    held.sort();
    Ok(held)
}

/// All of it with podman's libcni.
pub fn with_podman() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::build("chainpod")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    conf::put(machine, "20-local.conflist", &chain(a, "local", &host_local()))?;
    conf::put(machine, "30-fixed.conflist", &chain(a, "fixed", &fixed()))?;
    let podman = on(a)?;
    for (network, host_port, first) in [("local", 8091, "10.1.1.100"), ("fixed", 8092, "10.1.1.120")] {
        let publish = format!("{host_port}:80");
        podman.start("web", &["--network", network, "--publish", &publish], &["serve", network])?;
        let port = attachments(a)?.into_iter().next().ok_or("no port")?;
        ensure!(address(&port, false)?.to_string() == first, "{network}: {port}");
        ensure!(port["mappings"].as_array().is_none_or(Vec::is_empty), "the switch maps a port too: {port}");
        let backlog = podman.exec("web", &["cat", "/proc/sys/net/core/somaxconn"])?;
        ensure!(backlog == "511\n", "tuning after ours: {backlog}");
        let lo = podman.exec("web", &["ip", "addr", "show", "dev", "lo"])?;
        ensure!(lo.contains("127.0.0.1"), "loopback before ours: {lo}");
        let word = format!("{network}\n");
        for v6 in [false, true] {
            ensure!(fetch(machine, &url(address(&port, v6)?, 80))? == word, "{network}: the pod itself");
        }
        let mapped = format!("http://192.168.77.1:{host_port}/");
        ensure!(fetch(cluster.b()?.machine()?, &mapped)? == word, "{network}: portmap from another node");
        ensure!(fetch(machine, &mapped)? == word, "{network}: portmap from the node itself");
        if network == "local" {
            ensure!(
                held(a, "local")? == ["10.1.1.100", "fd00:1::100"],
                "host-local holds {:?}",
                held(a, "local")?
            );
        }
        podman.remove_all()?;
        nothing_left(a)?;
    }
    ensure!(held(a, "local")?.is_empty(), "host-local still holds {:?}", held(a, "local")?);

    // What host-local gave and the switch refused goes back: the only two addresses are in use by others.
    for (name, ip) in [("one", "10.1.1.100"), ("two", "10.1.1.101")] {
        podman.start(name, &["--network", NETWORK, "--ip", ip], &["hold"])?;
    }
    let refused: Output = podman.output(&["run", "--rm", "--network", "local", image::POD, "hold"])?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("10.1.1.10"),
        "{}: {}",
        refused.code,
        refused.stderr
    );
    ensure!(held(a, "local")?.is_empty(), "a refused ADD left {:?} with host-local", held(a, "local")?);
    podman.remove_all()?;
    cluster.ends_clean()
}

/// The same chain with containerd's, which takes the one configuration of its directory.
pub fn with_containerd() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::build("chainctr")?;
    let (a, b) = (cluster.a()?, cluster.b()?);
    conf::take(a.machine()?, CONFLIST)?;
    conf::put(a.machine()?, "20-local.conflist", &chain(a, "local", &host_local()))?;
    let containerd = Containerd::start(a.machine()?)?;
    let mut cri = containerd.cri()?;
    let mapping = PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 80,
        host_port: 8093,
        host_ip: String::new(),
    };
    let spec = PodSpec { ports: vec![mapping], ..PodSpec::new("web") };
    let web = cri.run_pod(&spec, &["serve", "web"])?;
    let port = attachment(a, &web.sandbox)?;
    ensure!(address(&port, false)?.to_string() == "10.1.1.100", "{port}");
    let done = cri.exec(&web.container, &["cat", "/proc/sys/net/core/somaxconn"])?;
    ensure!(done.stdout == "511\n", "tuning after ours: {done:?}");
    ensure!(fetch(b.machine()?, "http://192.168.77.1:8093/")? == "web\n", "portmap from another node");
    cri.stop(&web.sandbox)?;
    cri.stop(&web.sandbox)?;
    cri.remove(&web.sandbox)?;
    cluster.ends_clean()?;
    ensure!(held(a, "local")?.is_empty(), "host-local still holds {:?}", held(a, "local")?);
    let rules = a.machine()?.cmd("iptables-save").run()?;
    ensure!(!rules.contains("8093"), "portmap left rules:\n{rules}");
    containerd.stop()
}
