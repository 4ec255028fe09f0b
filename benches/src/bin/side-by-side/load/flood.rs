//! One run of datagrams from a pod to another.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lab::{Context, Error, Ns, Result};

use super::Traffic;
use super::receiver::{Receiver, UNKNOWN};
use super::sender::Sender;

/// Share of a run at its beginning that no rate is taken of.
const WARM_UP: f64 = 0.2;
/// From the decision to start until the start, so that both sides wait for it.
const COUNTDOWN: Duration = Duration::from_millis(10);

static NEXT_RUN: AtomicU32 = AtomicU32::new(1);

/// Where the traffic goes.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    /// The sending pod.
    pub from: &'a Ns,
    /// The receiving pod.
    pub to: &'a Ns,
    /// Its address.
    pub at: Ipv4Addr,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Datagrams sent, and those the sender's own kernel refused.
    pub sent: u64,
    /// Datagrams that arrived, once and whole.
    pub received: u64,
    /// Sent per second.
    pub sent_rate: f64,
    /// Received per second, without the first fifth of the run and without what came after its end.
    pub received_rate: f64,
    /// Sent and not received.
    pub lost: u64,
    /// Of the lost ones, those that found the receiver's socket full.
    pub lost_at_socket: u64,
    /// Received after a later one of the same flow.
    pub reordered: u64,
    /// Further copies.
    pub duplicated: u64,
    /// Received, but not as sent.
    pub corrupted: u64,
}

/// Sends for `length`, as fast as possible or so many per second, and waits until all that comes has come.
pub fn flood(path: Path<'_>, traffic: Traffic, length: Duration, pace: Option<f64>) -> Result<Report> {
    let run = NEXT_RUN.fetch_add(1, Relaxed);
    let at = path.at;
    let sent = Arc::new(AtomicU64::new(UNKNOWN));
    let (ready, both_ready) = channel::<Result<()>>();
    let (go_receiver, receiver_go) = channel::<Instant>();
    let (go_sender, sender_go) = channel::<Instant>();
    let said = ready.clone();
    let total = sent.clone();
    let receiver = path.to.spawn(move || {
        let receiver = open("receiver", &said, || Receiver::open(traffic, run, at))?;
        drop(said);
        let Ok(start) = receiver_go.recv() else { return Err(Error::failed("the sender could not start")) };
        let window = (start + length.mul_f64(WARM_UP), start + length);
        receiver.run(window, &total).context("receive datagrams")
    });
    let sender = path.from.spawn(move || {
        let mut sender = open("sender", &ready, || Sender::open(traffic, run, at))?;
        drop(ready);
        let Ok(start) = sender_go.recv() else { return Err(Error::failed("the receiver could not start")) };
        sender.run(start, length, pace).context("send datagrams")
    });
    for _ in 0..2 {
        both_ready.recv().unwrap_or_else(|_| Err(Error::failed("a generator thread did not start")))?;
    }
    let start = Instant::now() + COUNTDOWN;
    // Fails only if the other side has ended, which shows in its result.
    let _ = go_receiver.send(start);
    let _ = go_sender.send(start);
    let outcome = sender.join().unwrap_or_else(|_| Err(Error::failed("the sender panicked")));
    let datagrams = outcome.as_ref().map_or(0, |sent| sent.datagrams);
    sent.store(datagrams, Release);
    let received = receiver.join().unwrap_or_else(|_| Err(Error::failed("the receiver panicked")))?;
    let done = outcome?;
    let account = &received.account;
    Ok(Report {
        sent: done.datagrams,
        received: account.received,
        sent_rate: done.datagrams as f64 / done.seconds.max(1e-9),
        received_rate: received.in_window as f64 / length.mul_f64(1.0 - WARM_UP).as_secs_f64(),
        lost: account.lost(done.datagrams),
        lost_at_socket: received.socket_drops,
        reordered: account.reordered,
        duplicated: account.duplicated,
        corrupted: account.corrupted,
    })
}

/// Opens one side and tells the other that it is there.
fn open<T>(
    what: &str,
    ready: &std::sync::mpsc::Sender<Result<()>>,
    open: impl FnOnce() -> std::io::Result<T>,
) -> Result<T> {
    let opened = open().context(format!("open the {what}'s sockets"));
    // Nobody listens any more only if the caller has given up.
    let _ = ready.send(opened.as_ref().map(|_| ()).map_err(Clone::clone));
    opened
}
