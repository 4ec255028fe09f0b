//! podman as the client: containers, pods, pods of Kubernetes documents, addresses asked for.

use std::net::IpAddr;

use lab::runtimes::image;
use lab::runtimes::podman::Podman;
use lab::{Context, Error, Node, Result, ensure, wait};
use serde_json::Value;

use crate::support::{
    Cluster, NETWORK, Runtime, SOON, address, addresses, attachment, attachments, fetch, nothing_left, url,
};

/// podman on a node.
pub fn on(node: &Node) -> Result<Podman<'_>> {
    Podman::new(node.machine()?)
}

/// Starts a container in our network.
pub fn start(podman: &Podman<'_>, name: &str, more: &[&str], command: &[&str]) -> Result<()> {
    podman.start(name, &[&["--network", NETWORK], more].concat(), command)
}

/// The port of a container or pod that podman started.
pub fn port_of(podman: &Podman<'_>, node: &Node, name: &str) -> Result<Value> {
    let inspected = podman.inspect(name)?;
    // Containers of a pod have the network of its first container.
    let id = inspected["InfraContainerID"].as_str().or(inspected["Id"].as_str()).unwrap_or_default();
    ensure!(id.len() > 20, "podman names no id of {name}: {inspected}");
    attachment(node, id)
}

/// Pings from inside a container until there is an answer.
fn ping(podman: &Podman<'_>, name: &str, ip: IpAddr) -> Result<()> {
    let program = if ip.is_ipv6() { "ping6" } else { "ping" };
    let ask = || podman.exec(name, &[program, "-c", "1", "-W", "2", &ip.to_string()]);
    wait::until_ok(&format!("{ip} answers ping from {name}"), SOON, ask).map(drop)
}

/// Fetches a page from inside a container until there is an answer.
fn wget(podman: &Podman<'_>, name: &str, url: &str) -> Result<String> {
    let ask = || podman.exec(name, &["wget", "-q", "-O", "-", url]);
    wait::until_ok(&format!("{url} answers {name}"), SOON, ask)
}

/// Containers on one node and on two, both families, and the nodes themselves; then nothing is left.
pub fn containers_reach_each_other() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::build("pod")?;
    let (a, b) = (cluster.a()?, cluster.b()?);
    let (on_a, on_b) = (on(a)?, on(b)?);
    let networks = on_a.run(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"])?;
    ensure!(networks.lines().any(|l| l == "pods swd-cni"), "podman network ls: {networks}");
    start(&on_a, "web", &[], &["serve", "web"])?;
    start(&on_a, "near", &[], &["hold"])?;
    start(&on_b, "far", &[], &["serve", "far"])?;

    // What podman, the container, the plugin and the daemon say is the same.
    let port = port_of(&on_a, a, "web")?;
    let shown = on_a.inspect("web")?["NetworkSettings"]["Networks"][NETWORK].clone();
    ensure!(
        shown["IPAddress"] == address(&port, false)?.to_string(),
        "podman says {shown}, the switch {port}"
    );
    ensure!(shown["GlobalIPv6Address"] == address(&port, true)?.to_string(), "podman says {shown}: {port}");
    ensure!(
        shown["MacAddress"] == port["mac"] && shown["Gateway"] == "10.1.1.1",
        "podman says {shown}: {port}"
    );
    let inside = on_a.exec("web", &["ip", "addr", "show", "dev", "eth0"])?;
    for ip in addresses(&port)? {
        ensure!(inside.contains(&ip.to_string()), "{ip} is not on eth0:\n{inside}");
    }
    ensure!(port["metadata"]["k8s/pod"] == "web", "the container's name is not kept: {port}");

    let far = port_of(&on_b, b, "far")?;
    for v6 in [false, true] {
        let (web, far) = (address(&port, v6)?, address(&far, v6)?);
        let gateway: IpAddr = if v6 { "fd00:1::1".parse()? } else { "10.1.1.1".parse()? };
        ping(&on_a, "near", gateway).context("the gateway")?;
        ping(&on_a, "near", web).context("on one node")?;
        ping(&on_a, "near", far).context("across nodes")?;
        ensure!(wget(&on_a, "near", &url(web, 80))? == "web\n", "web on one node");
        ensure!(wget(&on_b, "far", &url(web, 80))? == "web\n", "web across nodes");
        ensure!(fetch(a.machine()?, &url(web, 80))? == "web\n", "web from its node");
        ensure!(fetch(b.machine()?, &url(web, 80))? == "web\n", "web from the other node");
    }

    // stop gives the network back, start takes it again, rm leaves nothing.
    on_a.run(&["stop", "--time", "5", "web"])?;
    ensure!(attachments(a)?.len() == 1, "a stopped container has a port: {:?}", attachments(a)?);
    on_a.run(&["start", "web"])?;
    let again = port_of(&on_a, a, "web")?;
    ensure!(wget(&on_b, "far", &url(address(&again, false)?, 80))? == "web\n", "web after a restart");
    on_a.remove_all()?;
    on_b.remove_all()?;
    cluster.ends_clean()
}

