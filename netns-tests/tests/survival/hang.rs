//! A switch process that is there and does nothing, or of which one thread does nothing any more: the monitor notices, and
//! puts another in its place.

use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note};
use crate::process::{Held, device, healthy, next_process, read_log, resets, runs, send, switch_process};
use crate::spin::spin;
use crate::stream::Stream;
use crate::talk::{Talk, all_move};
use lab::conserve::check;
use lab::harness::setting;
use lab::probe::ping;
use lab::{Context, Result, ensure, wait};
use rustix::process::Signal;

/// No hang may last longer. Not a claim about speed.
const BOUND: Duration = Duration::from_secs(10);
/// Between two questions on a connection.
const PAUSE: Duration = Duration::from_millis(5);

/// How a process comes to hang.
#[derive(Clone, Copy, Debug)]
enum Hang {
    /// All of it is stopped.
    Stopped,
    /// One thread is in an endless loop, the others go on.
    Spinning(&'static str),
}

impl Hang {
    const ALL: [Self; 2] = [Self::Stopped, Self::Spinning("swd-worker-0")];

    fn begin(self, pid: u32) -> Result<()> {
        match self {
            Self::Stopped => send(pid, Signal::STOP),
            Self::Spinning(thread) => spin(pid, thread),
        }
    }
}

pub fn stopped_and_spinning() -> Result<()> {
    let hangs = setting("LAB_HANGS", 2);
    let world = World::build(&Setup::new("hang", Mode::Bridged))?;
    let (near, beside, far) = (&world.near, &world.beside, &world.far);
    ping(near.ns(), far.ip(false))?;
    let nodes = world.lab.nodes();
    let held = nodes.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    let devices = [device(near.ns())?, device(far.ns())?];
    let talks = [
        Talk::start(near.ns(), far.ns(), far.ip(false), PAUSE, 1)?,
        Talk::start(far.ns(), near.ns(), near.ip(true), PAUSE, 2)?,
        Talk::start(beside.ns(), far.ns(), far.ip(false), PAUSE, 3)?,
    ];
    let stream = Stream::start(near.ns(), far.ns(), far.ip(false), 1000)?;
    let (mut silences, mut over) = (Vec::new(), Vec::new());
    for hang in 0..hangs {
        stream.moves(100, BOUND)?;
        all_move(&talks, 3, BOUND)?;
        let (node, way) = (&nodes[hang as usize % nodes.len()], Hang::ALL[hang as usize % Hang::ALL.len()]);
        let (monitor, pid) = (node.swd_pid()?, switch_process(node)?);
        let stopped = Instant::now();
        way.begin(pid)?;
        let other = next_process(node, pid).context(format!("hang {hang}, {way:?}"))?;
        over.push(stopped.elapsed());
        ensure!(other != monitor && node.swd_pid()? == monitor, "the monitor is not the one it was");
        stream.moves(100, BOUND)?;
        all_move(&talks, 3, BOUND)?;
        wait::until("the one that hung is gone", BOUND, || (!runs(pid)).then_some(()))?;
        let silence = stream.so_far()?.longest(stopped, Instant::now());
        ensure!(silence < BOUND, "{silence:?} without a datagram");
        silences.push(silence);
    }
    for (host, before) in [near, far].into_iter().zip(devices) {
        ensure!(device(host.ns())? == before, "the device of {} was made anew", host.pod.name());
        ensure!(resets(host.ns())? == 0, "a connection of {} was reset", host.pod.name());
    }
    for talk in talks {
        talk.finish()?;
    }
    let heard = stream.finish()?;
    let mut ends = 0;
    for (node, held) in nodes.iter().zip(&held) {
        healthy(node)?;
        held.again_by(node)?;
        ends += read_log(node)? as u64;
    }
    ensure!(ends == hangs, "{hangs} hangs, and the logs have {ends} ends");
    silences.sort();
    note(format!(
        "hang: {hangs} times stopped or in an endless loop; another process after {:.2?} at most; silence p50 {:.2?}, \
         max {:.2?}; {} of {} datagrams lost; no connection broken",
        over.iter().max().copied().unwrap_or_default(),
        silences.get(silences.len() / 2).copied().unwrap_or_default(),
        silences.last().copied().unwrap_or_default(),
        heard.lost(),
        heard.sent,
    ));
    check(nodes, &[])
}

/// The thread that talks to clients has more patience of the monitor, because it waits for disks. Frames do not notice, and
/// a command that was given meanwhile is answered.
pub fn a_control_thread_that_spins() -> Result<()> {
    let world = World::build(&Setup::new("ctlspin", Mode::Bridged))?;
    let (near, far, a) = (&world.near, &world.far, world.a()?);
    ping(near.ns(), far.ip(false))?;
    let before = device(near.ns())?;
    let stream = Stream::start(near.ns(), far.ns(), far.ip(false), 1000)?;
    stream.moves(100, BOUND)?;
    let pid = switch_process(a)?;
    let begun = Instant::now();
    spin(pid, "swd-switch")?;
    // Answered by whoever comes after; until then the command waits.
    let status = a.swctl_output(&["--timeout", "40", "status"])?;
    let answered = begun.elapsed();
    ensure!(status.code == 0, "exit code {}: {}{}", status.code, status.stdout, status.stderr);
    let other = next_process(a, pid)?;
    stream.moves(100, BOUND)?;
    let silence = stream.so_far()?.longest(begun, Instant::now());
    // That of any other death of a process, however long the thread has spun.
    ensure!(silence < Duration::from_secs(1), "{silence:?} without a datagram");
    ensure!(device(near.ns())? == before, "the device of near was made anew");
    healthy(a)?;
    ensure!(switch_process(a)? == other && read_log(a)? == 1, "not one switch process has ended");
    let heard = stream.finish()?;
    note(format!(
        "hang: the control thread in an endless loop; a command answered after {answered:.2?}; silence {silence:.2?}; \
         {} of {} datagrams lost",
        heard.lost(),
        heard.sent,
    ));
    check(world.lab.nodes(), &[])
}
