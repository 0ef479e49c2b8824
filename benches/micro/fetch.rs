//! Slices of a partition, one behind the other, out of the page cache: headers checked, bodies as they were stored.

use criterion::{Criterion, Throughput, criterion_group};
use millstream_protocol::Offset;

use crate::records;
use crate::store::Store;

const LOG_BYTES: u64 = 32 << 20;

fn fetches(criterion: &mut Criterion) {
    let batch = records::batch(16 << 10);
    let store = Store::with(&batch, LOG_BYTES / batch.bytes().len() as u64);
    let (end, partition) = (store.partition.high_watermark(), &store.partition);
    let mut group = criterion.benchmark_group("fetch");
    for (size, bytes) in [("64KiB", 64 << 10), ("1MiB", 1 << 20)] {
        // Bodies are checked once in the life of a process: here.
        let mut next = Offset(0);
        while next < end {
            next = partition.read(next, bytes).expect("it is there").next;
        }
        let first = partition.read(Offset(0), bytes).expect("it is there");
        group.throughput(Throughput::Bytes(first.bytes.len() as u64));
        group.bench_function(size, |bench| {
            let mut next = Offset(0);
            bench.iter(|| {
                // All slices are of the same length: what is left over at the end is not read.
                if next.0 + first.next.0 > end.0 {
                    next = Offset(0);
                }
                let found = partition.read(next, bytes).expect("it is there");
                next = found.next;
                found.bytes
            });
        });
    }
    group.finish();
}

criterion_group!(steps, fetches);