/// Containers of one pod share one network: they meet on localhost, and there is one port.
pub fn pods_share_localhost() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::single("podpod")?;
    let a = cluster.a()?;
    let podman = on(a)?;
    podman.run(&["pod", "create", "--name", "shop", "--network", NETWORK])?;
    podman.start("front", &["--pod", "shop"], &["serve", "front", "80"])?;
    podman.start("back", &["--pod", "shop"], &["serve", "back", "8080"])?;
    ensure!(wget(&podman, "front", "http://127.0.0.1:8080/")? == "back\n", "front asks back");
    ensure!(wget(&podman, "back", "http://127.0.0.1:80/")? == "front\n", "back asks front");
    ensure!(attachments(a)?.len() == 1, "one pod, one port: {:?}", attachments(a)?);
    let ip = address(&port_of(&podman, a, "shop")?, false)?;
    ensure!(fetch(a.machine()?, &url(ip, 8080))? == "back\n", "from the node");
    podman.run(&["pod", "rm", "--force", "shop"])?;
    nothing_left(a)?;

    // The same from a Kubernetes document.
    let file = a.machine()?.dir().join("pod.yaml");
    std::fs::write(&file, POD_YAML)?;
    let file = file.display().to_string();
    podman.run(&["kube", "play", "--network", NETWORK, &file])?;
    ensure!(wget(&podman, "shop-front", "http://127.0.0.1:8080/")? == "back\n", "front asks back");
    ensure!(wget(&podman, "shop-back", "http://127.0.0.1/")? == "front\n", "back asks front");
    let ip = address(&port_of(&podman, a, "shop")?, true)?;
    ensure!(fetch(a.machine()?, &url(ip, 80))? == "front\n", "from the node, IPv6");
    podman.run(&["kube", "down", &file])?;
    cluster.ends_clean()
}

const POD_YAML: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: shop
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: front
    image: localhost/lab-pod:1
    imagePullPolicy: Never
    command: [serve, front, '80']
  - name: back
    image: localhost/lab-pod:1
    imagePullPolicy: Never
    command: [serve, back, '8080']
";

/// `--ip` and `--mac-address` are obeyed; what cannot be is refused with words that help.
pub fn addresses_asked_for() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::single("podip")?;
    let a = cluster.a()?;
    let podman = on(a)?;
    let fixed = ["--ip", "10.1.1.77", "--mac-address", "02:00:00:00:00:77"];
    start(&podman, "fixed", &fixed, &["serve", "fixed"])?;
    let port = port_of(&podman, a, "fixed")?;
    ensure!(address(&port, false)?.to_string() == "10.1.1.77", "{port}");
    ensure!(port["mac"] == "02:00:00:00:00:77", "{port}");
    let inside = podman.exec("fixed", &["ip", "addr", "show", "dev", "eth0"])?;
    ensure!(inside.contains("inet 10.1.1.77/24") && inside.contains("02:00:00:00:00:77"), "{inside}");
    ensure!(fetch(a.machine()?, "http://10.1.1.77/")? == "fixed\n", "it answers there");

    // Each with what the person at the keyboard must find in the message.
    let owner = port["name"].as_str().unwrap_or_default();
    for (ip, words) in [
        ("10.1.1.77", ["10.1.1.77", owner]),
        ("10.1.1.1", ["10.1.1.1", "gateway"]),
        ("10.9.9.9", ["10.9.9.9", "subnet"]),
    ] {
        let args = ["run", "--rm", "--network", NETWORK, "--ip", ip, image::POD, "hold"];
        let refused = podman.output(&args)?;
        let said = &refused.stderr;
        ensure!(refused.code != 0, "--ip {ip} was accepted");
        for word in words {
            ensure!(said.contains(word), "--ip {ip}: the message does not name {word}: {said}");
        }
    }
    ensure!(attachments(a)?.len() == 1, "a refused container left a port: {:?}", attachments(a)?);
    ensure!(fetch(a.machine()?, "http://10.1.1.77/")? == "fixed\n", "the owner goes on");
    podman.remove_all()?;
    nothing_left(a)?;
    // The address is free again for whoever asks for it.
    start(&podman, "next", &["--ip", "10.1.1.77"], &["hold"])?;
    let next = port_of(&podman, a, "next")?;
    ensure!(address(&next, false)?.to_string() == "10.1.1.77" && next["mac"] != port["mac"], "{next}");
    podman.remove_all()?;
    cluster.ends_clean()
}

/// Without the daemon no container begins; one can end all the same, and has ended when the daemon is back.
pub fn the_daemon_is_killed() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::single("podkill")?;
    let a = cluster.a()?;
    let podman = on(a)?;
    start(&podman, "web", &[], &["serve", "web"])?;
    start(&podman, "gone", &[], &["hold"])?;
    let ip = address(&port_of(&podman, a, "web")?, false)?;
    let gone = port_of(&podman, a, "gone")?;
    a.kill9()?;
    // A container cannot be had now, and the message says why and what to do.
    let args = ["run", "--rm", "--network", NETWORK, image::POD, "hold"];
    let refused = podman.output(&args)?;
    ensure!(refused.code != 0, "a container was made without a daemon");
    for word in ["swd", &a.socket().display().to_string()] {
        ensure!(refused.stderr.contains(word), "the message does not name {word}: {}", refused.stderr);
    }
    // One can be removed, and stays removed when the daemon comes back.
    podman.run(&["rm", "--force", "--time", "0", "gone"])?;
    a.restart()?;
    a.settle()?;
    ensure!(fetch(a.machine()?, &url(ip, 80))? == "web\n", "web after the daemon came back");
    wait::until_ok("the removed container's port is gone", SOON, || {
        let left = attachments(a)?;
        let name = &gone["name"];
        if left.iter().any(|p| &p["name"] == name) {
            Err(Error::failed(format!("{name} is left")))
        } else {
            Ok(())
        }
    })?;
    podman.remove_all()?;
    cluster.ends_clean()
}
