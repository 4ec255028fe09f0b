//! The tunnel between nodes: what a frame looks like on the underlay, and how it gets there fast.
//!
//! # Theory of operation
//!
//! A frame of a pod leaves this node inside a UDP datagram behind an eight-byte header ([`vxlan`] or
//! [`geneve`], chosen by [`Encap`]). Everything on the wire is a complete, standard packet: any RFC 7348 or
//! RFC 8926 endpoint can be the peer. Speed comes from doing things per *run* and not per packet:
//!
//! ```text
//! TAP --64 KiB frame--> offload::segment   plan the cut; per segment: new headers in an arena,
//!                          |               payload stays where it was read
//!                       send::Sender       frames to packets, packets to
//!                       run                open runs of one size each, gathered by iovec
//!                          |
//!                       underlay (tx)      one sendmsg with UDP_SEGMENT per run
//!   ~~~~~~~~~~~~~~~~~~~~~~~ the wire: one inner packet per datagram ~~~~~~~~~~~~~~~~~~~~~~~
//!                       underlay (rx)      one recvmsg with UDP_GRO: many datagrams of one size
//!                          |
//!                       Encap::decode      VNI and offset of the inner frame, or a named refusal
//!                       offload::ingest    what a kernel sender left undone (partial checksum, uncut frame)
//!                          |               ... the switch decides ...
//!                       offload::merge     packets that are already there and belong together become one
//!                          |               offload frame, payload gathered by iovec
//! TAP <--one writev--------+
//! ```
//!
//! The cut ([`offload::plan`]) and the merge ([`offload::Merger`]) are each other's inverse, and the property tests say so.
//! What a port cannot take ([`offload::Caps`]) is cut and completed before it is written.
//!
//! Two things ride along: [`ecn`] (RFC 6040: congestion marks survive both directions) and [`entropy`]
//! (flows spread over outer source ports). [`mtu`] derives the pod MTU from the underlay's.
//!
//! # Limits
//!
//! Linux, little-endian, 64 bit. Receive buffers of at least [`underlay::RECV_BUFFER`] bytes. Headers of
//! at most [`offload::MAX_HEADER`] bytes per segment, [`offload::MAX_SEGMENTS`] segments per frame. No
//! allocation after warm-up, no clock, no thread, no log. `unsafe` is confined to `underlay/sys.rs`.
#![deny(unsafe_code)]

pub mod ecn;
mod encap;
pub mod entropy;
pub mod geneve;
pub mod mtu;
pub mod offload;
mod run;
mod send;
pub mod underlay;
pub mod vxlan;

pub use encap::{DecapError, Encap, Inner, InvalidEncap};
pub use send::{Dropped, Report, Sender, TxDrop, TxFrame};
