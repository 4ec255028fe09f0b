//! A day of events in ten minutes: what a daemon holds does not grow with what has happened.
//!
//! `LAB_SOAK_SECONDS=600 LAB_TEST_TIMEOUT=900 cargo test -p netns-tests --test survival -- --test-threads 1 soak` is the
//! whole of it; by default a short one keeps the script honest. Events come at the pace of the long run whatever the
//! length: pods that come and go, routes, addresses learned anew, links that flap; traffic runs all the while. Restarts
//! are not among them: the memory of one process is compared with its own. `kills` has them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note, run};
use crate::process::{Held, healthy, read_log, switch_process};
use crate::stream::Stream;
use crate::talk::Talk;
use lab::conserve::check;
use lab::harness::setting;
use lab::packet_socket::PacketSocket;
use lab::probe::ping;
use lab::rawframe::Udp;
use lab::{Context, Error, Lab, Node, Result, ensure, wait};

/// Of the long run.
const DAY: u64 = 600;
/// Events of a day, each with its undoing.
const PODS: u64 = 1440;
const ROUTES: u64 = 2880;
const FLAPS: u64 = 100;
/// Frames from addresses that a learning port uses in turn.
const REFRESHES: u64 = 86_400;
/// Addresses that are used in turn.
const ADDRESSES: u8 = 60;
/// The run's share before which memory may grow: the second minute.
const SETTLED: f64 = 0.2;
/// Of a short run. Caches fill, and a page more is a larger share.
const LOOSE: f64 = 25.0;
/// Of the long run, in percent.
const STRICT: f64 = 1.0;
const SOON: Duration = Duration::from_secs(20);

/// What one process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// Its share of the memory, in KiB.
    pss: u64,
    /// All the memory that it maps and that is there, in KiB.
    rss: u64,
    files: usize,
    threads: usize,
}

impl Sample {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).context(&path)?;
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count);
        let (pss, rss) = (number("Pss:"), number("Rss:"));
        Ok(Self { pss, rss, files: count("fd")?, threads: count("task")? })
    }
}

