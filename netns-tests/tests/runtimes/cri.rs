//! containerd through its CRI socket, as a kubelet drives it: pods with names, ports, limits; and what the
//! runtime says about the network when the plugin or the daemon is not there.

use std::net::IpAddr;

use lab::runtimes::containerd::Containerd;
use lab::runtimes::cri::proto::{PortMapping, Protocol};
use lab::runtimes::cri::{Cri, PodSpec};
use lab::{Error, Result, ensure, wait};

use crate::support::{
    CONFLIST, Cluster, Runtime, SOON, addresses, attachment, attachments, fetch, install, url,
};

/// Runs a command in a container until it succeeds; gives what it printed.
fn until_ok(cri: &mut Cri, container: &str, command: &[&str]) -> Result<String> {
    wait::until_ok(&format!("{} in a pod", command.join(" ")), SOON, || {
        let done = cri.exec(container, command)?;
        if done.code == 0 { Ok(done.stdout) } else { Err(Error::failed(done.stderr)) }
    })
}

fn wget(cri: &mut Cri, container: &str, url: &str) -> Result<String> {
    until_ok(cri, container, &["wget", "-q", "-O", "-", url])
}

/// Pods on two nodes, with everything a kubelet asks for, from their beginning to their end.
pub fn pods_of_a_cluster() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::build("cri")?;
    let (a, b) = (cluster.a()?, cluster.b()?);
    let (on_a, on_b) = (Containerd::start(a.machine()?)?, Containerd::start(b.machine()?)?);
    let (mut cri_a, mut cri_b) = (on_a.cri()?, on_b.cri()?);
    let mapping = |container_port, host_port, protocol: Protocol| PortMapping {
        protocol: protocol.into(),
        container_port,
        host_port,
        host_ip: String::new(),
    };
    let spec = PodSpec {
        namespace: "shop".into(),
        ports: vec![mapping(80, 8080, Protocol::Tcp), mapping(5353, 53, Protocol::Udp)],
        annotations: vec![
            ("kubernetes.io/ingress-bandwidth".into(), "8M".into()),
            ("kubernetes.io/egress-bandwidth".into(), "16M".into()),
        ],
        ..PodSpec::new("web-0")
    };
    let web = cri_a.run_pod(&spec, &["serve", "web"])?;
    let near = cri_a.run_pod(&PodSpec::new("near-0"), &["hold"])?;
    let far = cri_b.run_pod(&PodSpec::new("far-0"), &["serve", "far"])?;

    let port = attachment(a, &web.sandbox)?;
    let metadata = &port["metadata"];
    ensure!(metadata["k8s/pod"] == "web-0" && metadata["k8s/namespace"] == "shop", "{port}");
    ensure!(metadata["k8s/uid"] == spec.uid() && metadata["k8s/infra-container"] == web.sandbox, "{port}");
    ensure!(port["container_id"] == web.sandbox, "{port}");
    ensure!(port["ingress_rate"] == 8_000_000 && port["egress_rate"] == 16_000_000, "{port}");
    ensure!(port["mappings"].as_array().map(Vec::len) == Some(2), "{port}");
    let mut shown = addresses(&port)?;
    shown.sort();
    let mut told = web.ips.clone();
    told.sort();
    ensure!(shown == told && shown.len() == 2, "containerd says {told:?}, the switch {port}");

    for (pod, target) in [(&near, &web), (&near, &far)] {
        for ip in &target.ips {
            let ping = if ip.is_ipv6() { "ping6" } else { "ping" };
            until_ok(&mut cri_a, &pod.container, &[ping, "-c", "1", "-W", "2", &ip.to_string()])?;
        }
    }
    for ip in &web.ips {
        ensure!(wget(&mut cri_a, &near.container, &url(*ip, 80))? == "web\n", "{ip} on one node");
        ensure!(wget(&mut cri_b, &far.container, &url(*ip, 80))? == "web\n", "{ip} across nodes");
        ensure!(fetch(a.machine()?, &url(*ip, 80))? == "web\n", "{ip} from its node: probes of a kubelet");
    }
    for from in [a, b] {
        let said = fetch(from.machine()?, "http://192.168.77.1:8080/")?;
        ensure!(said == "web\n", "the host port from {}: {said}", from.name());
    }

    // The end of a pod, twice, as kubelets ask for it.
    cri_a.stop(&web.sandbox)?;
    ensure!(attachment(a, &web.sandbox).is_err(), "a stopped pod has a port");
    cri_a.stop(&web.sandbox)?;
    cri_a.remove(&web.sandbox)?;
    cri_a.remove(&web.sandbox)?;
    let rest = [(&mut cri_a, &near), (&mut cri_b, &far)];
    for (cri, pod) in rest {
        cri.stop(&pod.sandbox)?;
        cri.remove(&pod.sandbox)?;
    }
    cluster.ends_clean()?;
    on_a.stop()?;
    on_b.stop()
}

