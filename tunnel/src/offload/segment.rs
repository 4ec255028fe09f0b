//! The cut: one frame with a virtio-net header becomes complete, standard packets.
//!
//! Three cases share one type. An offload frame is cut at `gso_size`, each segment with its own Ethernet, IP
//! and L4 header; a frame with a partial checksum gets it completed; any other frame passes whole. Headers
//! are written into the caller's arena, payload stays where it is.
//!
//! Limits: [`MAX_HEADER`] bytes of headers to rewrite, [`MAX_SEGMENTS`] segments. A pod could otherwise ask
//! for 65,535 packets of one byte with a single write.

use packet::{Headers, Net, VnetHdr, checksum, ip_proto, tcp_flag};
use std::ops::Range;

/// Ethernet, IPv4 or IPv6 and TCP with all options take 14 + 60 + 60; the rest is for extension headers.
pub const MAX_HEADER: usize = 256;

/// 64 KiB in segments of 32 bytes, fewer than any TCP may send (Linux: MSS of at least 48, options included).
pub const MAX_SEGMENTS: usize = 2048;

/// Why a frame cannot be cut or completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum CutError {
    /// Does not fit the path and cannot be made to: an ICMP error is due.
    #[error("larger than the path MTU")]
    TooBig,
    /// The virtio-net header contradicts the frame.
    #[error("virtio-net header contradicts the frame")]
    Inconsistent,
    /// More than [`MAX_HEADER`] bytes of headers.
    #[error("headers too long to segment")]
    HeaderTooLong,
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("too many segments")]
    TooManySegments,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Whole,
    /// The L4 checksum of `headers`.
    Complete,
    /// A checksum at these absolute offsets: start of the sum, field.
    Generic(usize, usize),
    Tcp,
    Udp,
}

/// A cut that has been checked: every piece can be written.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    frame: &'a [u8],
    kind: Kind,
    /// Bytes of the frame that are rewritten: `frame[..header]`.
    header: usize,
    l4: usize,
    end: usize,
    /// Payload bytes per piece.
    size: usize,
    pieces: usize,
    net: Net,
    proto: u8,
    /// Sum of addresses and protocol.
    pseudo: u16,
}

/// One packet of a cut: `header` bytes from the arena, then `payload` of the original frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bytes written to the arena, 0 for a frame that passes whole.
    pub header: usize,
    /// What follows, as a range of the original frame.
    pub payload: Range<usize>,
}

impl Piece {
    /// Bytes of the packet, from its Ethernet header.
    #[inline]
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.header + self.payload.len()
    }
}

/// Packets that a frame stands for: as many as [`plan`] makes of it for a path that takes its segment size.
#[inline]
#[must_use]
pub fn segments(headers: &Headers, vnet: &VnetHdr) -> usize {
    if !vnet.is_gso() {
        return 1;
    }
    let payload = (headers.end as usize).saturating_sub(usize::from(headers.payload));
    pieces(payload, usize::from(vnet.gso_size))
}

/// An offload frame without payload is still one packet.
#[inline]
fn pieces(payload: usize, size: usize) -> usize {
    payload.div_ceil(size.max(1)).max(1)
}

/// Decides how to send a frame over a path that takes IP packets of at most `max_l3` bytes. `headers` are
/// those of `frame`. Reads no payload, so it serves as the question "does it fit?" as well.
///
/// A TCP offload frame cut for a larger path gets the right segment size; anything else that does not fit is
/// `TooBig`, whether or not it may be fragmented: that is the caller's decision.
///
/// # Errors
/// See [`CutError`].
#[inline]
pub fn plan<'a>(
    frame: &'a [u8],
    headers: &Headers,
    vnet: &VnetHdr,
    max_l3: usize,
) -> Result<Cut<'a>, CutError> {
    let ip = matches!(headers.net, Net::V4 | Net::V6);
    let end = if ip { headers.end as usize } else { frame.len() };
    let fits = end <= Headers::L3 + max_l3;
    let mut cut = Cut {
        frame,
        kind: Kind::Whole,
        header: 0,
        l4: usize::from(headers.l4),
        end,
        size: usize::MAX,
        pieces: 1,
        net: headers.net,
        proto: headers.proto,
        pseudo: 0,
    };
    if vnet.is_gso() {
        return cut.offload(headers, vnet, max_l3);
    }
    if !fits {
        return Err(CutError::TooBig);
    }
    if !vnet.needs_csum {
        // Ethernet padding stays, unless it alone would exceed the path.
        cut.end = if frame.len() <= Headers::L3 + max_l3 { frame.len() } else { end };
        return Ok(cut);
    }
    if super::asks_for_l4(headers, vnet) {
        cut.kind = Kind::Complete;
        cut.header = usize::from(headers.payload).max(cut.l4 + usize::from(vnet.csum_offset) + 2);
        cut.pseudo = checksum::pseudo(headers, frame, 0);
    } else {
        let start = usize::from(vnet.csum_start);
        let field = start + usize::from(vnet.csum_offset);
        if start < Headers::L3 || field + 2 > end {
            return Err(CutError::Inconsistent);
        }
        cut.kind = Kind::Generic(start, field);
        cut.header = field + 2;
    }
    if cut.header > end {
        return Err(CutError::Inconsistent);
    }
    if cut.header > MAX_HEADER { Err(CutError::HeaderTooLong) } else { Ok(cut) }
}

