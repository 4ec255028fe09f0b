//! Judges of what leaves: complete packets for the underlay, frames with a virtio-net header for a port.

use packet::{Headers, Net, VNET_HDR_LEN, VnetHdr, checksum};
use std::io::{self, IoSlice};
use switch::io::pod::expand;
use tunnel::Encap;
use tunnel::offload::Caps;
use tunnel::underlay::{Limits, MAX_PAYLOAD_V4, PeerAddr, UnderlayTx};

/// A sink that looks at every datagram: the right wrapping, a size that fits, an inner frame that parses.
pub struct CheckedTx {
    pub mtu: usize,
    pub encap: Encap,
    pub segments: usize,
    pub datagrams: u64,
    bytes: Vec<u8>,
}

impl CheckedTx {
    pub fn new() -> Self {
        Self { mtu: 0, encap: Encap::Vxlan, segments: 128, datagrams: 0, bytes: Vec::new() }
    }
}

impl UnderlayTx for CheckedTx {
    fn limits(&self, _: &PeerAddr) -> Limits {
        Limits { segments: self.segments, bytes: MAX_PAYLOAD_V4, lanes: 4 }
    }

    fn send(
        &mut self,
        _: &PeerAddr,
        _: u8,
        lane: u16,
        parts: &[IoSlice<'_>],
        segment: usize,
    ) -> io::Result<()> {
        assert!(lane < 4);
        self.bytes.clear();
        parts.iter().for_each(|p| self.bytes.extend_from_slice(p));
        assert!(segment > 0 && !self.bytes.is_empty());
        let count = self.bytes.len().div_ceil(segment);
        assert!(count <= self.segments && (count == 1 || self.bytes.len() <= MAX_PAYLOAD_V4));
        for datagram in self.bytes.chunks(segment) {
            assert!(datagram.len() <= Encap::HEADER_LEN + Headers::L3 + self.mtu, "larger than the path");
            let inner = self.encap.decode(datagram).expect("our own tunnel header");
            assert!(matches!(inner.vni, 1 | 2), "VNI {}", inner.vni);
            Headers::parse(&datagram[inner.at..]).expect("an inner frame that parses");
            self.datagrams += 1;
        }
        Ok(())
    }
}

/// What was written to a port: taken by the kernel, within the port's offloads, and something that a pod can
/// turn into packets. Returns those.
pub fn port_write(parts: &[IoSlice<'_>], caps: Caps, raw: &mut Vec<u8>) -> Vec<Vec<u8>> {
    raw.clear();
    parts.iter().for_each(|p| raw.extend_from_slice(p));
    let vnet = VnetHdr::parse(raw).expect("a virtio-net header of our own");
    let frame = &raw[VNET_HDR_LEN..];
    assert!(caps.take(&vnet), "{vnet:?} for a port with {caps:?}");
    assert!(frame.len() >= Headers::L3);
    if vnet.needs_csum {
        assert!(usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2 <= frame.len());
    }
    expand(raw).expect("a frame that makes sense")
}

/// A packet that was cut or merged by us has right lengths and checksums.
pub fn complete(frame: &[u8]) {
    let h = Headers::parse(frame).expect("a packet of ours parses");
    assert_eq!(h.end as usize, frame.len(), "length fields");
    assert!(checksum::verify_l4(&h, frame), "L4 checksum");
    assert!(h.net != Net::V4 || checksum::verify_ipv4_header(&frame[Headers::L3..]), "IPv4 checksum");
}
