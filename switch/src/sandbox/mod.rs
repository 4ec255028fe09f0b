//! What the switch process gives up before it reads the first byte that somebody hostile may have written.
//!
//! The switch parses frames of pods, datagrams of peers and requests of clients. What needs privilege (namespaces,
//! TAPs, sockets) is done by its parent, which parses none of that; so a defect of a parser must not be worth more
//! than what the switch itself can do: move frames between descriptors that it was given.
//!
//! [`enter`] is called once, while the process has one thread: identity, capabilities and Landlock belong to threads,
//! and later threads inherit them. The order is what makes it possible:
//!
//! 1. *no-new-privileges*: no program that is executed from here on gains anything. Landlock and seccomp of an ordinary
//!    user need it.
//! 2. *core-dumps*: none, since memory holds the traffic of pods.
//! 3. *bounding-set* and the ambient set are emptied, which takes CAP_SETPCAP and so comes before
//! 4. *groups* and *user*: supplementary groups first, then group, then user, each of which takes away the right to
//!    change the one before.
//! 5. *capabilities*: effective, permitted and inheritable, emptied by name: to change the user does that for root only.
//! 6. *not-dumpable*: other processes of the same user may not trace this one. After 4, which resets it.
//! 7. *landlock*: no files but those of the [`Plan`].
//! 8. [`restrict`], by each thread for itself, when it has opened what its filter no longer lets it open.
//!
//! A kernel or a user namespace may not allow a step: then the others are taken all the same, and the [`Level`] says
//! which one is missing and why. It is made from what the kernel reports afterwards, of every thread, never from what
//! was asked for. Nothing of this is fatal: a node whose kernel lacks Landlock still has pods to serve.

mod calls;
mod files;
mod level;
mod privilege;
pub mod seccomp;

pub use level::{Level, Measure};
pub use seccomp::{SeccompError, ThreadKind, restrict};

use std::path::PathBuf;

/// What is left to a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// User and group id to become. Absent: whoever it is already.
    pub user: Option<(u32, u32)>,
    /// Directories (or files) below which it may read, write, create, rename and remove; nothing there is executed.
    pub writable: Vec<PathBuf>,
    /// Directories (or files) below which it may read.
    pub readable: Vec<PathBuf>,
}

/// Gives up everything but the plan. Cannot be undone. What fails is in the answer and stops nothing.
#[must_use]
pub fn enter(plan: &Plan) -> Level {
    let mut level = Level::default();
    let threads = privilege::give_up(plan.user, &mut level);
    level.note("landlock", files::confine(plan, threads));
    level
}
