//! Whole switches in one process: two or three engines over memory twins of TAP and underlay, user-space pods
//! behind their ports, one virtual clock, a wire that misbehaves by a seed. No privilege, no sleep, no chance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod frames;
mod host;
mod impair;
mod plan;
mod world;

mod control;
mod errors;
mod flood;
mod learning;
mod limit;
mod loss;
mod offload;
mod reach;
