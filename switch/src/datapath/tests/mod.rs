//! Tests of the data path, one file per stage, on the kit in [`kit`].
//!
//! Nothing here needs privileges, a clock or a device: frames go in, verdicts and copies come out. Every frame
//! sent through the kit is also checked against the invariants that hold for all frames (see [`kit::World::send`]).

mod announce;
mod arp;
mod counters;
mod decap;
mod egress;
mod forward;
mod guard;
mod icmp;
mod kit;
mod learn;
mod model_fdb;
mod model_fib;
mod nd;
mod node;
mod node_arp;
mod parse;
mod random;
mod reasons;
mod recall;
mod repeat;
mod resolve;
mod route;
