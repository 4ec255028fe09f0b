//! Noticing at once that something has changed under us.
//!
//! The kernel's words ([`crate::io::events`]) are turned into looks at ports and at the underlay. They are a hint: what
//! is done follows from what is seen then, and everything is looked at now and then in any case, 16 ports per second. When
//! more has happened than the socket holds, everything is looked at, spread out like all looks.
//!
//! Where the kernel does not tell of other namespaces, the regular look is all there is: once per second 128 ports.
//! `swctl status` says which of the two it is.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::agenda::{Item, PAUSE};
use super::core::Core;
use super::reconcile::{Actual, Up};
use crate::io::LinkWatch;
use crate::io::events::{Change, What, read_changes, read_names};

/// Ports that are watched from now on, in one go.
const AT_ONCE: usize = 128;
/// Between two times that events are read: they come in clusters, and to sort them takes a walk over all ports.
const GATHER: Duration = Duration::from_millis(5);

/// How far changes are noticed at once.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Ports can be watched.
    ports: bool,
    /// Why not all is, if it is not.
    deaf: Option<String>,
    /// The names of namespaces, where they are watched.
    names: Option<Arc<OwnedFd>>,
    /// How often more happened than could be heard.
    overruns: u64,
    /// Somebody who watches has to be told of opened ports.
    pub(super) opened: Option<Arc<Notify>>,
}

impl Reach {
    /// Do events tell of ports and of their namespaces?
    pub(super) fn hears_ports(&self) -> bool {
        self.ports && self.names.is_some()
    }

    /// In words, for `swctl status`.
    pub(super) fn words(&self) -> String {
        let mut words = if self.ports { "events" } else { "looks at 128 ports per second" }.to_owned();
        if self.ports && self.names.is_none() {
            words.push_str(", without names of namespaces");
        }
        if let Some(why) = &self.deaf {
            words.push_str(&format!(": {why}"));
        }
        if self.overruns > 0 {
            words.push_str(&format!("; {} times more than could be heard", self.overruns));
        }
        words
    }
}

/// How an open port is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Watched {
    /// Not yet.
    #[default]
    No,
    /// In the namespace with this id; `None` is our own.
    In(Option<i32>),
    /// It cannot be.
    Never,
}

