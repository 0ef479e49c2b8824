//! Batches of 1 KiB JSON records: encoding, checking, decoding; beside a copy and a checksum of the same bytes.
//!
//! `cargo bench -p millstream-benches --bench batch`

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_benches::memory;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, HEADER_BYTES, Stamp, stamp};
use millstream_protocol::{Epoch, Incarnation, Offset, Record, Timestamp};

const RECORDS: usize = 256;
const RECORD_BYTES: usize = 1 << 10;
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

/// Records as sensors send them: the same fields, other figures.
fn records() -> Vec<Record> {
    let noise = memory::noise(RECORDS * RECORD_BYTES);
    let record = |index: usize, noise: &[u8]| {
        let mut json = format!("{{\"ride\":\"ride-{index}\",\"time\":{}", 1_700_000_000_000u64 + index as u64);
        for (field, pair) in noise.chunks(4).enumerate() {
            if json.len() >= RECORD_BYTES - 32 {
                break;
            }
            let figure = u32::from_le_bytes(*pair.first_chunk().expect("chunks of 4"));
            json.push_str(&format!(",\"sensor_{field}\":{}.{}", figure % 1_000, figure % 97));
        }
        json.push('}');
        json.extend(std::iter::repeat_n(' ', RECORD_BYTES.saturating_sub(json.len())));
        Record::new(json).key(format!("ride-{}", index % 16)).timestamp(Timestamp(1_700_000_000_000 + index as i64))
    };
    noise.chunks(RECORD_BYTES).enumerate().map(|(index, noise)| record(index, noise)).collect()
}

fn build(codec: Codec, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::with_capacity(codec, RECORDS * (RECORD_BYTES + 64));
    for record in records {
        builder.push(record).expect("legal");
    }
    builder.finish().expect("not empty")
}

fn batches(criterion: &mut Criterion) {
    let records = records();
    let plain = build(Codec::None, &records);
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Bytes(plain.len() as u64));

    let mut copied = vec![0; plain.len()];
    group.bench_function("ceiling/copy", |bench| bench.iter(|| memory::copy(&plain, &mut copied)));
    group.bench_function("ceiling/crc", |bench| bench.iter(|| memory::crc(&plain)));
    for codec in CODECS {
        group.bench_function(format!("encode/{codec}"), |bench| bench.iter(|| build(codec, black_box(&records))));
    }
    group.bench_function("check", |bench| bench.iter(|| BatchView::parse(black_box(&plain)).expect("legal")));
    for codec in CODECS {
        let view = BatchView::parse(&build(codec, &records)).expect("legal");
        assert_eq!(view.header().codec, codec);
        group.bench_function(format!("decode_lent/{codec}"), |bench| {
            bench.iter(|| {
                let mut records = view.records().expect("legal");
                while let Some(record) = records.next_ref() {
                    black_box(record.expect("legal"));
                }
            });
        });
        group.bench_function(format!("decode_owned/{codec}"), |bench| {
            bench.iter(|| view.records().expect("legal").for_each(|record| drop(black_box(record))));
        });
    }
    group.finish();

    let mut header = plain[..HEADER_BYTES].to_vec();
    let now = Stamp { base_offset: Offset(1), append_time: Timestamp(2), epoch: Epoch(3), synced_end: Offset(4) };
    criterion.bench_function("stamp", |bench| bench.iter(|| stamp(black_box(&mut header), &now, Incarnation(5))));
}

criterion_group!(benches, batches);
criterion_main!(benches);
