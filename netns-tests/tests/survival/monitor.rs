//! `kill -9` of the monitor, and with it of the whole daemon: pods keep their devices and their connections, and whoever
//! starts the daemon again has the network back.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World};
use crate::end::{devices, is_unserved};
use crate::kills::{Traffic, report, tell};
use crate::process::{Held, SOON, device, healthy, read_log, resets, send};
use crate::stream::Stream;
use crate::writer::{Kills, Writer, sum, write};
use lab::conserve::check;
use lab::harness::setting;
use lab::impair::Rng;
use lab::probe::ping;
use lab::{Context, Error, Node, Ns, Result, ensure, wait};
use rustix::process::{Signal, Uid};
use rustix::thread::set_thread_res_uid;

/// Between two kills, in milliseconds.
const BETWEEN: (u64, u64) = (60, 400);
/// Between two changes of the configuration.
const CHANGES: Duration = Duration::from_millis(50);
/// No gap may be longer. Not a claim about speed.
const BOUND: Duration = Duration::from_secs(10);

/// Kills the monitor, and starts the daemon as soon as it is gone, as a service manager does. Its switch process may be
/// there yet.
pub fn kill_monitor(node: &Node) -> Result<()> {
    send(node.swd_pid()?, Signal::KILL)?;
    node.restart()
}

pub fn the_monitor_is_killed_again_and_again() -> Result<()> {
    let seed = setting("LAB_SEED", 1);
    killed(seed).context(format!("LAB_SEED={seed}"))
}

fn killed(seed: u64) -> Result<()> {
    let (kills, flows) = (setting("LAB_MONITOR_KILLS", 5), setting("LAB_FLOWS", 20).max(1));
    let world = World::build(&Setup::new("monitor", Mode::Routed))?;
    let (nodes, hosts) = (world.lab.nodes(), [&world.near, &world.beside, &world.far]);
    for v6 in [false, true] {
        ping(world.near.ns(), world.far.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    let spares = [world.lab.pod("spare-a")?, world.lab.pod("spare-b")?];
    let counts: [Kills; 2] = Default::default();
    let mut writers = Vec::new();
    for (n, ((node, kills), spare)) in nodes.iter().zip(&counts).zip(&spares).enumerate() {
        writers.push(Writer::new(node, kills, spare, seed.wrapping_add(n as u64))?);
    }
    let held = nodes.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    let before = hosts.iter().map(|host| device(host.ns())).collect::<Result<Vec<_>>>()?;

    let traffic = Traffic::start(&world, flows, setting("LAB_RATE", 2000))?;
    traffic.moves().context("before the first kill")?;
    let begun = Instant::now();
    let calm = traffic.streams.iter().map(Stream::so_far).collect::<Result<Vec<_>>>()?;

    let stop = AtomicBool::new(false);
    let mut rng = Rng::new(seed);
    let mut moments = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let (stop, writers) = (&stop, &mut writers);
        let writing = scope.spawn(move || write(writers, CHANGES, || stop.load(SeqCst)));
        let mut kill = || -> Result<()> {
            for number in 1..=kills {
                let at = rng.below(2) as usize;
                // A connection that lost what it sent waits ever longer before it tries again.
                traffic.moves().context(format!("before kill {number}"))?;
                // A random moment, not a state to wait for.
                std::thread::sleep(Duration::from_millis(BETWEEN.0 + rng.below(BETWEEN.1 - BETWEEN.0)));
                ensure!(!writing.is_finished(), "the writers have given up before kill {number}");
                moments.push(Instant::now());
                counts[at].during(|| kill_monitor(&nodes[at])).context(format!("kill {number}"))?;
            }
            traffic.moves().context("after the last kill")
        };
        let killed = kill();
        stop.store(true, SeqCst);
        writing.join().unwrap_or_else(|_| Err(Error::failed("a writer panicked")))?;
        killed
    })?;
    let lasted = begun.elapsed();
    for writer in &mut writers {
        writer.compare()?;
        writer.clean_up()?;
    }
    for (host, (index, _)) in hosts.iter().zip(&before) {
        let (now, resets) = (device(host.ns())?.0, resets(host.ns())?);
        ensure!(now == *index, "the device of {} is another: {now}, was {index}", host.pod.name());
        ensure!(resets == 0, "{}: {resets} connections were reset", host.pod.name());
    }
    for spare in &spares {
        let left = devices(spare.ns())?;
        ensure!(left.is_empty(), "{left:?} are left in {}", spare.name());
    }
    let (talks, streams) = traffic.finish()?;
    wait::until_ok("the switch processes of killed monitors are buried", SOON, || {
        let unburied = zombies()?;
        ensure!(unburied.is_empty(), "{unburied:?}");
        Ok(())
    })?;
    for (node, held) in nodes.iter().zip(&held) {
        healthy(node)?;
        held.again_by(node)?;
        ensure!(read_log(node)? == 0, "a switch process of {} has ended by itself", node.name());
    }
    let longest = report("monitor", &moments, &calm, &streams)?;
    tell("monitor", &talks, &sum(writers.iter().map(|w| w.tally)), lasted);
    ensure!(longest < BOUND, "a gap of {longest:?}");
    check(nodes, &["egress-gone"])
}

