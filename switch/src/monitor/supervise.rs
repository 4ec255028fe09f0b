//! Starts the switch process, watches it, and starts it again.
//!
//! Two threads: one answers the switch process ([`super::keeper`]), this one waits for its end, for a sign of life
//! that does not come, and for signals. A switch process that was never ready and ends by itself has said why, and
//! the monitor ends with it; later ones are started again for as long as it takes ([`super::pace`]). Pods keep their devices all the while.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::channel::Channel;
use super::child::{self, Birth, Handed};
use super::heartbeat::{Heartbeat, Thread};
use super::keeper::{Keeper, Stage};
use super::message::Request;
use super::pace::Pace;
use crate::control::server::Socket;
use crate::io::Opener;
use crate::node::NodeHost;

/// Between two looks for one.
const LOOK: Duration = Duration::from_millis(250);
/// Time that a switch process has to end when it is told to.
const END: Duration = Duration::from_secs(10);
/// What the monitor is to do.
pub struct Job<O, H> {
    /// How a switch process is started.
    pub birth: Birth,
    /// Opens what is asked for.
    pub opener: O,
    /// Sets up the node.
    pub host: H,
    /// Clients connect here, from when the first switch process is ready. Kept open across restarts, so that they
    /// wait instead of being refused.
    pub socket: Socket,
    /// Tells the service manager.
    pub notify: fn(&str),
}

/// What happens in the life of a switch process.
enum Event {
    /// Everything declared is in force.
    Ready,
    /// The monitor was told to end.
    Told,
}

/// Why a switch process is no more.
enum End {
    Exited(ExitStatus),
    Hung(Thread),
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
    let Job { birth, opener, host, mut socket, notify } = job;
    let mut memory = memfd_create("swd-memory", MemfdFlags::CLOEXEC)?;
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signals = Signals { terminate, interrupt, told: false };
    let served =
        Arc::new(Served { keeper: Mutex::new(Keeper::new(opener, host)), busy: AtomicBool::new(false) });
    let mut restarts = 0;
    let mut last_end: Option<String> = None;
    let mut pace = Pace::new(Instant::now());
    let mut told_ready = false;
    loop {
        let born = begin(&birth, &served, &socket, &memory, restarts, last_end.as_deref());
        let (mut child, watch, answering) = match born {
            Ok(born) => born,
            Err(e) if !told_ready => return Err(e),
            // Pods have their devices as long as this process lives.
            Err(e) => {
                let pause = pace.pause(Instant::now(), false);
                tracing::error!(pause_ms = pause.as_millis() as u64, "no switch process can be started: {e}");
                if signals.during(pause).await {
                    served.keeper().leave();
                    return Ok(0);
                }
                continue;
            }
        };
        let first = !told_ready;
        let end = watch
            .until_end(&mut child, &mut signals, |event| {
                match event {
                    Event::Ready if first => {
                        socket.publish()?;
                        told_ready = true;
                        notify("READY=1");
                    }
                    Event::Ready => {}
                    Event::Told => {
                        // Connect errors are clearer to clients than connections that nobody serves.
                        socket.withdraw();
                        notify("STOPPING=1");
                    }
                }
                Ok(())
            })
            .await?;
        // The other end is closed by now, so this thread ends as soon as it has done what it was asked last.
        let _ = tokio::task::spawn_blocking(move || answering.join()).await;
        let (stage, told) = (served.keeper().stage(), signals.told);
        if let End::Exited(status) = &end
            && (told || stage == Stage::Stopping || !told_ready)
        {
            if told || stage == Stage::Stopping {
                served.keeper().leave();
            }
            return Ok(code(*status));
        }
        let text = match &end {
            End::Exited(status) => format!("the switch process ended: {status}"),
            End::Hung(thread) => {
                let seconds = thread.patience().as_secs();
                format!(
                    "the {} gave no sign of life for {seconds} s, and the switch process was ended",
                    thread.name()
                )
            }
        };
        restarts += 1;
        if stage < Stage::Ready {
            // What the one before has left may be why.
            memory = memfd_create("swd-memory", MemfdFlags::CLOEXEC)?;
        }
        let pause = pace.pause(Instant::now(), stage >= Stage::Ready);
        let kept = served.keeper().ports();
        tracing::error!(
            restarts,
            ports = kept,
            pause_ms = pause.as_millis() as u64,
            "{text}; starting another"
        );
        last_end = Some(text);
        if signals.during(pause).await {
            served.keeper().leave();
            return Ok(0);
        }
    }
}

/// A switch process, who watches it, and the thread that answers it.
type Born<'a, O, H> = (Child, Watch<'a, O, H>, JoinHandle<()>);

