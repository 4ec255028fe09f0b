//! One switch process, seen from the monitor: the process, the connections with it, and its signs of life.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use tokio::sync::watch;

use super::channel::Channel;
use super::child::{Birth, Handed, History, document};
use super::heartbeat::{Heartbeat, Thread};
use super::keeper::{Keeper, Stage, Tenure};
use super::message::Request;
use super::orders::Commander;
use super::process::Process;
use super::watchdog::Work;
use crate::control::server::Socket;
use crate::io::Opener;
use crate::node::NodeHost;

/// Time that a switch process has to end when it is told to.
const END: Duration = Duration::from_secs(10);
/// Time that the rest of a message may take to come.
const MESSAGE: Duration = Duration::from_secs(5);

/// A switch process.
pub struct Switch {
    /// The process.
    pub process: Process,
    /// Which one it is.
    pub tenure: Tenure,
    /// Gives it orders.
    pub commander: Commander,
    /// How far it is.
    pub stage: watch::Receiver<Stage>,
    /// Where it leaves what is declared when it is told to freeze.
    pub outbox: OwnedFd,
    heartbeat: Heartbeat,
    /// What it asks on; the thread that answers has it too.
    channel: UnixStream,
    answering: Option<JoinHandle<()>>,
    /// Per thread, the last sign of life and when it was seen.
    seen: [(u64, Instant); Thread::ALL.len()],
}

/// What the next program needs to know one that runs.
pub struct Parts {
    /// Its process id.
    pub pid: u32,
    /// Which one it is.
    pub tenure: Tenure,
    /// It asks on this.
    pub channel: OwnedFd,
    /// It is told on this.
    pub orders: OwnedFd,
    /// It shows that it lives in this.
    pub heartbeat: OwnedFd,
    /// It leaves what is declared in this.
    pub outbox: OwnedFd,
}

/// Which process is to be started.
pub struct Life<'a> {
    /// Which one it is.
    pub tenure: Tenure,
    /// What became of those before.
    pub history: &'a History,
    /// It is to use the last-known-good state.
    pub fall_back: bool,
}

impl Switch {
    /// Starts one. With `state`, one that prepares itself to take over from another.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start<O, H>(
        birth: &Birth,
        served: &Arc<Served<O, H>>,
        socket: &Socket,
        memory: &OwnedFd,
        life: Life<'_>,
        state: Option<OwnedFd>,
    ) -> io::Result<Self>
    where
        O: Opener + Send + 'static,
        H: NodeHost + Send + 'static,
    {
        let Life { tenure, history, fall_back } = life;
        served.keeper().begin(tenure);
        let (channel, theirs) = Channel::pair()?;
        let (orders, obeyed) = Channel::pair()?;
        let heartbeat = Heartbeat::create()?;
        let handed = Handed {
            channel: theirs,
            orders: obeyed,
            listener: socket.listener()?,
            heartbeat: heartbeat.as_fd().try_clone_to_owned()?,
            memory: memory.try_clone()?,
            config: document(birth.config.as_bytes())?,
            outbox: document(&[])?,
            fall_back,
            state,
        };
        let outbox = handed.outbox.try_clone()?;
        let process = birth.start(handed, history)?;
        let parts = Parts {
            pid: process.id(),
            tenure,
            channel: channel.into(),
            orders: orders.into(),
            heartbeat: heartbeat.as_fd().try_clone_to_owned()?,
            outbox,
        };
        Self::meet(process, parts, served)
    }

    /// One that the program before this one has started.
    ///
    /// # Errors
    /// Those of the system.
    pub fn adopt<O, H>(parts: Parts, served: &Arc<Served<O, H>>) -> io::Result<Self>
    where
        O: Opener + Send + 'static,
        H: NodeHost + Send + 'static,
    {
        Self::meet(Process::adopt(parts.pid)?, parts, served)
    }

    fn meet<O, H>(process: Process, parts: Parts, served: &Arc<Served<O, H>>) -> io::Result<Self>
    where
        O: Opener + Send + 'static,
        H: NodeHost + Send + 'static,
    {
        let Parts { tenure, channel, orders, heartbeat, outbox, .. } = parts;
        let channel = UnixStream::from(channel);
        let (commander, heartbeat) = (Commander::new(orders.into()), Heartbeat::from_fd(heartbeat));
        let (tell, stage) = watch::channel(served.keeper().stage(tenure));
        let (served, asked) = (served.clone(), Channel::new(channel.try_clone()?));
        let thread = std::thread::Builder::new().name("swd-keeper".into());
        let answering = thread.spawn(move || served.answer(tenure, asked, &tell))?;
        let seen = [(0, Instant::now()); Thread::ALL.len()];
        let answering = Some(answering);
        Ok(Self { process, tenure, commander, stage, outbox, heartbeat, channel, answering, seen })
    }

    /// What [`Switch::adopt`] takes.
    ///
    /// # Errors
    /// No descriptors.
    pub fn parts(&self) -> io::Result<Parts> {
        Ok(Parts {
            pid: self.process.id(),
            tenure: self.tenure,
            channel: self.channel.as_fd().try_clone_to_owned()?,
            orders: self.commander.descriptor()?,
            heartbeat: self.heartbeat.as_fd().try_clone_to_owned()?,
            outbox: self.outbox.try_clone()?,
        })
    }

    /// From now on, signs of life are expected.
    pub fn expect_life(&mut self) {
        self.seen.iter_mut().for_each(|seen| seen.1 = Instant::now());
    }

    /// The thread that has given no sign of life for too long, and how long that is: `limit`, or what is usual.
    /// `waited_for`: the monitor does something for it.
    pub fn hung(&mut self, waited_for: bool, limit: Option<Duration>) -> Option<(Thread, Duration)> {
        let beats = self.heartbeat.read().ok()?;
        let now = Instant::now();
        for ((thread, beat), seen) in Thread::ALL.into_iter().zip(beats).zip(&mut self.seen) {
            let patience = limit.unwrap_or(thread.patience());
            let waits_for_us = thread == Thread::Control && waited_for;
            if seen.0 != beat || waits_for_us {
                *seen = (beat, now);
            } else if now - seen.1 >= patience {
                return Some((thread, patience));
            }
        }
        None
    }

    /// Tells it to end, and sees to it.
    ///
    /// # Errors
    /// It is no child of this process.
    pub async fn end(&mut self, limit: Option<Duration>) -> io::Result<ExitStatus> {
        let limit = limit.unwrap_or(END);
        self.process.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(limit, self.process.wait()).await {
            return status;
        }
        tracing::warn!("the switch process did not end within {limit:?} and is killed");
        self.process.kill().await
    }

    /// Waits until all that it has asked for is done, once it has ended.
    pub async fn answered(&mut self) {
        if let Some(answering) = self.answering.take() {
            // The other end is closed by now, so this thread ends as soon as it has done what it was asked last.
            let _ = tokio::task::spawn_blocking(move || answering.join()).await;
        }
    }
}

