//! What the tests share: two nodes with a daemon and our plugin each, and the rule of what happens where
//! a runtime cannot run at all.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use lab::conserve::check_node;
use lab::runtimes::machine::Machine;
use lab::wire::{Underlay, WireOptions};
use lab::{Error, Lab, Node, Result, ensure, wait};
use serde_json::Value;

use crate::control;

/// How long a change may take to be seen by everybody.
pub const SOON: Duration = Duration::from_secs(10);
/// How long one attempt to reach a server may take.
pub const ONE_TRY: Duration = Duration::from_secs(3);
/// Name of the CNI network, and of the switch's.
pub const NETWORK: &str = "pods";
/// The file that `swctl cni install` writes.
pub const CONFLIST: &str = "10-swd.conflist";

/// The runtimes that stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Podman,
    Containerd,
}

impl Runtime {
    const ALL: [Self; 2] = [Self::Podman, Self::Containerd];

    const fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Containerd => "containerd",
        }
    }

    /// Whether it runs containers on this machine with plugins that are not ours; found out once.
    pub fn works(self) -> &'static Result<()> {
        static FOUND: [OnceLock<Result<()>>; 2] = [OnceLock::new(), OnceLock::new()];
        let (slot, look): (_, fn() -> Result<()>) = match self {
            Self::Podman => (&FOUND[0], control::podman),
            Self::Containerd => (&FOUND[1], control::containerd),
        };
        slot.get_or_init(look)
    }

    /// Lets a test go on that needs this runtime. Where the machine is at fault, another runtime covers the
    /// case; where none works, the test is skipped or, where nothing may be, fails.
    pub fn need(self) -> Result<()> {
        let Err(cause) = self.works() else { return Ok(()) };
        let name = self.name();
        let at_fault = format!("{name} cannot run containers here even with the stock plugins: {cause}");
        let others = Self::ALL.into_iter().filter(|&other| other != self);
        match others.into_iter().find(|other| other.works().is_ok()) {
            Some(other) => Err(Error::excused(format!("{at_fault}; {} covers the case", other.name()))),
            None => Err(Error::missing(format!("{at_fault}; no other runtime does"))),
        }
    }
}

/// Nodes `a` and `b`, routed to each other. Pods of `a` are in 10.1.1.0/24 and fd00:1::/64, those of `b` in
/// 10.1.2.0/24 and fd00:2::/64; each node has a port of its own and the plugin installed.
#[derive(Debug)]
pub struct Cluster {
    lab: Lab,
}

/// The part of a node's addresses that is its own.
fn prefixes(node: &Node) -> (String, String) {
    (format!("10.1.{}", node.index()), format!("fd00:{}:", node.index()))
}

impl Cluster {
    /// Two nodes.
    pub fn build(name: &str) -> Result<Self> {
        Self::of(Lab::new(name).node("a").node("b").build()?)
    }

    /// Two nodes, and on the same wire `out`, a host that has no switch and no route to pods.
    pub fn with_outsider(name: &str) -> Result<Self> {
        let underlay = Underlay::Bridge(WireOptions::default());
        Self::of(Lab::new(name).node("a").node("b").node("out").underlay(underlay).build()?)
    }

    /// One node, for what concerns no other.
    pub fn single(name: &str) -> Result<Self> {
        Self::of(Lab::new(name).node("a").underlay(Underlay::Bridge(WireOptions::default())).build()?)
    }

    /// One node with a daemon that was told nothing.
    pub fn bare(name: &str) -> Result<Self> {
        let lab = Lab::new(name).node("a").underlay(Underlay::Bridge(WireOptions::default())).build()?;
        boot(lab.node("a")?)?;
        Ok(Self { lab })
    }

    fn of(lab: Lab) -> Result<Self> {
        let members = || lab.nodes().iter().filter(|n| n.name() != "out");
        for node in members() {
            boot(node)?;
            let (v4, v6) = prefixes(node);
            let (s4, g4, s6, g6) =
                (format!("{v4}.0/24"), format!("{v4}.1"), format!("{v6}:/64"), format!("{v6}:1"));
            let line = ["network", "add", NETWORK, "--vni", "1", "--subnet", &s4, "--gateway", &g4];
            node.swctl_text(&[&line[..], &["--subnet", &s6, "--gateway", &g6]].concat())?;
            node.swctl_text(&["port", "add", "node", "--network", NETWORK, "--node", "--masquerade"])?;
            for other in members().filter(|other| other.name() != node.name()) {
                let (v4, v6) = prefixes(other);
                let more = ["--pod-cidr", &format!("{v4}.0/24"), "--pod-cidr", &format!("{v6}:/64")];
                node.add_peer(other, false, &more)?;
            }
            install(node)?;
            node.settle()?;
        }
        Ok(Self { lab })
    }

