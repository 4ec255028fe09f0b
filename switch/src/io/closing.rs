//! Removing devices without waiting for all that the kernel does about it.
//!
//! Whoever takes a device away, by deleting its link or by closing its last descriptor, is kept by the kernel until
//! nobody can still be looking at it: 20 to 30 ms. The device is out of everybody's sight after one or two. So the call
//! is made on a thread of its own, and the caller waits only until the device is not found any more.
//!
//! Limits: [`AT_ONCE`] such threads; beyond them, or when there is none to be had, the caller does it himself and waits.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::netlink::{Netlink, NetlinkError};
use super::tap;

/// Most devices whose removal is under way.
const AT_ONCE: usize = 64;
/// Between two looks whether a device is still found.
const LOOK: Duration = Duration::from_micros(300);

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Counts one for as long as it lives.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        // Taken first, so that it is given back in either case.
        let (turn, before) = (Self, UNDER_WAY.fetch_add(1, Relaxed));
        (before < AT_ONCE).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Relaxed);
    }
}

/// Runs `work` on another thread, in the namespaces of this one. It is dropped undone if there is no thread.
fn elsewhere(work: impl FnOnce() + Send + 'static) {
    let Some(turn) = Turn::take() else { return };
    let thread = std::thread::Builder::new().name("swd-closing".into());
    let started = thread.spawn(move || {
        work();
        drop(turn);
    });
    if let Err(e) = started {
        tracing::warn!("no thread to remove a device on: {e}");
    }
}

/// Deletes an interface in the namespace of the calling thread, and returns when it is not found there any more.
///
/// # Errors
/// See [`NetlinkError`]. One that is not there is none.
pub(super) fn delete(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    let (tell, told) = sync_channel(1);
    elsewhere(move || {
        let deleted = Netlink::open().and_then(|mut own| own.delete_link(index));
        // Nobody listens any more when it was out of sight before this.
        let _ = tell.send(deleted);
    });
    loop {
        match told.recv_timeout(LOOK) {
            Ok(deleted) => return deleted,
            Err(RecvTimeoutError::Disconnected) => return netlink.delete_link(index),
            Err(RecvTimeoutError::Timeout) if netlink.link_at(index)?.is_none() => return Ok(()),
            // The kernel is at it, and its answer ends this loop.
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Closes a descriptor, and lets its device go with it if this is the last one, wherever the device has got to.
pub(crate) fn let_go(fd: OwnedFd) {
    // One that is no TAP, or whose device is gone, has nothing to release.
    let _ = tap::release(fd.as_fd());
    elsewhere(move || drop(fd));
}