/// Waits until a switch process is so far. False: it has closed its connection.
pub async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) -> bool {
    stage.wait_for(|stage| *stage >= wanted).await.is_ok()
}

/// Shared with the threads that answer.
pub struct Served<O, H> {
    keeper: Mutex<Keeper<O, H>>,
    /// What is being done for a switch process, whose control thread waits for it.
    work: Arc<Work>,
}

impl<O: Opener, H: NodeHost> Served<O, H> {
    /// Around a keeper.
    pub fn new(keeper: Keeper<O, H>) -> Self {
        Self { keeper: Mutex::new(keeper), work: Arc::default() }
    }

    /// Ports that are kept; no answer while the keeper has its hands full.
    pub fn ports(&self) -> Option<usize> {
        Some(self.keeper.try_lock().ok()?.ports())
    }

    /// The keeper. While it is held, no message of a switch process is half read or half answered.
    pub fn keeper(&self) -> MutexGuard<'_, Keeper<O, H>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a switch process wait?
    pub fn is_busy(&self) -> bool {
        self.work.busy()
    }

    /// What is being done.
    pub const fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// Answers until the other end is closed.
    fn answer(&self, tenure: Tenure, mut channel: Channel, tell: &watch::Sender<Stage>) {
        if let Err(e) = channel.limit(MESSAGE) {
            return tracing::error!("the connection to the switch process: {e}");
        }
        loop {
            // Nothing is taken from the connection before it can be answered.
            match poll(&mut [PollFd::new(&channel, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return tracing::error!("waiting for the switch process: {e}"),
            }
            let mut keeper = self.keeper();
            let request = match channel.recv::<Request>() {
                Ok((request, _)) => request,
                // Killed, perhaps with an answer on its way.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
                {
                    return;
                }
                Err(e) => return tracing::error!("a message of the switch process: {e}"),
            };
            self.work.begins();
            let (reply, fd) = keeper.answer(tenure, request);
            self.work.ends();
            let sent = channel.send(&reply, fd.as_ref().map(OwnedFd::as_fd));
            let stage = keeper.stage(tenure);
            drop(keeper);
            tell.send_if_modified(|told| std::mem::replace(told, stage) != stage);
            if let Err(e) = sent {
                if e.kind() != io::ErrorKind::BrokenPipe {
                    tracing::error!("answering the switch process: {e}");
                }
                return;
            }
        }
    }
}
