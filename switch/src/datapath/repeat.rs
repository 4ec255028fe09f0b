//! A frame that differs from the one before it in nothing that a stage decides by.
//!
//! Most frames of a batch are such: the segments of a bulk transfer, a burst of datagrams. What was decided for the
//! first holds for the ones behind it, because within one call of `process` the tables, the clock, and, between two
//! such frames, the learned state are the same; learning and looking up the same address again at the same time
//! changes nothing. So only what differs is looked at again: the headers are read, the header checksum and the size
//! are checked, and the frame is edited and posted as the one before.
//!
//! A frame repeats another if all of this is equal: where it came from with outer ECN, the tunnel header, both MACs,
//! and, of TCP or UDP without fragments, IPv4 options or IPv6 extension headers, addresses, protocol, DSCP and ECN,
//! TTL, and ports. Lengths, identification, checksums, TCP's other fields and the payload are no part of any decision
//! but the ones made again here. Whatever else comes up sends the frame the long way, which is always right.
//! That both ways lead to the same is a property test (`tests/repeat.rs`).

use super::counters::CounterTable;
use super::decap;
use super::egress;
use super::frame::{Batch, Frame, FrameRef, Ingress, Postbox, Posted};
use super::parse;
use super::route;
use super::tables::Tables;
use super::verdict::{Egress, Verdict};
use packet::{Headers, Net, checksum, ether_type, ip_proto};
use tunnel::Encap;

/// Bytes of the MACs.
const MACS: usize = 12;
/// End of the ports in IPv4 and IPv6, from the Ethernet header.
const END4: usize = Headers::L3 + 20 + 4;
const END6: usize = Headers::L3 + 40 + 4;
/// Where TTL and hop limit are.
const TTL4: usize = Headers::L3 + 8;
const HOPS6: usize = Headers::L3 + 7;

/// What was decided for the frame before.
#[derive(Clone, Copy)]
pub struct Decision {
    origin: Egress,
    egress: Egress,
    vni: u32,
    /// Largest packet that goes there.
    mtu: u32,
    hash: u32,
    /// New MACs, and whether a hop was counted; `None` for a bridged frame.
    edit: Option<([u8; MACS], bool)>,
}

/// Length of the tunnel header. One with options is not recognised as a repetition.
#[inline]
const fn outer(ingress: &Ingress) -> usize {
    match ingress {
        Ingress::Underlay { .. } => Encap::HEADER_LEN,
        Ingress::Port(_) | Ingress::Peer { .. } => 0,
    }
}

/// Does the frame behind this one repeat it? Neither has been touched yet.
#[inline]
pub fn is_repeated(batch: &Batch, number: usize) -> bool {
    let (Some(this), Some(next)) = (batch.frames.get(number), batch.frames.get(number + 1)) else {
        return false;
    };
    if this.ingress != next.ingress {
        return false;
    }
    let (Some(a), Some(b)) = (batch.peek(this), batch.peek(next)) else { return false };
    let least = this.len.min(next.len) as usize;
    match this.ingress {
        Ingress::Underlay { .. } => is_same::<{ Encap::HEADER_LEN }>(a, b, least),
        Ingress::Port(_) | Ingress::Peer { .. } => is_same::<0>(a, b, least),
    }
}

/// `N` bytes as a number, in any order.
#[inline(always)]
fn word<const N: usize>(bytes: &[u8; LONGEST], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_ne_bytes(word)
}

/// Longest that is looked at.
const LONGEST: usize = Encap::HEADER_LEN + END6;