    pub fn a(&self) -> Result<&Node> {
        self.lab.node("a")
    }

    pub fn b(&self) -> Result<&Node> {
        self.lab.node("b")
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The end of a test: no container has left anything on any node, every frame is accounted for, and none was
    /// dropped but on its way to or from a container that was just ending.
    pub fn ends_clean(&self) -> Result<()> {
        self.ends(&["no-port", "egress-gone"])
    }

    /// As [`Cluster::ends_clean`] where containers have lost their device before anybody told the switch.
    pub fn ends_abruptly(&self) -> Result<()> {
        self.ends(&["no-port", "egress-gone", "tx-down"])
    }

    fn ends(&self, allowed: &[&str]) -> Result<()> {
        for node in self.lab.nodes().iter().filter(|n| n.machine().is_ok()) {
            nothing_left(node)?;
            check_node(node, allowed)?;
        }
        Ok(())
    }
}

fn boot(node: &Node) -> Result<()> {
    node.boot()?;
    node.start_swd(&["--node", node.name()])
}

/// `swctl cni install` as an operator types it: to the directories where runtimes look, for the only network.
pub fn install(node: &Node) -> Result<()> {
    node.swctl_here(&["cni", "install"])?.run().map(drop)
}

/// The ports of a node that belong to containers, as `swctl -o json port show` lists them.
pub fn attachments(node: &Node) -> Result<Vec<Value>> {
    let ports = node.swctl(&["port", "show"])?;
    let list = ports.as_array().ok_or("swctl port show prints no list")?;
    Ok(list.iter().filter(|p| p["container_id"] != "").cloned().collect())
}

/// The one port of a container, by a part of its name (runtimes shorten and prefix ids).
pub fn attachment(node: &Node, id: &str) -> Result<Value> {
    let all = attachments(node)?;
    let found = all.iter().find(|p| p["name"].as_str().is_some_and(|n| n.contains(id)));
    found.cloned().ok_or_else(|| Error::failed(format!("no port of {id} among {}", Value::from(all.clone()))))
}

/// Nothing of any container is left: no port, and no rule that leads to one.
pub fn nothing_left(node: &Node) -> Result<()> {
    let left = attachments(node)?;
    ensure!(left.is_empty(), "ports are left on {}: {}", node.name(), Value::from(left));
    let leads = || -> Result<()> {
        let rules = node.cmd("nft").args(["list", "ruleset"]).run()?;
        let leads = ["dnat ip to ", "dnat ip6 to ", "dnat to "].iter().any(|words| rules.contains(words));
        ensure!(!leads, "rules that lead to a container are left on {}: {rules}", node.name());
        Ok(())
    };
    // The rules follow the ports.
    wait::until_ok("no rule leads to a container", SOON, leads)
}

/// The addresses of a port, without prefix length.
pub fn addresses(port: &Value) -> Result<Vec<IpAddr>> {
    let ips = port["ips"].as_array().ok_or_else(|| Error::failed(format!("no ips: {port}")))?;
    let plain = |ip: &Value| -> Result<IpAddr> {
        let text = ip.as_str().unwrap_or_default();
        Ok(text.split('/').next().unwrap_or_default().parse()?)
    };
    ips.iter().map(plain).collect()
}

/// The first address of a family.
pub fn address(port: &Value, v6: bool) -> Result<IpAddr> {
    let found = addresses(port)?.into_iter().find(|ip| ip.is_ipv6() == v6);
    found.ok_or_else(|| Error::failed(format!("no address of that family: {port}")))
}

/// A URL of a web server, with brackets where the address needs them.
pub fn url(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("http://{ip}:{port}/"),
        IpAddr::V6(ip) => format!("http://[{ip}]:{port}/"),
    }
}

/// Fetches a page from a node's own network, as its processes would; asks again until the server is up.
pub fn fetch(machine: &Machine, url: &str) -> Result<String> {
    let get = || machine.cmd("busybox").args(["wget", "-q", "-O", "-", url]).timeout(ONE_TRY).run();
    wait::until_ok(&format!("{url} answers {}", machine.ns().name()), SOON, get)
}
