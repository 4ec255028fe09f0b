//! Starts the switch process, watches it, and starts it again; replaces it when somebody wants another version.
//!
//! Two threads: one answers the switch process ([`super::switch::Served`]), this one waits for its end, for a sign of
//! life that does not come, for signals, and for those who knock ([`super::door`]). A first switch
//! process that ends by itself before it is ready has said why, and the monitor ends with it; later ones are started
//! again for as long as it takes ([`super::pace`]). Pods keep their devices all the while. A crash loop makes the next
//! one fall back ([`super::fallback`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::child::{Birth, History};
use super::door::{self, Knock};
use super::estate::{Estate, Left};
use super::fallback::{self, Fallback};
use super::heartbeat::Thread;
use super::keeper::{Keeper, Stage, Tenure};
use super::pace::Pace;
use super::store::{Returned, Store};
use super::switch::{Life, Served, Switch, reached};
use super::takeover::Talk;
use super::watchdog::keep_alive;
use super::{succession, upgrade};
use crate::control::server::Socket;
use crate::io::Opener;
use crate::node::NodeHost;

/// Between two looks for a sign of life.
const LOOK: Duration = Duration::from_millis(250);

/// How long a switch process may give no sign of life before it is ready: a start with a thousand ports takes seconds,
/// and disks may be slow.
pub const START: Duration = Duration::from_secs(60);
/// The exit code of a program whose first thread panicked.
const PANICKED: i32 = 101;

/// What the monitor is to do.
pub struct Job<O, H> {
    /// How a switch process is started.
    pub birth: Birth,
    /// Opens what is asked for.
    pub opener: O,
    /// Sets up the node.
    pub host: H,
    /// Tells the service manager.
    pub notify: fn(&str),
    /// Its version, as it tells others.
    pub version: &'static str,
    /// How often the service manager wants to hear from us.
    pub watchdog: Option<Duration>,
    /// Where descriptors are deposited.
    pub store: Store,
    /// See [`START`].
    pub start_limit: Duration,
    /// With what it begins.
    pub origin: Origin,
}

/// With what a monitor begins.
pub enum Origin {
    /// It is started. Clients connect to the first socket from when the first switch process is ready; it is kept open
    /// across restarts, so that they wait instead of being refused. Who wants something of the monitor knocks at the
    /// second. The rest is what the service manager had kept for one before.
    Start(Box<[Socket; 2]>, Box<Returned>),
    /// What the program has left that this process was before.
    Left(Box<Estate>),
    /// What another monitor gives.
    Other(Talk),
}

/// A monitor at work.
pub(super) struct Monitor<O, H> {
    pub birth: Birth,
    pub served: Arc<Served<O, H>>,
    pub socket: Socket,
    pub door: Socket,
    pub memory: OwnedFd,
    pub history: History,
    pub version: &'static str,
    /// Of the switch process that forwards, or forwarded last.
    pub tenure: Tenure,
    signals: Signals,
    pace: Pace,
    fallback: Fallback,
    start_limit: Duration,
    /// Has a switch process ever been ready?
    told_ready: bool,
    notify: fn(&str),
    store: Store,
    /// What the service manager shows: restarts so far.
    restarts: Arc<AtomicU64>,
}

/// Why a switch process is no more.
enum End {
    /// By itself, or because the monitor was told to end.
    Exited(ExitStatus),
    /// This thread gave no sign of life for so long.
    Hung(Thread, Duration),
    /// Another one forwards.
    Replaced(Box<Switch>),
    /// Another monitor has everything.
    Left,
}