/// Waits until the runtime's opinion of the network is this; gives what it says about it.
fn network_ready(cri: &mut Cri, wanted: bool) -> Result<String> {
    wait::until_ok(&format!("NetworkReady={wanted}"), SOON, || {
        let (ready, why) = cri.condition("NetworkReady")?;
        if ready == wanted { Ok(why) } else { Err(Error::failed(why)) }
    })
}

/// A runtime that was there first notices the plugin when it is installed, and when it is taken away.
pub fn install_makes_the_network_ready() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::single("criready")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    a.swctl_here(&["cni", "uninstall"])?.run()?;
    ensure!(!machine.conf_dir().join(CONFLIST).exists(), "uninstall left the configuration");
    ensure!(!machine.bin_dir().join("swd-cni").exists(), "uninstall left the plugin");
    let containerd = Containerd::start(machine)?;
    let mut cri = containerd.cri()?;
    network_ready(&mut cri, false)?;
    ensure!(cri.run_sandbox(&PodSpec::new("early")).is_err(), "a pod without a network");

    install(a)?;
    network_ready(&mut cri, true)?;
    let info = cri.status_info()?;
    ensure!(info["lastCNILoadStatus"] == "OK", "{info:#}");
    let pod = cri.run_pod(&PodSpec::new("web"), &["serve", "web"])?;
    let ip = pod.ips.first().copied().ok_or("the pod has no address")?;
    ensure!(fetch(machine, &url(ip, 80))? == "web\n", "the pod answers");
    cri.stop(&pod.sandbox)?;
    cri.remove(&pod.sandbox)?;

    a.swctl_here(&["cni", "uninstall"])?.run()?;
    network_ready(&mut cri, false)?;
    containerd.stop()
}

/// Without the daemon no pod begins, pods can end all the same, and when it is back they have ended.
pub fn the_daemon_is_killed() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::single("crikill")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let containerd = Containerd::start(machine)?;
    let mut cri = containerd.cri()?;
    let stays = cri.run_pod(&PodSpec::new("stays"), &["serve", "stays"])?;
    let ends = cri.run_pod(&PodSpec::new("ends"), &["hold"])?;
    a.kill9()?;
    let refused = cri.run_sandbox(&PodSpec::new("late"));
    let said = refused.err().map(|e| e.to_string()).unwrap_or_default();
    for word in ["swd", &a.socket().display().to_string()] {
        ensure!(said.contains(word), "the message does not name {word}: {said:?}");
    }
    // Runtimes before STATUS of CNI 1.1.0 know of the configuration only.
    network_ready(&mut cri, true)?;
    cri.stop(&ends.sandbox)?;
    cri.remove(&ends.sandbox)?;
    a.restart()?;
    a.settle()?;
    let ip = stays.ips.first().copied().ok_or("the pod has no address")?;
    ensure!(fetch(machine, &url(ip, 80))? == "stays\n", "the pod answers when the daemon is back");
    wait::until_ok("only the pod that goes on has a port", SOON, || {
        let left = attachments(a)?;
        let names: Vec<String> = left.iter().map(|p| p["name"].to_string()).collect();
        if names.len() == 1 && names[0].contains(&stays.sandbox) {
            Ok(())
        } else {
            Err(names.join(", ").into())
        }
    })?;
    // The pod that was refused has left nothing behind in the runtime either.
    let ready: Vec<_> = cri.sandboxes()?.into_iter().filter(|(_, ready)| *ready).collect();
    ensure!(ready.len() == 1, "sandboxes: {ready:?}");
    cri.stop(&stays.sandbox)?;
    cri.remove(&stays.sandbox)?;
    cluster.ends_clean()?;
    containerd.stop()
}

/// containerd is restarted while pods run: they go on, and it can still end them.
pub fn containerd_is_restarted() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::single("criagain")?;
    let a = cluster.a()?;
    let containerd = Containerd::start(a.machine()?)?;
    let pod = containerd.cri()?.run_pod(&PodSpec::new("web"), &["serve", "web"])?;
    let ip: IpAddr = pod.ips.first().copied().ok_or("the pod has no address")?;
    containerd.stop()?;
    ensure!(fetch(a.machine()?, &url(ip, 80))? == "web\n", "the pod goes on");
    let containerd = Containerd::start(a.machine()?)?;
    let mut cri = containerd.cri()?;
    ensure!(cri.addresses(&pod.sandbox)? == pod.ips, "the pod has its addresses");
    cri.stop(&pod.sandbox)?;
    cri.remove(&pod.sandbox)?;
    cluster.ends_clean()?;
    containerd.stop()
}
