//! `kill -9` of the switch process of one node or the other at random moments, while pods talk over TCP, datagrams are
//! counted, and somebody changes the configuration.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::common::{Host, Mode, Setup, World, note};
use crate::process::{Held, device, healthy, kill_switch, read_log, resets};
use crate::stream::{Heard, Stream};
use crate::talk::{Talk, Told, all_move};
use crate::writer::{Kills, Tally, Writer, sum, write};
use lab::conserve::check;
use lab::harness::setting;
use lab::impair::Rng;
use lab::probe::ping;
use lab::{Context, Error, Result, ensure};

/// Between two kills, in milliseconds.
const BETWEEN: (u64, u64) = (60, 400);
/// A monitor starts so many at once; more kills on a node are spread out to what it starts per second.
const AT_ONCE: u64 = 30;
const PACE: Duration = Duration::from_millis(520);
/// A silence that begins later than this after a kill has another cause.
const AFTERMATH: Duration = Duration::from_secs(2);
/// A silence begins with the last datagram, a little before the kill, and is not that of the kill before.
const EDGE: Duration = Duration::from_millis(10);
/// No gap may be longer. Not a claim about speed.
const BOUND: Duration = Duration::from_secs(1);
/// All connections together ask so often.
const QUESTIONS: Duration = Duration::from_micros(500);
/// Between two changes of the configuration.
const CHANGES: Duration = Duration::from_millis(50);
/// A connection goes on by then: what was lost is sent again after a pause that doubles.
const RESUMED: Duration = Duration::from_secs(20);

pub fn killed_again_and_again_bridged() -> Result<()> {
    run("killbr", Mode::Bridged)
}

pub fn killed_again_and_again_routed() -> Result<()> {
    run("killrt", Mode::Routed)
}

fn run(name: &str, mode: Mode) -> Result<()> {
    let seed = setting("LAB_SEED", 1);
    killed(name, mode, seed).context(format!("LAB_SEED={seed}"))
}

/// Everybody who talks.
pub struct Traffic {
    talks: Vec<Talk>,
    pub streams: [Stream; 2],
}

impl Traffic {
    pub fn start(world: &World, flows: u64, rate: u64) -> Result<Self> {
        let World { near, beside, far, .. } = world;
        let pairs = [(near, far), (far, beside), (near, beside), (far, near), (beside, far), (beside, near)];
        let pause = QUESTIONS * flows as u32;
        let talk = |n: u64| {
            let (from, to) = pairs[n as usize % pairs.len()];
            let v6 = n / pairs.len() as u64 % 2 == 1;
            Talk::start(from.ns(), to.ns(), to.ip(v6), pause, n)
        };
        let talks = (0..flows).map(talk).collect::<Result<Vec<_>>>()?;
        let stream = |from: &Host, to: &Host, v6| Stream::start(from.ns(), to.ns(), to.ip(v6), rate);
        Ok(Self { talks, streams: [stream(near, far, false)?, stream(far, near, true)?] })
    }

    pub fn moves(&self) -> Result<()> {
        self.streams.iter().try_for_each(|stream| stream.moves(500, RESUMED))?;
        all_move(&self.talks, 3, RESUMED)
    }

    pub fn finish(self) -> Result<(Vec<Told>, Vec<Heard>)> {
        let streams = self.streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
        let talks = self.talks.into_iter().map(Talk::finish).collect::<Result<Vec<_>>>()?;
        Ok((talks, streams))
    }
}

