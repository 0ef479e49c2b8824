//! Frames to bytes and back: what precedes a batch on its way in and out, acks, deliveries, verbs and their results, requests.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group};
use millstream_protocol::batch::BatchHeader;
use millstream_protocol::frame::consume::BatchesPrefix;
use millstream_protocol::frame::control::{CreateMode, Message, Request, StreamConfig};
use millstream_protocol::frame::delivery::{
    DeliveredRun, Deliveries, Receipt, Verb, VerbRun, decode_results, decode_verbs, encode_results, encode_verbs,
};
use millstream_protocol::frame::produce::{
    PRODUCE_PREFIX_BYTES, ProduceAck, ProducePrefix, Produced, Stored, decode_acks, encode_acks,
};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, QueueId, StreamId, Timestamp};

use crate::records;

/// Acks, runs or verbs in a frame.
const COUNT: u64 = 100;

/// What goes ahead of a batch is written beside it and read without it: a batch is never copied for its frame.
fn batches(group: &mut BenchmarkGroup<'_, WallTime>) {
    let batch = records::batch(64 << 10);
    let length = PRODUCE_PREFIX_BYTES + batch.bytes().len();
    let prefix = ProducePrefix { stream: StreamId(1), partition: PartitionId(2), epoch: Epoch(3) };
    let encode = || {
        let mut head = Vec::with_capacity(FRAME_HEADER_BYTES + PRODUCE_PREFIX_BYTES);
        head.extend_from_slice(&FrameHeader::new(Kind::Produce, black_box(7), length).encode());
        head.extend_from_slice(&black_box(prefix).encode());
        head
    };
    let frame = [encode(), batch.bytes().to_vec()].concat();
    group.throughput(Throughput::Elements(1));
    group.bench_function("produce/encode", |bench| bench.iter(encode));
    group.bench_function("produce/decode", |bench| {
        bench.iter(|| {
            let (header, body) = black_box(&frame[..]).split_first_chunk().expect("it has a header");
            let prefix = ProducePrefix::decode(body).expect("legal");
            let batch = BatchHeader::decode(&body[PRODUCE_PREFIX_BYTES..]).expect("legal");
            (FrameHeader::decode(header).expect("legal"), prefix, batch)
        });
    });

    let prefix =
        BatchesPrefix { partition: PartitionId(2), high_watermark: Offset(1_000_000), log_start: Offset(1_000) };
    let encoded = prefix.encode();
    group.bench_function("batches/encode", |bench| bench.iter(|| black_box(prefix).encode()));
    group.bench_function("batches/decode", |bench| {
        bench.iter(|| BatchesPrefix::decode(black_box(&encoded)).expect("legal"));
    });
}

fn acks(group: &mut BenchmarkGroup<'_, WallTime>) {
    let stored = |number| Stored { base_offset: Offset(number * 64), append_time: Timestamp(1_700_000_000_000) };
    let ack = |number| ProduceAck { correlation: number, result: Ok(Produced::Stored(stored(number))) };
    let acks: Vec<ProduceAck> = (0..COUNT).map(ack).collect();
    let encoded = encode_acks(&acks);
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("acks/encode", |bench| bench.iter(|| encode_acks(black_box(&acks))));
    group.bench_function("acks/decode", |bench| bench.iter(|| decode_acks(black_box(&encoded)).expect("legal")));
}

fn queues(group: &mut BenchmarkGroup<'_, WallTime>) {
    let run = |number| DeliveredRun {
        offset: number * 10,
        fence: number * 10,
        first_ms: 1_700_000_000_000,
        count: 10,
        receives: 1,
        redriven: 0,
    };
    let deliveries = Deliveries {
        partition: PartitionId(2),
        incarnation: Incarnation(5),
        epoch: 1,
        runs: (0..COUNT).map(run).collect(),
    };
    let receipt = |number| Receipt {
        queue: QueueId(1),
        epoch: 1,
        partition: 2,
        offset: number * 10,
        redriven: 0,
        fence: number * 10,
    };
    let verbs: Vec<VerbRun> =
        (0..COUNT).map(|number| VerbRun { first: receipt(number), count: 1, verb: Verb::Ack }).collect();
    group.throughput(Throughput::Elements(COUNT));
    let encoded = deliveries.encode();
    group.bench_function("deliveries/encode", |bench| bench.iter(|| black_box(&deliveries).encode()));
    group.bench_function("deliveries/decode", |bench| {
        bench.iter(|| Deliveries::decode(black_box(&encoded)).expect("legal"));
    });
    let encoded = encode_verbs(&verbs);
    group.bench_function("verbs/encode", |bench| bench.iter(|| encode_verbs(black_box(&verbs))));
    group.bench_function("verbs/decode", |bench| bench.iter(|| decode_verbs(black_box(&encoded)).expect("legal")));
    let results = || std::iter::repeat_n(None, black_box(COUNT as usize));
    let encoded = encode_results(results());
    group.bench_function("results/encode", |bench| bench.iter(|| encode_results(results())));
    group.bench_function("results/decode", |bench| {
        bench.iter(|| decode_results(black_box(&encoded), COUNT as usize).expect("legal"));
    });
}

fn requests(group: &mut BenchmarkGroup<'_, WallTime>) {
    let request = Request::CreateStream {
        name: "rides.eu-west".to_owned(),
        partitions: 16,
        config: StreamConfig::default(),
        mode: CreateMode::Explicit,
    };
    let encoded = request.encode();
    group.throughput(Throughput::Elements(1));
    group.bench_function("request/encode", |bench| bench.iter(|| black_box(&request).encode()));
    group.bench_function("request/decode", |bench| bench.iter(|| Request::decode(black_box(&encoded)).expect("legal")));
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    batches(&mut group);
    acks(&mut group);
    queues(&mut group);
    requests(&mut group);
    group.finish();
}

criterion_group!(steps, frames);
