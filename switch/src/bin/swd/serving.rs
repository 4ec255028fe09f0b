//! The life of a switch process: it serves clients, and makes way for another one when the monitor says so.
//!
//! One that makes way goes through three steps, each on an order ([`switch::monitor::orders`]) and each revocable: no
//! changes any more, no frames any more, the end. One that takes over waits for the word to begin.

use std::fs::File;
use std::sync::Arc;

use switch::control::Control;
use switch::control::server::{self, Socket};
use switch::monitor::Client;
use switch::monitor::child::rewrite;
use switch::monitor::orders::{Order, Orders, Pending};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::Failure;
use super::state_dir::StateDir;

/// What makes a process end in order.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to: what it set up on the node goes.
    Stopped,
    /// Another process has everything.
    Replaced,
}

/// Why clients are not served any more.
enum Pause {
    Stop,
    Order(Pending),
}

/// A switch process that forwards, or is about to.
pub struct Serving {
    pub control: Control,
    /// What the worker sounds when a device has failed.
    pub alarm: Arc<Notify>,
    pub dir: StateDir,
    pub signals: Signals,
    /// Of a monitor, if there is one.
    pub client: Option<Client>,
    pub orders: Option<Orders>,
    /// Where what is declared is left for another process.
    pub outbox: Option<File>,
}

impl Serving {
    /// Waits for the word to take over from another process. `Some`: it will not come.
    pub async fn take_over(&mut self) -> Result<Option<End>, Failure> {
        self.client.as_ref().ok_or("there is no monitor")?.prepared()?;
        loop {
            let pending = tokio::select! {
                pending = next(&mut self.orders) => pending,
                name = self.signals.any() => {
                    tracing::info!("not needed: {name}");
                    return Ok(Some(End::Replaced));
                }
            };
            match pending.order {
                Order::Go => {
                    if let Err(e) = self.begin().await {
                        tracing::error!("taking over: {e}");
                        pending.refused(e.to_string());
                        return Err(e);
                    }
                    pending.done();
                    tracing::info!("this process forwards now");
                    self.control.settle().await?;
                    return Ok(None);
                }
                Order::End => {
                    pending.done();
                    return Ok(Some(End::Replaced));
                }
                other => pending.refused(format!("{other:?}: this process does not forward yet")),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        self.dir.claim(true)?;
        Ok(self.control.take_over().await?)
    }

    /// Serves clients until the end. `ready` is called when they can connect for the first time.
    pub async fn run(
        &mut self,
        mut socket: impl FnMut() -> Result<Socket, Failure>,
        ready: impl FnOnce(Option<&Client>) -> std::io::Result<()>,
    ) -> Result<End, Failure> {
        let mut ready = Some(ready);
        loop {
            let socket = socket()?;
            if let Some(ready) = ready.take() {
                ready(self.client.as_ref())?;
            }
            let pending = match self.serve(socket).await? {
                Pause::Stop => return Ok(End::Stopped),
                Pause::Order(pending) => pending,
            };
            if let Some(end) = self.make_way(pending).await? {
                return Ok(end);
            }
            tracing::info!("nobody has taken over: this process goes on");
        }
    }

    async fn serve(&mut self, socket: Socket) -> Result<Pause, Failure> {
        let mut pause = None;
        let (signals, orders, client) = (&mut self.signals, &mut self.orders, &self.client);
        let stop = async {
            pause = Some(tokio::select! {
                name = signals.any() => {
                    tracing::info!("stopping: {name}");
                    match client.as_ref().map(Client::stopping) {
                        None => switch::notify::tell("STOPPING=1"),
                        Some(Ok(())) => {}
                        Some(Err(e)) => tracing::warn!("telling the monitor: {e}"),
                    }
                    Pause::Stop
                }
                pending = next(orders) => Pause::Order(pending),
            });
        };
        tokio::select! {
            served = server::serve(self.control.clone(), socket, stop) => served?,
            // Without a worker nothing is forwarded: somebody must start us anew.
            gone = self.control.run(self.alarm.clone()) => return Err(gone.into()),
        }
        Ok(pause.unwrap_or(Pause::Stop))
    }

    /// Obeys until it is clear who goes on. `Some`: another one.
    async fn make_way(&mut self, first: Pending) -> Result<Option<End>, Failure> {
        let mut pending = first;
        loop {
            match pending.order {
                Order::Freeze => match self.freeze().await {
                    Ok(()) => pending.done(),
                    Err(e) => pending.refused(e.to_string()),
                },
                Order::Retire => match self.control.retire().await {
                    Ok(()) => {
                        self.dir.release();
                        pending.done();
                    }
                    Err(e) => pending.refused(e.message),
                },
                Order::Resume => {
                    self.dir.claim(true)?;
                    self.control.resume().await?;
                    pending.done();
                    return Ok(None);
                }
                Order::Go => pending.refused("this process forwards already"),
                Order::End => {
                    pending.done();
                    return Ok(Some(End::Replaced));
                }
            }
            pending = tokio::select! {
                pending = next(&mut self.orders) => pending,
                _ = self.signals.any() => return Ok(Some(End::Replaced)),
            };
        }
    }

    async fn freeze(&self) -> Result<(), Failure> {
        let outbox = self.outbox.as_ref().ok_or("there is no monitor")?;
        Ok(rewrite(outbox, &self.control.freeze().await?)?)
    }
}

async fn next(orders: &mut Option<Orders>) -> Pending {
    match orders {
        Some(orders) => orders.next().await,
        None => std::future::pending().await,
    }
}