fn killed(name: &str, mode: Mode, seed: u64) -> Result<()> {
    let (kills, flows) = (setting("LAB_KILLS", 25), setting("LAB_FLOWS", 20).max(1));
    let world = World::build(&Setup::new(name, mode))?;
    let (nodes, hosts) = (world.lab.nodes(), [&world.near, &world.beside, &world.far]);
    for v6 in [false, true] {
        ping(world.near.ns(), world.far.ip(v6))?;
        ping(world.beside.ns(), world.far.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    let spares = [world.lab.pod("spare-a")?, world.lab.pod("spare-b")?];
    let counts: [Kills; 2] = Default::default();
    let mut writers = Vec::new();
    for (n, ((node, kills), spare)) in nodes.iter().zip(&counts).zip(&spares).enumerate() {
        writers.push(Writer::new(node, kills, spare, seed.wrapping_add(n as u64))?);
    }
    let held = nodes.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    ensure!(held.iter().all(|held| held.processes() == 1), "not one switch process each: {held:?}");
    let devices = hosts.iter().map(|host| device(host.ns())).collect::<Result<Vec<_>>>()?;

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
        let mut last = [Instant::now(); 2];
        let mut kill = || -> Result<()> {
            for number in 1..=kills {
                let at = rng.below(2) as usize;
                let pause = BETWEEN.0 + rng.below(BETWEEN.1 - BETWEEN.0);
                let mut moment = Instant::now() + Duration::from_millis(pause);
                if kills > AT_ONCE {
                    moment = moment.max(last[at] + PACE);
                }
                // A random moment, not a state to wait for.
                std::thread::sleep(moment.saturating_duration_since(Instant::now()));
                ensure!(!writing.is_finished(), "the writers have given up before kill {number}");
                last[at] = Instant::now();
                moments.push(last[at]);
                counts[at].during(|| kill_switch(&nodes[at])).context(format!("kill {number}"))?;
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
    for (host, before) in hosts.iter().zip(&devices) {
        let (now, resets) = (device(host.ns())?, resets(host.ns())?);
        ensure!(now == *before, "{}: index and carrier changes {now:?}, were {before:?}", host.pod.name());
        ensure!(resets == 0, "{}: {resets} connections were reset", host.pod.name());
    }
    let (talks, streams) = traffic.finish()?;
    let mut ends = 0;
    for (node, held) in nodes.iter().zip(&held) {
        healthy(node)?;
        held.again_by(node)?;
        ends += read_log(node)? as u64;
    }
    ensure!(ends == kills, "{kills} kills, and the logs have {ends} ends");
    let longest = report(name, &moments, &calm, &streams)?;
    ensure!(longest < BOUND, "a gap of {longest:?}");
    tell(name, &talks, &sum(writers.iter().map(|w| w.tally)), lasted);
    check(nodes, &["egress-gone"])
}

/// The silences of both directions, and what was lost in them. Gives the longest.
pub fn report(name: &str, kills: &[Instant], calm: &[Heard], streams: &[Heard]) -> Result<Duration> {
    let mut gaps = Vec::new();
    for (n, &kill) in kills.iter().enumerate() {
        let end = kills.get(n + 1).map_or(kill + AFTERMATH, |next| (*next - EDGE).min(kill + AFTERMATH));
        gaps.extend(streams.iter().map(|heard| heard.longest(kill, end)).max());
    }
    gaps.sort();
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    let at = |share: f64| {
        gaps.get((gaps.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default()
    };
    let longest = at(1.0);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(3600)).ok_or("no clock")?;
    let quiet = calm.iter().map(|heard| heard.longest(long_ago, Instant::now())).max().unwrap_or_default();
    let total = |of: fn(&Heard) -> u64| -> u64 { streams.iter().map(of).sum() };
    note(format!(
        "{name}: {} kills; gap p50 {}, p99 {}, max {} (longest silence before the first kill {})",
        kills.len(),
        ms(at(0.5)),
        ms(at(0.99)),
        ms(longest),
        ms(quiet),
    ));
    note(format!(
        "{name}: {} of {} datagrams lost ({:.1} per kill), {} out of order, {} refused, slowest {}",
        total(Heard::lost),
        total(|h| h.sent),
        total(Heard::lost) as f64 / kills.len().max(1) as f64,
        total(|h| h.late),
        total(|h| h.refused),
        ms(streams.iter().map(|h| h.slowest).max().unwrap_or_default()),
    ));
    Ok(longest)
}

pub fn tell(name: &str, talks: &[Told], tally: &Tally, lasted: Duration) {
    note(format!(
        "{name}: {} connections, {} questions answered with {:.0} MB, none broken, the slowest in {:.0?}",
        talks.len(),
        talks.iter().map(|t| t.answered).sum::<u64>(),
        talks.iter().map(|t| t.bytes).sum::<u64>() as f64 / 1e6,
        talks.iter().map(|t| t.slowest).max().unwrap_or_default(),
    ));
    note(format!(
        "{name}: {} acknowledged changes, found {} times after a kill; {} requests made again; {:.0} s",
        tally.changes,
        tally.comparisons,
        tally.again,
        lasted.as_secs_f64()
    ));
}
