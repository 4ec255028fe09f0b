//! Frames for everybody, over three nodes: each pod gets one copy, the sender none, and no node
//! passes on what another has flooded.

use lab::capture::Capture;
use lab::conserve::check;
use lab::rawframe::{BROADCAST, Mac};
use lab::wire::{UPLINK, Underlay, WireOptions};
use lab::{Lab, Result, ensure};

use crate::common::{Host, add_host, add_network, converse, start};
use crate::support::{Injector, LIMIT, copies, udp};

const ONE: (&str, &str) = ("10.1.1", "fd00:1");
const ROUNDS: usize = 10;

fn flood(name: &str, geneve: bool) -> Result<()> {
    let lab = Lab::new(name)
        .node("a")
        .node("b")
        .node("c")
        .underlay(Underlay::Bridge(WireOptions::default()))
        .build()?;
    let mut hosts: Vec<(usize, Host)> = Vec::new();
    for node in lab.nodes() {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        for other in lab.nodes().iter().filter(|n| n.index() != node.index()) {
            node.add_peer(other, false, if geneve { &["--encap", "geneve"] } else { &[] })?;
        }
    }
    for (number, node) in lab.nodes().iter().enumerate() {
        let last = 10 * u16::from(node.index());
        let learning = format!("{}-l", node.name());
        hosts.push((number, add_host(&lab, node, &format!("{}-p", node.name()), ONE, last, &[])?));
        hosts.push((number, add_host(&lab, node, &learning, ONE, last + 1, &["--learning"])?));
    }
    for node in lab.nodes() {
        node.settle()?;
    }
    let mut pods = Vec::new();
    let mut wires = Vec::new();
    for (_, host) in &hosts {
        pods.push(Capture::start(host.ns(), "eth0")?);
    }
    for node in lab.nodes() {
        wires.push(Capture::start(node.ns(), UPLINK)?);
    }
    let group: Mac = [0x33, 0x33, 0, 0, 0x12, 0x34];
    let text = |from: usize, round: usize, kind: &str| format!("<{kind} {from} {round}>");
    for (from, (_, host)) in hosts.iter().enumerate() {
        let injector = Injector::at(host)?;
        for round in 0..ROUNDS {
            let (v4, v6) = (text(from, round, "bc"), text(from, round, "mc"));
            let to4 = [10, 1, 1, 255].into();
            injector.send(&udp((injector.mac, BROADCAST), host.ip(false), to4, (7, 7), v4.as_bytes())?)?;
            let to6 = "ff02::1234".parse()?;
            injector.send(&udp((injector.mac, group), host.ip(true), to6, (7, 7), v6.as_bytes())?)?;
            // Unknown unicast: to where something unknown can be, which is behind the learning ports.
            let uu = text(from, round, "uu");
            let (nobody, ip) = ([0x0a, 0xff, 0, 0, 0, from as u8], [10, 1, 1, 99].into());
            injector.send(&udp((injector.mac, nobody), host.ip(false), ip, (7, 7), uu.as_bytes())?)?;
        }
    }
    // The last of each sender comes last on its way, so all copies have arrived with these.
    for (to, capture) in pods.iter().enumerate() {
        for from in (0..hosts.len()).filter(|&from| from != to) {
            let last = text(from, ROUNDS - 1, "mc");
            capture.wait_for(&last, LIMIT, |f| f.raw.bytes.ends_with(last.as_bytes()))?;
        }
    }
    for (number, (_, host)) in hosts.iter().enumerate() {
        // One unicast round trip behind everything, from every pod to every other.
        for (_, to) in hosts.iter().filter(|(_, to)| to.v4 != host.v4) {
            lab::probe::ping(host.ns(), to.ip(number % 2 == 0))?;
        }
    }
    for (to, capture) in pods.into_iter().enumerate() {
        let captured = capture.stop();
        ensure!(captured.missed == 0, "{} frames missed", captured.missed);
        let learning = to % 2 == 1;
        for from in 0..hosts.len() {
            for round in 0..ROUNDS {
                for (kind, everybody) in [("bc", true), ("mc", true), ("uu", learning)] {
                    let found = copies(&captured, false, text(from, round, kind).as_bytes());
                    let wanted = usize::from(from != to && everybody);
                    let (from, to) = (hosts[from].1.pod.name(), hosts[to].1.pod.name());
                    ensure!(
                        found == wanted,
                        "{to} got {found} copies of {kind} {round} of {from}, not {wanted}"
                    );
                }
            }
        }
    }
    // On the wire: one copy per peer from the node of the sender, none from any other.
    for (number, wire) in wires.into_iter().enumerate() {
        let captured = wire.stop();
        for (from, (home, host)) in hosts.iter().enumerate() {
            for round in 0..ROUNDS {
                for kind in ["bc", "mc", "uu"] {
                    let found = copies(&captured, true, text(from, round, kind).as_bytes());
                    let wanted = if *home == number { 2 } else { 0 };
                    ensure!(
                        found == wanted,
                        "node {number} sent {found} copies of {kind} {round} of {}, not {wanted}",
                        host.pod.name()
                    );
                }
            }
        }
    }
    converse(&hosts[0].1, &hosts[4].1, false, 1_000_000)?;
    converse(&hosts[3].1, &hosts[5].1, true, 1_000_000)?;
    check(lab.nodes(), &[])
}

pub fn over_vxlan() -> Result<()> {
    flood("bumv", false)
}

pub fn over_geneve() -> Result<()> {
    flood("bumg", true)
}
