//! The connections of clients, so that no client keeps another one out.
//!
//! - There are at most [`CONNECTIONS`]. One more is let in all the same, in the place of the one that has been quiet
//!   for longest: a client that connects and is forgotten costs itself, not others.
//! - One that has not said its first words ([`PREFACE`] bytes, the same in every HTTP/2 connection) within
//!   [`FIRST_WORDS`] is closed.
//! - Clients have no part of the last [`LEFT`] descriptors: files of the state need them. When the process has none at
//!   all, a quiet client goes for a new one; if there is none, nobody is accepted for [`PAUSE`], instead of asking the
//!   kernel over and over.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// Connections at a time.
pub const CONNECTIONS: usize = 64;
/// Time that a client has for its first words.
pub const FIRST_WORDS: Duration = Duration::from_secs(5);
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113 section 3.4).
const PREFACE: u64 = 24;
/// Descriptors that clients leave to others.
const LEFT: u64 = 8;
/// Time without accepting when there are no descriptors.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two lines in the log about connections that were closed.
const TELL: Duration = Duration::from_secs(10);

/// Accepts.
pub struct Incoming {
    listener: UnixListener,
    guests: Arc<Guests>,
    /// Descriptors that the process may have.
    descriptors: u64,
    pause: Option<Pin<Box<Sleep>>>,
    tell: Tell,
}

/// The connections that are open.
struct Guests {
    started: Instant,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    open: Vec<Open>,
}

struct Open {
    number: u64,
    /// When it was last heard or written to, in ms.
    last: Arc<AtomicU64>,
    /// Closes it; `None` when that has been done.
    close: Option<oneshot::Sender<()>>,
}

impl Guests {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// How many there are that nobody has closed yet.
    fn count(&self) -> usize {
        self.list().open.iter().filter(|open| open.close.is_some()).count()
    }

    /// Closes the one that has been quiet for longest; false if there is none.
    fn close_quietest(&self) -> bool {
        let mut list = self.list();
        let open = list.open.iter_mut().filter(|open| open.close.is_some());
        let quietest = open.min_by_key(|open| (open.last.load(Relaxed), open.number));
        quietest.and_then(|open| open.close.take()).is_some_and(|close| close.send(()).is_ok())
    }

    fn enter(self: &Arc<Self>, stream: UnixStream) -> Guest {
        let (close, closed) = oneshot::channel();
        let last = Arc::new(AtomicU64::new(self.now()));
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        list.open.push(Open { number, last: last.clone(), close: Some(close) });
        drop(list);
        let first_words = Some((0, Box::pin(sleep(FIRST_WORDS))));
        Guest { stream, closed, first_words, last, number, guests: self.clone() }
    }
}

/// One line now and then, with how often it would have been written.
#[derive(Default)]
struct Tell {
    closed: u64,
    next: Option<Instant>,
}

impl Tell {
    fn closed(&mut self, why: &str) {
        self.closed += 1;
        let now = Instant::now();
        if self.next.is_none_or(|next| now >= next) {
            tracing::warn!(
                closed = self.closed,
                "clients that were quiet for longest were disconnected: {why}"
            );
            (self.closed, self.next) = (0, Some(now + TELL));
        }
    }
}

impl Incoming {
    /// Accepts from here; the process may have so many descriptors.
    #[must_use]
    pub fn new(listener: UnixListener, descriptors: u64) -> Self {
        let guests = Arc::new(Guests { started: Instant::now(), list: Mutex::default() });
        Self { listener, guests, descriptors, pause: None, tell: Tell::default() }
    }

    fn accepted(&mut self, stream: UnixStream) -> Guest {
        let crowded = self.guests.count() >= CONNECTIONS;
        // The kernel gives the lowest number that is free, so a high one says that the others are in use.
        let short = stream.as_raw_fd() as u64 + LEFT >= self.descriptors;
        if (crowded || short) && self.guests.close_quietest() {
            self.tell.closed(if crowded { "there are as many as there may be" } else { SHORT });
        }
        self.guests.enter(stream)
    }

    /// What to do when there is no descriptor for a client.
    fn refused(&mut self, e: &io::Error) {
        let none = [Some(libc::EMFILE), Some(libc::ENFILE)].contains(&e.raw_os_error());
        let made_room = none && self.guests.close_quietest();
        if made_room {
            self.tell.closed(SHORT);
        } else {
            tracing::debug!("accepting a client: {e}");
        }
        // It takes a moment until the descriptor is free.
        self.pause = Some(Box::pin(sleep(if made_room { PAUSE / 25 } else { PAUSE })));
    }
}

const SHORT: &str =
    "the process has no descriptors left; raise its limit (LimitNOFILE= of the service, ulimit -n)";

impl Stream for Incoming {
    type Item = io::Result<Guest>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => return Poll::Ready(Some(Ok(self.accepted(stream)))),
                Err(e) => self.refused(&e),
            }
        }
    }
}

/// One connection.
pub struct Guest {
    stream: UnixStream,
    closed: oneshot::Receiver<()>,
    /// Bytes heard so far, and until when there have to be enough of them; `None` once there are.
    first_words: Option<(u64, Pin<Box<Sleep>>)>,
    last: Arc<AtomicU64>,
    number: u64,
    guests: Arc<Guests>,
}

impl Guest {
    fn active(&self) {
        self.last.store(self.guests.now(), Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.list().open.retain(|open| open.number != self.number);
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.closed).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Some((_, limit)) = &mut self.first_words
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.active();
        let more = (buffer.filled().len() - before) as u64;
        if let Some((heard, _)) = &mut self.first_words {
            *heard += more;
            if *heard >= PREFACE {
                self.first_words = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.active();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        self.active();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Guest {
    type ConnectInfo = <UnixStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
