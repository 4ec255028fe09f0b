//! `Datapath::process`, per frame: kind x batch size x table size.
//!
//! Only `process` is timed; filling the batch is not. 64 batches of different frames are rotated, so that
//! lookups do not hit the same few entries.
#![allow(missing_docs)]

use benches::{Kind, world};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};

fn measure(c: &mut Criterion, group: &str, kind: Kind, size: u32, fdb: u32, routes: u32) {
    let mut w = world(fdb, routes);
    let batches = w.batches(kind, 256, size, fdb, routes);
    let mut g = c.benchmark_group(group);
    g.throughput(Throughput::Elements(u64::from(size)));
    let id = BenchmarkId::new(kind.name(), format!("batch={size}/fdb={fdb}/routes={routes}"));
    g.bench_function(id, |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for round in 0..rounds {
                w.load(&batches[round as usize % batches.len()]);
                let start = Instant::now();
                w.process();
                spent += start.elapsed();
            }
            spent
        });
    });
    g.finish();
}

fn process(c: &mut Criterion) {
    for kind in Kind::ALL {
        for size in [1, 64] {
            measure(c, "process", kind, size, 65_536, 10_000);
        }
    }
    for fdb in [1_000, 65_536, 1_000_000] {
        measure(c, "process-scale", Kind::RemoteHit, 64, fdb, 10_000);
    }
    for routes in [1_000, 100_000] {
        measure(c, "process-scale", Kind::Routed, 64, 65_536, routes);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = process
}
criterion_main!(benches);
