//! Learning under attack: a port that sends from random addresses fills its own share of the table
//! and nobody else's, addresses move when they move, and those that are declared do not.

use lab::capture::Capture;
use lab::conserve::check;
use lab::impair::Rng;
use lab::rawframe::{BROADCAST, Mac};
use lab::{Context, Lab, Node, Result, ensure, wait};

use crate::common::{Host, add_host, add_network, converse, start};
use crate::support::{
    BURST, Injector, LIMIT, Marker, copies, dropped_exactly, drops, is_start_of_a_stack, learned, located,
    start_alone, udp,
};

const ONE: (&str, &str) = ("10.1.1", "fd00:1");

fn node_of<'l>(lab: &'l Lab, swd: &[&str]) -> Result<&'l Node> {
    let a = lab.node("a")?;
    start_alone(a, swd)?;
    add_network(a, "pods", 1, &[ONE], &[])?;
    Ok(a)
}

/// Learned entries of all ports and peers.
fn table(node: &Node) -> Result<usize> {
    let reply = node.swctl(&["fdb", "show"])?;
    Ok(reply.as_array().into_iter().flatten().filter(|r| r["state"] == "learned").count())
}

/// From a MAC behind a learning port to a pod, with a text to find it by.
fn from(mac: Mac, to: &Host, text: &str) -> Result<Vec<u8>> {
    let dst = to.ns().mac("eth0")?;
    udp((mac, dst), [10, 1, 1, 200].into(), to.ip(false), (7, 7), text.as_bytes())
}

