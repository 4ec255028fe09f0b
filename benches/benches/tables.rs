//! FDB and FIB alone, at several sizes, with random keys.
#![allow(missing_docs)]

use benches::{SEED, remote_mac, routed_ip, world};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;
use switch::datapath::{Egress, Fdb, NetId, PeerId};

fn fdb(c: &mut Criterion) {
    let mut g = c.benchmark_group("fdb");
    for size in [1_000u32, 65_536, 1_000_000] {
        let mut fdb = Fdb::new(size as usize + 1, SEED);
        let peer = Egress::Peer(PeerId(0));
        for n in 0..size {
            fdb.learn(NetId(0), remote_mac(n), peer, u32::MAX, 0);
        }
        let mut n = 0u32;
        let mut next = move || {
            n = n.wrapping_add(2_654_435_761);
            n % size
        };
        g.bench_function(BenchmarkId::new("lookup", size), |b| {
            b.iter(|| fdb.lookup(NetId(0), black_box(remote_mac(next()))))
        });
        g.bench_function(BenchmarkId::new("refresh", size), |b| {
            b.iter(|| fdb.learn(NetId(0), black_box(remote_mac(next())), peer, u32::MAX, 1));
        });
        g.bench_function(BenchmarkId::new("move", size), |b| {
            let mut to = 0;
            b.iter(|| {
                to ^= 1;
                fdb.learn(NetId(0), remote_mac(next()), Egress::Peer(PeerId(to)), u32::MAX, 2)
            });
        });
    }
    g.finish();
}

fn fib(c: &mut Criterion) {
    let mut g = c.benchmark_group("fib");
    for size in [1_000u32, 100_000] {
        let w = world(0, size);
        let Some(network) = w.tables.network(NetId(0)) else { continue };
        let mut n = 0u32;
        g.bench_function(BenchmarkId::new("lookup", size), |b| {
            b.iter(|| {
                n = n.wrapping_add(2_654_435_761);
                network.fib.lookup(black_box(IpAddr::V4(routed_ip(n % size))))
            });
        });
    }
    g.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = fdb, fib
}
criterion_main!(benches);
