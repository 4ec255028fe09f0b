//! The switch: a pure data path ([`datapath`]), the devices around it ([`io`]), the worker that drives it and
//! the control thread that programs it. See `ARCHITECTURE.md` for the map.

pub mod control;
pub mod datapath;
pub mod engine;
pub mod io;
pub mod monitor;
pub mod node;
pub mod notify;
mod ring;
pub mod sandbox;
pub mod worker;
