//! What the monitor tells a switch process: the other direction of [`super::message`], over a connection of its own.
//!
//! One order, one answer, in turn, in the same encoding. Orders are given when one switch process takes over from
//! another ([`super::handover`]); otherwise this connection is silent. The switch process listens on a thread of its
//! own and carries orders out where it serves its clients.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::channel::Channel;

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Take no more requests, and change nothing any more: another process loads what is declared. When this is done it
    /// is in the outbox, in the format of the state file. Frames are forwarded as before.
    Freeze,
    /// Stop to read, send all that was read, remember what was learned and counted, let go of the state directory.
    Retire,
    /// Take back [`Order::Freeze`] and [`Order::Retire`]: nobody has taken over.
    Resume,
    /// For one that has prepared itself: recall what was remembered, and forward from now on.
    Go,
    /// End, and leave everything as it is: another one has it.
    End,
}

/// What the switch process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// It could not be done.
    Refused(String),
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It said so.
    #[error("{0}")]
    Refused(String),
    /// It did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The connection is closed: it has ended.
    #[error("it has ended")]
    Gone,
    /// Anything else.
    #[error("the connection to it: {0}")]
    Io(io::Error),
}

/// The monitor's end.
#[derive(Debug, Clone)]
pub struct Commander(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    channel: Channel,
    /// Number of the last order: the answer to one that was given up may come later.
    number: u32,
}

impl Commander {
    /// An end of a connected stream socket.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(Line { channel: Channel::new(stream), number: 0 })))
    }

    /// Gives an order and waits for the answer, for about `limit` at most.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn order(&self, order: Order, limit: Duration) -> Result<(), OrderError> {
        let line = self.0.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let Line { channel, number } = &mut *line.lock().unwrap_or_else(PoisonError::into_inner);
            *number = number.wrapping_add(1);
            channel.limit(limit)?;
            channel.send(&(*number, order), None)?;
            loop {
                let ((about, answer), _) = channel.recv::<(u32, Answer)>()?;
                if about == *number {
                    return Ok(answer);
                }
            }
        });
        let answer: io::Result<_> = asking.await.map_err(|e| OrderError::Io(io::Error::other(e)))?;
        match answer {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Refused(text)) => Err(OrderError::Refused(text)),
            Err(e) => Err(match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => OrderError::Late(limit),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    OrderError::Gone
                }
                _ => OrderError::Io(e),
            }),
        }
    }

    /// The connection once more, for whoever gives orders after this process.
    ///
    /// # Errors
    /// No descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).channel.as_fd().try_clone_to_owned()
    }
}

/// The switch process's end: orders as they come.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<Pending>);

/// An order that waits to be answered. One that is dropped counts as refused.
#[derive(Debug)]
pub struct Pending {
    /// What is to be done.
    pub order: Order,
    answer: crossbeam_channel::Sender<Answer>,
}

impl Pending {
    /// It is done.
    pub fn done(self) {
        // Without a listener the monitor has gone, and this process goes with it.
        let _ = self.answer.send(Answer::Done);
    }

    /// It could not be done.
    pub fn refused(self, text: impl Into<String>) {
        let _ = self.answer.send(Answer::Refused(text.into()));
    }
}

impl Orders {
    /// Begins to listen.
    ///
    /// # Errors
    /// No thread.
    pub fn listen(stream: UnixStream) -> io::Result<Self> {
        let (tell, told) = mpsc::channel(1);
        let thread = std::thread::Builder::new().name("swd-orders".into());
        thread.spawn(move || relay(Channel::new(stream), &tell))?;
        Ok(Self(told))
    }

    /// Waits for the next one. Without a monitor there is none, ever.
    pub async fn next(&mut self) -> Pending {
        match self.0.recv().await {
            Some(pending) => pending,
            None => std::future::pending().await,
        }
    }
}

/// Until the connection is closed.
fn relay(mut channel: Channel, tell: &mpsc::Sender<Pending>) {
    while let Ok(((number, order), _)) = channel.recv::<(u32, Order)>() {
        let (answer, answered) = crossbeam_channel::bounded(1);
        if tell.blocking_send(Pending { order, answer }).is_err() {
            return;
        }
        let dropped = |_| Answer::Refused("the order was dropped".to_owned());
        let answer = answered.recv().unwrap_or_else(dropped);
        if channel.send(&(number, answer), None).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn orders_are_answered_in_turn() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (commander, mut orders) = (Commander::new(ours), Orders::listen(theirs).unwrap());
        run(async move {
            let obeys = tokio::spawn(async move {
                let first = orders.next().await;
                assert_eq!(first.order, Order::Freeze);
                first.done();
                let second = orders.next().await;
                assert_eq!(second.order, Order::Retire);
                second.refused("not now");
                drop(orders.next().await);
            });
            commander.order(Order::Freeze, LONG).await.unwrap();
            let refused = commander.order(Order::Retire, LONG).await.unwrap_err();
            assert!(matches!(refused, OrderError::Refused(text) if text == "not now"));
            let dropped = commander.order(Order::End, LONG).await.unwrap_err();
            assert!(matches!(dropped, OrderError::Refused(_)), "{dropped}");
            obeys.await.unwrap();
        });
    }

    #[test]
    fn silence_and_an_end_are_told_apart() {
        let (ours, theirs) = Channel::pair().unwrap();
        let commander = Commander::new(ours);
        run(async move {
            let late = commander.order(Order::Go, Duration::from_millis(20)).await.unwrap_err();
            assert!(matches!(late, OrderError::Late(_)), "{late}");
            let mut theirs = Channel::new(theirs);
            let ((first, _), _) = theirs.recv::<(u32, Order)>().unwrap();
            theirs.send(&(first, Answer::Refused("too late".into())), None).unwrap();
            theirs.send(&(first + 1, Answer::Done), None).unwrap();
            commander.order(Order::End, LONG).await.unwrap();
            drop(theirs);
            let gone = commander.order(Order::Go, LONG).await.unwrap_err();
            assert!(matches!(gone, OrderError::Gone), "{gone}");
        });
    }
}
