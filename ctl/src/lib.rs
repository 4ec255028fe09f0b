//! The control API: what a client may ask of the switch daemon, and how the answers read.
//!
//! [`proto`] holds the types and the service generated from `proto/swd/v1/swd.proto`, the published
//! contract. [`desired`] is the same desired state with checked types, and the document format of `swctl
//! apply`, `swctl export` and the daemon's durable state file. [`error`] is the one vocabulary of failures
//! that server and client share. [`client`] connects over the Unix socket. [`tombstone`] is what the CNI plugin
//! leaves for a daemon that does not answer, [`upgrade`] how its monitor is asked to become another version, [`atomic`] how single files are replaced, and [`plugin`] how CNI
//! plugins are run.
#![forbid(unsafe_code)]

pub mod atomic;
pub mod client;
pub mod desired;
pub mod error;
pub mod plugin;
pub mod proto;
pub mod tombstone;
pub mod upgrade;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/swd/swd.sock";

/// Largest message either side accepts, in bytes. A full desired state or FDB listing must fit.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swd.v1.descriptor"));

/// The service with our message limits, ready for a `tonic` server.
pub fn service<T: proto::switch_server::Switch>(implementation: T) -> proto::switch_server::SwitchServer<T> {
    proto::switch_server::SwitchServer::new(implementation)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
