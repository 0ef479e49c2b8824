//! Consume streams over real QUIC: where they begin, what they bring, what they say is missing, how they end.

mod support;

use millstream_protocol::Code;
use millstream_protocol::batch::{BatchBuilder, Codec};
use millstream_protocol::frame::control::{
    ConsumeEvent, ConsumeMode, ConsumeStart, Request, Response, Start, StreamConfig, StreamInfo,
};
use millstream_protocol::{Offset, Record};
use support::{Client, Delivered, Rig, batch, decode, open, text};

async fn rig_with_stream(partitions: u32) -> (Rig, Client, StreamInfo) {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", partitions, StreamConfig::default()).await;
    (rig, client, stream)
}

async fn store(client: &Client, stream: &StreamInfo, partition: u32, values: &[&str]) {
    client.producer(1).await.store(stream, partition, &batch(values)).await.expect("stored");
}

fn at(offset: u64, epoch: Option<u32>) -> Start {
    Start::Offset { offset, epoch }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_consumer_gets_all_there_is_then_the_ends_then_the_end_of_the_stream() {
    let (rig, client, stream) = rig_with_stream(3).await;
    store(&client, &stream, 0, &["a", "b"]).await;
    store(&client, &stream, 2, &["c"]).await;
    let mut consumer = client.consumer(open(&stream, Start::Earliest, ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!(consumer.opened.positions.iter().map(|p| p.high_watermark).collect::<Vec<_>>(), [2, 0, 1]);
    let (mut values, mut ends) = (Vec::new(), Vec::new());
    while let Some(delivered) = consumer.next().await {
        match delivered {
            Delivered::Batches(prefix, batches) => {
                let incarnation = stream.partitions[prefix.partition.0 as usize].incarnation;
                values.extend(decode(batches, incarnation).iter().map(|(_, record)| text(record)));
            }
            Delivered::Event(ConsumeEvent::End { partition, offset }) => ends.push((partition, offset)),
            Delivered::Event(event) => panic!("{event:?}"),
        }
    }
    values.sort();
    ends.sort();
    assert_eq!(values, ["a", "b", "c"]);
    assert_eq!(ends, [(0, 2), (1, 0), (2, 1)]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_following_consumer_gets_what_comes_later_of_every_partition() {
    let (rig, client, stream) = rig_with_stream(2).await;
    store(&client, &stream, 0, &["before"]).await;
    let mut consumer = client.consumer(open(&stream, Start::Latest, ConsumeMode::Follow)).await.expect("opened");
    for round in 0..20 {
        let value = format!("later {round}");
        store(&client, &stream, round % 2, &[&value]).await;
        assert_eq!(consumer.values(&stream).await, [value]);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_stream_arrives_whole_and_in_order_through_many_chunks() {
    let (rig, client, stream) = rig_with_stream(2).await;
    let mut producer = client.producer(64).await;
    let (count, per_batch) = (60u64, 100u64);
    for n in 0..count {
        let mut builder = BatchBuilder::new(Codec::None);
        for k in 0..per_batch {
            let value = format!("{:08}{}", n * per_batch + k, "x".repeat(1_000));
            builder.push(&Record::new(value.into_bytes())).expect("legal");
        }
        producer.send(&stream, (n % 2) as u32, n, &builder.finish().expect("not empty")).await;
    }
    for _ in 0..count {
        producer.ack().await.1.expect("stored");
    }
    let partitions = client.read_all(&stream).await;
    for (partition, records) in partitions.iter().enumerate() {
        assert_eq!(records.len() as u64, count * per_batch / 2);
        assert!(records.iter().enumerate().all(|(n, (offset, _))| *offset == Offset(n as u64)), "{partition}");
        assert!(records.windows(2).all(|pair| text(&pair[0].1) < text(&pair[1].1)));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_a_read_arrives_too() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let config = StreamConfig { record_bytes_max: 8 << 20, ..StreamConfig::default() };
    let stream = client.create("large", 1, config).await;
    for n in 0..3u8 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&Record::new(vec![n; 7 << 20])).expect("legal");
        client.producer(1).await.store(&stream, 0, &builder.finish().expect("not empty")).await.expect("stored");
    }
    let records = client.read_all(&stream).await;
    assert_eq!(
        records[0].iter().map(|(_, r)| r.value.as_ref().map_or(0, |v| v.len())).collect::<Vec<_>>(),
        [7 << 20; 3]
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_by_offset_and_time_begin_there_and_out_of_range_names_both_ends() {
    let (rig, client, stream) = rig_with_stream(1).await;
    for value in ["a", "b", "c"] {
        store(&client, &stream, 0, &[value]).await;
    }
    let mut consumer = client.consumer(open(&stream, at(2, None), ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!(consumer.opened.positions[0].offset, 2);
    assert_eq!(consumer.values(&stream).await, ["c"]);
    for (ms, offset) in [(0, 0), (i64::MAX, 3)] {
        let consumer = client.consumer(open(&stream, Start::Time(ms), ConsumeMode::Bounded)).await.expect("opened");
        assert_eq!(consumer.opened.positions[0].offset, offset);
    }
    let refusal = client.consumer(open(&stream, at(4, None), ConsumeMode::Follow)).await.err().expect("refused");
    assert_eq!(refusal.code, Code::OffsetOutOfRange);
    assert!(refusal.text.contains("0..3"), "{refusal}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_below_the_log_start_is_told_as_a_gap() {
    let (rig, mut client, stream) = rig_with_stream(1).await;
    for value in ["a", "b", "c"] {
        store(&client, &stream, 0, &[value]).await;
    }
    let delete = Request::DeleteBefore { stream: "flights".into(), partition: 0, offset: 2 };
    assert_eq!(client.request(&delete).await, Ok(Response::Offset(2)));
    let mut consumer = client.consumer(open(&stream, at(1, None), ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!((consumer.opened.positions[0].offset, consumer.opened.positions[0].log_start), (2, 2));
    match consumer.event().await {
        ConsumeEvent::Gap { partition: 0, from: 1, resume: 2, code, text } => {
            assert_eq!(Code::from_number(code), Code::OffsetOutOfRange);
            assert!(text.contains("1..2"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(consumer.values(&stream).await, ["c"]);
    // Earliest begins at the log start, and nothing is missing.
    let mut consumer = client.consumer(open(&stream, Start::Earliest, ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!(consumer.values(&stream).await, ["c"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_an_epoch_that_has_lost_it_is_told_as_truncated() {
    let (rig, client, stream) = rig_with_stream(1).await;
    store(&client, &stream, 0, &["a", "b"]).await;
    let epoch = stream.partitions[0].epoch;
    let rig = rig.restart().await;
    let client = rig.connect().await;
    store(&client, &stream, 0, &["c"]).await;
    // It stands right behind what its epoch wrote: nothing is lost.
    let mut consumer = client.consumer(open(&stream, at(2, Some(epoch)), ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!(consumer.values(&stream).await, ["c"]);
    // It has read a third record of that epoch, which is not there.
    let mut consumer = client.consumer(open(&stream, at(3, Some(epoch)), ConsumeMode::Bounded)).await.expect("opened");
    assert_eq!(consumer.opened.positions[0].offset, 2);
    match consumer.event().await {
        ConsumeEvent::Failed { partition: 0, code, text } => {
            assert_eq!(Code::from_number(code), Code::LogTruncated);
            assert!(text.contains("2..3"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(consumer.next().await.is_none());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openings_that_cannot_be_are_refused_each_with_its_code() {
    let (rig, mut client, stream) = rig_with_stream(1).await;
    let refused = async |open| client.consumer(open).await.err().expect("refused").code;
    let good = open(&stream, Start::Earliest, ConsumeMode::Follow);
    let mut twice = good.clone();
    twice.partitions.push(twice.partitions[0]);
    assert_eq!(refused(twice).await, Code::IllegalSetting);
    let mut none = good.clone();
    none.partitions.clear();
    assert_eq!(refused(none).await, Code::IllegalSetting);
    let mut beyond = good.clone();
    beyond.partitions.push(ConsumeStart { partition: 7, start: Start::Latest });
    assert_eq!(refused(beyond).await, Code::UnknownPartition);
    let mut never = good.clone();
    never.stream = 999;
    assert_eq!(refused(never).await, Code::UnknownStream);
    client.request(&Request::DeleteStream { name: "flights".into() }).await.expect("deleted");
    let gone = client.consumer(good).await.err().expect("refused").code;
    assert_eq!(gone, Code::StreamDeleted);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_stream_that_is_deleted_are_told() {
    let (rig, mut client, stream) = rig_with_stream(2).await;
    let mut consumer = client.consumer(open(&stream, Start::Latest, ConsumeMode::Follow)).await.expect("opened");
    client.request(&Request::DeleteStream { name: "flights".into() }).await.expect("deleted");
    for _ in 0..2 {
        match consumer.event().await {
            ConsumeEvent::Failed { code, .. } => assert_eq!(Code::from_number(code), Code::StreamDeleted),
            other => panic!("{other:?}"),
        }
    }
    assert!(consumer.next().await.is_none());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_reads_nothing_keeps_no_other_stream_waiting() {
    let (rig, client, stream) = rig_with_stream(1).await;
    let mut producer = client.producer(64).await;
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&Record::new(vec![b'x'; 1_000_000])).expect("legal");
    let big = builder.finish().expect("not empty");
    for n in 0..40 {
        producer.send(&stream, 0, n, &big).await;
    }
    for _ in 0..40 {
        producer.ack().await.1.expect("stored");
    }
    let slow = client.consumer(open(&stream, Start::Earliest, ConsumeMode::Follow)).await.expect("opened");
    // The slow one never reads on; the same connection's other streams, and other connections, do.
    assert_eq!(rig.connect().await.read_all(&stream).await[0].len(), 40);
    producer.store(&stream, 0, &batch(&["x"])).await.expect("stored");
    drop(slow);
    rig.stop().await;
}
