//! Cutting an offload frame for the tunnel and merging packets for a port.
#![allow(missing_docs, clippy::expect_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use packet::{GsoType, MacAddr, VnetHdr, build, checksum, tcp_flag};
use std::io::{self, IoSlice};
use std::net::IpAddr;
use tunnel::offload::{Caps, GroFrame, Merger};
use tunnel::underlay::{Limits, PeerAddr, UnderlayTx};
use tunnel::{Sender, TxFrame};

struct Null;

impl UnderlayTx for Null {
    fn limits(&self, _: &PeerAddr) -> Limits {
        Limits { segments: 128, bytes: 65_507, lanes: 1 }
    }
    fn send(&mut self, _: &PeerAddr, _: u8, _: u16, _: &[IoSlice<'_>], _: usize) -> io::Result<()> {
        Ok(())
    }
}

const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));

fn ips() -> (IpAddr, IpAddr) {
    ("10.1.1.2".parse().expect("ip"), "10.1.1.3".parse().expect("ip"))
}

fn encap(c: &mut Criterion) {
    let mut g = c.benchmark_group("encap");
    let to = PeerAddr { id: 0, addr: "192.168.77.2:4789".parse().expect("address"), checksum: true };
    let mut frame = build::tcp(MACS, ips(), (1, 2), (1, 1, tcp_flag::ACK), &vec![0x5a; 61_000]);
    let headers = build::parse(&frame);
    let partial = checksum::pseudo(&headers, &frame, headers.end - u32::from(headers.l4));
    let at = usize::from(headers.l4) + 16;
    frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::Tcp4,
        hdr_len: headers.payload,
        gso_size: 1398,
        csum_start: headers.l4,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    let small = build::udp(MACS, ips(), (1, 2), &[0x5a; 64]);
    let small_headers = build::parse(&small);
    let mut sender = Sender::new();
    let one = |bytes, headers, vnet| TxFrame {
        bytes,
        headers,
        vnet,
        encap: [8, 0, 0, 0, 0, 0, 1, 0],
        tos: 0,
        entropy: 1,
    };
    g.throughput(Throughput::Bytes(frame.len() as u64));
    g.bench_function("tcp-61k", |b| {
        b.iter(|| sender.send(&mut Null, &to, 1450, 1, |_| one(&frame, headers, vnet)))
    });
    for count in [1usize, 64] {
        g.throughput(Throughput::Elements(count as u64));
        g.bench_function(format!("udp-64/batch={count}"), |b| {
            let frame = |_| one(&small, small_headers, VnetHdr::default());
            b.iter(|| sender.send(&mut Null, &to, 1450, count, frame));
        });
    }
    g.finish();
}

fn merge(c: &mut Criterion) {
    let mut g = c.benchmark_group("merge");
    for (name, payload) in [("tcp-1398", 1398usize), ("tcp-64", 64)] {
        let frames: Vec<Vec<u8>> = (0..44u32)
            .map(|n| {
                build::tcp(MACS, ips(), (1, 2), (n * payload as u32, 1, tcp_flag::ACK), &vec![0x5a; payload])
            })
            .collect();
        let mut merger = Merger::new();
        g.throughput(Throughput::Elements(44));
        g.bench_function(name, |b| {
            b.iter(|| {
                let frame = |i: usize| GroFrame {
                    bytes: &frames[i],
                    headers: build::parse(&frames[i]),
                    vnet: VnetHdr::default(),
                };
                merger.run(frames.len(), frame, Caps::ALL, 1450, |out| {
                    std::hint::black_box(&out);
                });
            });
        });
    }
    g.finish();
}

criterion_group!(benches, encap, merge);
criterion_main!(benches);
