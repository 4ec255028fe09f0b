//! Another version takes over while pods talk: no datagram is lost or overtaken, no connection breaks, no request is
//! refused; and a version that does not work does not take over.
//!
//! `LAB_UPGRADES` is how many upgrades, `LAB_LEARNED` how many MACs are handed over, `LAB_BROKEN` how many that are killed
//! at random moments.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note};
use crate::process::{Held, SOON, device, healthy, read_log, resets, runs, send, switch_process};
use crate::stream::{Heard, Stream};
use crate::talk::{Talk, all_move};
use crate::writer::{Kills, Writer, sum, write};
use lab::conserve::check;
use lab::harness::setting;
use lab::impair::Rng;
use lab::packet_socket::PacketSocket;
use lab::probe::ping;
use lab::rawframe::ethernet;
use lab::{Context, Error, Node, Pod, Result, ensure, wait};
use rustix::process::Signal;
use serde_json::Value;

const TALKS: u64 = 10;
/// A device's queue holds a second of it, should the machine be busy with other things.
const RATE: u64 = 1000;
/// Most frames of one visit to a device, which a process that is killed may have read and not sent.
const BATCH: u64 = 64;
const QUESTIONS: Duration = Duration::from_millis(5);
const CHANGES: Duration = Duration::from_millis(20);
const RESUMED: Duration = Duration::from_secs(20);
/// MACs that one node has learned.
const LEARNED: u64 = 1000;
/// The exit code of a command that was refused.
const REFUSED: i32 = 1;

/// Pods of two nodes that talk all the time.
struct Traffic {
    talks: Vec<Talk>,
    streams: Vec<Stream>,
}

impl Traffic {
    fn start(world: &World) -> Result<Self> {
        let World { near, beside, far, .. } = world;
        let pairs = [(near, far), (far, beside), (near, beside), (beside, far)];
        let talks = (0..setting("LAB_FLOWS", TALKS)).map(|n| {
            let (from, to) = pairs[n as usize % pairs.len()];
            Talk::start(from.ns(), to.ns(), to.ip(n % 2 == 1), QUESTIONS, n)
        });
        let rate = setting("LAB_RATE", RATE);
        let streams = [(near, far, false), (far, near, true), (beside, near, false)];
        let streams = streams.map(|(from, to, v6)| Stream::start(from.ns(), to.ns(), to.ip(v6), rate));
        Ok(Self {
            talks: talks.collect::<Result<_>>()?,
            streams: streams.into_iter().collect::<Result<_>>()?,
        })
    }

    fn moves(&self) -> Result<()> {
        self.streams.iter().try_for_each(|stream| stream.moves(200, RESUMED))?;
        all_move(&self.talks, 2, RESUMED)
    }

    /// Ends; nothing may be missing but what was lost with `crashes` of a process that forwarded.
    fn finish(self, name: &str, crashes: usize) -> Result<()> {
        let heard = self.streams.into_iter().map(Stream::finish).collect::<Result<Vec<Heard>>>()?;
        let told = self.talks.into_iter().map(Talk::finish).collect::<Result<Vec<_>>>()?;
        let total = |of: fn(&Heard) -> u64| heard.iter().map(of).sum::<u64>();
        let (sent, lost, late) = (total(|h| h.sent), total(Heard::lost), total(|h| h.late));
        note(format!(
            "{name}: {lost} of {sent} datagrams lost, {late} out of order; slowest {:.1} ms; {} connections, \
             {} questions answered, none broken",
            heard.iter().map(|h| h.slowest).max().unwrap_or_default().as_secs_f64() * 1e3,
            told.len(),
            told.iter().map(|t| t.answered).sum::<u64>(),
        ));
        ensure!(
            lost <= crashes as u64 * BATCH && late == 0,
            "{lost} lost in {crashes} crashes, {late} out of order"
        );
        Ok(())
    }
}

