//! Writes for a port: frames as the device takes them, as lists of parts.
//!
//! A frame that goes alone is written as it is, or cut and completed where the port lacks the offload it needs.
//! A merged run is written as one block of headers, made here, and the payloads where they lie. At most
//! [`MAX_MERGED`] + 1 parts per write, far below the kernel's 1,024.

use super::merge::{Entry, MAX_MERGED, NONE};
use super::{Caps, CutError, MAX_HEADER, plan};
use packet::{GsoType, Headers, Net, VNET_HDR_LEN, VnetHdr, checksum, tcp_flag};
use std::io::IoSlice;

/// A frame for a port.
#[derive(Clone, Copy, Debug)]
pub struct GroFrame<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// Of `bytes`.
    pub headers: Headers,
    /// What is known about it.
    pub vnet: VnetHdr,
}

/// What to do next for the port.
#[derive(Debug)]
pub enum Output<'o> {
    /// One write to the device.
    Write {
        /// The first part begins with the ten bytes of the virtio-net header.
        parts: &'o [IoSlice<'o>],
        /// Indices of the input frames that it carries, in order.
        members: &'o [u32],
        /// Is this the last write for these frames? False only while a single frame is written in pieces.
        last: bool,
    },
    /// The port lacks an offload that the frame needs, and the frame cannot be cut. It is dropped.
    Refused {
        /// Index of the input frame.
        member: u32,
        /// Why.
        error: CutError,
    },
}

/// Writes one frame, as it is if the port takes it, in complete packets if not.
pub(super) fn alone(f: &GroFrame<'_>, i: u32, caps: Caps, max_l3: usize, emit: &mut impl FnMut(Output<'_>)) {
    let members = &[i];
    if caps.take(&f.vnet) {
        // The kernel sizes buffers by the header length; what another device said about it is not trusted.
        let vnet = VnetHdr { hdr_len: f.headers.payload, ..f.vnet }.to_bytes();
        let parts = &[IoSlice::new(&vnet), IoSlice::new(f.bytes)];
        emit(Output::Write { parts, members, last: true });
        return;
    }
    // A frame that is merely incomplete has its size already; only segments obey the MTU.
    let max_l3 = if f.vnet.is_gso() { max_l3 } else { f.bytes.len() };
    let cut = match plan(f.bytes, &f.headers, &f.vnet, max_l3) {
        Ok(cut) => cut,
        Err(error) => {
            emit(Output::Refused { member: i, error });
            return;
        }
    };
    let vnet = VnetHdr::default().to_bytes();
    let mut header = [0; MAX_HEADER];
    for k in 0..cut.pieces() {
        let piece = cut.write(k, &mut header);
        let parts = &[
            IoSlice::new(&vnet),
            IoSlice::new(&header[..piece.header]),
            IoSlice::new(&f.bytes[piece.payload]),
        ];
        emit(Output::Write { parts, members, last: k + 1 == cut.pieces() });
    }
}

/// Writes an entry of several packets: one header block, then their payloads.
pub(super) fn merged<'a>(
    entry: &Entry,
    next: &[u32],
    frame: &impl Fn(usize) -> GroFrame<'a>,
    emit: &mut impl FnMut(Output<'_>),
) {
    let first = frame(entry.first as usize);
    let h = &first.headers;
    let (l4, payload) = (usize::from(h.l4), usize::from(h.payload));
    // At most 14 + 40 + 60 bytes: options and extension headers in front of L4 have been excluded.
    let mut block = [0; VNET_HDR_LEN + 128];
    let size = VNET_HDR_LEN + payload;
    block[VNET_HDR_LEN..size].copy_from_slice(&first.bytes[..payload]);
    header(&mut block[VNET_HDR_LEN..size], &first, entry);
    let vnet = VnetHdr {
        needs_csum: true,
        data_valid: false,
        ecn: false,
        gso_type: entry.gso,
        hdr_len: h.payload,
        gso_size: entry.size,
        csum_start: h.l4,
        csum_offset: checksum::field_offset(h.proto).unwrap_or(0) as u16,
    };
    debug_assert!(l4 < payload);
    block[..VNET_HDR_LEN].copy_from_slice(&vnet.to_bytes());

    let mut members = [0; MAX_MERGED];
    let mut parts = [IoSlice::new(&[]); MAX_MERGED + 1];
    parts[0] = IoSlice::new(&block[..size]);
    let mut count = 0;
    let mut i = entry.first;
    while i != NONE && count < MAX_MERGED {
        let f = frame(i as usize);
        members[count] = i;
        parts[count + 1] = IoSlice::new(&f.bytes[usize::from(f.headers.payload)..f.headers.end as usize]);
        count += 1;
        i = next[i as usize];
    }
    emit(Output::Write { parts: &parts[..=count], members: &members[..count], last: true });
}

/// Turns the first packet's headers into those of the whole entry, with a partial L4 checksum.
fn header(block: &mut [u8], first: &GroFrame<'_>, entry: &Entry) {
    let h = &first.headers;
    let (l3, l4) = (Headers::L3, usize::from(h.l4));
    let total = block.len() - l3 + entry.total as usize;
    if h.net == Net::V4 {
        let ip = &mut block[l3..l4];
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ip[10..12].fill(0);
        let field = checksum::finish(checksum::sum(ip));
        ip[10..12].copy_from_slice(&field.to_be_bytes());
    } else {
        block[l3 + 4..l3 + 6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
    }
    let len = total - (l4 - l3);
    if entry.gso == GsoType::UdpL4 {
        block[l4 + 4..l4 + 6].copy_from_slice(&(len as u16).to_be_bytes());
    } else if entry.psh {
        block[l4 + 13] |= tcp_flag::PSH;
    }
    let at = l4 + checksum::field_offset(h.proto).unwrap_or(0);
    let field = checksum::pseudo(h, first.bytes, len as u32);
    block[at..at + 2].copy_from_slice(&field.to_be_bytes());
}
