//! Appending to a partition, `written`: 8 in flight, in bursts that the page cache takes at once; one in flight; and the way to
//! the lane and back by itself. Opening and deleting the log between bursts is not counted.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use millstream_protocol::ProducerId;
use millstream_protocol::batch::BatchView;

use crate::records;
use crate::store::Store;

/// Well below what may be unsynced: nobody waits for the disk.
const BURST_BYTES: u64 = 32 << 20;

/// The time of `count` appends, in bursts, each into a log of its own.
fn bursts(batch: &BatchView, mut count: u64, append: impl Fn(&Store, u64) -> Duration) -> Duration {
    let most = BURST_BYTES / batch.bytes().len() as u64;
    let mut took = Duration::ZERO;
    while count > 0 {
        let burst = count.min(most);
        took += append(&Store::open(), burst);
        count -= burst;
    }
    took
}

fn one_by_one(store: &Store, batch: &BatchView, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        store.partition.append_wait(batch.clone()).expect("it stores them");
    }
    start.elapsed()
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.sample_size(20);
    for (size, bytes) in [("64KiB", 64 << 10), ("1MiB", 1 << 20)] {
        let batch = records::batch(bytes);
        group.throughput(Throughput::Bytes(batch.bytes().len() as u64));
        group.bench_function(format!("written/{size}"), |bench| {
            bench.iter_custom(|count| bursts(&batch, count, |store, count| store.append(&batch, count)));
        });
    }
    let batch = records::batch(1 << 10);
    group.throughput(Throughput::Elements(1));
    group.bench_function("written/one_in_flight/1KiB", |bench| {
        bench.iter_custom(|count| bursts(&batch, count, |store, count| one_by_one(store, &batch, count)));
    });
    group.finish();
}

/// Fencing waits until the lane has carried out what came before, and writes nothing.
fn hand_over(criterion: &mut Criterion) {
    let store = Store::open();
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    group.bench_function("lane/there_and_back", |bench| {
        bench.iter(|| store.log.fence_producer(ProducerId(1), 1).expect("the lane runs"));
    });
    group.finish();
}

criterion_group!(steps, appends, hand_over);
