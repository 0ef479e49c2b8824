//! Where an offset or a time is, in 32 MiB of small batches: the index, then the headers that follow its entry, out of the page
//! cache. By offset, the one batch that is found is read as well.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group};
use millstream_benches::memory;
use millstream_protocol::{Offset, Timestamp};

use crate::records;
use crate::store::Store;

const BATCH_BYTES: usize = 4 << 10;
const LOG_BYTES: u64 = 32 << 20;
/// Places looked up in turn: neither the last one again nor the one behind it.
const PLACES: usize = 1_024;

/// Numbers below `end`, in no order.
fn places(end: u64) -> Vec<u64> {
    let noise = memory::noise(PLACES * 8);
    noise.chunks(8).map(|bytes| u64::from_le_bytes(*bytes.first_chunk().expect("chunks of 8")) % end).collect()
}

fn look_ups(criterion: &mut Criterion) {
    let batch = records::batch(BATCH_BYTES);
    let store = Store::with(&batch, LOG_BYTES / batch.bytes().len() as u64);
    let (end, partition) = (store.partition.high_watermark(), &store.partition);
    let mut group = criterion.benchmark_group("look_up");
    group.throughput(Throughput::Elements(1));

    let offsets: Vec<Offset> = places(end.0).into_iter().map(Offset).collect();
    let mut turn = offsets.iter().cycle();
    group.bench_function("by_offset", |bench| {
        bench.iter(|| partition.read(*turn.next().expect("a cycle"), 1).expect("it is there"));
    });

    let time_of = |offset: Offset| {
        let bytes = partition.read(offset, 1).expect("it is there").bytes;
        millstream_protocol::batch::BatchHeader::decode(&bytes).expect("a batch").append_time
    };
    let times: Vec<Timestamp> = offsets.iter().map(|offset| time_of(*offset)).collect();
    let mut turn = times.iter().cycle();
    group.bench_function("by_time", |bench| {
        bench.iter(|| black_box(partition.offset_for_time(*turn.next().expect("a cycle"))).expect("it is there"));
    });
    group.finish();
}

criterion_group!(steps, look_ups);
