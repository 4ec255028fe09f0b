//! The state directory: one daemon at a time, and what happens when the disk has mangled a file.

use std::path::Path;
use std::time::Duration;

use crate::common::run;
use lab::cmd::{Cmd, Output};
use lab::swd::{SwdOptions, binary, is_socket};
use lab::{Lab, Node, Result, ensure};
use serde_json::Value;

/// Runs a daemon that is expected to refuse.
fn refused(node: &Node, args: &[&str]) -> Result<Output> {
    let output =
        Cmd::new(binary("swd")?).args(args).within(node.ns()).timeout(Duration::from_secs(10)).output()?;
    ensure!(output.code != 0, "swd {args:?} ended without an error");
    Ok(output)
}

/// The same state directory, the same socket, the same underlay address: each is refused with a
/// sentence that names it, and the first daemon does not notice.
pub fn a_second_daemon_is_refused() -> Result<()> {
    let lab = Lab::new("second").node("a").node("b").build()?;
    let a = lab.node("a")?;
    a.start_swd(&[])?;
    run(a, "network add pods --vni 1")?;
    let text = |path: &Path| path.display().to_string();
    let (socket, state) = (text(&a.socket()), text(&a.state_dir()));
    let (other_socket, other_state) = (text(&a.dir().join("other.sock")), text(&a.dir().join("other")));
    let cases: [(&[&str], &str); 3] = [
        (&["--socket", &other_socket, "--state-dir", &state], &state),
        (&["--socket", &socket, "--state-dir", &other_state], &socket),
        (
            &["--underlay", "192.168.77.1", "--socket", &other_socket, "--state-dir", &other_state],
            "192.168.77.1",
        ),
    ];
    for (args, named) in cases {
        let output = refused(a, args)?;
        ensure!(output.stderr.contains(named), "swd {args:?} does not name {named}: {}", output.stderr);
        ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
        ensure!(is_socket(&a.socket()), "the socket is gone after swd {args:?}");
        run(a, "network show pods")?;
        a.check_swd()?;
    }
    let nowhere =
        refused(a, &["--underlay", "192.0.2.1", "--socket", &other_socket, "--state-dir", &other_state])?;
    ensure!(nowhere.stderr.contains("192.0.2.1"), "{}", nowhere.stderr);
    // What is in the way but no socket is left alone.
    let file = a.dir().join("file");
    std::fs::write(&file, "precious")?;
    let output = refused(a, &["--socket", &text(&file), "--state-dir", &other_state])?;
    ensure!(output.stderr.contains(&text(&file)), "{}", output.stderr);
    ensure!(std::fs::read_to_string(&file)? == "precious", "the file was overwritten");
    Ok(())
}

fn networks(node: &Node) -> Result<Vec<String>> {
    let shown = node.swctl(&["network", "show"])?;
    let names = shown.as_array().into_iter().flatten().filter_map(|n| n["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// The status, whatever it says.
fn status(node: &Node) -> Result<Value> {
    Ok(serde_json::from_str(&node.swctl_output(&["-o", "json", "status"])?.stdout)?)
}

/// A file that is damaged in any way: the one before it is used, and status says so.
pub fn a_damaged_state_file() -> Result<()> {
    let lab = Lab::new("damage").node("a").build()?;
    let a = lab.node("a")?;
    a.start_swd_with(&SwdOptions::default())?;
    let state = a.state_dir().join("state");
    run(a, "network add one --vni 1")?;
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 5] = [
        ("a flipped bit", |bytes| {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
        }),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("zeroes", |bytes| bytes.fill(0)),
        ("of a later version", |bytes| *bytes = b"swd-state 2 generation=1\n{}".to_vec()),
    ];
    for (number, (what, damage)) in cases.into_iter().enumerate() {
        run(a, "network add two --vni 2")?;
        let last = status(a)?["generation"].as_u64();
        a.stop_swd()?;
        let mut bytes = std::fs::read(&state)?;
        damage(&mut bytes);
        std::fs::write(&state, &bytes)?;
        a.restart()?;
        ensure!(networks(a)? == ["one"], "{what}: {:?}", networks(a)?);
        let text = a.swctl_output(&["status"])?;
        ensure!(text.code == 6 && text.stdout.contains("state.bad."), "{what}: {}", text.stdout);
        let kept = a.state_dir().join(format!("state.bad.{number}"));
        ensure!(std::fs::read(&kept)? == bytes, "{what}: {} is not what was found", kept.display());
        let json = status(a)?;
        ensure!(json["degraded"][0]["object"] == "state", "{what}: {json}");
        ensure!(json["generation"].as_u64() >= last, "{what}: generation {json} after {last:?}");
    }
    run(a, "network add two --vni 2")?;
    a.stop_swd()?;
    std::fs::remove_file(&state)?;
    a.restart()?;
    ensure!(networks(a)? == ["one"], "missing: {:?}", networks(a)?);
    ensure!(a.swctl_output(&["status"])?.code == 6, "a missing file is not reported");

    // Neither file: refuse, and touch nothing.
    run(a, "network add two --vni 2")?;
    a.stop_swd()?;
    let previous = a.state_dir().join("state.prev");
    for file in [&state, &previous] {
        std::fs::write(file, "garbage\n")?;
    }
    let (socket, dir) = (a.socket().display().to_string(), a.state_dir().display().to_string());
    let output = refused(a, &["--socket", &socket, "--state-dir", &dir])?;
    for name in ["state:", "state.prev:"] {
        ensure!(output.stderr.contains(name), "not a word about {name} {}", output.stderr);
    }
    for file in [&state, &previous] {
        ensure!(std::fs::read(file)? == b"garbage\n", "{} was changed", file.display());
    }
    Ok(())
}
