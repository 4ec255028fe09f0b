//! Segmentation offload: one large frame where possible, standard packets where needed.
//!
//! [`plan`] cuts an offload frame and completes checksums; a [`Merger`] does the reverse for one port;
//! [`ingest()`] describes what a tunnel peer's kernel left undone. All of them work on headers only: payload
//! bytes are summed, never moved.

mod ingest;
mod merge;
mod open;
mod segment;
mod write;

pub use ingest::ingest;
pub use merge::{MAX_MERGED, Merger};
pub use open::MAX_OPEN;
pub use segment::{Cut, CutError, MAX_HEADER, MAX_SEGMENTS, Piece, plan, segments};
pub use write::{GroFrame, Output};

use packet::{GsoType, Headers, Net, VnetHdr, checksum, ip_proto};

/// What a port's device takes. Without a capability, frames that need it are cut or completed first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Partial checksums (`NEEDS_CSUM`).
    pub csum: bool,
    /// TCP over IPv4 offload frames.
    pub tso4: bool,
    /// TCP over IPv6 offload frames.
    pub tso6: bool,
    /// UDP offload frames, either IP version (Linux 6.2).
    pub uso: bool,
}

impl Caps {
    /// Everything.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, uso: true };
    /// Complete packets only.
    pub const NONE: Self = Self { csum: false, tso4: false, tso6: false, uso: false };

    /// May a frame with this header be written as it is?
    #[inline]
    #[must_use]
    pub const fn take(&self, vnet: &VnetHdr) -> bool {
        (self.csum || !vnet.needs_csum) && self.takes_gso(vnet.gso_type)
    }

    #[inline]
    const fn takes_gso(&self, gso: GsoType) -> bool {
        match gso {
            GsoType::None => true,
            GsoType::Tcp4 => self.tso4 && self.csum,
            GsoType::Tcp6 => self.tso6 && self.csum,
            GsoType::UdpL4 => self.uso && self.csum,
        }
    }
}

/// The offload type for whole packets of this kind, if there is one.
#[inline]
fn gso_type(headers: &Headers) -> GsoType {
    match (headers.net, headers.proto) {
        (Net::V4, ip_proto::TCP) => GsoType::Tcp4,
        (Net::V6, ip_proto::TCP) => GsoType::Tcp6,
        (Net::V4 | Net::V6, ip_proto::UDP) => GsoType::UdpL4,
        _ => GsoType::None,
    }
}

/// Does `vnet` ask for exactly the L4 checksum that `headers` describes? Then it can be computed from the
/// headers, without trusting the offsets or the value in the field.
#[inline]
fn asks_for_l4(headers: &Headers, vnet: &VnetHdr) -> bool {
    headers.l4 != 0
        && headers.fragment == packet::Fragment::Whole
        && vnet.csum_start == headers.l4
        && checksum::field_offset(headers.proto) == Some(usize::from(vnet.csum_offset))
}
