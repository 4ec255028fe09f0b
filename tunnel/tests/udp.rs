//! Real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{Headers, VnetHdr, Vni, flow};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tunnel::underlay::{
    Datagram, MAX_CODEPOINTS, PeerAddr, RECV_BUFFER, SOCKET_BUFFER, TxOptions, UdpRx, UdpTx, UnderlayRx,
    UnderlayTx,
};
use tunnel::{Encap, Sender, TxFrame};

const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

fn rx(ip: &str) -> (UdpRx, PeerAddr) {
    let ip: IpAddr = ip.parse().unwrap();
    let rx = UdpRx::from_fd(UdpRx::bind(SocketAddr::new(ip, 0)).unwrap(), Encap::Vxlan).unwrap();
    let addr = rx.local_addr();
    (rx, PeerAddr { id: 0, addr, checksum: true })
}

fn tx(ip: &str, options: TxOptions) -> UdpTx {
    UdpTx::new(ip.parse().unwrap(), options)
}

fn recv(rx: &mut UdpRx, buf: &mut [u8]) -> Datagram {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match rx.recv(buf) {
            Ok(d) => return d,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::yield_now()
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// Receives `count` datagrams.
fn collect(rx: &mut UdpRx, count: usize) -> Vec<(Datagram, Vec<u8>)> {
    let mut buf = vec![0; RECV_BUFFER];
    let mut out = Vec::new();
    while out.len() < count {
        let d = recv(rx, &mut buf);
        assert!(!d.truncated);
        out.extend(d.ranges().map(|r| (d, buf[r].to_vec())));
    }
    assert_eq!(rx.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    out
}

#[test]
fn runs_cross_with_and_without_gro() {
    for ip in LOOPBACK {
        let (mut rx, to) = rx(ip);
        assert!(rx.gro());
        let mut tx = tx(ip, TxOptions::default());
        let limits = tx.limits(&to);
        assert!(limits.segments == 64 || limits.segments == 128);
        // As many as are allowed, the last one short; more than 64 where the kernel takes them.
        let bytes = payload(100 * (limits.segments - 1) + 30, 1);
        for gro in [true, false] {
            rx.set_gro(gro).unwrap();
            tx.send(&to, 0, 0, &[IoSlice::new(&bytes[..50]), IoSlice::new(&bytes[50..])], 100).unwrap();
            let got = collect(&mut rx, limits.segments);
            assert_eq!(
                got.iter().map(|g| &g.1[..]).collect::<Vec<_>>(),
                bytes.chunks(100).collect::<Vec<_>>()
            );
            assert_eq!(got[0].0.segment, 100);
            assert_eq!(got[0].0.src.ip(), to.addr.ip());
            if !gro {
                assert_eq!(got[0].0.len, 100);
            }
        }
        // The largest payload.
        let bytes = payload(limits.bytes, 2);
        tx.send(&to, 0, 0, &[IoSlice::new(&bytes)], 1400).unwrap();
        let got = collect(&mut rx, limits.bytes.div_ceil(1400));
        assert_eq!(got.iter().flat_map(|g| g.1.clone()).collect::<Vec<_>>(), bytes);
        assert_eq!(tx.stats().unsegmented, 0);
        assert!(tx.segmentation(to.id));
    }
}

#[test]
fn tos_is_seen_and_codepoints_are_bounded() {
    for ip in LOOPBACK {
        let (mut rx, to) = rx(ip);
        let mut tx = tx(ip, TxOptions::default());
        let count = MAX_CODEPOINTS as u8 + 3;
        let mut sources = std::collections::BTreeSet::new();
        for round in 0..2 {
            for i in 0..count {
                let tos = i << 2 | (i & 3);
                tx.send(&to, tos, 0, &[IoSlice::new(&[i; 40])], 20).unwrap();
                for (d, bytes) in collect(&mut rx, 2) {
                    assert_eq!((d.tos, &bytes[..]), (tos, &[i; 20][..]));
                    sources.insert(d.src.port());
                }
            }
            assert_eq!(tx.stats().sockets, MAX_CODEPOINTS as u64 + 1, "round {round}");
        }
        assert_eq!(tx.stats().shared, 6);
        assert!(sources.iter().all(|&p| p >= 49_152), "{sources:?}");
    }
}

#[test]
fn lanes_have_their_own_source_ports() {
    let (mut rx, to) = rx("127.0.0.1");
    let mut tx = tx("127.0.0.1", TxOptions { lanes: 4 });
    assert_eq!(tx.limits(&to).lanes, 4);
    let mut ports = std::collections::BTreeSet::new();
    for lane in [0, 1, 2, 3, 0, 1] {
        tx.send(&to, 0, lane, &[IoSlice::new(b"x")], 0).unwrap();
        ports.insert(collect(&mut rx, 1)[0].0.src.port());
    }
    assert_eq!(ports.len(), 4);
    tx.forget(to.id);
    tx.send(&to, 0, 0, &[IoSlice::new(b"x")], 0).unwrap();
    assert_eq!(tx.stats().sockets, 5);
}

#[test]
fn without_checksum_or_segmentation_runs_become_datagrams() {
    for ip in LOOPBACK {
        for (checksum, on) in [(false, true), (true, false)] {
            let (mut rx, to) = rx(ip);
            let to = PeerAddr { checksum, ..to };
            let mut tx = tx(ip, TxOptions::default());
            tx.set_segmentation(&to, on);
            let bytes = payload(100 * 99 + 7, 3);
            let parts: Vec<_> = bytes.chunks(33).map(IoSlice::new).collect();
            tx.send(&to, 0, 0, &parts, 100).unwrap();
            let got: Vec<_> = collect(&mut rx, 100).into_iter().map(|g| g.1).collect();
            assert_eq!(got, bytes.chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>());
            assert_eq!(tx.stats().unsegmented, 1);
        }
    }
}

#[test]
fn a_pending_refusal_is_swallowed() {
    let (rx, to) = rx("127.0.0.1");
    drop(rx);
    let mut tx = tx("127.0.0.1", TxOptions::default());
    for _ in 0..4 {
        tx.send(&to, 0, 0, &[IoSlice::new(b"x")], 0).unwrap();
    }
    assert!(tx.stats().pending_errors > 0);
}

#[test]
fn too_big_is_surfaced() {
    let (mut rx, to) = rx("127.0.0.1");
    let mut tx = tx("127.0.0.1", TxOptions::default());
    let bytes = payload(65_508, 0);
    let e = tx.send(&to, 0, 0, &[IoSlice::new(&bytes)], 0).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(90));
    assert_eq!(tx.stats().too_big, 1);
    tx.send(&to, 0, 0, &[IoSlice::new(&bytes[..100])], 0).unwrap();
    assert_eq!(collect(&mut rx, 1).len(), 1);
}

#[test]
fn wrong_peers_and_wrong_descriptors_are_refused() {
    let mut t = tx("127.0.0.1", TxOptions::default());
    let v6 = PeerAddr { id: 0, addr: "[::1]:4789".parse().unwrap(), checksum: true };
    let far = PeerAddr { id: u32::MAX, addr: "127.0.0.1:4789".parse().unwrap(), checksum: true };
    for to in [v6, far] {
        assert_eq!(
            t.send(&to, 0, 0, &[IoSlice::new(b"x")], 0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(UdpRx::from_fd(tcp.into(), Encap::Vxlan).is_err());
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    assert!(UdpRx::from_fd(unbound.into(), Encap::Vxlan).is_err());
}

#[test]
fn the_port_cannot_be_shared_and_buffers_are_kept() {
    let (rx, to) = rx("127.0.0.1");
    assert_eq!(UdpRx::bind(to.addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let granted = rx.buffer().unwrap();
    let again = UdpRx::from_fd(rx.as_fd().try_clone_to_owned().unwrap(), Encap::Geneve).unwrap();
    assert!(again.buffer().unwrap() >= granted.min(SOCKET_BUFFER));
}

#[test]
fn a_short_buffer_says_so() {
    let (mut rx, to) = rx("127.0.0.1");
    let mut tx = tx("127.0.0.1", TxOptions::default());
    tx.send(&to, 0, 0, &[IoSlice::new(&[1; 100])], 0).unwrap();
    let mut buf = [0; 10];
    let d = recv(&mut rx, &mut buf);
    assert_eq!((d.len, d.truncated), (10, true));
}

#[test]
fn frames_cross_real_sockets() {
    for ip in LOOPBACK {
        for encap in [Encap::Vxlan, Encap::Geneve] {
            let (mut rx, to) = rx(ip);
            let mut tx = tx(ip, TxOptions::default());
            let mut large = tcp(true, (1, 2), 3, 4, 0x18, &payload(60_000, 1));
            let (_, vnet) = offload(&mut large, 1378);
            let smalls: Vec<_> = (0..200).map(|i| udp(false, (5, 6), &payload(64, i as u8))).collect();
            let vni = Vni::new(0xabcdef).unwrap();
            let frame = |bytes: &'static [u8], vnet| {
                let headers = Headers::parse(bytes).unwrap();
                TxFrame {
                    bytes,
                    headers,
                    vnet,
                    encap: encap.header(vni),
                    tos: 0,
                    entropy: flow::hash(&headers, bytes),
                }
            };
            let mut list = vec![frame(Box::leak(large.into_boxed_slice()), vnet)];
            list.extend(
                smalls.into_iter().map(|s| frame(Box::leak(s.into_boxed_slice()), VnetHdr::default())),
            );
            let report = Sender::new().send(&mut tx, &to, 1450, list.len(), |i| list[i]);
            assert_eq!((report.frames, report.dropped.total()), (201, 0));
            assert!(report.sends <= 5, "{report:?}");
            for (_, bytes) in collect(&mut rx, report.segments as usize) {
                let inner = encap.decode(&bytes).unwrap();
                assert_eq!(inner.vni, vni.get());
                assert_complete(&bytes[inner.at..]);
            }
        }
    }
}
