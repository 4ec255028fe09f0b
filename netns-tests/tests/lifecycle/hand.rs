//! The forms that scripts of others rely on, typed as they are documented: with the default socket
//! and with one of their own, in both output formats.

use std::time::Duration;

use lab::cmd::{Cmd, Daemon, Output};
use lab::probe::ping;
use lab::swd::{binary, is_socket};
use lab::{Lab, Ns, Result, ensure, wait};
use serde_json::Value;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// `swctl LINE`, without any environment of ours.
fn swctl(line: &str) -> Result<Output> {
    Cmd::new(binary("swctl")?).args(words(line)).output()
}

fn ok(line: &str) -> Result<String> {
    let output = swctl(line)?;
    ensure!(output.code == 0, "swctl {line}: exit code {}: {}", output.code, output.stderr);
    Ok(output.stdout)
}

fn json(line: &str) -> Result<Value> {
    Ok(serde_json::from_str(&ok(&format!("-o json {line}"))?)?)
}

/// `swd LINE` in a namespace; ready when its socket answers.
fn swd(ns: &Ns, line: &str, log: &std::path::Path, swctl_args: &str) -> Result<Daemon> {
    let mut daemon = Cmd::new(binary("swd")?).args(words(line)).within(ns).daemon("swd", log)?;
    wait::until("swd answers", Duration::from_secs(10), || {
        let answers = swctl(&format!("{swctl_args} status")).is_ok_and(|o| o.code == 0);
        (answers || daemon.check_running().is_err()).then_some(())
    })?;
    daemon.check_running()?;
    Ok(daemon)
}

/// Every form of the issue, in the default places.
pub fn hand_forms() -> Result<()> {
    let lab = Lab::new("hand").node("a").node("b").build()?;
    let a = lab.node("a")?;
    let dir = lab.dir().display();
    let mut daemon =
        swd(a.ns(), &format!("--underlay 192.168.77.1 --state-dir {dir}/default"), &a.log(), "")?;
    ensure!(is_socket("/run/swd/swd.sock".as_ref()), "the default socket is not /run/swd/swd.sock");

    ok(
        "network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1 --subnet fd00:1::/64 --gateway fd00:1::1",
    )?;
    let pods = [lab.pod("p0")?, lab.pod("p1")?, lab.pod("p2")?];
    // A namespace by its name, by its path, by a process in it.
    let by_name = pods[0].ns().name();
    let line = format!(
        "port add web-0 --network pods --netns {by_name} --ip 10.1.1.2/24 --ip fd00:1::2/64 --ifname net0 \
         --mac 02:00:00:00:00:02 --mtu 1400 --may-exist"
    );
    ok(&line)?;
    ok(&line)?;
    ensure!(swctl(&line.replace(" --may-exist", ""))?.code == 1, "the second add was no error");
    let by_path = pods[1].ns().path();
    ok(&format!("port add web-1 --network pods --netns {} --ip 10.1.1.3/24", by_path.display()))?;
    let process =
        pods[2].ns().cmd("tail").args(["-f", "/dev/null"]).daemon("tail", &lab.dir().join("tail.log"))?;
    ok(&format!("port add web-2 --network pods --netns {} --ip 10.1.1.4/24", process.pid()))?;
    let link = pods[0].ns().ip_json(&["link", "show", "dev", "net0"])?;
    ensure!(link[0]["mtu"] == 1400 && link[0]["address"] == "02:00:00:00:00:02", "{link}");
    for to in [3, 4] {
        ping(pods[0].ns(), [10, 1, 1, to].into())?;
    }

    ok(
        "peer add node-b --remote 192.168.77.2 --encap vxlan --pod-cidr 10.1.2.0/24 --pod-cidr 10.1.3.0/24 --router-mac 02:00:00:00:00:0b",
    )?;
    ok("peer add node-c --remote 192.168.77.3 --encap geneve")?;
    ok("fdb add 02:00:00:00:00:99 --port web-0")?;
    ok("route add 10.9.0.0/16 --blackhole")?;
    ok("route add 10.8.0.0/16 --via 10.1.1.3")?;
    ok("route add 10.7.0.0/16 --peer node-b")?;
    ok("route add 10.6.0.0/16 --unreachable")?;

    // Text for people, JSON for programs: one shape, whatever the number of items.
    for line in [
        "network show",
        "port show",
        "port show web-0",
        "port stats",
        "peer show",
        "peer stats",
        "fdb",
        "fdb show",
        "route",
        "route show",
        "neigh",
        "neigh show",
        "route get 10.1.2.2",
    ] {
        ensure!(!ok(line)?.is_empty(), "swctl {line} prints nothing");
        ensure!(!ok(&format!("-o table {line}"))?.is_empty(), "swctl -o table {line} prints nothing");
        let list = json(line)?;
        ensure!(list.is_array(), "swctl -o json {line}: {list}");
    }
    ensure!(json("port show")?.as_array().map(Vec::len) == Some(3), "ports: {}", json("port show")?);
    let one = json("port show web-0")?;
    ensure!(one[0]["name"] == "web-0" && one[0]["state"] == "up", "{one}");
    let got = json("route get 10.1.2.2")?;
    ensure!(got[0]["dst"] == "10.1.2.0/24" && got[0]["dev"] == "@node-b", "{got}");
    ensure!(ok("status")?.contains("192.168.77.1"), "status: {}", ok("status")?);
    ensure!(json("status")?["underlay"] == "192.168.77.1", "status: {}", json("status")?);
    ok("drops")?;
    ensure!(json("drops")?["ledger"]["balanced"] == true, "drops: {}", json("drops")?);

    let trace = ok("trace --from web-0 --to 10.1.2.2 --proto tcp --dport 80")?;
    ensure!(trace.contains("node-b"), "{trace}");
    ensure!(json("trace --from web-0 --to 10.1.1.3")?["verdict"] == "delivered", "trace to web-1");
    ensure!(swctl("trace --from web-0 --to 10.9.1.1")?.code == 6, "a trace into the blackhole");

    ok("fdb del 02:00:00:00:00:99")?;
    ok("fdb flush")?;
    ok("neigh flush")?;
    for prefix in ["10.9.0.0/16", "10.8.0.0/16", "10.7.0.0/16", "10.6.0.0/16"] {
        ok(&format!("route del {prefix}"))?;
    }
    let file = lab.dir().join("state.toml");
    std::fs::write(&file, ok("export")?)?;
    let file = file.display();
    ok(&format!("apply -f {file}"))?;
    ok("route add 10.5.0.0/16 --blackhole")?;
    ok(&format!("apply -f {file} --prune"))?;
    ensure!(swctl("route get 10.5.0.1")?.code == 3, "--prune left a route");
    let generation = json("status")?["generation"].clone();
    ok(&format!("wait --generation {generation}"))?;

    for line in ["port del web-2", "port del web-2 --if-exists", "port del web-1", "port del web-0"] {
        ok(line)?;
    }
    ensure!(swctl("port del web-0")?.code == 3, "a port was deleted twice");
    ok("peer del node-c")?;
    ensure!(swctl("network del pods")?.code == 0, "network del pods");
    let left = pods[0].ns().ip_json(&["link"])?;
    ensure!(left.as_array().map(Vec::len) == Some(1), "left in the pod: {left}");
    for (line, code) in
        [("port show nobody", 3), ("port add", 2), ("nonsense", 2), ("--socket /nowhere status", 4)]
    {
        let output = swctl(line)?;
        ensure!(output.code == code, "swctl {line}: {} instead of {code}: {}", output.code, output.stderr);
        ensure!(!output.stderr.is_empty(), "swctl {line} says nothing");
    }
    let code = daemon.terminate(Duration::from_secs(10))?;
    ensure!(code == 0, "swd ended with {code}");
    ensure!(!std::path::Path::new("/run/swd/swd.sock").exists(), "the socket is left");
    Ok(())
}

