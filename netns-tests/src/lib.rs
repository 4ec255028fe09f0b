//! The lab: everything a test, a demonstration or a side-by-side measurement needs around the
//! switch, on real kernel network stacks.
//!
//! A program that uses it calls [`enter::enter`] first thing in `main`. From then on the process
//! lives in a sandbox: its own network, mount and process namespaces, as root or as an ordinary
//! user. Nothing outside can see its namespaces and devices, and whatever happens to the program,
//! the kernel removes them when it ends.
//!
//! Inside, [`lab::Lab`] builds nodes joined by a wire, [`kernel`] and [`ovs`] build peers that are
//! not ours, [`vde`] and [`tinc`] rivals to measure against, [`probe`] measures, [`capture`] and
//! [`tshark`] look on independently. [`runtimes`] makes machines of nodes, on which container
//! runtimes run.
//!
//! Nothing here links to the switch: it is started and programmed as users do, by running `swd`
//! and `swctl`.

pub mod capture;
pub mod checksum;
pub mod cmd;
pub mod cniclient;
pub mod confine;
pub mod conserve;
pub mod diag;
pub mod enter;
pub mod error;
pub mod flow;
pub mod harness;
pub mod impair;
pub mod install;
pub mod kernel;
pub mod lab;
pub mod manager;
pub mod netns;
pub mod node;
pub mod ovs;
pub mod packet_socket;
pub mod plan;
pub mod probe;
pub mod rawframe;
pub mod runtimes;
pub mod swd;
pub mod tinc;
pub mod tshark;
pub mod vde;
pub mod wait;
pub mod wire;
pub mod witness;

mod stage;

pub use crate::error::{Context, Error, Result};
pub use crate::lab::{Lab, LabBuilder, Pod};
pub use crate::netns::{Netns, Ns};
pub use crate::node::Node;
