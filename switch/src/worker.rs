//! The worker thread: one poll loop that owns its ports, its tunnel sockets and a data path.
//!
//! mio is edge-triggered: a source announces itself once, and again only after it has said `WouldBlock`. So a
//! ready source goes into a ring ([`crate::ring`]) and stays there until it has been drained; while the ring holds
//! anything the loop polls without waiting. A turn of the loop is: commands, timers, readiness, one visit to the
//! sources whose turn it is, send. The clock is read once per turn. A port leaves the ring when it is closed: its number may be
//! another's at once, and that one is not read before the tables name it.
//!
//! Nothing else happens on this thread: no log line per frame, no lock, no system call but poll, read, write,
//! sendmsg and recvmsg. Devices are closed and old tables freed on another thread, because the kernel may take tens of
//! milliseconds to unregister a device.

use crate::datapath::{Config, PortId, Tables};
use crate::engine::{Command, Effect, Engine, Filled};
use crate::io::{PortIo, Tap};
use crate::monitor::heartbeat::{EVERY, Pulse};
use crate::ring::{Ring, Source};
use crate::sandbox::{Measure, ThreadKind, restrict};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tunnel::underlay::{UdpRx, UdpTx};

/// Commands that may wait for a worker. A full channel makes the control thread wait, never the worker.
const COMMANDS: usize = 1024;
/// Commands carried out in one turn, so that a burst of them does not hold up frames.
const COMMANDS_PER_TURN: usize = 32;
/// Events taken from one poll.
const EVENTS: usize = 256;
/// Longest sleep: bounds how late a missed timer can be noticed.
const MAX_SLEEP: Duration = Duration::from_secs(5);

const WAKE: Token = Token(0);
const UNDERLAY: usize = 1;
const PORTS: usize = 64;

/// What a worker is made of.
pub struct WorkerConfig {
    /// Sizes and seeds.
    pub datapath: Config,
    /// Bound tunnel sockets, at most 63; none on a single node.
    pub rx: Vec<UdpRx>,
    /// Sends to peers.
    pub tx: UdpTx,
    /// Where to give signs of life.
    pub pulse: Option<Pulse>,
    /// Told when a device has failed.
    pub alarm: Option<Arc<Notify>>,
    /// Put a filter of system calls on each thread, see [`crate::sandbox`].
    pub restrict: bool,
    /// Read nothing before [`Command::Go`].
    pub held: bool,
}

/// The worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the forwarding worker has ended")]
pub struct WorkerGone;

/// The control thread's end.
pub struct WorkerHandle<P = Tap> {
    commands: Sender<Command<P>>,
    waker: Waker,
    applied: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    measures: Vec<Measure>,
}