fn random_mac(rng: &mut Rng) -> Mac {
    let bytes = rng.next_u64().to_be_bytes();
    [0x0e, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
}

/// A learning port may use other addresses: all are heard, and as many as its limit are known.
pub fn learning_port_has_a_limit() -> Result<()> {
    let lab = Lab::new("limit").node("a").build()?;
    let a = node_of(&lab, &[])?;
    let bridge = add_host(&lab, a, "bridge", ONE, 2, &["--learning", "--mac-limit", "8"])?;
    let sink = add_host(&lab, a, "sink", ONE, 3, &[])?;
    a.settle()?;
    let (injector, marker) = (Injector::at(&bridge)?, Marker::at(&sink)?);
    let capture = Capture::start(sink.ns(), "eth0")?;
    let macs: Vec<Mac> = (0..108).map(|n| [0x0e, 0, 0, 0, 0, n]).collect();
    for (n, &mac) in macs.iter().enumerate() {
        injector.send(&from(mac, &sink, "other address")?)?;
        if n == 7 || n == 107 {
            injector.mark(&marker)?;
            let known = learned(a, "bridge")?;
            ensure!(known == 8, "{known} addresses are known after {}", n + 1);
        }
    }
    let captured = capture.stop();
    let heard = copies(&captured, false, b"other address");
    ensure!(heard == macs.len(), "{heard} of {} frames arrived", macs.len());
    // The oldest had to go, the newest are there.
    for (n, &mac) in macs.iter().enumerate().skip(90) {
        let place = located(a, mac)?;
        ensure!(place.as_deref() == (n >= 100).then_some("bridge"), "address {n} is at {place:?}");
    }
    for v6 in [false, true] {
        converse(&bridge, &sink, v6, 1_000_000)?;
    }
    check(lab.nodes(), &[])
}

/// 100,000 random sources from one port: what another port has taught stays, and is not flooded.
fn fdb_flood(name: &str, swd: &[&str], port: &[&str], most: usize) -> Result<()> {
    const COUNT: usize = 100_000;
    let lab = Lab::new(name).node("a").build()?;
    let a = node_of(&lab, swd)?;
    let more = [&["--learning"], port].concat();
    let evil = add_host(&lab, a, "evil", ONE, 2, &more)?;
    let other = add_host(&lab, a, "other", ONE, 3, &["--learning"])?;
    let witness = add_host(&lab, a, "witness", ONE, 4, &["--learning"])?;
    let sink = add_host(&lab, a, "sink", ONE, 5, &[])?;
    a.settle()?;
    let (injector, marker) = (Injector::at(&evil)?, Marker::at(&sink)?);
    // Hosts behind the other learning port, known before the flood.
    let guests: Vec<Mac> = (0..16).map(|n| [0x0a, 0, 0, 0, 0, n]).collect();
    let behind = Injector::at(&other)?;
    for &mac in &guests {
        behind.send(&from(mac, &sink, "guest")?)?;
    }
    behind.mark(&marker)?;
    ensure!(learned(a, "other")? == guests.len(), "the guests are not known");

    let mut rng = Rng::new(100);
    let mut frame = from([0; 6], &sink, "flood")?;
    for n in 0..COUNT {
        frame[6..12].copy_from_slice(&random_mac(&mut rng));
        injector.send(&frame)?;
        if n % BURST == BURST - 1 {
            injector.mark(&marker)?;
        }
    }
    injector.mark(&marker)?;
    let (all, of_evil) = (table(a)?, learned(a, "evil")?);
    ensure!(all <= most, "the table has {all} entries, at most {most} wanted");
    ensure!(of_evil >= most - 32, "only {of_evil} are learned from the flood, {all} in all");
    for &mac in &guests {
        let place = located(a, mac)?;
        ensure!(place.as_deref() == Some("other"), "a guest is at {place:?} after the flood");
    }

    // From the sink to each guest: there, and nowhere else. Then to one that nobody knows: flooded,
    // which shows that the witnesses would have seen it.
    let back = Injector::at(&sink)?;
    let captures = [&evil, &other, &witness].map(|host| Capture::start(host.ns(), "eth0"));
    let unknown = [0x0a, 0xff, 0, 0, 0, 1];
    let to = |mac: Mac, text: &str| {
        udp((back.mac, mac), sink.ip(false), [10, 1, 1, 200].into(), (7, 7), text.as_bytes())
    };
    for &mac in &guests {
        back.send(&to(mac, "to a guest")?)?;
    }
    back.send(&to(unknown, "to nobody")?)?;
    let [in_evil, in_other, in_witness] = captures;
    let (in_evil, in_other, in_witness) = (in_evil?, in_other?, in_witness?);
    for capture in [&in_evil, &in_other, &in_witness] {
        capture.wait_for("the flooded frame", LIMIT, |f| f.raw.bytes.ends_with(b"to nobody"))?;
    }
    for (capture, wanted) in [(in_evil, 0), (in_other, guests.len()), (in_witness, 0)] {
        let found = copies(&capture.stop(), false, b"to a guest");
        ensure!(found == wanted, "{found} frames to guests where {wanted} belong");
    }
    for v6 in [false, true] {
        converse(&other, &sink, v6, 1_000_000)?;
        converse(&evil, &sink, v6, 1_000_000)?;
    }
    check(lab.nodes(), &[])
}

pub fn flood_is_held_to_the_ports_share() -> Result<()> {
    // The default limit of a port.
    fdb_flood("fdbport", &[], &[], 1024 + 16)
}

pub fn flood_is_held_to_the_table() -> Result<()> {
    fdb_flood("fdbtab", &["--fdb-limit", "4096"], &["--mac-limit", "60000"], 4096)
}

/// An address that is heard elsewhere is found there from the next frame on: between learning ports
/// and between nodes. A declared one cannot be taken.
pub fn addresses_move() -> Result<()> {
    let lab = Lab::new("move").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let left = add_host(&lab, a, "left", ONE, 2, &["--learning"])?;
    let right = add_host(&lab, a, "right", ONE, 3, &["--learning"])?;
    let fixed = add_host(&lab, a, "fixed", ONE, 4, &[])?;
    let far = add_host(&lab, b, "far", ONE, 5, &["--learning"])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    let guest: Mac = [0x0a, 0, 0, 0, 0, 0x77];
    let places = [(&left, "left", "@a"), (&right, "right", "@a"), (&far, "@b", "far")];
    let sender = Injector::at(&fixed)?;
    let captures = places.map(|(host, ..)| Capture::start(host.ns(), "eth0"));
    let mut handles = Vec::new();
    for capture in captures {
        handles.push(capture?);
    }
    let tour = [0, 1, 0, 2, 1, 2, 0, 2, 2, 1];
    for (round, &place) in tour.iter().enumerate() {
        let (host, at_a, at_b) = places[place];
        let text = format!("moved {round}");
        let announce =
            udp((guest, BROADCAST), [10, 1, 1, 200].into(), [10, 1, 1, 255].into(), (7, 7), text.as_bytes())?;
        Injector::at(host)?.send(&announce)?;
        for (node, wanted) in [(a, at_a), (b, at_b)] {
            wait::until_ok(&format!("round {round}: {wanted} on {}", node.name()), LIMIT, || {
                let found = located(node, guest)?;
                ensure!(found.as_deref() == Some(wanted), "{found:?}");
                Ok(())
            })?;
        }
        let text = format!("follow {round}");
        sender.send(&udp(
            (sender.mac, guest),
            fixed.ip(false),
            [10, 1, 1, 200].into(),
            (7, 7),
            text.as_bytes(),
        )?)?;
        handles[place].wait_for(&text, LIMIT, |f| f.raw.bytes.ends_with(text.as_bytes()))?;
    }
    for (place, capture) in handles.into_iter().enumerate() {
        let wanted = tour.iter().filter(|&&p| p == place).count();
        let found = copies(&capture.stop(), false, b"follow ");
        ensure!(found == wanted, "{} got {found} frames instead of {wanted}", places[place].0.pod.name());
    }

    // Nobody takes the address of a declared port, from here or from the other node.
    let taken = fixed.ns().mac("eth0")?;
    let before = drops(a)?;
    // Not at the robbed pod: b, which cannot know better, looks for it behind its own port until the
    // pod is heard again.
    let marker = Marker::at(&right)?;
    let quiet = Capture::start(right.ns(), "eth0")?;
    for host in [&left, &far] {
        let thief = Injector::at(host)?;
        thief.send(&udp((taken, BROADCAST), host.ip(false), [10, 1, 1, 255].into(), (7, 7), b"thief")?)?;
        thief.mark(&marker).context(host.pod.name())?;
    }
    dropped_exactly(a, &before, &[("static-move", "left", 1), ("static-move", "@b", 1)])?;
    ensure!(located(a, taken)?.as_deref() == Some("fixed"), "the declared address moved");
    let stolen = copies(&quiet.stop(), false, b"thief");
    ensure!(stolen == 0, "{stolen} frames of the thief were forwarded on a");
    for v6 in [false, true] {
        lab::probe::ping(fixed.ns(), right.ip(v6))?;
        lab::probe::ping(fixed.ns(), far.ip(v6))?;
        converse(&far, &fixed, v6, 1_000_000)?;
        converse(&left, &fixed, v6, 1_000_000)?;
    }
    check(&lab.nodes()[..1], &["static-move"])?;
    check(&lab.nodes()[1..], &[])
}

/// Who has an address that the tables know is not a question to everybody.
pub fn known_addresses_are_not_asked_for() -> Result<()> {
    let lab = Lab::new("answer").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let p = add_host(&lab, a, "p", ONE, 2, &[])?;
    let q = add_host(&lab, a, "q", ONE, 3, &[])?;
    let witness = add_host(&lab, a, "witness", ONE, 4, &["--learning"])?;
    let far = add_host(&lab, b, "far", ONE, 5, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    // Heard once, the far pod is known as well.
    for v6 in [false, true] {
        lab::probe::ping(p.ns(), far.ip(v6))?;
    }
    let everywhere = [(&witness, "eth0"), (&q, "eth0"), (&far, "eth0")];
    let captures = everywhere.map(|(host, device)| Capture::start(host.ns(), device));
    for _ in 0..3 {
        for family in ["-4", "-6"] {
            p.ns().cmd("ip").args([family, "neigh", "flush", "dev", "eth0"]).run()?;
        }
        for v6 in [false, true] {
            lab::probe::ping(p.ns(), q.ip(v6))?;
            lab::probe::ping(p.ns(), far.ip(v6))?;
            lab::probe::ping(p.ns(), if v6 { "fd00:1::1".parse()? } else { [10, 1, 1, 1].into() })?;
        }
    }
    for (capture, (host, _)) in captures.into_iter().zip(everywhere) {
        let captured = capture?.stop();
        let question = |b: &[u8]| {
            let arp = b.get(12..14) == Some(&[8, 6]) && b.get(21) == Some(&1) && b.first() == Some(&0xff);
            let nd =
                b.get(12..14) == Some(&[0x86, 0xdd]) && b.get(54) == Some(&135) && b.first() == Some(&0x33);
            arp || nd
        };
        let asked = captured.count(|f| !f.raw.outgoing && question(&f.raw.bytes) && !is_start_of_a_stack(f));
        ensure!(asked == 0 && captured.missed == 0, "{} was asked {asked} times", host.pod.name());
    }
    // A free address has to be asked for, and the witness hears it.
    let capture = Capture::start(witness.ns(), "eth0")?;
    lab::probe::no_ping(p.ns(), [10, 1, 1, 99].into())?;
    capture.wait_for("the question for a free address", LIMIT, |f| {
        f.raw.bytes.get(12..14) == Some(&[8, 6]) && f.raw.bytes.get(38..42) == Some(&[10, 1, 1, 99])
    })?;
    check(lab.nodes(), &[])
}