fn begin<'a, O, H>(
    birth: &Birth,
    served: &'a Arc<Served<O, H>>,
    socket: &Socket,
    memory: &OwnedFd,
    restarts: u64,
    last_end: Option<&str>,
) -> io::Result<Born<'a, O, H>>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    served.keeper().begin();
    let (ours, theirs) = Channel::pair()?;
    let heartbeat = Heartbeat::create()?;
    let handed = Handed {
        channel: theirs,
        listener: socket.listener()?,
        heartbeat: heartbeat.as_fd().try_clone_to_owned()?,
        memory: memory.try_clone()?,
        config: child::text(&birth.config)?,
    };
    let child = birth.start(handed, restarts, last_end)?;
    let ready = Arc::new(Notify::new());
    let answering = {
        let (served, ready) = (served.clone(), ready.clone());
        let thread = std::thread::Builder::new().name("swd-keeper".into());
        thread.spawn(move || served.answer(Channel::new(ours), &ready))?
    };
    let watch = Watch { heartbeat, served, ready, seen: [(0, Instant::now()); Thread::ALL.len()] };
    Ok((child, watch, answering))
}

/// Shared with the thread that answers.
struct Served<O, H> {
    keeper: Mutex<Keeper<O, H>>,
    /// Something is being done for the switch process, whose control thread waits for it.
    busy: AtomicBool,
}

impl<O: Opener, H: NodeHost> Served<O, H> {
    fn keeper(&self) -> MutexGuard<'_, Keeper<O, H>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers until the other end is closed.
    fn answer(&self, mut channel: Channel, ready: &Notify) {
        loop {
            let request = match channel.recv::<Request>() {
                Ok((request, _)) => request,
                // Killed, perhaps with an answer on its way.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
                {
                    return;
                }
                Err(e) => {
                    tracing::error!("a message of the switch process: {e}");
                    return;
                }
            };
            self.busy.store(true, Ordering::Relaxed);
            let is_ready = request == Request::Ready;
            let (reply, fd) = self.keeper().answer(request);
            if is_ready {
                ready.notify_one();
            }
            self.busy.store(false, Ordering::Relaxed);
            if let Err(e) = channel.send(&reply, fd.as_ref().map(std::os::fd::AsFd::as_fd)) {
                if e.kind() != io::ErrorKind::BrokenPipe {
                    tracing::error!("answering the switch process: {e}");
                }
                return;
            }
        }
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

/// Watches one switch process.
struct Watch<'a, O, H> {
    heartbeat: Heartbeat,
    served: &'a Served<O, H>,
    /// Everything declared is in force.
    ready: Arc<Notify>,
    /// Per thread, the last sign of life and when it was seen.
    seen: [(u64, Instant); Thread::ALL.len()],
}

impl<O: Opener, H: NodeHost> Watch<'_, O, H> {
    /// Waits for its end, which comes by itself, by a signal to the monitor, or because it hangs.
    async fn until_end(
        mut self,
        child: &mut Child,
        signals: &mut Signals,
        mut on: impl FnMut(Event) -> io::Result<()>,
    ) -> io::Result<End> {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ready = false;
        loop {
            tokio::select! {
                status = child.wait() => return Ok(End::Exited(status?)),
                () = signals.any() => {
                    on(Event::Told)?;
                    return self.end(child).await.map(End::Exited);
                }
                () = self.ready.notified(), if !ready => {
                    ready = true;
                    self.seen.iter_mut().for_each(|seen| seen.1 = Instant::now());
                    on(Event::Ready)?;
                }
                _ = looks.tick(), if ready => {
                    if let Some(thread) = self.hung() {
                        child.start_kill()?;
                        child.wait().await?;
                        return Ok(End::Hung(thread));
                    }
                }
            }
        }
    }

    /// The thread that has given no sign of life for too long.
    fn hung(&mut self) -> Option<Thread> {
        let beats = self.heartbeat.read().ok()?;
        let now = Instant::now();
        for ((thread, beat), seen) in Thread::ALL.into_iter().zip(beats).zip(&mut self.seen) {
            let waits_for_us = thread == Thread::Control && self.served.busy.load(Ordering::Relaxed);
            if seen.0 != beat || waits_for_us {
                *seen = (beat, now);
            } else if now - seen.1 >= thread.patience() {
                return Some(thread);
            }
        }
        None
    }

    async fn end(&self, child: &mut Child) -> io::Result<ExitStatus> {
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(END, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!("the switch process did not end within {END:?} and is killed");
                child.start_kill()?;
                child.wait().await
            }
        }
    }
}

/// Of the monitor, when the switch process has ended like this.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.saturating_add(signal as u8),
        (None, None) => 1,
    }
}