/// Fills the FDB of a node with this many MACs, all behind the port of one pod.
fn teach(world: &World, node: &Node, macs: u64) -> Result<Pod> {
    let crowd = world.lab.pod("crowd")?;
    node.add_port_with(&crowd, "pods", &[], &["--mac-limit", &macs.max(1).to_string()])?;
    node.settle()?;
    let socket = PacketSocket::open(crowd.ns(), "eth0", false)?;
    let to = world.near.ns().mac("eth0")?;
    // A queue that is full drops without a word: once more, then.
    wait::until_ok(&format!("{macs} MACs are learned"), SOON, || {
        for n in 0..macs {
            let [_, _, mac @ ..] = (0x0600_0000_0000 | n).to_be_bytes();
            // An EtherType for experiments, which nobody listens to.
            let frame = [&ethernet(to, mac, 0x88b5)[..], &[0; 46]].concat();
            let _ = socket.send(&frame);
        }
        let known = known(node)?;
        ensure!(known >= macs, "{known}");
        Ok(())
    })?;
    Ok(crowd)
}

/// How many MACs a node knows behind the port of [`teach`].
fn known(node: &Node) -> Result<u64> {
    let rows = node.swctl(&["fdb", "show", "--port", "crowd"])?;
    Ok(rows.as_array().map_or(0, Vec::len) as u64)
}

/// Two programs of the same name, to go there and back.
fn programs(node: &Node) -> Result<[PathBuf; 2]> {
    let from = lab::swd::binary("swd")?;
    let copy = |name: &str| -> Result<PathBuf> {
        let path = node.dir().join(name);
        std::fs::copy(&from, &path).context(path.display())?;
        Ok(path)
    };
    Ok([copy("swd-new")?, copy("swd-old")?])
}

fn upgrade(node: &Node, program: &Path) -> Result<Value> {
    node.swctl(&["upgrade", "--binary", &program.display().to_string()])
}

/// The program that a process runs.
fn program_of(pid: u32) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).context(pid)
}