impl<P> WorkerHandle<P> {
    /// How its threads were restricted; nothing where that was not wanted.
    #[must_use]
    pub fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// Sends one command; waits while the channel is full.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn send(&self, command: Command<P>) -> Result<(), WorkerGone> {
        match self.commands.try_send(command) {
            Ok(()) => {}
            Err(TrySendError::Full(command)) => {
                let _ = self.waker.wake();
                self.commands.send(command).map_err(|_| WorkerGone)?;
            }
            Err(TrySendError::Disconnected(_)) => return Err(WorkerGone),
        }
        self.waker.wake().map_err(|_| WorkerGone)
    }

    /// Generation of the tables in force.
    #[must_use]
    pub fn applied_generation(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Has the thread ended?
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<P> Drop for WorkerHandle<P> {
    fn drop(&mut self) {
        let _ = self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a worker thread. Where a filter was wanted it is on when this returns, or [`WorkerHandle::measures`] says
/// why not.
///
/// # Errors
/// No poller, no thread, or a socket that cannot be polled.
pub fn spawn(config: WorkerConfig) -> io::Result<WorkerHandle> {
    start(config)
}

/// The same, for any kind of port that can be polled.
fn start<P: PortIo + AsRawFd + Send + 'static>(config: WorkerConfig) -> io::Result<WorkerHandle<P>> {
    let (tx, rx) = bounded(COMMANDS);
    let (tell, told) = unbounded();
    let begin = Begin { restrict: config.restrict, tell };
    let mut worker = Worker::new(config, rx, begin.clone())?;
    let waker = Waker::new(worker.poll.registry(), WAKE)?;
    let applied = worker.applied.clone();
    let thread = std::thread::Builder::new().name("swd-worker-0".into()).spawn(move || {
        begin.begin(ThreadKind::Forwarding);
        worker.run();
    })?;
    // Ends when both threads have begun, and so let go of their ends.
    let measures = told.iter().collect();
    Ok(WorkerHandle { commands: tx, waker, applied, thread: Some(thread), measures })
}

/// The first thing that a thread does.
#[derive(Clone)]
struct Begin {
    restrict: bool,
    tell: Sender<Measure>,
}

impl Begin {
    fn begin(self, kind: ThreadKind) {
        if self.restrict {
            // Whoever started the worker may have given up.
            let _ = self.tell.send(Measure::filter(kind, restrict(kind)));
        }
    }
}

/// What takes long to let go of.
enum Waste<P> {
    Device(P),
    Tables(Arc<Tables>),
}

/// A thread that lets go of what it is sent. Its channel has no bound, because the worker must not wait for it; there
/// are never more devices in it than ports have been removed.
fn reaper<P: Send + 'static>(begin: Begin) -> io::Result<Sender<Waste<P>>> {
    let (tx, rx) = unbounded::<Waste<P>>();
    std::thread::Builder::new().name("swd-reaper".into()).spawn(move || {
        begin.begin(ThreadKind::Reaper);
        rx.iter().for_each(|waste| match waste {
            Waste::Device(device) => drop(device),
            Waste::Tables(tables) => drop(tables),
        });
    })?;
    Ok(tx)
}

struct Worker<P> {
    poll: Poll,
    engine: Engine<P, UdpRx, UdpTx>,
    commands: Receiver<Command<P>>,
    applied: Arc<AtomicU64>,
    /// Sources that may have something to read.
    ring: Ring,
    /// Are tables in force? The underlay is not read before: without them every peer is a stranger. What peers send
    /// meanwhile waits in the sockets.
    begun: bool,
    /// Is another process to read, now or soon? Then this one reads nothing and sends nothing by itself.
    held: bool,
    /// Ports that no table names yet. They are not read: what a pod's stack sends as soon as its device is up
    /// waits in the device's queue.
    unnamed: Vec<PortId>,
    started: Instant,
    pulse: Option<Pulse>,
    alarm: Option<Arc<Notify>>,
    /// Ports that the control thread has been told about.
    failed: usize,
    reaper: Sender<Waste<P>>,
}

impl<P: PortIo + AsRawFd + Send + 'static> Worker<P> {
    fn new(config: WorkerConfig, commands: Receiver<Command<P>>, begin: Begin) -> io::Result<Self> {
        let mut worker = Self {
            poll: Poll::new()?,
            engine: Engine::new(config.datapath, config.rx, config.tx),
            commands,
            applied: Arc::new(AtomicU64::new(0)),
            ring: Ring::new(),
            begun: false,
            held: config.held,
            unnamed: Vec::new(),
            started: Instant::now(),
            pulse: config.pulse,
            alarm: config.alarm,
            failed: 0,
            reaper: reaper(begin)?,
        };
        worker.register_underlay()?;
        Ok(worker)
    }

    fn register_underlay(&mut self) -> io::Result<()> {
        for (n, rx) in self.engine.underlay_mut().iter().enumerate() {
            self.ring.admit(Source::Underlay(n));
            self.poll.registry().register(
                &mut SourceFd(&rx.as_raw_fd()),
                Token(UNDERLAY + n),
                Interest::READABLE,
            )?;
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let longest = if self.pulse.is_some() { EVERY } else { MAX_SLEEP };
        loop {
            let now_ms = self.now_ms();
            if let Some(pulse) = &mut self.pulse {
                pulse.beat(now_ms);
            }
            let Some(more_commands) = self.obey(now_ms) else { return };
            if !self.held && self.engine.poll_timeout().is_some_and(|due| due <= now_ms) {
                self.engine.handle_timeout(now_ms);
            }
            let sleep = if more_commands { Duration::ZERO } else { self.rest(now_ms).min(longest) };
            match self.poll.poll(&mut events, Some(sleep)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // A poller that fails cannot be repaired from here; ending makes the daemon end, and be restarted.
                Err(_) => return,
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(n) if n < PORTS => {
                        if self.begun {
                            self.ring.ready(Source::Underlay(n - UNDERLAY));
                        }
                    }
                    Token(n) => self.ring.ready(Source::Port(PortId((n - PORTS) as u32))),
                }
            }
            if !self.held {
                let now_ms = self.now_ms();
                self.serve(now_ms);
            }
        }
    }

    /// How long there is nothing to do, unless something comes.
    fn rest(&self, now_ms: u64) -> Duration {
        match self.engine.poll_timeout() {
            _ if self.held => Duration::MAX,
            _ if !self.ring.is_empty() => Duration::ZERO,
            Some(due) => Duration::from_millis(due.saturating_sub(now_ms)),
            None => Duration::MAX,
        }
    }

    /// Carries out waiting commands; `None` means stop, else whether more are waiting.
    fn obey(&mut self, now_ms: u64) -> Option<bool> {
        for _ in 0..COMMANDS_PER_TURN {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(crossbeam_channel::TryRecvError::Empty) => return Some(false),
                Err(crossbeam_channel::TryRecvError::Disconnected) => return None,
            };
            // Whoever forwards has told it, or will find out.
            if self.held && matches!(command, Command::Announce(_)) {
                continue;
            }
            match self.engine.apply(command, now_ms) {
                Effect::None => {}
                Effect::Replaced(old) => {
                    self.begun = true;
                    self.listen();
                    self.watch_named();
                    self.applied.store(self.engine.generation(), Ordering::Release);
                    let _ = self.reaper.send(Waste::Tables(old));
                }
                Effect::Watch(id) => {
                    self.unnamed.push(id);
                    self.watch_named();
                }
                Effect::Closed(id, tap) => {
                    self.unnamed.retain(|unnamed| *unnamed != id);
                    self.ring.remove(Source::Port(id));
                    let _ = self.poll.registry().deregister(&mut SourceFd(&tap.as_raw_fd()));
                    // Without a reaper it is closed here, late but surely.
                    let _ = self.reaper.send(Waste::Device(tap));
                }
                Effect::Hold => self.held = true,
                Effect::Go => {
                    self.held = false;
                    self.listen();
                }
                Effect::Stop => return None,
            }
        }
        Some(true)
    }

    /// Looks at the underlay, where it may be read by now: what has arrived so far has announced itself already.
    fn listen(&mut self) {
        if self.begun && !self.held {
            (0..self.engine.underlay_mut().len()).for_each(|n| self.ring.ready(Source::Underlay(n)));
        }
    }

    /// Starts to watch ports that have come into the tables.
    fn watch_named(&mut self) {
        let mut at = 0;
        while let Some(&id) = self.unnamed.get(at) {
            if self.engine.names(id) {
                self.unnamed.swap_remove(at);
                self.watch(id);
            } else {
                at += 1;
            }
        }
    }

    fn watch(&mut self, id: PortId) {
        let source = Source::Port(id);
        self.ring.admit(source);
        let token = Token(PORTS + id.0 as usize);
        if let Some(tap) = self.engine.port_mut(id)
            && self
                .poll
                .registry()
                .register(&mut SourceFd(&tap.as_raw_fd()), token, Interest::READABLE)
                .is_err()
        {
            // It would be read once and then never again.
            self.engine.give_up(id);
            return;
        }
        // What arrived before the registration is picked up by this first visit.
        self.ring.ready(source);
    }

    /// One visit to the sources whose turn it is, then send.
    fn serve(&mut self, now_ms: u64) {
        for _ in 0..self.ring.visits() {
            let Some((source, mut credit)) = self.ring.next() else { break };
            let filled = loop {
                let filled = match source {
                    Source::Port(id) => self.engine.fill_from_port(id, &mut credit),
                    Source::Underlay(n) => self.engine.fill_from_underlay(n, &mut credit),
                };
                if filled != Filled::Full {
                    break filled;
                }
                self.engine.flush(now_ms);
            };
            match filled {
                Filled::Spent | Filled::Full => self.ring.again(source, credit),
                Filled::Drained => self.ring.done(source, credit),
                Filled::Gone => {
                    self.ring.done(source, credit);
                    if let Source::Port(id) = source
                        && let Some(tap) = self.engine.port_mut(id)
                    {
                        let _ = self.poll.registry().deregister(&mut SourceFd(&tap.as_raw_fd()));
                    }
                }
            }
        }
        self.engine.flush(now_ms);
        self.sound();
    }

    /// Tells the control thread that devices have failed, if more have.
    fn sound(&mut self) {
        let failed = self.engine.dead_ports();
        if failed > std::mem::replace(&mut self.failed, failed)
            && let Some(alarm) = &self.alarm
        {
            alarm.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
