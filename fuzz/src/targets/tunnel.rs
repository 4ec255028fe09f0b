//! `vxlan`, `geneve`: one datagram as it comes from the underlay, through decap to what the switch would make of
//! it. The first byte is the outer TOS.

use super::headers;
use crate::input::{Input, mix};
use packet::{ETHERNET_LEN, Headers, VNET_HDR_LEN, Vni, checksum};
use switch::io::pod::expand;
use tunnel::Encap;
use tunnel::ecn::{self, EcnAction};
use tunnel::offload::{MAX_HEADER, ingest, plan};

const MTU: usize = 1450;

pub fn run(encap: Encap, data: &[u8]) -> u64 {
    let mut input = Input(data);
    let tos = input.byte();
    let datagram = input.0;
    let inner = match encap.decode(datagram) {
        Ok(inner) => inner,
        Err(e) => return mix(2, e as u64),
    };
    assert!(inner.at >= Encap::HEADER_LEN && inner.at + ETHERNET_LEN <= datagram.len());
    assert!(inner.vni <= Vni::MAX);
    // Nothing behind the Ethernet header has a say, and nothing less will do.
    assert_eq!(encap.decode(&datagram[..inner.at + ETHERNET_LEN]), Ok(inner));
    assert!(encap.decode(&datagram[..inner.at + ETHERNET_LEN - 1]).is_err());
    if let Ok(vni) = Vni::new(inner.vni) {
        let again = [&encap.header(vni)[..], &datagram[inner.at..]].concat();
        let got = encap.decode(&again).expect("what we send is accepted");
        assert_eq!((got.vni, got.at), (inner.vni, Encap::HEADER_LEN));
    }
    let mut frame = datagram[inner.at..].to_vec();
    let Ok(h) = Headers::parse(&frame) else { return mix(3, inner.at as u64) };
    headers::check(&frame, &h);
    let vnet = ingest(&frame, &h, MTU);
    let right = checksum::verify_l4(&h, &frame);
    let action = ecn::decap(tos, h.tos(&frame));
    if let EcnAction::Set(mark) = action {
        ecn::set_ecn(&mut frame, &h, mark);
        assert_eq!(Headers::parse(&frame), Ok(h));
    }
    let mut outcome = 0;
    if vnet.needs_csum {
        // The kernel's shortcut is understood: whoever gets the frame can complete it, and so can we.
        let raw = [&vnet.to_bytes()[..], &frame].concat();
        assert_eq!(raw.len(), VNET_HDR_LEN + frame.len());
        let packets = expand(&raw).expect("a frame that makes sense");
        assert!(!packets.is_empty() || vnet.is_gso());
        if let Ok(cut) = plan(&frame, &h, &vnet, MTU) {
            let mut header = [0; MAX_HEADER];
            for k in (0..cut.pieces()).take(70) {
                let piece = cut.write(k, &mut header);
                let packet = [&header[..piece.header], &frame[piece.payload]].concat();
                assert!(packet.len() <= Headers::L3 + MTU);
                let h = Headers::parse(&packet).expect("a packet of ours parses");
                assert!(checksum::verify_l4(&h, &packet), "{packet:02x?}");
            }
            outcome = 1 + cut.pieces().min(3);
        }
    } else {
        assert_eq!(vnet, packet::VnetHdr::default());
    }
    let what = action != EcnAction::Keep;
    let kind = h.net as u64 | u64::from(right) << 3 | u64::from(what) << 4 | (outcome as u64) << 5;
    mix(kind | u64::from(h.proto) << 8, (inner.at as u64 / 4) << 8 | h.fragment as u64)
}
