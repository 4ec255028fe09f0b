//! What the suites of the real switch share: two nodes with a daemon each and three pods, bridged
//! or routed, and the conversations that every pair of pods must be able to have.
#![allow(dead_code, reason = "each suite uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lab::flow::{TcpOptions, UDP_SIZES, tcp, udp_echo};
use lab::probe::ping;
use lab::swd::SwdOptions;
use lab::wire::Underlay;
use lab::{Context, Error, Lab, Node, Ns, Pod, Result};

/// How the pods of two nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One subnet over both nodes.
    Bridged,
    /// A subnet per node, known by `--pod-cidr`; the pods of one node are in different subnets too.
    Routed,
}

/// A pod with its addresses.
#[derive(Debug)]
pub struct Host {
    pub pod: Pod,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Host {
    pub fn ns(&self) -> &Ns {
        self.pod.ns()
    }

    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// Its port again, after somebody removed it.
    pub fn attach(&self, node: &Node, more: &[&str]) -> Result<()> {
        let (v4, v6) = (format!("{}/24", self.v4), format!("{}/64", self.v6));
        node.add_port_with(&self.pod, "pods", &[&v4, &v6], more)
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    pub name: &'a str,
    pub mode: Mode,
    /// Family of the underlay addresses.
    pub underlay_v6: bool,
    pub underlay: Underlay,
    /// Further arguments of both daemons.
    pub swd: &'a [&'a str],
    /// Further arguments of `peer add` on both nodes.
    pub peer: &'a [&'a str],
    /// Further arguments of `port add` for near, beside and far.
    pub ports: [&'a [&'a str]; 3],
}

impl<'a> Setup<'a> {
    pub fn new(name: &'a str, mode: Mode) -> Self {
        Self {
            name,
            mode,
            underlay_v6: false,
            underlay: Underlay::default(),
            swd: &[],
            peer: &[],
            ports: [&[], &[], &[]],
        }
    }
}

/// Nodes `a` and `b`; pods `near` and `beside` on `a`, `far` on `b`.
#[derive(Debug)]
pub struct World {
    // The pods outlive no daemon that holds a device in them: the lab is dropped first.
    pub lab: Lab,
    pub near: Host,
    pub beside: Host,
    pub far: Host,
}

/// Starts `swd` on a node's underlay address of a family.
pub fn start(node: &Node, underlay_v6: bool, args: &[&str]) -> Result<()> {
    node.start_swd_with(&SwdOptions {
        underlay: Some(node.underlay(underlay_v6)),
        args: args.iter().map(|&a| a.to_owned()).collect(),
        ..SwdOptions::default()
    })
}

/// Adds a network of these /24 and /64 prefixes (`10.1.1`, `fd00:1`), each with the first address
/// as gateway.
pub fn add_network(
    node: &Node,
    name: &str,
    vni: u32,
    prefixes: &[(&str, &str)],
    more: &[&str],
) -> Result<()> {
    let mut args = vec!["network".into(), "add".into(), name.into(), "--vni".into(), vni.to_string()];
    for (v4, v6) in prefixes {
        args.extend(["--subnet".into(), format!("{v4}.0/24"), "--gateway".into(), format!("{v4}.1")]);
        args.extend(["--subnet".into(), format!("{v6}::/64"), "--gateway".into(), format!("{v6}::1")]);
    }
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(more);
    node.swctl_text(&args).map(drop)
}

/// A pod with the given last part in these prefixes, and its port on a node.
pub fn add_host(
    lab: &Lab,
    node: &Node,
    name: &str,
    prefix: (&str, &str),
    host: u16,
    more: &[&str],
) -> Result<Host> {
    let v4 = format!("{}.{host}", prefix.0).parse().context(prefix.0)?;
    let v6 = format!("{}::{host}", prefix.1).parse().context(prefix.1)?;
    let host = Host { pod: lab.pod(name)?, v4, v6 };
    host.attach(node, more)?;
    Ok(host)
}

impl World {
    pub fn build(setup: &Setup<'_>) -> Result<Self> {
        Self::build_on(setup, |_| Ok(()))
    }

