//! Sockets that somebody with more privilege has made: to send in long runs takes a larger buffer than the system lets
//! everybody have.
//!
//! One thread adds, another takes, neither waits.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The end that takes.
#[derive(Debug)]
pub struct Spares {
    sockets: Receiver<OwnedFd>,
    left: Arc<AtomicUsize>,
}

/// The end that adds.
#[derive(Debug, Clone)]
pub struct Stock {
    sockets: Sender<OwnedFd>,
    left: Arc<AtomicUsize>,
}

/// An empty stock.
#[must_use]
pub fn spares() -> (Stock, Spares) {
    let (to, from) = channel();
    let left = Arc::new(AtomicUsize::new(0));
    (Stock { sockets: to, left: left.clone() }, Spares { sockets: from, left })
}

impl Stock {
    /// How many there are.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Adds one that [`super::UdpTx::blank`] has made.
    pub fn add(&self, socket: OwnedFd) {
        // Before it can be taken.
        self.left.fetch_add(1, Ordering::Relaxed);
        if self.sockets.send(socket).is_err() {
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Spares {
    pub(super) fn take(&self) -> Option<OwnedFd> {
        let socket = self.sockets.try_recv().ok()?;
        self.left.fetch_sub(1, Ordering::Relaxed);
        Some(socket)
    }
}
