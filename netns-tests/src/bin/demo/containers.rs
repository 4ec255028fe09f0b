//! Pods that a container runtime starts with our CNI plugin (`--pods`).

use crate::show::Screen;
use crate::topology::PodPlace;
use lab::runtimes::containerd::Containerd;
use lab::runtimes::cri::PodSpec;
use lab::runtimes::podman::Podman;
use lab::runtimes::{conf, image};
use lab::{Error, Node, Result};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::Path;

/// Who starts the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Containers in two networks each.
    Podman,
    /// Pods of the runtime interface of Kubernetes, which have one network.
    Containerd,
}

impl Runtime {
    /// The value of `--pods`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "podman" => Ok(Self::Podman),
            "containerd" => Ok(Self::Containerd),
            _ => Err(Error::failed(format!("--pods `{text}`: expected podman or containerd"))),
        }
    }

    /// Whether its pods can be in a second network.
    pub fn has_second_network(self) -> bool {
        self == Self::Podman
    }

    /// Programs it takes.
    pub fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Podman => &["podman", "conmon", "runc", "/usr/lib/cni/bridge", "busybox"],
            Self::Containerd => &["containerd", "ctr", "runc", "/usr/lib/cni/bridge", "busybox"],
        }
    }
}

/// The runtime of one node, which is a machine.
pub struct Containers<'l> {
    node: &'l Node,
    running: Running<'l>,
}

enum Running<'l> {
    Podman(Podman<'l>),
    Containerd(Containerd<'l>),
}

impl<'l> Containers<'l> {
    /// Installs the plugin and starts the runtime.
    pub fn start(node: &'l Node, runtime: Runtime, screen: &Screen) -> Result<Self> {
        let install = ["cni", "install", "--network", "pods"];
        screen.command(node.name(), &[&["swctl"], &install[..]].concat())?;
        node.swctl_here(&install)?.run()?;
        let machine = node.machine()?;
        let running = match runtime {
            Runtime::Podman => {
                conf::put(machine, "20-lan.conflist", &second_network(node))?;
                Running::Podman(Podman::new(machine)?)
            }
            Runtime::Containerd => Running::Containerd(Containerd::start(machine)?),
        };
        Ok(Self { node, running })
    }

    /// Starts a pod.
    pub fn run(&self, name: &str, screen: &Screen) -> Result<PodPlace> {
        match &self.running {
            Running::Podman(podman) => {
                let words = ["run", "--detach", "--name", name, "--network", "pods", "--network", "lan"];
                let words = [&words[..], &[image::POD]].concat();
                screen.command(self.node.name(), &[&["podman"], &words[..]].concat())?;
                podman.run(&words)?;
            }
            Running::Containerd(containerd) => {
                screen.command(self.node.name(), &["(containerd, CRI) RunPodSandbox", name])?;
                containerd.cri()?.run_pod(&PodSpec::new(name), &["hold"])?;
            }
        }
        self.place(name)
    }

    /// Where the pod is, as the switch knows it.
    fn place(&self, name: &str) -> Result<PodPlace> {
        let ports = self.node.swctl(&["port", "show"])?;
        let of = |network: &str| {
            let ours = |p: &&Value| p["metadata"]["k8s/pod"] == name && p["network"] == network;
            ports.as_array().into_iter().flatten().find(ours)
        };
        let port = of("pods").ok_or_else(|| Error::failed(format!("{name} has no port: {ports}")))?;
        let netns = Path::new(port["netns_path"].as_str().unwrap_or_default());
        Ok(PodPlace {
            name: name.to_owned(),
            port: port["name"].as_str().unwrap_or_default().to_owned(),
            ns: self.node.machine()?.netns(name, netns)?,
            v4: address(port, false)?,
            v6: address(port, true)?,
            lan: of("lan").map(|port| address(port, false)).transpose()?,
            _made: None,
        })
    }

    /// How a person goes on with it in a lab left standing.
    pub fn enter_command(&self) -> String {
        match &self.running {
            Running::Podman(podman) => format!("{} ps", podman.enter_command()),
            Running::Containerd(containerd) => format!("{} task ls", containerd.enter_command()),
        }
    }
}

/// The network `lan`, which `swctl cni install` does not write: it is for one network.
fn second_network(node: &Node) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "lan",
        "plugins": [{ "type": "swd-cni", "socket": node.socket(), "network": "lan", "defaultRoute": false }],
    })
}

fn address(port: &Value, v6: bool) -> Result<IpAddr> {
    let plain = |ip: &Value| ip.as_str()?.split('/').next()?.parse::<IpAddr>().ok();
    let found = port["ips"].as_array().into_iter().flatten().filter_map(plain).find(|ip| ip.is_ipv6() == v6);
    found.ok_or_else(|| Error::failed(format!("no address of that family: {port}")))
}
