//! The underlay of a node.

use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, mtu, note};
use crate::process::{healthy, resets};
use crate::state::{LIMIT, port, until_told};
use crate::stream::Stream;
use crate::talk::Talk;
use lab::conserve::check;
use lab::flow::{UDP_SIZES, udp_echo};
use lab::probe::ping;
use lab::wire::UPLINK;
use lab::{Node, Result, ensure, wait};

/// Between two questions on a connection.
const PAUSE: Duration = Duration::from_millis(5);
/// A connection goes on by then.
const RESUMED: Duration = Duration::from_secs(20);

/// Everything that is there of the underlay is taken, and given back.
fn lost_and_back(name: &str, underlay_v6: bool) -> Result<()> {
    let world = World::build(&Setup { underlay_v6, ..Setup::new(name, Mode::Bridged) })?;
    let (near, beside, far, a) = (&world.near, &world.beside, &world.far, world.a()?);
    ping(near.ns(), far.ip(false))?;
    let talk = Talk::start(near.ns(), far.ns(), far.ip(false), PAUSE, 1)?;
    let back = Talk::start(far.ns(), near.ns(), near.ip(true), PAUSE, 2)?;
    let local = Stream::start(near.ns(), beside.ns(), beside.ip(false), 500)?;
    let address = match a.underlay(underlay_v6) {
        ip if underlay_v6 => format!("{ip}/64 dev {UPLINK} nodad"),
        ip => format!("{ip}/24 dev {UPLINK}"),
    };
    let remove = format!("addr del {}", address.trim_end_matches(" nodad"));
    let give = format!("addr add {address}");
    let down = format!("link set {UPLINK} down");
    // With the link goes the address of IPv6.
    let up = if underlay_v6 {
        vec![format!("link set {UPLINK} up"), give.clone()]
    } else {
        vec![format!("link set {UPLINK} up")]
    };
    let gone = if underlay_v6 { "no interface of this node has its address" } else { "is down" };
    for (take, words, give) in
        [(remove, "no interface of this node has its address", vec![give.clone()]), (down, gone, up)]
    {
        talk.moves(3, RESUMED)?;
        let since = Instant::now();
        a.ns().ip([&take])?;
        let told = until_told(a, "underlay", words, since)?;
        local.moves(100, LIMIT)?;
        let since = Instant::now();
        a.ns().ip(&give)?;
        healthy(a)?;
        let well = since.elapsed();
        for talk in [&talk, &back] {
            talk.moves(3, RESUMED)?;
        }
        note(format!(
            "{name}: {take}: told after {} ms; given back: well after {} ms, connections go on after {} ms",
            told.as_millis(),
            well.as_millis(),
            since.elapsed().as_millis()
        ));
    }
    talk.finish()?;
    back.finish()?;
    let heard = local.finish()?;
    ensure!(heard.lost() == 0, "{} of {} datagrams within the node were lost", heard.lost(), heard.sent);
    for host in [near, far] {
        ensure!(resets(host.ns())? == 0, "a connection of {} was reset", host.pod.name());
    }
    check(world.lab.nodes(), &["tx-error", "tx-down"])
}

pub fn an_underlay_that_comes_back_needs_no_restart() -> Result<()> {
    lost_and_back("ground4", false)?;
    lost_and_back("ground6", true)
}

/// Pods keep their devices and connections, and send smaller packets.
pub fn pods_follow_the_mtu_of_the_underlay() -> Result<()> {
    let world = World::build(&Setup::new("shrinks", Mode::Routed))?;
    let (near, far) = (&world.near, &world.far);
    ping(near.ns(), far.ip(false))?;
    let (a, b) = (world.a()?, world.b()?);
    let talk = Talk::start(near.ns(), far.ns(), far.ip(true), PAUSE, 1)?;
    let before = [port(a, "near")?.ifindex, port(b, "far")?.ifindex];
    for underlay in [1400, 1500] {
        talk.moves(10, RESUMED)?;
        let since = Instant::now();
        let set = |node: &Node| node.ns().ip([format!("link set {UPLINK} mtu {underlay}")]);
        // A veth pair: what one end may send, the other takes.
        set(a)?;
        set(b)?;
        for host in [near, far] {
            wait::until(&format!("MTU of {}", host.pod.name()), LIMIT, || {
                (mtu(host.ns(), "eth0").ok()? == underlay - 50).then_some(())
            })?;
        }
        note(format!("underlay MTU {underlay}: pods have theirs after {} ms", since.elapsed().as_millis()));
        [a, b].into_iter().try_for_each(healthy)?;
        talk.moves(10, RESUMED)?;
        for v6 in [false, true] {
            udp_echo(near.ns(), far.ns(), far.ip(v6), &UDP_SIZES, 1)?;
        }
    }
    talk.finish()?;
    ensure!(before == [port(a, "near")?.ifindex, port(b, "far")?.ifindex], "devices were made anew");
    ensure!(resets(near.ns())? == 0 && resets(far.ns())? == 0, "connections were reset");
    // What was on its way when the MTU changed.
    check(world.lab.nodes(), &["too-big", "tx-oversize"])
}
