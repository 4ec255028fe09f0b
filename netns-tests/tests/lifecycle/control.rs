//! Documents, generations, traces across nodes, exit codes.

use std::time::Duration;

use crate::common::{Mode, Setup, World, endless, run};
use lab::conserve::{Ledger, check};
use lab::flow::TcpFlow;
use lab::probe::{no_ping, ping};
use lab::swd::generation;
use lab::{Context, Lab, Result, ensure, wait};
use serde_json::{Value, json};

/// What is exported can be applied; applied again it changes nothing; with `--prune` it is all there is.
pub fn export_and_apply() -> Result<()> {
    let world = World::build(&Setup::new("apply", Mode::Routed))?;
    let (a, near, far) = (world.a()?, &world.near, &world.far);
    run(a, "route add 10.9.0.0/16 --blackhole")?;
    run(a, "fdb add 02:00:00:00:00:77 --port near")?;
    ping(near.ns(), far.ip(false))?;
    let flow = TcpFlow::start(near.ns(), far.ns(), far.ip(false), &endless())?;
    let moves = |what: &str| flow.wait_progress(1_000_000, Duration::from_secs(5)).context(what.to_owned());
    moves("at first")?;
    let index = near.ns().ip_json(&["link", "show", "dev", "eth0"])?[0]["ifindex"].clone();
    let toml = run(a, "export")?;
    let document = a.swctl(&["export"])?;
    let (toml_file, json_file) = (world.lab.dir().join("a.toml"), world.lab.dir().join("a.json"));
    std::fs::write(&toml_file, &toml)?;
    std::fs::write(&json_file, document.to_string())?;
    let apply = |file: &std::path::Path, more: &str| -> Result<Value> {
        let line = format!("apply -f {} {more}", file.display());
        a.swctl(&line.split_whitespace().collect::<Vec<_>>())
    };
    for file in [&toml_file, &json_file] {
        for more in ["", "--prune", "--dry-run", "--prune --dry-run"] {
            let reply = apply(file, more)?;
            ensure!(reply["changes"] == json!([]), "apply {} {more}: {reply}", file.display());
        }
    }
    moves("after nothing was changed")?;

    // More by hand, then back to the document.
    run(a, "network add extra --vni 9")?;
    run(a, "route add 10.8.0.0/16 --unreachable --network pods")?;
    run(a, "route del 10.9.0.0/16 --network pods")?;
    let extra = world.lab.pod("extra")?;
    a.add_port(&extra, "extra", &[])?;
    let dry = apply(&toml_file, "--prune --dry-run")?;
    ensure!(dry["changes"].as_array().map(Vec::len) == Some(4), "{dry}");
    ensure!(a.swctl(&["export"])? != document, "--dry-run changed something");
    let added = apply(&toml_file, "")?;
    ensure!(added["changes"].as_array().map(Vec::len) == Some(1), "only the route comes back: {added}");
    let pruned = apply(&toml_file, "--prune")?;
    ensure!(pruned["changes"].as_array().map(Vec::len) == Some(3), "{pruned}");
    ensure!(a.swctl(&["export"])? == document && run(a, "export")? == toml, "not the same after --prune");
    moves("after --prune")?;
    let now = near.ns().ip_json(&["link", "show", "dev", "eth0"])?[0]["ifindex"].clone();
    ensure!(now == index, "the device was made anew by a document that did not change it");

    // An empty document takes all away; the other gives all back.
    let empty = world.lab.dir().join("empty.json");
    std::fs::write(&empty, "{\"version\": 1}")?;
    let port_devices =
        || -> Result<usize> { Ok(near.ns().ip_json(&["link"])?.as_array().map_or(0, Vec::len) - 1) };
    apply(&empty, "--prune")?;
    wait::until("the device is gone", Duration::from_secs(5), || (port_devices().ok()? == 0).then_some(()))?;
    apply(&json_file, "--prune")?;
    a.settle()?;
    ensure!(a.swctl(&["export"])? == document, "not the same after it was empty");
    ping(near.ns(), far.ip(false))?;
    ping(far.ns(), near.ip(true))?;
    flow.wait_progress(1_000_000, Duration::from_secs(20)).context("across an empty document")?;
    flow.finish()?;
    // In between nobody was known; a frame may be read when its port has just left the tables.
    check(world.lab.nodes(), &["unknown-peer", "unknown-vni", "egress-gone", "no-port"])
}

