//! Produce streams over real QUIC: what is acknowledged, in which order, and what a failure holds back.

mod support;

use millstream_protocol::Code;
use millstream_protocol::batch::{BatchBuilder, Codec};
use millstream_protocol::frame::control::{Durability, Request, StreamConfig};
use millstream_protocol::limits::PRODUCE_DEPTH_MAX;
use millstream_protocol::{Offset, Record, Timestamp};
use support::{Client, Rig, batch, close_code, soon, text};

async fn rig_with_stream(partitions: u32) -> (Rig, Client, millstream_protocol::frame::control::StreamInfo) {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", partitions, StreamConfig::default()).await;
    (rig, client, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_batches_are_stored_in_order_and_acknowledged_with_their_offsets() {
    let (rig, client, stream) = rig_with_stream(2).await;
    let mut producer = client.producer(64).await;
    assert_eq!(producer.granted, 64);
    for n in 0..40u64 {
        let (one, two) = (format!("{n}a"), format!("{n}b"));
        producer.send(&stream, (n % 2) as u32, n, &batch(&[&one, &two])).await;
    }
    let mut next = [Offset(0), Offset(0)];
    let mut last = [None, None];
    for _ in 0..40 {
        let (correlation, result) = producer.ack().await;
        let partition = (correlation % 2) as usize;
        let stored = result.expect("stored");
        assert_eq!(stored.base_offset, next[partition]);
        assert!(last[partition] < Some(correlation), "acks of a partition come in order");
        (next[partition], last[partition]) = (Offset(stored.base_offset.0 + 2), Some(correlation));
    }
    let records = client.read_all(&stream).await;
    let values: Vec<String> = records[1].iter().map(|(_, record)| text(record)).collect();
    let expected: Vec<String> = (1..40).step_by(2).flat_map(|n| [format!("{n}a"), format!("{n}b")]).collect();
    assert_eq!(values, expected);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_depth_beyond_the_limit_is_granted_up_to_it_and_of_zero_as_one() {
    let (rig, client, stream) = rig_with_stream(1).await;
    assert_eq!(client.producer(u32::MAX).await.granted, PRODUCE_DEPTH_MAX);
    let mut one = client.producer(0).await;
    assert_eq!(one.granted, 1);
    // More than granted is only slower: it waits unread.
    for n in 0..10 {
        one.send(&stream, 0, n, &batch(&["x"])).await;
    }
    for n in 0..10 {
        assert_eq!(one.ack().await.0, n);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pipelined_behind_a_refused_batch_waits_for_the_resume_flag() {
    let (rig, client, stream) = rig_with_stream(2).await;
    let mut producer = client.producer(16).await;
    let good = batch(&["x"]);
    let mut corrupt = good.to_vec();
    *corrupt.last_mut().expect("not empty") ^= 1;
    producer.send(&stream, 0, 1, &good).await;
    producer.send(&stream, 0, 2, &corrupt).await;
    producer.send(&stream, 0, 3, &good).await;
    producer.send(&stream, 1, 4, &good).await;
    producer.resume(&stream, 0, 5, &good).await;
    let mut results = std::collections::BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..5 {
        let (correlation, result) = producer.ack().await;
        order.push(correlation);
        results.insert(correlation, result.map(|stored| stored.base_offset).map_err(|refusal| refusal.code));
    }
    assert_eq!(results[&1], Ok(Offset(0)));
    assert_eq!(results[&2], Err(Code::CorruptBatch));
    assert_eq!(results[&3], Err(Code::Throttled), "it must not overtake the batch before it");
    assert_eq!(results[&4], Ok(Offset(0)), "another partition goes on");
    assert_eq!(results[&5], Ok(Offset(1)));
    order.retain(|correlation| *correlation < 4);
    assert_eq!(order, [1, 2, 3], "a refusal does not overtake what is in hand before it");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_up_to_the_streams_limit_are_stored_and_larger_ones_are_named() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let config = StreamConfig { record_bytes_max: 1_000, durability: Durability::Written, ..StreamConfig::default() };
    let stream = client.create("small", 1, config).await;
    let mut producer = client.producer(4).await;
    let of_sizes = |sizes: &[usize]| {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for size in sizes {
            builder.push(&Record::new(vec![b'x'; *size])).expect("legal");
        }
        builder.finish().expect("not empty")
    };
    // Together far above the limit, one by one below it.
    producer.store(&stream, 0, &of_sizes(&[1_000; 50])).await.expect("stored");
    let refusal = producer.store(&stream, 0, &of_sizes(&[10, 1_001])).await.expect_err("too large");
    assert_eq!(refusal.code, Code::RecordTooLarge);
    assert!(refusal.text.contains("record 1 ") && refusal.text.contains("1001 bytes"), "{refusal}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_not_right_are_refused_each_with_its_code() {
    let (rig, mut client, stream) = rig_with_stream(1).await;
    let mut ahead = BatchBuilder::new(Codec::None);
    ahead.push(&Record::new("x").timestamp(Timestamp(i64::MAX / 2))).expect("legal");
    let mut late = BatchBuilder::new(Codec::None);
    late.push(&Record::new("x").header("ms-delay", u64::MAX.to_string())).expect("legal");
    let mut stamped = batch(&["x"]).to_vec();
    stamped[8] = 1;
    let mut newer = batch(&["x"]).to_vec();
    newer[4] = 9;
    for (bytes, code) in [
        (ahead.finish().expect("not empty").to_vec(), Code::TimestampTooFarAhead),
        (late.finish().expect("not empty").to_vec(), Code::DelayTooLong),
        (stamped, Code::CorruptBatch),
        (newer, Code::Unsupported),
        (b"no batch".to_vec(), Code::CorruptBatch),
        (Vec::new(), Code::CorruptBatch),
    ] {
        let mut producer = client.producer(1).await;
        assert_eq!(producer.store(&stream, 0, &bytes).await.expect_err("refused").code, code);
    }
    let mut producer = client.producer(4).await;
    assert_eq!(producer.store(&stream, 9, &batch(&["x"])).await.expect_err("refused").code, Code::UnknownPartition);
    let mut never = stream.clone();
    never.id = 999;
    assert_eq!(producer.store(&never, 0, &batch(&["x"])).await.expect_err("refused").code, Code::UnknownStream);
    producer.store(&stream, 0, &batch(&["x"])).await.expect("the stream still works");
    client.request(&Request::DeleteStream { name: "flights".into() }).await.expect("deleted");
    assert_eq!(producer.store(&stream, 0, &batch(&["x"])).await.expect_err("refused").code, Code::StreamDeleted);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_produce_stream_is_answered_to_its_last_batch_and_then_finished() {
    let (rig, client, stream) = rig_with_stream(1).await;
    let mut producer = client.producer(100).await;
    for n in 0..100 {
        producer.send(&stream, 0, n, &batch(&["x"])).await;
    }
    producer.frames.send.finish().expect("open");
    for n in 0..100 {
        let (correlation, result) = producer.ack().await;
        assert_eq!((correlation, result.expect("stored").base_offset), (n, Offset(n)));
    }
    assert!(producer.frames.next().await.is_none(), "nothing follows");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_loses_its_reservation_with_the_connection() {
    let rig = Rig::start_with(|config| config.body_timeout = std::time::Duration::from_millis(200)).await;
    let mut client = rig.connect().await;
    client.create("flights", 1, StreamConfig::default()).await;
    let mut producer = client.producer(1).await;
    let header = millstream_protocol::frame::FrameHeader::new(millstream_protocol::frame::Kind::Produce, 1, 8 << 20);
    soon(producer.frames.send.write_all(&header.encode())).await.expect("sent");
    assert_eq!(close_code(&client.connection).await, Code::TimedOut);
    rig.connect().await.create("others", 1, StreamConfig::default()).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_at_its_memory_bound_keeps_no_other_connection_waiting() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", 1, StreamConfig::default()).await;
    let header = millstream_protocol::frame::FrameHeader::new(millstream_protocol::frame::Kind::Produce, 1, 8 << 20);
    // Three frames of 8 MiB announced and not sent: more than the 16 MiB of one connection.
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut producer = client.producer(1).await;
        soon(producer.frames.send.write_all(&header.encode())).await.expect("sent");
        greedy.push(producer);
    }
    let other = rig.connect().await;
    other.producer(1).await.store(&stream, 0, &batch(&["x"])).await.expect("stored");
    drop(greedy);
    rig.stop().await;
}