/// What the control thread listens to.
pub(super) struct Watch {
    links: Option<AsyncFd<Arc<OwnedFd>>>,
    names: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Nothing is read before then.
    rests_until: Instant,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Told {
    changes: Vec<Change>,
    names: Vec<String>,
    /// Something was lost, so anything may have happened.
    lost: bool,
}

impl Watch {
    /// Starts to listen. What does not work is logged and said in the status.
    pub(super) fn start(core: &mut Core, opened: Arc<Notify>) -> Self {
        // Ports that are open by now are waiting for this.
        opened.notify_one();
        let mut reach = Reach { opened: Some(opened), ..Reach::default() };
        let links = match core.opener.watch_links() {
            Ok(LinkWatch { fd, deaf }) => {
                (reach.ports, reach.deaf) = (deaf.is_none(), deaf);
                polled(fd.into()).map_err(|e| e.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        let links = links.unwrap_or_else(|why| {
            (reach.ports, reach.deaf) = (false, Some(why));
            None
        });
        let names = match core.opener.watch_names() {
            Ok(fd) => polled(fd.into()).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let names = names.unwrap_or_else(|why| {
            reach.deaf.get_or_insert(why);
            None
        });
        reach.names = names.as_ref().map(|names| names.get_ref().clone());
        tracing::info!("changes to ports are noticed by {}", reach.words());
        core.reach = reach;
        Self { links, names, rests_until: Instant::now() }
    }

    /// Waits until something has happened.
    pub(super) async fn told(&mut self) -> Told {
        tokio::time::sleep_until(self.rests_until.into()).await;
        let told = tokio::select! {
            heard = hear(self.links.as_ref(), |fd| read_changes(fd).map(|heard| (heard.more, heard))) => {
                heard.map(|heard| Told { changes: heard.changes, lost: heard.lost, ..Told::default() })
                    .inspect_err(|_| self.links = None)
            }
            heard = hear(self.names.as_ref(), |fd| read_names(fd).map(|heard| (heard.more, heard))) => {
                heard.map(|heard| Told { names: heard.names, lost: heard.lost, ..Told::default() })
                    .inspect_err(|_| self.names = None)
            }
        };
        self.rests_until = Instant::now() + GATHER;
        told.unwrap_or_else(|e| {
            tracing::error!("listening to changes: {e}; what is not heard is looked at now and then");
            Told { lost: true, ..Told::default() }
        })
    }
}

/// A descriptor that can be waited for.
fn polled(fd: Arc<OwnedFd>) -> io::Result<Option<AsyncFd<Arc<OwnedFd>>>> {
    // SAFETY: an owned descriptor stays the same one and open until its last owner is dropped, and what is made here is
    // one of them.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map(Some).map_err(Into::into)
}

/// Waits until there is something to read, and reads it. Without a descriptor there never is.
async fn hear<T>(
    fd: Option<&AsyncFd<Arc<OwnedFd>>>,
    read: impl Fn(BorrowedFd<'_>) -> io::Result<(bool, T)>,
) -> io::Result<T> {
    let Some(fd) = fd else { return std::future::pending().await };
    let mut ready = fd.readable().await?;
    let (more, heard) = read(fd.get_ref().as_fd())?;
    if !more {
        ready.clear_ready();
    }
    Ok(heard)
}

impl Core {
    /// Watches ports that were opened since; true if there are more.
    pub(super) fn watch_ports(&mut self, now: Instant) -> bool {
        let (mut left, mut failed) = (AT_ONCE, Vec::new());
        for (name, actual) in &mut self.ports {
            let Actual::Up(up) = actual else { continue };
            if up.watched != Watched::No {
                continue;
            }
            if left == 0 {
                return true;
            }
            left -= 1;
            let names = self.reach.names.as_ref().map(|fd| fd.as_fd());
            up.watched = match self.opener.watch_port(&up.spec, up.place, names) {
                Ok(nsid) => Watched::In(nsid),
                Err(e) => {
                    failed.push((name.clone(), e));
                    Watched::Never
                }
            };
            // What has happened before nobody was told of. Whoever has opened it may be in a hurry.
            self.agenda.want(Item::Port(name.clone()), now + PAUSE);
        }
        // That nothing can be watched has been said.
        if !self.reach.ports {
            return false;
        }
        for (name, e) in failed {
            self.say(&name, now, format_args!("changes are noticed slowly: {e}"));
        }
        false
    }

    /// Notes what is to be looked at because of what was heard.
    pub(super) fn mark(&mut self, told: &Told, now: Instant) {
        if told.lost {
            self.reach.overruns += 1;
            self.say(
                "events",
                now,
                format_args!("more has changed than could be heard; everything is looked at"),
            );
            return self.mark_all(now);
        }
        let places: HashMap<(Option<i32>, u32), &str> = self.places().collect();
        let (mut wanted, mut links) = (HashSet::new(), Vec::new());
        for change in &told.changes {
            if change.nsid.is_none() && (change.what == What::Address || self.ground.concerns(change.ifindex))
            {
                wanted.insert(Item::Underlay);
            }
            let Some(&name) = places.get(&(change.nsid, change.ifindex)) else { continue };
            wanted.insert(Item::Port(name.to_owned()));
            if let What::Link { up, mtu } = change.what {
                links.push((name.to_owned(), up, mtu));
            }
        }
        let gone: HashSet<&OsStr> = told.names.iter().map(OsStr::new).collect();
        let mut hurried = Vec::new();
        for port in self.desired.ports.iter().filter(|_| !gone.is_empty()) {
            if port.netns_ref().path().file_name().is_some_and(|name| gone.contains(name)) {
                wanted.insert(Item::Port(port.name.clone()));
                hurried.push(port.name.clone());
            }
        }
        for (name, is_up, mtu) in links {
            if let Some(Actual::Up(up)) = self.ports.get_mut(&name) {
                let whole = is_up && mtu.is_none_or(|mtu| mtu == up.spec.mtu);
                up.robbed |= up.made && !whole;
                up.made |= whole;
            }
        }
        wanted.into_iter().for_each(|item| self.agenda.want(item, now));
        hurried.iter().for_each(|name| self.hurry(name, now));
    }

    /// Anything may have happened.
    fn mark_all(&mut self, now: Instant) {
        self.agenda.want(Item::Underlay, now);
        for (name, actual) in &mut self.ports {
            match actual {
                // Links may have been down.
                Actual::Up(up) => up.robbed = true,
                Actual::Down(down) => down.retry_at = now,
            }
            self.agenda.want(Item::Port(name.clone()), now);
        }
    }

    /// Where ports are that are watched.
    fn places(&self) -> impl Iterator<Item = ((Option<i32>, u32), &str)> {
        self.ports.iter().filter_map(|(name, actual)| match actual {
            Actual::Up(Up { watched: Watched::In(nsid), place, .. }) => {
                Some(((*nsid, place.ifindex), name.as_str()))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
#[path = "notice_tests.rs"]
mod tests;
