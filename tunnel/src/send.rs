//! From frames to datagrams of one peer, in as few system calls as the kernel allows.
//!
//! Every frame is cut into complete packets ([`crate::offload::plan`]), every packet gets its tunnel header, and
//! packets of one size (the last may be shorter), TOS byte and lane become one run ([`crate::run`]), whatever flow
//! they belong to.
//!
//! A frame counts as sent when all its packets were handed to the kernel, as dropped when any was not: what
//! left of a dropped offload frame is then more than was counted, never less. Packets of one flow are sent in the
//! order of their frames, and a fragment is overtaken by nothing. Once the egress is full, the remaining frames of the
//! call are dropped without trying.

use crate::entropy;
use crate::offload::{CutError, plan};
use crate::run::{Pass, Stock};
use crate::underlay::{PeerAddr, UnderlayTx};
use packet::{Fragment, Headers, VnetHdr};
use std::io;

/// Bytes of a tunnel header.
pub(crate) const TUNNEL: usize = 8;

/// A frame for a peer.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// Of `bytes`.
    pub headers: Headers,
    /// What is to be completed or cut.
    pub vnet: VnetHdr,
    /// The tunnel header, [`crate::Encap::header`].
    pub encap: [u8; TUNNEL],
    /// The outer DSCP and ECN byte, [`crate::ecn::encap_tos`].
    pub tos: u8,
    /// The flow hash.
    pub entropy: u32,
}

/// Why a frame did not leave.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TxDrop {
    /// The socket's buffer or the device's queue is full.
    #[error("underlay egress full")]
    Full,
    /// Larger than the pod-to-pod path or than the underlay takes.
    #[error("larger than the path MTU")]
    TooBig,
    /// Its virtio-net header cannot be honoured.
    #[error("offload frame that cannot be cut")]
    BadOffload,
    /// Any other error of the socket.
    #[error("underlay send failed")]
    Error,
}

impl TxDrop {
    /// Every variant, for tables of counters.
    pub const ALL: [Self; 4] = [Self::Full, Self::TooBig, Self::BadOffload, Self::Error];

    /// The drop reason in counters, traces and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "tx-full",
            Self::TooBig => "tx-oversize",
            Self::BadOffload => "tx-offload",
            Self::Error => "tx-error",
        }
    }

    pub(crate) fn of(e: &io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Full,
            Some(libc::EMSGSIZE) => Self::TooBig,
            _ if e.kind() == io::ErrorKind::WouldBlock => Self::Full,
            _ => Self::Error,
        }
    }
}

impl From<CutError> for TxDrop {
    fn from(e: CutError) -> Self {
        if e == CutError::TooBig { Self::TooBig } else { Self::BadOffload }
    }
}

/// Dropped frames by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// [`TxDrop::Full`].
    pub full: u64,
    /// [`TxDrop::TooBig`].
    pub too_big: u64,
    /// [`TxDrop::BadOffload`].
    pub bad_offload: u64,
    /// [`TxDrop::Error`].
    pub error: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.too_big + self.bad_offload + self.error
    }
}

/// What became of one call's frames. `frames + dropped.total()` is the number of frames given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Frames sent.
    pub frames: u64,
    /// Datagrams sent, those of partly sent frames included.
    pub segments: u64,
    /// UDP payload bytes sent, likewise.
    pub bytes: u64,
    /// Successful system calls (sends).
    pub sends: u64,
    /// Frames not sent.
    pub dropped: Dropped,
}

/// Sends frames; keeps its buffers between calls.
#[derive(Debug, Default)]
pub struct Sender {
    stock: Stock,
    outcomes: Vec<Option<TxDrop>>,
}

impl Sender {
    /// A sender with 64 KiB for headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Outcome of each frame of the last call, in its order: `None` means sent.
    #[must_use]
    pub fn outcomes(&self) -> &[Option<TxDrop>] {
        &self.outcomes
    }

    /// Sends the frames `0..count` to one peer, over a path that takes inner IP packets of `max_l3` bytes.
    pub fn send<'a, T: UnderlayTx + ?Sized>(
        &mut self,
        tx: &mut T,
        to: &PeerAddr,
        max_l3: usize,
        count: usize,
        frame: impl Fn(usize) -> TxFrame<'a>,
    ) -> Report {
        self.outcomes.clear();
        self.outcomes.resize(count, None);
        let limits = tx.limits(to);
        let bytes = |index: usize| frame(index).bytes;
        let mut pass = Pass::new(&mut self.stock, &mut self.outcomes, tx, to, limits, bytes);
        for index in 0..count {
            let f = frame(index);
            if !pass.is_full() {
                match plan(f.bytes, &f.headers, &f.vnet, max_l3) {
                    Ok(cut) => {
                        let whole = f.headers.fragment == Fragment::Whole;
                        if !whole {
                            // Its flow has another hash than the flow's other packets.
                            pass.flush_all();
                        }
                        let lane = entropy::lane(f.entropy, limits.lanes);
                        for k in 0..cut.pieces() {
                            let size = TUNNEL + cut.header_len() + cut.payload(k).len();
                            if !pass.place(index, size, f.tos, lane, f.entropy) {
                                // What is left of this frame would be of no use.
                                break;
                            }
                            pass.write(index, &f.encap, |room| cut.write(k, room));
                        }
                        if !whole {
                            pass.flush_all();
                        }
                    }
                    Err(e) => pass.refuse(index, e.into()),
                }
            }
            if pass.is_full() {
                pass.refuse(index, TxDrop::Full);
            }
        }
        pass.flush_all();
        let mut report = pass.report();
        for outcome in &self.outcomes {
            match outcome {
                None => report.frames += 1,
                Some(TxDrop::Full) => report.dropped.full += 1,
                Some(TxDrop::TooBig) => report.dropped.too_big += 1,
                Some(TxDrop::BadOffload) => report.dropped.bad_offload += 1,
                Some(TxDrop::Error) => report.dropped.error += 1,
            }
        }
        report
    }
}