/// The middle one of a few samples, by memory: a request that is being served is no growth.
fn typical(samples: &[Sample]) -> Sample {
    let mut sorted = samples.to_vec();
    sorted.sort_by_key(|sample| sample.rss);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Does `event` so many times per day for as long as `stop` says.
fn at_pace(
    per_day: u64,
    stop: &AtomicBool,
    count: &AtomicU64,
    mut event: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    let pace = Duration::from_secs_f64(DAY as f64 / per_day as f64);
    for number in 0.. {
        // An even pace, not a state to wait for.
        while !stop.load(Relaxed) && begun.elapsed() < pace * number {
            std::thread::sleep(Duration::from_millis(1));
        }
        if stop.load(Relaxed) {
            break;
        }
        event(u64::from(number)).context(format!("event {number}"))?;
        count.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn pods(lab: &Lab, node: &Node, number: u64) -> Result<()> {
    let pod = lab.pod(&format!("day{}", number % 8))?;
    node.add_port(&pod, "pods", &[&format!("10.1.1.{}/24", 100 + number % 100)])?;
    node.swctl_text(&["port", "del", pod.name()])?;
    pod.delete();
    Ok(())
}

fn routes(node: &Node, number: u64) -> Result<()> {
    let net = format!("10.{}.{}.0/24", 100 + number / 256 % 100, number % 256);
    run(node, &format!("route add {net} --blackhole"))?;
    run(node, &format!("route del {net}")).map(drop)
}

pub fn soak() -> Result<()> {
    let seconds = setting("LAB_SOAK_SECONDS", 20).max(10);
    let learning: &[&str] = &["--learning"];
    // The kernel takes routes and IPv6 addresses from a device that goes down. The pod that flaps can do without.
    let flapping: &[&str] = &["--learning", "--no-default-route"];
    let setup = Setup { ports: [learning, flapping, learning], ..Setup::new("soak", Mode::Bridged) };
    let world = World::build(&setup)?;
    let (a, hosts) = (world.a()?, [&world.near, &world.beside, &world.far]);
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        ping(hosts[from].ns(), hosts[to].ip(false))?;
        ping(hosts[from].ns(), hosts[to].ip(true))?;
    }
    world.beside.ns().sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1")?;
    // One of everything before anything is compared.
    pods(&world.lab, a, 0)?;
    routes(a, 0)?;
    healthy(a)?;
    let held = Held::by(a)?;
    let pids = [a.swd_pid()?, switch_process(a)?];

    let rate = setting("LAB_RATE", 2000);
    let streams = [
        Stream::start(world.near.ns(), world.far.ns(), world.far.ip(false), rate)?,
        Stream::start(world.far.ns(), world.near.ns(), world.near.ip(true), rate)?,
    ];
    let talk = Talk::start(world.near.ns(), world.far.ns(), world.far.ip(true), Duration::from_millis(5), 1)?;
    let raw = PacketSocket::open(world.near.ns(), "eth0", false)?;
    let beside = world.beside.ns().mac("eth0")?;
    let stop = AtomicBool::new(false);
    let counts: [AtomicU64; 4] = Default::default();
    let mut samples: [Vec<Sample>; 2] = Default::default();
    std::thread::scope(|scope| -> Result<()> {
        let (stop, counts, world) = (&stop, &counts, &world);
        let refresh = |number: u64| -> Result<()> {
            let mac = [0x0e, 0, 0, 0, 0, number as u8 % ADDRESSES];
            // To the pod's MAC, but not to its address: its stack does not answer.
            let (src, dst) = (([10, 1, 1, 200].into(), 7), ([10, 1, 1, 201].into(), 7));
            let udp = Udp { eth_src: mac, eth_dst: beside, src, dst, ttl: 64, payload: b"refresh" };
            raw.send(&udp.frame()?).context("sending a frame")
        };
        let flap = |_| world.beside.ns().ip(["link set eth0 down", "link set eth0 up"]);
        let events = [
            scope.spawn(move || at_pace(PODS, stop, &counts[0], |n| pods(&world.lab, a, n + 1))),
            scope.spawn(move || at_pace(ROUTES, stop, &counts[1], |n| routes(a, n + 1))),
            scope.spawn(move || at_pace(REFRESHES, stop, &counts[2], refresh)),
            scope.spawn(move || at_pace(FLAPS, stop, &counts[3], flap)),
        ];
        let mut look = || -> Result<()> {
            let begun = Instant::now();
            for second in 1..=seconds {
                wait::until("the next second", SOON, || {
                    let over = begun.elapsed() >= Duration::from_secs(second);
                    (over || events.iter().any(|event| event.is_finished())).then_some(())
                })?;
                ensure!(
                    !events.iter().any(|event| event.is_finished()),
                    "events have ended in second {second}"
                );
                for (pid, samples) in pids.iter().zip(&mut samples) {
                    samples.push(Sample::of(*pid)?);
                }
            }
            Ok(())
        };
        let looked = look();
        stop.store(true, Relaxed);
        for event in events {
            event.join().unwrap_or_else(|_| Err(Error::failed("an event panicked")))?;
        }
        looked
    })?;
    streams.iter().try_for_each(|stream| stream.moves(500, SOON)).context("after the last event")?;
    let told = talk.finish()?;
    let heard = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
    let [pods, routes, refreshes, flaps] = counts.map(|count| count.load(Relaxed));
    let lost: u64 = heard.iter().map(crate::stream::Heard::lost).sum();
    let sent: u64 = heard.iter().map(|h| h.sent).sum();
    note(format!(
        "soak of {seconds} s: {pods} pods and {routes} routes came and went, {refreshes} addresses were refreshed, \
         {flaps} links flapped; {lost} of {sent} datagrams lost, {} answers over TCP",
        told.answered
    ));

    let mut grown = Vec::new();
    for (role, samples) in ["monitor", "switch process"].into_iter().zip(&samples) {
        let window = (samples.len() / 10).max(3);
        let from = (samples.len() as f64 * SETTLED) as usize;
        let settled = typical(samples.get(from..from + window).unwrap_or_default());
        let end = typical(samples.get(samples.len() - window..).unwrap_or_default());
        let percent = |from: u64, to: u64| 100.0 * (to as f64 - from as f64) / from as f64;
        let (rss, pss) = (percent(settled.rss, end.rss), percent(settled.pss, end.pss));
        note(format!(
            "soak, {role}: second {from} RSS {} KiB, PSS {} KiB, {} files, {} threads; end RSS {} KiB ({rss:+.2} %), \
             PSS {} KiB ({pss:+.2} %), {} files, {} threads",
            settled.rss,
            settled.pss,
            settled.files,
            settled.threads,
            end.rss,
            end.pss,
            end.files,
            end.threads
        ));
        if rss > if seconds >= DAY { STRICT } else { LOOSE } {
            grown.push(format!("memory of the {role} by {rss:.2} %"));
        }
    }
    ensure!(grown.is_empty(), "grown: {grown:?}");
    ensure!([a.swd_pid()?, switch_process(a)?] == pids, "there are other processes now");
    healthy(a)?;
    held.again_by(a)?;
    ensure!(read_log(a)? == 0, "a switch process has ended");
    check(world.lab.nodes(), &["tx-down", "tx-error", "egress-gone", "no-port"])
}