/// Every change has a number, and one can wait until it is in force.
pub fn generations() -> Result<()> {
    let lab = Lab::new("gens").node("a").build()?;
    let a = lab.node("a")?;
    a.start_swd_with(&lab::swd::SwdOptions::default())?;
    let mut last = 0;
    for n in 1..=10 {
        let (name, vni) = (format!("n{n}"), n.to_string());
        let reply = a.swctl(&["network", "add", &name, "--vni", &vni])?;
        let made = generation(&reply).ok_or("no generation")?;
        ensure!(made > last && reply["changed"] == true, "{reply} after {last}");
        last = made;
        let waited = a.swctl(&["wait", "--generation", &made.to_string()])?;
        ensure!(waited["applied_generation"].as_u64() >= Some(made), "{waited}, wanted {made}");
    }
    let again = a.swctl(&["network", "add", "n1", "--vni", "1", "--may-exist"])?;
    ensure!(again["changed"] == false && generation(&again) == Some(last), "{again} after {last}");
    let far = (last + 1000).to_string();
    let late = a.swctl_output(&["--timeout", "300ms", "wait", "--generation", &far])?;
    ensure!(late.code == 5, "waiting for a generation to come exits with {}: {}", late.code, late.stderr);
    a.restart()?;
    let status = a.swctl(&["status"])?;
    ensure!(generation(&status) >= Some(last), "after a restart: {status}");
    check(lab.nodes(), &[])
}

/// A trace tells what would happen on both nodes, and does nothing.
pub fn trace_across_nodes() -> Result<()> {
    for (name, mode) in [("trrt", Mode::Routed), ("trbr", Mode::Bridged)] {
        let world = World::build(&Setup::new(name, mode))?;
        let (a, b, near, far) = (world.a()?, world.b()?, &world.near, &world.far);
        for v6 in [false, true] {
            ping(near.ns(), far.ip(v6))?;
        }
        let socket = format!("b={}", b.socket().display());
        let before = (Ledger::read(a)?, Ledger::read(b)?);
        for v6 in [false, true] {
            let to = far.ip(v6).to_string();
            let line = ["trace", "--from", "near", "--to", &to, "--proto", "tcp", "--dport", "80"];
            let with_peer = [line.as_slice(), &["--peer-socket", &socket]].concat();
            let text = a.swctl_text(&with_peer)?;
            ensure!(text.contains("DELIVERED") && text.contains("port far"), "{text}");
            let reply = a.swctl(&with_peer)?;
            ensure!(reply["verdict"] == "delivered", "{reply}");
            ensure!(reply["delivered"][0]["port"] == "far", "{reply}");
            ensure!(reply["outputs"][0]["underlay_dst"] == "192.168.77.2", "{reply}");
            let alone = a.swctl(&line)?;
            ensure!(alone["verdict"] == "sent", "{alone}");
        }
        let nowhere = a.swctl_output(&["-o", "json", "trace", "--from", "near", "--to", "203.0.113.9"])?;
        let reply: Value = serde_json::from_str(&nowhere.stdout)?;
        ensure!(nowhere.code == 6 && reply["drop_reason"] == "no-route", "{} {reply}", nowhere.code);
        let gateway = ["trace", "--from", "near", "--to", "10.1.1.1", "--src", "10.1.1.77"];
        let spoofed = a.swctl_output(&gateway)?;
        ensure!(spoofed.code == 6 && spoofed.stdout.contains("spoofed-ip"), "{}", spoofed.stdout);
        let after = (Ledger::read(a)?, Ledger::read(b)?);
        ensure!(
            after.0.drops == before.0.drops && after.1.drops == before.1.drops,
            "tracing was counted as traffic: {after:?}"
        );
        check(world.lab.nodes(), &[])?;
    }
    Ok(())
}

/// 0 healthy, 6 degraded, 4 not there.
pub fn exit_codes_of_status() -> Result<()> {
    let world = World::build(&Setup::new("status", Mode::Bridged))?;
    let (a, near) = (world.a()?, &world.near);
    let status = |code: i32, what: &str| -> Result<String> {
        wait::until(&format!("status exits with {code}: {what}"), Duration::from_secs(20), || {
            let output = a.swctl_output(&["-o", "json", "status"]).ok()?;
            (output.code == code).then_some(output.stdout)
        })
    };
    status(0, "all is well")?;
    near.ns().ip(["link set eth0 down"])?;
    let text = status(6, "a device is down")?;
    ensure!(text.contains("port near") && text.contains("down"), "{text}");
    no_ping(world.far.ns(), near.ip(false))?;
    near.ns().ip(["link set eth0 up"])?;
    status(0, "the device is up again")?;
    near.ns().ip(["link set eth0 mtu 1200"])?;
    let text = status(6, "a device has another MTU")?;
    ensure!(text.contains("port near") && text.contains("1200"), "{text}");
    near.ns().ip(["link set eth0 mtu 1450"])?;
    status(0, "the MTU is right again")?;
    ping(world.far.ns(), near.ip(false))?;
    check(world.lab.nodes(), &["tx-down", "neighbour-failed", "egress-gone"])?;
    a.stop_swd()?;
    let output = a.swctl_output(&["status"])?;
    ensure!(output.code == 4 && output.stderr.contains("swd"), "{} {}", output.code, output.stderr);
    let json = a.swctl_output(&["-o", "json", "status"])?;
    let error: Value = serde_json::from_str(&json.stderr)?;
    ensure!(json.code == 4 && error["error"]["reason"] == "UNREACHABLE", "{error}");
    Ok(())
}