/// Compares what stands behind a tunnel header of `AT` bytes, and the header. `least` is the length of the shorter frame;
/// what is read behind it is not believed.
#[inline(always)]
fn is_same<const AT: usize>(a: &[u8; LONGEST], b: &[u8; LONGEST], least: usize) -> bool {
    // Bytes from here on that differ, as one number: comparing slices would be a call.
    let eight = |at: usize| word::<8>(a, at) ^ word::<8>(b, at);
    let four = |at: usize| word::<4>(a, at) ^ word::<4>(b, at);
    let two = |at: usize| word::<2>(a, at) ^ word::<2>(b, at);
    // MACs and EtherType, and of IP the version and the first half of what it wants of the network.
    if eight(AT) | eight(AT + 8) != 0 || AT > 0 && eight(0) != 0 || least < AT + END4 {
        return false;
    }
    match u16::from_be_bytes([a[AT + 12], a[AT + 13]]) {
        // Without options; fragment field, TTL and protocol; addresses and ports.
        ether_type::IPV4 => {
            a[AT + Headers::L3] == 0x45
                && u16::from_be_bytes([a[AT + 20], a[AT + 21]]) & 0x3fff == 0
                && matches!(a[AT + 23], ip_proto::TCP | ip_proto::UDP)
                && four(AT + 20) | eight(AT + 26) | four(AT + 34) == 0
        }
        // The rest of class and flow; next header and hop limit; addresses and ports.
        ether_type::IPV6 => {
            least >= AT + END6
                && matches!(a[AT + 20], ip_proto::TCP | ip_proto::UDP)
                && two(AT + 16) | two(AT + 20) == 0
                && (0..4).fold(0, |differ, n| differ | eight(AT + 22 + 8 * n)) | four(AT + 54) == 0
        }
        _ => false,
    }
}

/// What to do with the frame behind this one, which repeats it and has not been touched. `None` if this one's way is
/// not all there was to it: it was answered, flooded, held, dropped, or its ECN was changed. `received` is its length as it
/// came: behind a tunnel header with options something else was compared than what was decided by.
pub fn decided(
    tables: &Tables,
    batch: &Batch,
    number: usize,
    received: usize,
    out: &Postbox,
    (origin, verdict): (Option<Egress>, Verdict),
) -> Option<Decision> {
    let (Some(origin), Verdict::Unicast(egress)) = (origin, verdict) else { return None };
    let (this, next) = (batch.frames.get(number)?, batch.frames.get(number + 1)?);
    let at = outer(&next.ingress);
    if received != this.len as usize + at || this.headers.l4 == 0 {
        return None;
    }
    let (before, after) = (batch.bytes(next).get(at..)?, batch.bytes(this));
    if before.get(14..16) != after.get(14..16) {
        return None;
    }
    let posted =
        out.list(egress).last().filter(|posted| posted.frame == FrameRef::Received(number as u16))?;
    let ttl = if this.headers.net == Net::V4 { TTL4 } else { HOPS6 };
    let edited = before[..MACS] != after[..MACS] || before[ttl] != after[ttl];
    Some(Decision {
        origin,
        egress,
        vni: posted.vni,
        mtu: egress::mtu(tables, egress)?,
        hash: this.hash,
        edit: if edited { Some((*after.first_chunk()?, before[ttl] != after[ttl])) } else { None },
    })
}

impl Decision {
    /// Carries it out for a frame that repeats the one it was made for. `None` if this frame has to go the long way: it
    /// is as it was, but for what reading its headers left.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn carry_out(
        &self,
        tables: &Tables,
        meta: &mut Frame,
        bytes: &mut [u8],
        name: FrameRef,
        out: &mut Postbox,
        counters: &mut CounterTable,
    ) -> Option<()> {
        let at = outer(&meta.ingress);
        let length = bytes.len() as u64;
        let bytes = &mut bytes[at..];
        parse::frame_into(bytes, &meta.vnet, &mut meta.headers).ok()?;
        let vnet = match self.origin {
            Egress::Peer(id) => decap::offload(bytes, &meta.headers, tables.peer(id)?),
            Egress::Port(_) => meta.vnet,
        };
        if meta.headers.l4 == 0 || parse::packet_size(&meta.headers, &vnet) > self.mtu {
            return None;
        }
        if let Some((macs, hop)) = self.edit {
            if meta.headers.net == Net::V4 && !checksum::verify_ipv4_header(&bytes[Headers::L3..]) {
                return None;
            }
            bytes[..MACS].copy_from_slice(&macs);
            if hop {
                route::count_hop(bytes, meta.headers.net);
            }
        }
        meta.head += at as u32;
        meta.len -= at as u32;
        meta.vnet = vnet;
        meta.hash = self.hash;
        out.post(self.egress, Posted { frame: name, vni: self.vni });
        let counters = counters.of(self.origin);
        counters.receive(length, tunnel::offload::segments(&meta.headers, &meta.vnet) as u64);
        counters.verdict(Verdict::Unicast(self.egress));
        Some(())
    }
}
