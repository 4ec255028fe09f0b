//! What docs/runtimes.md says, done: every command, every line of configuration, the chain.

use std::path::Path;

use lab::runtimes::containerd::Containerd;
use lab::runtimes::podman::Podman;
use lab::runtimes::{conf, image};
use lab::{Error, Result, ensure};
use serde_json::Value;

use crate::support::{Cluster, Runtime};

const DOCUMENT: &str = include_str!("../../../docs/runtimes.md");
/// The image that the document uses, as everybody can have it.
const IMAGE: &str = "docker.io/library/busybox:latest";

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in DOCUMENT.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(text), None) => *text += &format!("{line}\n"),
            (None, Some(tag)) if tag == language => open = Some(String::new()),
            (None, _) => {}
        }
    }
    found
}

/// Runs the commands of the document on a node that was told nothing before.
pub fn commands() -> Result<()> {
    Runtime::Podman.need()?;
    Runtime::Containerd.need()?;
    let cluster = Cluster::bare("docs")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let containerd = Containerd::start(machine)?;
    let podman = Podman::new(machine)?;
    podman.run(&["tag", image::POD, IMAGE])?;
    containerd.ctr(&["images", "tag", image::POD, IMAGE]).run()?;

    let configured =
        conf::containers_conf(Path::new("/x")) + &conf::containerd_toml(Path::new("/x"), Path::new("/y"));
    let lines: Vec<String> = blocks("toml").iter().flat_map(|b| b.lines()).map(str::to_owned).collect();
    ensure!(lines.len() >= 6, "the document has no configuration any more: {lines:?}");
    for line in lines {
        ensure!(configured.lines().any(|l| l == line), "not what the tests run with: {line}");
    }

    let commands: Vec<String> = blocks("sh").iter().flat_map(|b| b.lines()).map(str::to_owned).collect();
    ensure!(commands.len() >= 15, "the document has no commands any more: {commands:?}");
    let chains = blocks("json");
    for line in &commands {
        // The chain needs the plugin, which the last command takes away.
        if line == "swctl cni uninstall" {
            for chain in &chains {
                run_chain(&podman, chain, &a.socket())?;
            }
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.split_first() {
            Some((&"swctl", rest)) => a.swctl_here(rest)?.run()?,
            Some((&"podman", rest)) => podman.run(rest)?,
            Some((&"ctr", rest)) => containerd.ctr(rest).run()?,
            _ => return Err(Error::failed(format!("the document runs something else: {line}"))),
        };
    }
    cluster.ends_abruptly()?;
    containerd.stop()
}

/// A container in the network of a configuration of the document.
fn run_chain(podman: &Podman<'_>, chain: &str, socket: &Path) -> Result<()> {
    let mut list: Value = serde_json::from_str(chain)?;
    list["plugins"][0]["socket"] = socket.display().to_string().into();
    let name = list["name"].as_str().unwrap_or_default().to_owned();
    conf::put(podman.machine(), "20-documented.conflist", &list)?;
    let backlog = "cat /proc/sys/net/core/somaxconn";
    let said = podman.run(&["run", "--rm", "--network", &name, IMAGE, "sh", "-c", backlog])?;
    ensure!(said == "511\n", "the chain {name} did not run: {said}");
    Ok(())
}
