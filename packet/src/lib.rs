//! Header views, address newtypes, checksums and flow keys.
//!
//! The leaf of the workspace: no I/O, no clock, no logging, no allocation, nothing of ours imported.
//!
//! The contract of every parser here: it takes a byte slice that may hold anything, never panics, and
//! either returns offsets that are all inside the slice or says by name what is wrong. Whoever holds a
//! [`Headers`] for a slice may index that slice with its offsets without further checks.
//!
//! Multi-byte fields are in network byte order on the wire and in host order in our types, except for
//! [`VnetHdr`], which the kernel keeps in host order in memory.
#![deny(unsafe_code)]

pub mod checksum;
pub mod flow;
mod headers;
mod mac;
mod vnet;
mod vni;

#[cfg(feature = "test-util")]
pub mod build;

pub use headers::{
    ETHERNET_LEN, Fragment, Headers, MAX_EXTENSIONS, Malformed, Net, ether_type, ip_proto, read_v4, read_v6,
    tcp_flag,
};
pub use mac::{InvalidMac, MacAddr};
pub use vnet::{GsoType, InvalidVnet, VNET_HDR_LEN, VnetHdr};
pub use vni::{InvalidVni, Vni};