/// Switch processes that have ended and that nobody has waited for.
fn zombies() -> Result<Vec<String>> {
    let stats = std::fs::read_dir("/proc")?.filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        stat.contains("(swd-switch) Z ").then_some(stat)
    });
    Ok(stats.collect())
}

/// What the kernel says to nobody who has got hold of `/dev/net/tun` in a namespace and attaches to a TAP.
fn attach_as_nobody(ns: &Ns, name: &str) -> Result<Result<File>> {
    ns.run_in(|| {
        let tun = open_tun()?;
        // Of this thread alone, which ends with this closure. With the user go the capabilities.
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).map_err(|e| match e {
            rustix::io::Errno::INVAL | rustix::io::Errno::PERM => Error::missing("no second user here"),
            e => e.into(),
        })?;
        Ok(attach(tun, name))
    })?
}

pub fn nobody_takes_a_device_that_nobody_serves() -> Result<()> {
    lab::enter::need_root("in a namespace of its own there is nobody else")?;
    let world = World::build(&Setup::new("hijack", Mode::Routed))?;
    let (a, near) = (world.a()?, world.near.ns());
    a.kill9()?;
    is_unserved(near)?;
    // One that has no owner can be taken, so a refusal below is the owner's doing.
    near.ip(["tuntap add dev open0 mode tap vnet_hdr"])?;
    let open = attach_as_nobody(near, "open0")?;
    ensure!(open.is_ok(), "a device without an owner: {open:?}");
    near.ip(["link del open0"])?;
    let ours = attach_as_nobody(near, "eth0")?;
    ensure!(
        ours.as_ref().is_err_and(|e| e.to_string().contains("not permitted")),
        "a pod's device: {ours:?}"
    );
    a.restart()?;
    healthy(a)?;
    ping(world.far.ns(), world.near.ip(true))?;
    check(world.lab.nodes(), &[])
}

pub fn a_device_that_somebody_holds_is_told_of_and_comes_back() -> Result<()> {
    let world = World::build(&Setup::new("deleted", Mode::Routed))?;
    let (a, near) = (world.a()?, world.near.ns());
    // Somebody holds the device of a port: it is degraded, nothing else is, and it comes back by itself.
    a.kill9()?;
    let held = near.run_in(|| attach(open_tun()?, "eth0"))??;
    a.restart()?;
    ping(world.beside.ns(), world.far.ip(false))?;
    let status = a.swctl_output(&["status"])?;
    ensure!(status.code == 6 && status.stdout.contains("held by another process"), "{}", status.stdout);
    drop(held);
    healthy(a)?;
    ping(near, world.far.ip(false))?;
    a.swctl_text(&["port", "del", "near"])?;
    ensure!(devices(near)?.is_empty(), "{:?} are left", devices(near)?);
    world.near.attach(a, &[])?;
    ping(near, world.far.ip(true))?;
    check(world.lab.nodes(), &[])
}

fn open_tun() -> Result<File> {
    File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")
}

/// Attaches to a TAP, as whoever has found a use for it.
fn attach(tun: File, name: &str) -> Result<File> {
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    // IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    request[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
    // SAFETY: TUNSETIFF (0x400454ca) reads and writes one `struct ifreq`, which is 40 bytes long.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) };
    if done == 0 {
        Ok(tun)
    } else {
        Err(std::io::Error::last_os_error()).context(format!("attaching to {name}"))
    }
}
