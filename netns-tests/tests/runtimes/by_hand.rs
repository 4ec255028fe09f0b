//! `swctl cni` on a machine with stock plugins beside ours: install, status, run, uninstall.

use lab::{Node, Result, ensure};
use serde_json::{Value, json};

use crate::support::{CONFLIST, Cluster, NETWORK, address, attachment, nothing_left};

fn output(node: &Node, line: &str) -> Result<lab::cmd::Output> {
    node.swctl_here(&line.split_whitespace().collect::<Vec<_>>())?.output()
}

/// An exit code other than 0 is an error.
fn ok(node: &Node, line: &str) -> Result<String> {
    let output = output(node, line)?;
    ensure!(output.code == 0, "swctl {line}: exit code {}: {}{}", output.code, output.stdout, output.stderr);
    Ok(output.stdout)
}

/// From nothing to a pod and back, with a chain whose second plugin is not ours.
pub fn swctl_cni() -> Result<()> {
    let cluster = Cluster::single("byhand")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    ok(a, "cni status")?;
    let conflist = machine.conf_dir().join(CONFLIST);
    let installed: Value = serde_json::from_str(&std::fs::read_to_string(&conflist)?)?;
    ensure!(installed["name"] == NETWORK && installed["plugins"][0]["type"] == "swd-cni", "{installed}");

    machine.cmd("ip").args(["netns", "add", "pod"]).run()?;
    let attached = "--container-id by-hand --netns pod";
    let result: Value = serde_json::from_str(&ok(a, &format!("cni run ADD {attached}"))?)?;
    let port = attachment(a, "by-hand")?;
    ensure!(result["ips"][0]["address"].as_str().is_some_and(|ip| ip.starts_with("10.1.1.")), "{result}");
    ensure!(result["interfaces"][0]["mac"] == port["mac"], "{result}, but {port}");
    machine.cmd("ip").args(["netns", "exec", "pod", "ping", "-c", "1", "-W", "5", "10.1.1.1"]).run()?;
    ok(a, &format!("cni run CHECK {attached}"))?;
    ok(a, &format!("cni run DEL {attached}"))?;
    ok(a, &format!("cni run DEL {attached}"))?;
    nothing_left(a)?;

    // A chain of a file of one's own: tuning sees the device that ours made.
    let chain = machine.dir().join("chain.conflist");
    let plugins = json!([
        { "type": "swd-cni", "socket": a.socket(), "capabilities": { "ips": true } },
        { "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" } },
    ]);
    std::fs::write(
        &chain,
        json!({ "cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins }).to_string(),
    )?;
    let conf = chain.display();
    let asked = r#"{"ips":["10.1.1.55"]}"#;
    ok(a, &format!("cni run ADD {attached} --conf {conf} --capability-args {asked}"))?;
    ensure!(
        address(&attachment(a, "by-hand")?, false)?.to_string() == "10.1.1.55",
        "the capability was not passed"
    );
    let read = ["netns", "exec", "pod", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"];
    ensure!(machine.cmd("ip").args(read).run()? == "1\n", "tuning did not run after ours");
    ok(a, &format!("cni run DEL {attached} --conf {conf}"))?;
    nothing_left(a)?;

    // Without the daemon the node is not ready, and no configuration is written that would say it is.
    a.stop_swd()?;
    let status = output(a, "cni status")?;
    ensure!(status.code == 6, "cni status without a daemon exits with {}: {}", status.code, status.stdout);
    ok(a, "cni uninstall")?;
    ensure!(output(a, "cni install")?.code == 4 && !conflist.exists(), "installed without a daemon");
    a.restart()?;
    ok(a, "cni install")?;
    // A foreign file of that name is nobody's to remove.
    std::fs::write(&conflist, r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"bridge"}]}"#)?;
    for verb in ["install", "uninstall"] {
        let refused = output(a, &format!("cni {verb}"))?;
        ensure!(refused.code != 0 && refused.stderr.contains(CONFLIST), "{verb}: {}", refused.stderr);
    }
    ensure!(conflist.exists(), "a foreign configuration was removed");
    Ok(())
}