pub fn upgraded_there_and_back() -> Result<()> {
    let world = World::build(&Setup::new("upgrade", Mode::Routed))?;
    let (nodes, hosts) = (world.lab.nodes(), [&world.near, &world.beside, &world.far]);
    for v6 in [false, true] {
        ping(world.near.ns(), world.far.ip(v6))?;
        ping(world.beside.ns(), world.far.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    let macs = setting("LAB_LEARNED", LEARNED);
    let _crowd = teach(&world, &nodes[0], macs)?;
    let spares = [world.lab.pod("spare-a")?, world.lab.pod("spare-b")?];
    let counts: [Kills; 2] = Default::default();
    let mut writers = Vec::new();
    for (n, ((node, kills), spare)) in nodes.iter().zip(&counts).zip(&spares).enumerate() {
        writers.push(Writer::new(node, kills, spare, n as u64)?);
    }
    let devices = hosts.iter().map(|host| device(host.ns())).collect::<Result<Vec<_>>>()?;
    let monitors = nodes.iter().map(Node::swd_pid).collect::<Result<Vec<_>>>()?;
    let programs = nodes.iter().map(programs).collect::<Result<Vec<_>>>()?;
    // After the first one, whatever the program keeps is open.
    for (node, programs) in nodes.iter().zip(&programs) {
        upgrade(node, &programs[1])?;
    }
    let held = nodes.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    let traffic = Traffic::start(&world)?;
    traffic.moves().context("before the first upgrade")?;

    let upgrades = setting("LAB_UPGRADES", 8);
    let stop = AtomicBool::new(false);
    let mut pauses = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let (stop, writers) = (&stop, &mut writers);
        let writing = scope.spawn(move || write(writers, CHANGES, || stop.load(SeqCst)));
        let mut all = || -> Result<()> {
            for n in 0..upgrades as usize {
                let (at, to) = (n % 2, &programs[n % 2][n / 2 % 2]);
                ensure!(!writing.is_finished(), "the writers have given up before upgrade {n}");
                let before = switch_process(&nodes[at])?;
                let said = counts[at].during(|| upgrade(&nodes[at], to)).context(format!("upgrade {n}"))?;
                pauses.push(said["paused_us"].as_u64().ok_or("no pause")?);
                let after = switch_process(&nodes[at])?;
                ensure!(after != before && !runs(before), "process {before} became {after}");
                for pid in [monitors[at], after] {
                    ensure!(program_of(pid)? == *to, "process {pid} runs {:?}", program_of(pid)?);
                }
                traffic.moves()?;
            }
            Ok(())
        };
        let done = all();
        stop.store(true, SeqCst);
        writing.join().unwrap_or_else(|_| Err(Error::failed("a writer panicked")))?;
        done
    })?;
    for writer in &mut writers {
        writer.compare()?;
        writer.clean_up()?;
    }
    traffic.finish("upgrade", 0)?;
    ensure!(known(&nodes[0])? >= macs, "{} MACs of {macs} are left", known(&nodes[0])?);
    for (host, before) in hosts.iter().zip(&devices) {
        let (now, resets) = (device(host.ns())?, resets(host.ns())?);
        ensure!(now == *before, "{}: index and carrier changes {now:?}, were {before:?}", host.pod.name());
        ensure!(resets == 0, "{}: {resets} connections were reset", host.pod.name());
    }
    for ((node, held), monitor) in nodes.iter().zip(&held).zip(&monitors) {
        healthy(node)?;
        ensure!(node.swd_pid()? == *monitor, "the daemon's process is another one");
        node.check_swd()?;
        held.again_by(node)?;
        ensure!(read_log(node)? == 0, "a switch process has ended");
    }
    let tally = sum(writers.iter().map(|w| w.tally));
    pauses.sort_unstable();
    let at = |share: f64| pauses[((pauses.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    note(format!(
        "upgrade: {upgrades} upgrades; frames waited p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; {} acknowledged \
         changes, found {} times after one; {} requests made again",
        at(0.5),
        at(0.99),
        at(1.0),
        tally.changes,
        tally.comparisons,
        tally.again,
    ));
    ensure!(tally.again == 0, "{} requests had to be made again", tally.again);
    check(nodes, &[])
}

/// A program that fails in a certain way.
fn misfit(node: &Node, kind: &str) -> Result<PathBuf> {
    let path = node.dir().join(kind);
    std::fs::copy(env!("CARGO_BIN_EXE_misfit"), &path).context(path.display())?;
    Ok(path)
}

/// How such a program fails, and what is said then.
const MISFITS: [(&str, &str); 4] = [
    ("silent", "it is no swd that can take over"),
    ("refusing", "this machine is not good enough"),
    ("exiting", "it ended: exit status: 3"),
    ("babbling", "it closed its connection"),
];
/// These take as long as they are given.
const SLOW: [(&str, &str); 2] =
    [("sleeping", "it does not answer within 5 s"), ("idle", "it is not ready after 30 s")];

pub fn a_version_that_does_not_work_does_not_take_over() -> Result<()> {
    let world = World::build(&Setup::new("misfit", Mode::Bridged))?;
    let node = world.a()?;
    ping(world.near.ns(), world.far.ip(false))?;
    let [good, _] = programs(node)?;
    upgrade(node, &good)?;
    let (monitor, switch, held) = (node.swd_pid()?, switch_process(node)?, Held::by(node)?);
    let traffic = Traffic::start(&world)?;
    traffic.moves()?;
    let broken = setting("LAB_BROKEN", 0);
    let slow = if broken > 0 { &SLOW[..] } else { &[] };
    for (kind, words) in MISFITS.iter().chain(slow) {
        let program = misfit(node, kind)?.display().to_string();
        let args = ["--timeout", "60", "upgrade", "--binary", &program];
        let output = node.swctl_here(&args)?.timeout(Duration::from_secs(60)).output()?;
        ensure!(output.code == REFUSED && output.stderr.contains(words), "{kind}: {output:?}");
        ensure!(switch_process(node)? == switch, "{kind}: another process forwards");
        traffic.moves().context(*kind)?;
        // Changes are made as before.
        node.swctl_text(&["route", "add", "10.99.0.0/24", "--blackhole"])?;
        node.swctl_text(&["route", "del", "10.99.0.0/24"])?;
    }
    traffic.finish("misfit", 0)?;
    ensure!(node.swd_pid()? == monitor && program_of(monitor)? == good, "the monitor is another one");
    healthy(node)?;
    held.again_by(node)?;
    check(world.lab.nodes(), &[])
}

/// How often a process was killed that had been told to begin: what it had read is gone with it. One that had not been
/// told costs nothing.
fn crashes(node: &Node) -> Result<usize> {
    let log = std::fs::read_to_string(node.log()).context(node.log().display())?;
    let begun = ["; starting another", "not upgraded: starting the new process"];
    Ok(log.lines().filter(|line| begun.iter().any(|words| line.contains(words))).count())
}

/// The process that prepares itself to take over from `old`, as soon as it is there.
fn successor(node: &Node, old: u32, over: &AtomicBool) -> Result<Option<u32>> {
    wait::until_ok("a new switch process", SOON, || {
        let all = node.swd_pids()?;
        match all.iter().skip(1).find(|&&pid| pid != old && runs(pid)) {
            Some(&pid) => Ok(Some(pid)),
            None if over.load(SeqCst) => Ok(None),
            None => Err(Error::failed("there is none")),
        }
    })
}

pub fn a_version_that_is_killed_on_its_way_does_no_harm() -> Result<()> {
    let world = World::build(&Setup::new("halfway", Mode::Bridged))?;
    let node = world.a()?;
    ping(world.near.ns(), world.far.ip(false))?;
    let programs = programs(node)?;
    upgrade(node, &programs[1])?;
    let (monitor, held) = (node.swd_pid()?, Held::by(node)?);
    let traffic = Traffic::start(&world)?;
    traffic.moves()?;
    let mut rng = Rng::new(setting("LAB_SEED", 1));
    let (mut stayed, mut over) = (0, 0);
    for n in 0..setting("LAB_BROKEN", 10) {
        let old = switch_process(node)?;
        let done = AtomicBool::new(false);
        let delay = Duration::from_micros(rng.below(25_000));
        let said = std::thread::scope(|scope| -> Result<_> {
            let killing = scope.spawn(|| -> Result<()> {
                let Some(new) = successor(node, old, &done)? else { return Ok(()) };
                // A random moment, not a state to wait for.
                std::thread::sleep(delay);
                // It may forward by now, or be gone.
                if runs(old) {
                    let _ = send(new, Signal::KILL);
                }
                Ok(())
            });
            let binary = programs[n as usize % 2].display().to_string();
            let output = node.swctl_output(&["upgrade", "--binary", &binary]);
            done.store(true, SeqCst);
            killing.join().unwrap_or_else(|_| Err(Error::failed("panicked")))?;
            output
        })?;
        let now = switch_process(node)?;
        match said.code {
            0 => {
                ensure!(now != old, "it was not replaced: {said:?}");
                over += 1;
            }
            REFUSED => {
                ensure!(now == old && said.stderr.contains("signal: 9"), "{now}, was {old}: {said:?}");
                stayed += 1;
            }
            _ => return Err(Error::failed(format!("{said:?}"))),
        }
        traffic.moves().context(format!("upgrade {n}"))?;
    }
    note(format!(
        "halfway: {stayed} times the old one went on, {over} times the new one was quicker than the kill"
    ));
    traffic.finish("halfway", crashes(node)?)?;
    ensure!(node.swd_pid()? == monitor, "the monitor is another one");
    healthy(node)?;
    held.again_by(node)?;
    check(world.lab.nodes(), &[])
}

pub fn another_monitor_takes_over() -> Result<()> {
    let world = World::build(&Setup::new("takeover", Mode::Routed))?;
    let node = world.a()?;
    ping(world.near.ns(), world.far.ip(false))?;
    let before = node.swctl(&["export"])?;
    let devices = [device(world.near.ns())?, device(world.beside.ns())?];
    let traffic = Traffic::start(&world)?;
    traffic.moves()?;
    let (monitor, switch) = (node.swd_pid()?, switch_process(node)?);
    // As in another container: what is shared is the directory of the socket.
    let since = Instant::now();
    let mut old = node.start_beside(&node.dir().join("state-2"), &["--take-over"])?;
    let code = old.wait(SOON)?;
    ensure!(code == 0, "exit code {code} of the one before");
    note(format!(
        "takeover: {:.0} ms from the start of the new daemon to the end of the old one",
        since.elapsed().as_secs_f64() * 1e3
    ));
    ensure!(node.swd_pid()? != monitor && !runs(switch), "the old processes run");
    traffic.moves()?;
    healthy(node)?;
    ensure!(node.swctl(&["export"])? == before, "what is declared is another");
    // It is durable where the new one has its disk.
    traffic.finish("takeover", 0)?;
    ensure!([device(world.near.ns())?, device(world.beside.ns())?] == devices, "the devices are others");
    node.kill9()?;
    node.restart()?;
    healthy(node)?;
    ensure!(node.swctl(&["export"])? == before, "what is declared has not come back");
    ping(world.near.ns(), world.far.ip(true))?;
    check(world.lab.nodes(), &[])
}