impl<'a> Cut<'a> {
    fn offload(mut self, headers: &Headers, vnet: &VnetHdr, max_l3: usize) -> Result<Self, CutError> {
        if !vnet.needs_csum
            || vnet.gso_size == 0
            || vnet.gso_type != super::gso_type(headers)
            || !super::asks_for_l4(headers, vnet)
        {
            return Err(CutError::Inconsistent);
        }
        self.header = usize::from(headers.payload);
        if self.header > MAX_HEADER {
            return Err(CutError::HeaderTooLong);
        }
        let payload = self.end - self.header;
        let room = (Headers::L3 + max_l3).saturating_sub(self.header);
        self.size = usize::from(vnet.gso_size);
        if self.proto == ip_proto::TCP {
            self.kind = Kind::Tcp;
            self.size = self.size.min(room);
            if self.size == 0 {
                return Err(CutError::TooBig);
            }
        } else {
            self.kind = Kind::Udp;
            if self.size.min(payload) > room {
                return Err(CutError::TooBig);
            }
        }
        self.pieces = pieces(payload, self.size);
        if self.pieces > MAX_SEGMENTS {
            return Err(CutError::TooManySegments);
        }
        self.pseudo = checksum::pseudo(headers, self.frame, 0);
        Ok(self)
    }

    /// How many packets.
    #[inline]
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Bytes of headers that [`Cut::write`] produces for every piece.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Payload range of piece `k`, without writing anything. Empty for `k` out of range.
    #[inline]
    #[must_use]
    pub fn payload(&self, k: usize) -> Range<usize> {
        let from = k.saturating_mul(self.size).saturating_add(self.header).min(self.end);
        from..from.saturating_add(self.size).min(self.end)
    }

    /// Writes the headers of piece `k` (of [`Cut::pieces`]) to the front of `out`.
    #[inline]
    pub fn write(&self, k: usize, out: &mut [u8; MAX_HEADER]) -> Piece {
        let payload = self.payload(k);
        if self.header > 0 {
            out[..self.header].copy_from_slice(&self.frame[..self.header]);
            let h = &mut out[..self.header];
            let data = &self.frame[payload.clone()];
            match self.kind {
                Kind::Whole => {}
                Kind::Complete => self.complete(h, data),
                Kind::Generic(start, field) => generic(h, start, field, data),
                Kind::Tcp => {
                    self.lengths(h, k, data.len());
                    self.tcp(h, k);
                    self.complete(h, data);
                }
                Kind::Udp => {
                    self.lengths(h, k, data.len());
                    let len = (self.header - self.l4 + data.len()) as u16;
                    h[self.l4 + 4..self.l4 + 6].copy_from_slice(&len.to_be_bytes());
                    self.complete(h, data);
                }
            }
        }
        Piece { header: self.header, payload }
    }

    /// The length and identification of the IP header, and its checksum.
    #[inline]
    fn lengths(&self, h: &mut [u8], k: usize, payload: usize) {
        let ip = &mut h[Headers::L3..];
        let total = self.header - Headers::L3 + payload;
        if self.net == Net::V6 {
            ip[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            return;
        }
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(k as u16);
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[10..12].fill(0);
        let field = checksum::finish(checksum::sum(&ip[..self.l4 - Headers::L3]));
        ip[10..12].copy_from_slice(&field.to_be_bytes());
    }

    /// Sequence number and flags: CWR belongs to the first segment only, FIN and PSH to the last.
    #[inline]
    fn tcp(&self, h: &mut [u8], k: usize) {
        let tcp = &mut h[self.l4..];
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        tcp[4..8].copy_from_slice(&seq.wrapping_add((k * self.size) as u32).to_be_bytes());
        if k > 0 {
            tcp[13] &= !tcp_flag::CWR;
        }
        if k + 1 < self.pieces {
            tcp[13] &= !(tcp_flag::FIN | tcp_flag::PSH);
        }
    }

    /// The L4 checksum from nothing but the headers and the payload.
    #[inline]
    fn complete(&self, h: &mut [u8], payload: &[u8]) {
        let Some(at) = checksum::field_offset(self.proto) else { return };
        let l4 = &mut h[self.l4..];
        l4[at..at + 2].fill(0);
        let len = l4.len() + payload.len();
        // A length has at most 17 bits; its high half counts as a word of its own.
        let len = checksum::add((len >> 16) as u16, len as u16);
        let body = checksum::add(checksum::sum(l4), checksum::sum(payload));
        let sum = checksum::add(checksum::add(self.pseudo, len), body);
        let field =
            if self.proto == ip_proto::UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
        l4[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

/// Completes a checksum of unknown meaning. The field holds the sum of what is not covered otherwise, so it
/// is part of the sum. `h` ends behind the field, at any parity relative to `start`.
fn generic(h: &mut [u8], start: usize, field: usize, rest: &[u8]) {
    let head = checksum::sum(&h[start..]);
    let tail = checksum::sum(rest);
    // An odd number of bytes before the rest puts its bytes into the other halves of the words.
    let tail = if (h.len() - start) % 2 == 1 { tail.swap_bytes() } else { tail };
    let value = checksum::finish_udp(checksum::add(head, tail));
    h[field..field + 2].copy_from_slice(&value.to_be_bytes());
}