/// Runs until the switch process ends for good. Returns the exit code: its own.
///
/// # Errors
/// When no process can be started at all.
pub async fn run<O, H>(job: Job<O, H>) -> io::Result<u8>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    let (mut monitor, mut switch) = Monitor::begin(job).await?;
    let mut knocks = door::listen(monitor.door.listener()?)?;
    loop {
        let mut running = match switch.take() {
            Some(running) => running,
            None => match monitor.start(None) {
                Ok(running) => running,
                Err(e) if !monitor.told_ready => return Err(e),
                // Pods have their devices as long as this process lives.
                Err(e) => {
                    let pause = monitor.pace.pause(Instant::now(), false);
                    let pause_ms = pause.as_millis() as u64;
                    tracing::error!(pause_ms, "no switch process can be started: {e}");
                    if monitor.signals.during(pause).await {
                        monitor.leave();
                        return Ok(0);
                    }
                    continue;
                }
            },
        };
        monitor.tenure = running.tenure;
        monitor.birth.pid_file.note(running.process.id());
        let started = Instant::now();
        let end = monitor.watch(&mut running, &mut knocks).await?;
        let falls_back;
        let text = match end {
            End::Replaced(new) => {
                switch = Some(*new);
                continue;
            }
            End::Left => return Ok(0),
            End::Exited(status) => {
                running.answered().await;
                let stage = *running.stage.borrow();
                falls_back = monitor.fallback.ended(started, Instant::now(), stage >= Stage::Ready);
                let said = !monitor.told_ready && (said_why(status) || monitor.fallback.tried());
                let told = monitor.signals.told || stage == Stage::Stopping;
                if told {
                    monitor.leave();
                }
                if told || said {
                    return Ok(code(status));
                }
                format!("the switch process ended: {status}")
            }
            End::Hung(thread, patience) => {
                running.answered().await;
                let ready = *running.stage.borrow() >= Stage::Ready;
                falls_back = monitor.fallback.ended(started, Instant::now(), ready);
                let seconds = patience.as_secs();
                format!(
                    "the {} gave no sign of life for {seconds} s, and the switch process was ended",
                    thread.name()
                )
            }
        };
        if falls_back {
            let (lives, seconds) = (fallback::LIVES, fallback::WITHIN.as_secs());
            tracing::warn!(
                "{lives} switch processes ended within {seconds} s: the next one falls back on the last-known-good state"
            );
        }
        if monitor.mourn(&running, text).await? {
            monitor.leave();
            return Ok(0);
        }
    }
}

