//! Links and what is on them.

use std::time::Instant;

use crate::common::{Mode, Setup, World, add_host, note};
use crate::device::{DROPS, limbo, tell};
use crate::event::{Event, Victim};
use crate::process::healthy;
use crate::state::{Shown, port, status, until_port};
use crate::stream::Stream;
use lab::conserve::check;
use lab::probe::ping;
use lab::{Result, ensure};

/// Times that a link goes down and up in a row.
const FLAPS: usize = 300;

fn suffered(name: &str, events: &[Event]) -> Result<()> {
    let world = World::build(&Setup::new(name, Mode::Bridged))?;
    let (lab, a) = (&world.lab, world.a()?);
    let limbo = limbo(lab)?;
    let host = add_host(lab, a, "pod", ("10.1.1", "fd00:1"), 9, &[])?;
    let mut victim = Victim { lab, node: a, host };
    let index = port(a, "pod")?.ifindex;
    for &event in events {
        tell(event, &victim.suffer(event, limbo.ns())?);
        for v6 in [false, true] {
            ping(victim.host.ns(), world.far.ip(v6))?;
        }
    }
    ensure!(port(a, "pod")?.ifindex == index, "the device was made anew");
    healthy(a)?;
    check(lab.nodes(), DROPS)
}

pub fn what_the_kernel_takes_is_given_back() -> Result<()> {
    suffered("taken", &[Event::Down, Event::Flap, Event::Down])
}

pub fn what_a_pod_changes_is_told() -> Result<()> {
    suffered("changed", &[Event::Mtu, Event::Mac, Event::Address, Event::Route])
}

/// It costs the daemon little, the log is not filled, and in the end everything is there.
pub fn a_flapping_link_holds_up_nobody() -> Result<()> {
    let world = World::build(&Setup::new("flaps", Mode::Bridged))?;
    let (near, beside, a) = (&world.near, &world.beside, world.a()?);
    let host = add_host(&world.lab, a, "pod", ("10.1.1", "fd00:1"), 9, &[])?;
    ping(host.ns(), near.ip(false))?;
    let stream = Stream::start(near.ns(), beside.ns(), beside.ip(false), 500)?;
    let begun = Instant::now();
    let flaps = ["link set eth0 down", "link set eth0 up"].repeat(FLAPS);
    host.ns().ip(flaps)?;
    let (lasted, since) = (begun.elapsed(), Instant::now());
    let whole = until_port(a, "pod", "is well", since, Shown::well)?;
    note(format!(
        "a link down and up {FLAPS} times in {} ms; well {} ms later",
        lasted.as_millis(),
        whole.as_millis()
    ));
    for v6 in [false, true] {
        ping(host.ns(), near.ip(v6))?;
    }
    let heard = stream.finish()?;
    ensure!(heard.lost() == 0, "{} of {} datagrams of others were lost", heard.lost(), heard.sent);
    let log = std::fs::read_to_string(a.log())?;
    let lines = log.lines().filter(|line| line.contains("port changed")).count();
    ensure!(lines <= 20, "{lines} lines in the log");
    healthy(a)?;
    check(world.lab.nodes(), DROPS)
}

/// A daemon without CAP_NET_BROADCAST says so, and everything else is as it was.
pub fn without_the_right_it_is_looked_now_and_then() -> Result<()> {
    let world = World::build(&Setup::new("deaf", Mode::Bridged))?;
    let a = world.a()?;
    a.stop_swd()?;
    let without = lab::swd::SwdOptions {
        underlay: Some(a.underlay4().into()),
        wrapper: ["setpriv", "--bounding-set=-net_broadcast", "--inh-caps=-all"].map(str::to_owned).to_vec(),
        ..lab::swd::SwdOptions::default()
    };
    a.start_swd_with(&without)?;
    let watch = status(a)?["watch"].as_str().unwrap_or_default().to_owned();
    ensure!(watch == "looks at 128 ports per second: no CAP_NET_BROADCAST", "{watch}");
    let (before, since) = (port(a, "near")?.ifindex, Instant::now());
    world.near.ns().ip(["link del eth0"])?;
    let again = |shown: &Shown| shown.well() && shown.ifindex != before;
    let took = until_port(a, "near", "has another device", since, again)?;
    note(format!("without events: a deleted device noticed after {} ms", took.as_millis()));
    ping(world.near.ns(), world.far.ip(false))?;
    check(world.lab.nodes(), DROPS)
}
