//! Batches of 256 KiB of JSON records, of 100 bytes and of 1 KiB: encoding, checksum, check, decoding; beside a copy and a
//! checksum of the same bytes.

use std::hint::black_box;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group};
use millstream_benches::memory;
use millstream_protocol::batch::header::check_body_crc;
use millstream_protocol::batch::{BatchView, Codec, HEADER_BYTES, Stamp, stamp};
use millstream_protocol::{Epoch, Incarnation, Offset, Record, Timestamp};

use crate::records::{self, build};

const BATCH_BYTES: usize = 256 << 10;
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];
const STAMP: Stamp =
    Stamp { base_offset: Offset(1), append_time: Timestamp(2), epoch: Epoch(3), synced_end: Offset(4) };

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for (size, record_bytes) in records::SIZES {
        let records = records::json(BATCH_BYTES / record_bytes, record_bytes);
        let plain = build(Codec::None, &records);
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut copied = vec![0; plain.len()];
        group.bench_function(format!("ceiling/copy/{size}"), |bench| bench.iter(|| memory::copy(&plain, &mut copied)));
        group.bench_function(format!("ceiling/crc/{size}"), |bench| bench.iter(|| memory::crc(&plain)));
        for codec in CODECS {
            let name = format!("encode/{codec}/{size}");
            group.bench_function(name, |bench| bench.iter(|| build(codec, black_box(&records))));
        }
        checks(&mut group, size, &plain);
        for codec in CODECS {
            decode(&mut group, size, codec, &records);
        }
    }
    group.finish();
}

/// What a server does with a batch that came, and a consumer with one that was stored.
fn checks(group: &mut BenchmarkGroup<'_, WallTime>, size: &str, plain: &Bytes) {
    group.bench_function(format!("crc/{size}"), |bench| {
        bench.iter(|| check_body_crc(black_box(plain)).expect("whole"));
    });
    group.bench_function(format!("check/{size}"), |bench| {
        bench.iter(|| BatchView::parse(black_box(plain)).expect("legal"));
    });
    let mut stored = plain.to_vec();
    stamp(&mut stored, &STAMP, Incarnation(5));
    let stored = Bytes::from(stored);
    group.bench_function(format!("check_stored/{size}"), |bench| {
        bench.iter(|| BatchView::split_stored(&mut black_box(stored.clone()), Incarnation(5)).expect("legal"));
    });
}

fn decode(group: &mut BenchmarkGroup<'_, WallTime>, size: &str, codec: Codec, records: &[Record]) {
    let view = BatchView::parse(&build(codec, records)).expect("legal");
    assert_eq!(view.header().codec, codec);
    group.bench_function(format!("decode_lent/{codec}/{size}"), |bench| {
        bench.iter(|| {
            let mut records = view.records().expect("legal");
            while let Some(record) = records.next_ref() {
                black_box(record.expect("legal"));
            }
        });
    });
    group.bench_function(format!("decode_owned/{codec}/{size}"), |bench| {
        bench.iter(|| view.records().expect("legal").for_each(|record| drop(black_box(record))));
    });
}

/// What the server writes into each batch's header.
fn stamps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    let mut header = build(Codec::None, &records::json(1, 100))[..HEADER_BYTES].to_vec();
    group.throughput(Throughput::Elements(1));
    group.bench_function("stamp", |bench| bench.iter(|| stamp(black_box(&mut header), &STAMP, Incarnation(5))));
    group.finish();
}

criterion_group!(steps, batches, stamps);
