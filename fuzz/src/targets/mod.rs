//! One file per target.

pub mod api;
mod check;
pub mod headers;
pub mod memory;
pub mod process;
pub mod state;
pub mod tables;
pub mod tunnel;
pub mod vnet;
