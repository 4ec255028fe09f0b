//! Two processes, so that the network outlives the daemon.
//!
//! The *monitor* is what a service manager starts. It has the privileges, opens namespaces, TAPs and sockets for the
//! switch process ([`keeper`]), and keeps a copy of every descriptor. It parses no packet and no request of a client,
//! only the fixed messages of its child ([`message`], [`channel`]). The *switch process* is everything else: it parses
//! what is hostile, and asks for what needs privilege ([`client`]). When it ends without having been told to, or stops
//! to show signs of life ([`heartbeat`]), [`supervise`] starts another one in its place, which makes a usual start:
//! it loads the state and asks for its ports, and is given those that the monitor has kept.
//!
//! Under a service manager the monitor itself shows signs of life ([`watchdog`]) and deposits its descriptors
//! ([`store`]), so that it may be killed as well.
//!
//! Pods notice a short gap: their links stay up and what they send meanwhile waits in their devices' queues.
//!
//! When the monitor itself is killed, its switch process goes with it, and so does every descriptor. Pods keep their
//! devices, without carrier. The next monitor waits for what is [`leftover`], and takes the devices over.

pub mod channel;
pub mod child;
pub mod client;
pub mod door;
mod estate;
mod fallback;
mod handover;
pub mod heartbeat;
pub mod keeper;
pub mod leftover;
pub mod message;
pub mod orders;
mod pace;
mod process;
pub mod store;
pub mod succession;
pub mod supervise;
mod switch;
mod takeover;
mod upgrade;
pub mod watchdog;

#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

pub use child::Inherited;
pub use client::Client;
pub use estate::Estate;
pub use heartbeat::Heartbeat;
pub use leftover::PidFile;
pub use store::{Returned, Store};
pub use supervise::{Job, Origin, START, run};
pub use takeover::Talk;
