//! Header parsing and checksums.
#![allow(missing_docs, clippy::expect_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use packet::{Headers, MacAddr, build, checksum, flow};
use std::hint::black_box;
use std::net::IpAddr;

fn frames() -> [(&'static str, Vec<u8>); 3] {
    let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let v4: (IpAddr, IpAddr) = ("10.1.1.2".parse().expect("ip"), "10.1.1.3".parse().expect("ip"));
    let v6: (IpAddr, IpAddr) = ("fd00::2".parse().expect("ip"), "fd00::3".parse().expect("ip"));
    [
        ("udp4", build::udp(macs, v4, (1, 2), &[0; 64])),
        ("tcp4", build::tcp(macs, v4, (1, 2), (1, 1, 0x10), &[0; 1400])),
        ("tcp6", build::tcp(macs, v6, (1, 2), (1, 1, 0x10), &[0; 1400])),
    ]
}

fn parse(c: &mut Criterion) {
    let mut g = c.benchmark_group("parse");
    for (name, frame) in frames() {
        g.bench_function(name, |b| b.iter(|| Headers::parse(black_box(&frame))));
        let headers = build::parse(&frame);
        g.bench_function(format!("flow-hash/{name}"), |b| b.iter(|| flow::hash(black_box(&headers), &frame)));
    }
    g.finish();
    let mut g = c.benchmark_group("checksum");
    for len in [64, 1500, 65_000] {
        let bytes = vec![0x5a; len];
        g.throughput(Throughput::Bytes(len as u64));
        g.bench_function(format!("{len}"), |b| b.iter(|| checksum::sum(black_box(&bytes))));
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