/// `--underlay` left out, the rest from `--config` and the command line.
pub fn a_single_node_without_underlay() -> Result<()> {
    let lab = Lab::new("single").node("a").build()?;
    let a = lab.node("a")?;
    let config = lab.dir().join("swd.toml");
    let socket = lab.dir().join("other.sock");
    std::fs::write(
        &config,
        format!("state-dir = \"{}/from-config\"\nnode = \"lonely\"\n", lab.dir().display()),
    )?;
    let at = format!("--socket {}", socket.display());
    let daemon = swd(a.ns(), &format!("--config {} {at}", config.display()), &a.log(), &at)?;
    ensure!(lab.dir().join("from-config/lock").exists(), "the state is elsewhere");
    let status = json(&format!("{at} status"))?;
    ensure!(status["node"] == "lonely" && status["underlay"].is_null(), "{status}");
    ok(&format!("{at} network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1"))?;
    let pods = [lab.pod("p0")?, lab.pod("p1")?];
    for (n, pod) in pods.iter().enumerate() {
        let (name, ip) = (pod.ns().name(), n + 2);
        ok(&format!("{at} port add web-{n} --network pods --netns {name} --ip 10.1.1.{ip}/24"))?;
    }
    let links = pods[0].ns().ip_json(&["link", "show", "dev", "eth0"])?;
    ensure!(links[0]["mtu"] == 1500, "{links}");
    ping(pods[0].ns(), [10, 1, 1, 3].into())?;
    ping(pods[1].ns(), [10, 1, 1, 1].into())?;
    let refused = swctl(&format!("{at} peer add node-b --remote 192.168.77.2"))?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("--underlay"),
        "{} {}",
        refused.code,
        refused.stderr
    );
    let drops = json(&format!("{at} drops"))?;
    ensure!(drops["drops"] == serde_json::json!([]), "{drops}");
    drop(daemon);
    Ok(())
}
