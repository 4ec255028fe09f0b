//! A pod whose guard admits nothing of what it sends, and which sends as much as it can while its daemon starts again and
//! again: no frame of it comes through before the tables with the guard are in force.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::{Host, Mode, Setup, World, note};
use crate::monitor::kill_monitor;
use crate::process::{SOON, healthy, kill_switch, resets, send};
use crate::talk::Talk;
use lab::conserve::{Ledger, check};
use lab::harness::setting;
use lab::packet_socket::{MAX_FRAME, PacketSocket};
use lab::probe::ping;
use lab::rawframe::{BROADCAST, Mac, Udp};
use lab::wire::UPLINK;
use lab::{Context, Error, Node, Ns, Result, ensure, wait};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;

/// In every frame of the flood, and in no other.
const MARK: &[u8] = b"through the deny-all guard";
/// Nobody's.
const FOREIGN: Mac = [0x06, 0x66, 0x66, 0x66, 0x66, 0x66];
/// Frames of the flood at a time, and the pause after them: 64,000 a second on a machine with nothing else to do.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// Of a watcher that sees nothing.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// The guard must have refused so many frames after each start, or the flood has proved nothing about it.
const REFUSED: u64 = 200;

/// How a daemon comes to start again.
#[derive(Clone, Copy, Debug)]
enum Start {
    SwitchKilled,
    MonitorKilled,
    Stopped,
    Upgraded,
}

impl Start {
    const ALL: [Self; 4] = [Self::SwitchKilled, Self::MonitorKilled, Self::Stopped, Self::Upgraded];

    fn run(self, node: &Node) -> Result<()> {
        match self {
            Self::SwitchKilled => kill_switch(node).map(drop),
            Self::MonitorKilled => kill_monitor(node),
            Self::Stopped => {
                send(node.swd_pid()?, Signal::TERM)?;
                node.stop_swd()?;
                node.restart()
            }
            Self::Upgraded => node.swctl(&["upgrade"]).map(drop),
        }
    }
}

/// Sends the same frames over and over until dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(ns: &Ns, frames: Vec<Vec<u8>>) -> Result<Self> {
        let socket = PacketSocket::open(ns, "eth0", false)?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                // A device without carrier or with a full queue takes nothing: that is what a start is like.
                let took =
                    frames.iter().cycle().take(BURST).filter(|frame| socket.send(frame).is_ok()).count();
                count.fetch_add(took as u64, Relaxed);
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Counts the frames of the flood that come out of a device, bare or in a tunnel.
struct Watcher {
    what: String,
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: JoinHandle<Result<u32>>,
}

impl Watcher {
    fn start(ns: &Ns, device: &str) -> Result<Self> {
        let socket = PacketSocket::open(ns, device, true)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || watch(&socket, &stopped, &count));
        Ok(Self { what: format!("{device} in {}", ns.name()), stop, seen, thread })
    }

    fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// How many it saw. An error if there were some that it may have missed.
    fn finish(self) -> Result<u64> {
        self.stop.store(true, Relaxed);
        let missed =
            self.thread.join().unwrap_or_else(|_| Err(Error::failed("panicked"))).context(&self.what)?;
        ensure!(missed == 0, "{}: {missed} frames went by unseen", self.what);
        Ok(self.seen.load(Relaxed))
    }
}

fn watch(socket: &PacketSocket, stop: &AtomicBool, seen: &AtomicU64) -> Result<u32> {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match socket.recv(&mut buffer) {
            Ok(Some(frame)) => {
                let marked = frame.bytes.windows(MARK.len()).any(|window| window == MARK);
                seen.fetch_add(marked.into(), Relaxed);
            }
            // What there was has been looked at.
            Ok(None) if stop.load(Relaxed) => return Ok(socket.dropped()?),
            Ok(None) => {
                poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], Some(&TICK))?;
            }
            // The device lost its carrier while its daemon was away.
            Err(e) if e.kind() == ErrorKind::NetworkDown => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// What the guard of a pod must not let through: somebody else's MAC to all, and somebody else's address to a pod on this
