//! Published ports, and the way out: a pod, its node, the other node, and a host that knows nothing of pods.

use std::time::Duration;

use lab::cmd::Daemon;
use lab::{Node, Ns, Result, ensure, wait};

use crate::podman::{on, port_of, start};
use crate::support::{Cluster, Runtime, SOON, address, fetch};

/// `-p` leads to the container from everywhere, and to nobody once it is gone.
pub fn published_ports() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::with_outsider("publish")?;
    let (a, b, out) = (cluster.a()?, cluster.b()?, cluster.lab().node("out")?);
    let podman = on(a)?;
    let ports = ["--publish", "8080:80", "--publish", "192.168.77.1:8081:80"];
    start(&podman, "web", &ports, &["serve", "web"])?;
    let port = port_of(&podman, a, "web")?;
    ensure!(port["mappings"].as_array().map(Vec::len) == Some(2), "{port}");
    let addresses = ["http://192.168.77.1:8080/", "http://192.168.77.1:8081/", "http://[fd77::1]:8080/"];
    for url in addresses {
        for from in [a.machine()?, b.machine()?] {
            ensure!(fetch(from, url)? == "web\n", "{url} from {}", from.ns().name());
        }
        ensure!(fetch_from(out.ns(), url)? == "web\n", "{url} from outside");
    }
    ensure!(fetch(a.machine()?, "http://127.0.0.1:8080/")? == "web\n", "the port from localhost");
    // From a pod of the other node, and from the published pod itself.
    let far = on(b)?;
    start(&far, "far", &[], &["hold"])?;
    for (podman, name) in [(&far, "far"), (&podman, "web")] {
        let said = podman.exec(name, &["wget", "-q", "-O", "-", "http://192.168.77.1:8080/"])?;
        ensure!(said == "web\n", "a published port from {name}: {said}");
    }
    // Twice the same port is an error that names it, whichever of podman and the switch finds it first.
    let again = podman.output(&[
        "run",
        "--rm",
        "--network",
        "pods",
        "-p",
        "8080:80",
        lab::runtimes::image::POD,
        "hold",
    ])?;
    ensure!(again.code != 0 && again.stderr.contains("8080"), "{}: {}", again.code, again.stderr);

    podman.remove_all()?;
    far.remove_all()?;
    cluster.ends_clean()?;
    wait::until("nobody answers on the port any more", SOON, || {
        let refused = out.ns().cmd("busybox").args(["wget", "-q", "-O", "-", addresses[0]]);
        refused.timeout(Duration::from_secs(5)).output().is_ok_and(|o| o.code != 0).then_some(())
    })
}

/// A pod reaches a host that has no route to it: with the node's address as source, in both families.
pub fn the_way_out() -> Result<()> {
    Runtime::Podman.need()?;
    let cluster = Cluster::with_outsider("outside")?;
    let (a, out) = (cluster.a()?, cluster.lab().node("out")?);
    let podman = on(a)?;
    start(&podman, "web", &[], &["serve", "web"])?;
    let ip = address(&port_of(&podman, a, "web")?, false)?;
    for (bind, url, source) in [
        ("192.168.77.3:8000", "http://192.168.77.3:8000/", "192.168.77.1"),
        ("[fd77::3]:8000", "http://[fd77::3]:8000/", "fd77::1"),
    ] {
        let log = out.dir().join("httpd.log");
        let _ = std::fs::remove_file(&log);
        let _server = serve(out, bind, &log)?;
        let ask = || podman.exec("web", &["wget", "-q", "-O", "-", url]);
        let said = wait::until_ok(&format!("{url} answers a pod"), SOON, ask)?;
        ensure!(said == "outside\n", "{url} said {said:?}");
        let seen = std::fs::read_to_string(&log)?;
        ensure!(seen.contains(source) && !seen.contains("10.1.1."), "{url} saw another source: {seen}");
    }
    // Between pods and nodes of the cluster nothing is translated: node b sees the pod itself.
    let b = cluster.b()?;
    let log = b.dir().join("httpd.log");
    let _server = serve(b, "192.168.77.2:8000", &log)?;
    let ask = || podman.exec("web", &["wget", "-q", "-O", "-", "http://192.168.77.2:8000/"]);
    ensure!(wait::until_ok("node b answers a pod", SOON, ask)? == "outside\n", "node b");
    let seen = std::fs::read_to_string(&log)?;
    ensure!(seen.contains(&ip.to_string()), "node b saw another source than {ip}: {seen}");
    podman.remove_all()?;
    cluster.ends_clean()
}

/// busybox's web server on a node, which logs who asks.
fn serve(node: &Node, bind: &str, log: &std::path::Path) -> Result<Daemon> {
    let www = node.dir().join("www");
    std::fs::create_dir_all(&www)?;
    std::fs::write(www.join("index.html"), "outside\n")?;
    let cmd = node.cmd("busybox").args(["httpd", "-f", "-vv", "-p", bind, "-h"]).arg(&www);
    cmd.daemon(&format!("httpd on {}", node.name()), log)
}

fn fetch_from(ns: &Ns, url: &str) -> Result<String> {
    let get = || ns.cmd("busybox").args(["wget", "-q", "-O", "-", url]).timeout(Duration::from_secs(3)).run();
    wait::until_ok(&format!("{url} answers {}", ns.name()), SOON, get)
}