impl<O, H> Monitor<O, H>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    async fn begin(job: Job<O, H>) -> io::Result<(Self, Option<Switch>)> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        succession::listening();
        let signals = Signals { terminate, interrupt, told: false };
        let mut keeper = Keeper::new(job.opener, job.host).with_store(job.store.clone());
        let restarts = Arc::new(AtomicU64::new(0));
        let store = job.store.clone();
        let show = |served: &Arc<Served<O, H>>| {
            let status = status(served.clone(), restarts.clone());
            tokio::spawn(keep_alive(served.work().clone(), job.watchdog, job.notify, status));
        };
        let make = |keeper, birth, socket, door, memory, history: History, tenure| Self {
            birth,
            served: {
                restarts.store(history.restarts, Ordering::Relaxed);
                let served = Arc::new(Served::new(keeper));
                show(&served);
                served
            },
            restarts: restarts.clone(),
            store: job.store.clone(),
            socket,
            door,
            memory,
            history,
            version: job.version,
            tenure,
            signals,
            pace: Pace::new(Instant::now()),
            fallback: Fallback::default(),
            start_limit: job.start_limit,
            told_ready: false,
            notify: job.notify,
        };
        match job.origin {
            Origin::Start(sockets, mut returned) => {
                let [socket, mut door] = *sockets;
                door.publish()?;
                let memory = match returned.memory.take() {
                    Some(memory) => memory,
                    None => new_memory(&store)?,
                };
                keeper.inherit(returned.kept(), None);
                let tenure = Tenure::FIRST;
                Ok((make(keeper, job.birth, socket, door, memory, History::default(), tenure), None))
            }
            Origin::Left(estate) => {
                let Estate { socket, door, memory, switch, history, config, caller, kept, .. } = *estate;
                let birth = Birth { config, ..job.birth };
                let parts = switch.ok_or_else(|| io::Error::other("there is no switch process"))?;
                let tenure = parts.tenure;
                keeper.inherit(kept, Some((tenure, Stage::Ready)));
                let mut monitor = make(keeper, birth, socket, door, memory, history, tenure);
                let switch = Switch::adopt(parts, &monitor.served)?;
                monitor.told_ready = true;
                tracing::info!(version = monitor.version, "this program has the monitor's place");
                if let Some((caller, words)) = caller {
                    caller.done(&words);
                }
                Ok((monitor, Some(switch)))
            }
            Origin::Other(mut talk) => {
                let taking = tokio::task::spawn_blocking(move || talk.take().map(|taken| (talk, taken)));
                let (talk, (estate, state)) = taking.await.map_err(io::Error::other)??;
                let Estate { socket, door, memory, mut history, kept, .. } = estate;
                keeper.inherit(kept, None);
                history.upgrades += 1;
                let mut monitor = make(keeper, job.birth, socket, door, memory, history, Tenure::FIRST);
                let switch = upgrade::from_another(&mut monitor, talk, state).await?;
                monitor.told_ready = true;
                (monitor.notify)("READY=1");
                Ok((monitor, Some(switch)))
            }
        }
    }

    /// The end of the daemon: pods keep their devices, and the node's own goes.
    fn leave(&self) {
        self.served.keeper().leave();
        self.birth.pid_file.forget();
    }

    /// Starts a switch process; one with a `state` is to take over from another.
    pub(super) fn start(&mut self, state: Option<OwnedFd>) -> io::Result<Switch> {
        let life = Life {
            tenure: self.tenure.next(),
            history: &self.history,
            fall_back: state.is_none() && self.fallback.word(),
        };
        Switch::start(&self.birth, &self.served, &self.socket, &self.memory, life, state)
    }

    /// What there is, for whoever has it next.
    pub(super) fn left<'a>(&'a self, switch: Option<&'a super::switch::Parts>) -> Left<'a> {
        Left {
            socket: &self.socket,
            door: &self.door,
            memory: &self.memory,
            switch,
            history: &self.history,
            config: &self.birth.config,
            caller: None,
        }
    }

    /// Waits for the end of a switch process, which comes by itself, by a signal to the monitor, because it hangs, or
    /// because another one has taken over.
    async fn watch(&mut self, switch: &mut Switch, knocks: &mut mpsc::Receiver<Knock>) -> io::Result<End> {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stage = switch.stage.clone();
        let mut ready = false;
        if *switch.stage.borrow() >= Stage::Ready {
            ready = true;
            switch.expect_life();
        }
        loop {
            tokio::select! {
                status = switch.process.wait() => return Ok(End::Exited(status?)),
                () = self.signals.any() => {
                    // Connect errors are clearer to clients than connections that nobody serves.
                    self.socket.withdraw();
                    self.door.withdraw();
                    (self.notify)("STOPPING=1");
                    return switch.end(None).await.map(End::Exited);
                }
                true = reached(&mut stage, Stage::Ready), if !ready => {
                    ready = true;
                    switch.expect_life();
                    if !std::mem::replace(&mut self.told_ready, true) {
                        self.socket.publish()?;
                        self.store.keep_listener(&self.socket.listener()?, self.socket.id());
                        (self.notify)("READY=1");
                    }
                }
                _ = looks.tick() => {
                    let limit = (!ready).then_some(self.start_limit);
                    if let Some((thread, patience)) = switch.hung(self.served.is_busy(), limit) {
                        switch.process.kill().await?;
                        return Ok(End::Hung(thread, patience));
                    }
                }
                Some(knock) = knocks.recv(), if ready => {
                    let answered = match knock {
                        Knock::Upgrade(program, caller) => upgrade::become_another(self, switch, program, caller).await?,
                        Knock::TakeOver(stream) => upgrade::leave_to(self, switch, Talk::with(stream)).await?,
                    };
                    match answered {
                        upgrade::After::Same => switch.expect_life(),
                        upgrade::After::Ended(status) => return Ok(End::Exited(status)),
                        upgrade::After::Replaced(new) => return Ok(End::Replaced(new)),
                        upgrade::After::Left => return Ok(End::Left),
                    }
                }
            }
        }
    }

    /// After the end of a switch process that was not told to. True: the monitor was, while it waited to start another.
    async fn mourn(&mut self, switch: &Switch, text: String) -> io::Result<bool> {
        let ready = *switch.stage.borrow() >= Stage::Ready;
        self.served.keeper().end(switch.tenure);
        self.history.restarts += 1;
        self.restarts.store(self.history.restarts, Ordering::Relaxed);
        if !ready {
            // What the one before has left may be why.
            self.memory = new_memory(&self.store)?;
        }
        let pause = self.pace.pause(Instant::now(), ready);
        tracing::error!(
            restarts = self.history.restarts,
            ports = self.served.keeper().ports(),
            pause_ms = pause.as_millis() as u64,
            "{text}; starting another"
        );
        self.history.last_end = Some(text);
        Ok(self.signals.during(pause).await)
    }
}

fn new_memory(store: &Store) -> io::Result<OwnedFd> {
    let memory = memfd_create("swd-memory", MemfdFlags::CLOEXEC)?;
    store.keep_memory(&memory);
    Ok(memory)
}

/// What the service manager shows of us; no answer while the keeper has its hands full.
fn status<O: Opener, H: NodeHost>(
    served: Arc<Served<O, H>>,
    restarts: Arc<AtomicU64>,
) -> impl Fn() -> Option<String> {
    move || {
        let restarts = restarts.load(Ordering::Relaxed);
        Some(format!("{} ports, {restarts} restarts of the switch process", served.ports()?))
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    told: bool,
}

impl Signals {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.told = true;
    }

    /// Waits; true if a signal came meanwhile.
    async fn during(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.any()).await.is_ok()
    }
}

/// Does one that ends like this before it was ever ready refuse to run? Else it has crashed.
fn said_why(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != PANICKED)
}

/// Of the monitor, when the switch process has ended like this.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.saturating_add(signal as u8),
        (None, None) => 1,
    }
}
