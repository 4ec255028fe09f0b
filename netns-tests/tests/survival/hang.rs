//! A switch process that is there and does nothing: the monitor notices, and puts another in its place.

use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note};
use crate::process::{
    Held, device, healthy, next_process, read_log, resets, runs, send, setting, switch_process,
};
use crate::stream::Stream;
use crate::talk::{Talk, all_move};
use lab::conserve::check;
use lab::probe::ping;
use lab::{Result, ensure, wait};
use rustix::process::Signal;

/// No hang may last longer. Not a claim about speed.
const BOUND: Duration = Duration::from_secs(10);
/// Between two questions on a connection.
const PAUSE: Duration = Duration::from_millis(5);

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
    let mut silences = Vec::new();
    for hang in 0..hangs {
        stream.moves(100, BOUND)?;
        all_move(&talks, 3, BOUND)?;
        let node = &nodes[hang as usize % nodes.len()];
        let (monitor, pid) = (node.swd_pid()?, switch_process(node)?);
        let stopped = Instant::now();
        send(pid, Signal::STOP)?;
        let other = next_process(node, pid)?;
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
        "hang: {hangs} times stopped; silence p50 {:.2?}, max {:.2?}; {} of {} datagrams lost; no connection broken",
        silences.get(silences.len() / 2).copied().unwrap_or_default(),
        silences.last().copied().unwrap_or_default(),
        heard.lost(),
        heard.sent,
    ));
    check(nodes, &[])
}
