//! The node's kernel: what it routes, translates and lets through for the pods.
//!
//! A port of the node is a device of ours in the node's own namespace ([`crate::io::PortSpec::node`]). What belongs
//! to it beside the device is one nftables table and a few settings. [`plan`] works out from what is declared what is
//! to be there, [`rules`] writes it down, [`apply`] brings it into the kernel, and [`obstacles`] tells what on this
//! host stands in the way. The map for operators is `docs/node.md`.
//!
//! Between pods none of this is on the way: their packets never leave the switch.

pub mod apply;
mod conntrack;
mod forward;
pub mod memory;
mod nft;
pub mod obstacles;
pub mod plan;
mod program;
pub mod rules;
pub mod stretch;

#[cfg(test)]
mod kernel_tests;

pub use apply::{NftHost, NodeHost};
pub use memory::MemoryHost;
pub use nft::NodeError;
pub use obstacles::Obstacle;
pub use plan::NodePlan;