/// node, to one on the other node, and to the gateway.
fn frames(world: &World, gateway: Mac) -> Result<Vec<Vec<u8>>> {
    let own = world.near.ns().mac("eth0")?;
    let frame = |eth_src: Mac, eth_dst: Mac, from: &Host, to: &Host, v6: bool| {
        let (src, dst) = ((from.ip(v6), 4444), (to.ip(v6), 9));
        Udp { eth_src, eth_dst, src, dst, ttl: 64, payload: MARK }.frame()
    };
    let (near, beside, far) = (&world.near, &world.beside, &world.far);
    let (beside_mac, far_mac) = (beside.ns().mac("eth0")?, far.ns().mac("eth0")?);
    let mut frames = Vec::new();
    for v6 in [false, true] {
        frames.extend([
            frame(FOREIGN, BROADCAST, near, beside, v6)?,
            frame(FOREIGN, beside_mac, near, beside, v6)?,
            frame(own, beside_mac, far, beside, v6)?,
            frame(own, far_mac, beside, far, v6)?,
            frame(own, gateway, beside, far, v6)?,
        ]);
    }
    Ok(frames)
}

/// The gateway's MAC, as a pod knows it.
fn gateway(ns: &Ns) -> Result<Mac> {
    let neighbours = ns.ip_json(&["neigh", "show", "10.1.1.1", "dev", "eth0"])?;
    let mac = neighbours[0]["lladdr"].as_str().and_then(lab::netns::parse_mac);
    mac.ok_or_else(|| Error::failed(format!("no neighbour 10.1.1.1: {neighbours}")))
}

pub fn nothing_passes_before_the_tables() -> Result<()> {
    let starts = setting("LAB_STARTS", 8);
    let world = World::build(&Setup::new("flood", Mode::Bridged))?;
    let (near, beside, far) = (&world.near, &world.beside, &world.far);
    let (a, nodes) = (world.a()?, world.lab.nodes());
    ping(near.ns(), "10.1.1.1".parse()?)?;
    let gateway = gateway(near.ns())?;

    // Without a guard all of it comes through: these eyes can see it.
    a.swctl_text(&["port", "del", "near"])?;
    a.add_port(&near.pod, "pods", &[])?;
    a.settle()?;
    let places = [(beside.ns(), "eth0"), (far.ns(), "eth0"), (a.ns(), UPLINK)];
    let watchers = places.map(|(ns, device)| Watcher::start(ns, device));
    let watchers = watchers.into_iter().collect::<Result<Vec<_>>>()?;
    {
        let _flood = Flood::start(near.ns(), frames(&world, gateway)?)?;
        wait::until_ok("the flood comes through without a guard", SOON, || {
            let blind = watchers.iter().find(|watcher| watcher.seen() == 0);
            blind.map_or(Ok(()), |watcher| Err(Error::failed(format!("{} sees nothing", watcher.what))))
        })?;
    }
    for watcher in watchers {
        watcher.finish()?;
    }

    a.swctl_text(&["port", "del", "near"])?;
    near.attach(a, &[])?;
    for node in nodes {
        node.settle()?;
    }
    let talk = Talk::start(beside.ns(), far.ns(), far.ip(false), Duration::from_millis(5), 1)?;
    let watchers = places.map(|(ns, device)| Watcher::start(ns, device));
    let watchers = watchers.into_iter().collect::<Result<Vec<_>>>()?;
    let flood = Flood::start(near.ns(), frames(&world, gateway)?)?;
    for number in 0..starts {
        let way = Start::ALL[number as usize % Start::ALL.len()];
        let what = format!("start {number}, {way:?}");
        refuses(a).context(&what)?;
        way.run(a).context(&what)?;
        healthy(a).context(&what)?;
        talk.moves(3, SOON).context(&what)?;
        for watcher in &watchers {
            ensure!(watcher.seen() == 0, "{what}: {} frames came out of {}", watcher.seen(), watcher.what);
        }
    }
    refuses(a).context("after the last start")?;
    let sent = flood.sent();
    drop(flood);
    talk.finish()?;
    for watcher in watchers {
        let what = watcher.what.clone();
        let seen = watcher.finish()?;
        ensure!(seen == 0, "{seen} frames came out of {what}");
    }
    for host in [beside, far] {
        ensure!(resets(host.ns())? == 0, "a connection of {} was reset", host.pod.name());
    }
    note(format!("flood: {starts} starts under {sent} frames that the guard refuses; 0 came through"));
    check(nodes, &["spoofed-mac", "spoofed-ip", "no-carrier", "egress-gone"])
}

/// Waits until the guard has refused some more.
fn refuses(node: &Node) -> Result<()> {
    let count = || -> Result<u64> {
        let ledger = Ledger::read(node)?;
        Ok(ledger.dropped_for("spoofed-mac") + ledger.dropped_for("spoofed-ip"))
    };
    let before = count()?;
    wait::until_ok("the guard refuses", SOON, || {
        let now = count()?;
        ensure!(now >= before + REFUSED, "{now} refused, {before} before");
        Ok(())
    })
}
