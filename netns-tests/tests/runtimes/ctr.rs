//! `ctr run --cni`: libcni in the process of `ctr`, whatever containerd is configured for.

use lab::runtimes::containerd::Containerd;
use lab::runtimes::image;
use lab::{Result, ensure, wait};

use crate::support::{Cluster, Runtime, SOON, addresses, attachment, attachments, fetch, nothing_left, url};

/// In the foreground DEL comes at the end, with an empty path of the namespace.
pub fn in_the_foreground() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::single("ctr")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let containerd = Containerd::start(machine)?;
    let shown = containerd.ctr_run("short", &["ip", "addr", "show", "dev", "eth0"]).run()?;
    ensure!(shown.contains("inet 10.1.1.") && shown.contains("inet6 fd00:1::"), "{shown}");
    nothing_left(a)?;

    let log = machine.dir().join("ctr.log");
    let mut running = containerd.ctr_run("long", &["serve", "long"]).daemon("ctr run", &log)?;
    let port = wait::until_ok("the container's port", SOON, || {
        running.check_running()?;
        attachment(a, "long")
    })?;
    for ip in addresses(&port)? {
        ensure!(fetch(machine, &url(ip, 80))? == "long\n", "{ip} from the node");
    }
    let namespace = port["netns"].as_str().unwrap_or_default().to_owned();
    ensure!(namespace.starts_with("/proc/"), "{port}");
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", "long"]).run()?;
    running.wait(SOON)?;
    nothing_left(a)?;

    // ADD fails: ctr says why. The container is left to whoever started it, by design of ctr.
    a.kill9()?;
    let failed = containerd.ctr_run("late", &["hold"]).output()?;
    ensure!(failed.code != 0 && failed.stderr.contains("swd"), "{}: {}", failed.code, failed.stderr);
    a.restart()?;
    cluster.ends_abruptly()?;
    containerd.stop()
}

/// In the background nobody sends DEL. What is left is found and removed by hand, as docs/runtimes.md says.
pub fn in_the_background() -> Result<()> {
    Runtime::Containerd.need()?;
    let cluster = Cluster::single("ctrd")?;
    let a = cluster.a()?;
    let containerd = Containerd::start(a.machine()?)?;
    containerd.ctr(&["run", "--detach", "--cni", image::POD, "hello", "hold"]).run()?;
    ensure!(attachment(a, "default-hello")?["state"] == "up", "{:?}", attachments(a)?);
    containerd.ctr(&["task", "rm", "--force", "hello"]).run()?;
    containerd.ctr(&["container", "rm", "hello"]).run()?;
    // A runtime that leaves ports behind is seen: their namespaces are gone.
    wait::until("the port without a namespace is reported", SOON, || {
        let status = a.swctl_output(&["status"]).ok()?;
        (status.code == 6 && status.stdout.contains("default-hello")).then_some(())
    })?;
    a.swctl_here(&["cni", "run", "DEL", "--container-id", "default-hello"])?.run()?;
    cluster.ends_abruptly()?;
    containerd.stop()
}