    /// As [`World::build`], after something was done to the nodes.
    pub fn build_on(setup: &Setup<'_>, prepare: impl FnOnce(&Lab) -> Result<()>) -> Result<Self> {
        let lab = Lab::new(setup.name).node("a").node("b").underlay(setup.underlay.clone()).build()?;
        prepare(&lab)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let one = ("10.1.1", "fd00:1");
        // The prefixes of a's network, those of b's, and which of them near, beside and far are in.
        let (of_a, of_b, places) = match setup.mode {
            Mode::Bridged => (vec![one], vec![one], [(one, 2), (one, 3), (one, 4)]),
            Mode::Routed => {
                let (side, two) = (("10.1.11", "fd00:11"), ("10.1.2", "fd00:2"));
                (vec![one, side], vec![two], [(one, 2), (side, 2), (two, 2)])
            }
        };
        for (node, other, mine, theirs) in [(a, b, &of_a, &of_b), (b, a, &of_b, &of_a)] {
            start(node, setup.underlay_v6, setup.swd)?;
            add_network(node, "pods", 1, mine, &[])?;
            let mut args: Vec<String> = setup.peer.iter().map(|&a| a.to_owned()).collect();
            if setup.mode == Mode::Routed {
                for (v4, v6) in theirs {
                    args.extend(["--pod-cidr".into(), format!("{v4}.0/24")]);
                    args.extend(["--pod-cidr".into(), format!("{v6}::/64")]);
                }
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            node.add_peer(other, setup.underlay_v6, &args)?;
        }
        let [near, beside, far] = places;
        let near = add_host(&lab, a, "near", near.0, near.1, setup.ports[0])?;
        let beside = add_host(&lab, a, "beside", beside.0, beside.1, setup.ports[1])?;
        let far = add_host(&lab, b, "far", far.0, far.1, setup.ports[2])?;
        for node in lab.nodes() {
            node.settle()?;
        }
        Ok(Self { lab, near, beside, far })
    }

    /// [`converse`], with the counters of both nodes in the message when it fails.
    pub fn converse(&self, from: &Host, to: &Host, v6: bool, bytes: u64) -> Result<()> {
        converse(from, to, v6, bytes).map_err(|e| Error::failed(format!("{e}\n{}", self.counters())))
    }

    fn counters(&self) -> String {
        let mut text = String::new();
        for node in self.lab.nodes() {
            for what in [["drops"].as_slice(), &["port", "stats"], &["peer", "stats"]] {
                let shown = node.swctl_text(what).unwrap_or_else(|e| e.to_string());
                text.push_str(&format!("{}: swctl {}\n{shown}\n", node.name(), what.join(" ")));
            }
        }
        text
    }

    pub fn a(&self) -> Result<&Node> {
        self.lab.node("a")
    }

    pub fn b(&self) -> Result<&Node> {
        self.lab.node("b")
    }
}

/// Ping, TCP and UDP of all sizes from one pod to another, every byte compared.
pub fn converse(from: &Host, to: &Host, v6: bool, bytes: u64) -> Result<()> {
    let ip = to.ip(v6);
    ping(from.ns(), ip)?;
    tcp(from.ns(), to.ns(), ip, bytes)?;
    udp_echo(from.ns(), to.ns(), ip, &UDP_SIZES, 1)?;
    Ok(())
}

/// What the kernel of a namespace believes to be the path MTU to an address.
pub fn path_mtu(ns: &Ns, to: IpAddr) -> Result<Option<u64>> {
    let routes = ns.ip_json(&["route", "get", &to.to_string()])?;
    Ok(routes[0]["metrics"][0]["mtu"].as_u64())
}

/// The MTU of a device.
pub fn mtu(ns: &Ns, device: &str) -> Result<u64> {
    let links = ns.ip_json(&["link", "show", "dev", device])?;
    links[0]["mtu"].as_u64().ok_or_else(|| Error::failed(format!("no MTU of {device}")))
}

/// A TCP flow that runs until it is told to stop, and survives half a minute of silence.
pub fn endless() -> TcpOptions {
    TcpOptions { bytes: None, stall: Duration::from_secs(30), ..TcpOptions::default() }
}

/// How often TCP of a namespace had to wait for its retransmission timer.
pub fn tcp_timeouts(ns: &Ns) -> Result<u64> {
    let text = ns.run_in(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "TCPTimeouts")
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| Error::failed(format!("no TCPTimeouts in {}", ns.name())))
}

/// How many descriptors the processes of a daemon have.
pub fn open_files(node: &Node) -> Result<usize> {
    let count = |pid: u32| -> Result<usize> {
        let dir = format!("/proc/{pid}/fd");
        Ok(std::fs::read_dir(&dir).context(dir)?.count())
    };
    node.swd_pids()?.into_iter().map(count).sum()
}

/// A figure for whoever reads the output of the suite.
pub fn note(text: String) {
    use std::io::Write as _;
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "NOTE {text}");
}

/// Runs `swctl` with the words of a line, as a person types them.
pub fn run(node: &Node, line: &str) -> Result<String> {
    node.swctl_text(&line.split_whitespace().collect::<Vec<_>>())
}
