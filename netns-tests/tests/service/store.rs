//! `kill -9` of the whole daemon: pods keep their links, what was learned is there again, and the gap is short, because
//! the service manager has kept the descriptors.

use std::time::{Duration, Instant};

use crate::common::{Host, Mode, Setup, World, note};
use crate::process::{Held, device, healthy, resets, written};
use crate::stream::Stream;
use lab::conserve::check;
use lab::harness::setting;
use lab::probe::ping;
use lab::{Context, Error, Lab, Node, Result, ensure, wait};

/// No gap may be longer. Not a claim about speed.
const BOUND: Duration = Duration::from_secs(5);
/// A silence that begins later than this after a kill has another cause: the next one, say.
const AFTERMATH: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(10);

/// Two managed nodes in one subnet; pods `near` and `beside` on `a`, `far` on `b`. Their MACs are learned.
fn build(name: &str) -> Result<World> {
    let setup = Setup { ports: [&["--learning"]; 3], ..Setup::new(name, Mode::Bridged) };
    World::build_on(&setup, |lab: &Lab| lab.nodes().iter().try_for_each(|node| node.manage().map(drop)))
}

/// The index of the peer that an address was learned behind, and whether that is still believed without having been
/// seen anew.
fn learned(node: &Node, host: &Host) -> Result<(String, bool)> {
    let mac = lab::netns::format_mac(host.ns().mac("eth0")?);
    let shown = node.swctl(&["fdb", "show", "--mac", &mac])?;
    let one = shown.as_array().and_then(|list| list.first());
    let one = one.ok_or_else(|| Error::failed(format!("{mac} is not known on {}", node.name())))?;
    let stale = one["flags"].as_array().is_some_and(|flags| flags.contains(&"stale".into()));
    Ok((one["ifname"].to_string(), stale))
}

pub fn killed_monitors_cost_no_carrier() -> Result<()> {
    let kills = setting("LAB_MONITOR_KILLS", 5);
    let world = build("kept")?;
    let (a, hosts) = (world.a()?, [&world.near, &world.beside, &world.far]);
    for v6 in [false, true] {
        ping(world.near.ns(), world.far.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    let manager = a.manager().ok_or("no manager")?;
    let names = manager.names()?;
    let kinds = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
    ensure!(
        [kinds("port-"), kinds("underlay-"), kinds("control-"), kinds("memory")] == [4, 2, 1, 1],
        "kept: {names:?}"
    );
    let devices = hosts.iter().map(|host| device(host.ns())).collect::<Result<Vec<_>>>()?;
    let before = hosts.iter().map(|host| resets(host.ns())).collect::<Result<Vec<_>>>()?;
    let place = learned(a, &world.far)?.0;

    let rate = setting("LAB_RATE", 2000);
    let streams = [
        Stream::start(world.near.ns(), world.far.ns(), world.far.ip(false), rate)?,
        Stream::start(world.near.ns(), world.beside.ns(), world.beside.ip(true), rate)?,
    ];
    let (mut moments, mut held) = (Vec::new(), None);
    for number in 1..=kills {
        streams.iter().try_for_each(|stream| stream.moves(500, SOON)).context(format!("kill {number}"))?;
        // Once per second: what was learned since would be learned again.
        let before = written(a)?;
        wait::until_ok("what was learned is remembered", SOON, || {
            let now = written(a)?;
            if now >= before + 2 { Ok(()) } else { Err(Error::failed(format!("written {now} times"))) }
        })?;
        moments.push(Instant::now());
        a.kill9()?;
        a.restart()?;
        manager.is_ready(number + 1)?;
        let (again, _) = learned(a, &world.far).context(format!("kill {number}"))?;
        ensure!(again == place, "kill {number}: far was behind {place}, now {again}");
        if held.is_none() {
            healthy(a)?;
            held = Some(Held::by(a)?);
        }
    }
    streams.iter().try_for_each(|stream| stream.moves(500, SOON)).context("after the last kill")?;
    let heard = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;

    for (host, before) in hosts.iter().zip(&devices) {
        let now = device(host.ns())?;
        ensure!(
            now == *before,
            "device of {} (index, carrier changes): {before:?}, now {now:?}",
            host.pod.name()
        );
    }
    let after = hosts.iter().map(|host| resets(host.ns())).collect::<Result<Vec<_>>>()?;
    ensure!(after == before, "resets: {before:?}, now {after:?}");
    healthy(a)?;
    held.map_or(Ok(()), |held| held.again_by(a))?;
    ensure!(manager.names()?.len() == names.len(), "kept before {names:?}, now {:?}", manager.names()?);
    manager.check_deposits()?;

    let gap = |at: &Instant| heard.iter().map(|h| h.longest(*at, *at + AFTERMATH)).max().unwrap_or_default();
    let mut gaps: Vec<Duration> = moments.iter().map(gap).collect();
    gaps.sort();
    let longest = gaps.last().copied().unwrap_or_default();
    let lost: u64 = heard.iter().map(crate::stream::Heard::lost).sum();
    let sent: u64 = heard.iter().map(|h| h.sent).sum();
    note(format!(
        "{kills} kills of the monitor: gap p50 {:?}, longest {longest:?}, {lost} of {sent} datagrams lost; carrier kept",
        gaps.get(gaps.len() / 2).copied().unwrap_or_default()
    ));
    ensure!(longest < BOUND, "a gap of {longest:?}");
    check(world.lab.nodes(), &[])
}

/// Descriptors that nobody needs any more would hold devices and addresses.
pub fn what_is_let_go_is_not_kept() -> Result<()> {
    let world = build("letgo")?;
    let a = world.a()?;
    let manager = a.manager().ok_or("no manager")?;
    let ports = |count: usize| {
        wait::until_ok(&format!("{count} ports are kept"), SOON, || {
            let names = manager.names()?;
            let found = names.iter().filter(|name| name.starts_with("port-")).count();
            // Each with its paper.
            if found == 2 * count { Ok(()) } else { Err(Error::failed(format!("{names:?}"))) }
        })
    };
    ports(2)?;
    a.swctl_text(&["port", "del", "beside"])?;
    ports(1)?;
    world.beside.attach(a, &["--learning"])?;
    ports(2)?;
    ping(world.near.ns(), world.beside.ip(false))?;
    // Renamed while nobody looks: it is not the port's device any more, and another one is made.
    let index = device(world.near.ns())?.0;
    a.kill9()?;
    world.beside.ns().ip(["link set eth0 down", "link set eth0 name mine"])?;
    a.restart()?;
    healthy(a)?;
    ports(2)?;
    ping(world.far.ns(), world.near.ip(false))?;
    ensure!(device(world.near.ns())?.0 == index, "the device of near is another one");
    ping(world.far.ns(), world.beside.ip(false))?;
    wait::until_ok("the renamed device is gone", SOON, || {
        let links = world.beside.ns().ip_json(&["link", "show"])?;
        let there = links.as_array().into_iter().flatten().any(|link| link["ifname"] == "mine");
        if there { Err(Error::failed("it is there")) } else { Ok(()) }
    })?;
    // In order: what was said is that it stops, and the next one starts from what is kept all the same.
    a.restart()?;
    healthy(a)?;
    let (ready, stopping) = manager.ready_and_stopping()?;
    ensure!((ready, stopping) == (3, 1), "ready {ready} times, stopping {stopping} times");
    ensure!(
        device(world.near.ns())?.0 == index,
        "the device of near is another one after a restart in order"
    );
    ping(world.far.ns(), world.near.ip(false))?;
    check(world.lab.nodes(), &[])
}
