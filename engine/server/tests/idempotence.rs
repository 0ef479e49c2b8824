//! Idempotent produce over real QUIC, by a client that numbers its batches by hand: what is stored once, what is refused
//! with which code, who is fenced, and which records are duplicates.

mod support;

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, renumber};
use millstream_protocol::frame::control::{NextSequence, Request, Response, StreamConfig, StreamInfo};
use millstream_protocol::frame::produce::{Duplicate, Produced, Stored};
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME};
use millstream_protocol::limits::CONTROL_BATCH_RECORDS_MAX;
use millstream_protocol::{Code, Offset, ProducerId, Record};
use support::{Client, Producer, Rig, get, text, until};

async fn rig_with_stream() -> (Rig, Client, StreamInfo) {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", 2, StreamConfig::default()).await;
    (rig, client, stream)
}

async fn init(client: &mut Client, name: Option<&str>) -> ProducerId {
    match client.request(&Request::InitProducer { name: name.map(Into::into) }).await {
        Ok(Response::Producer { id, epoch: 0 }) => ProducerId(id),
        other => panic!("{other:?}"),
    }
}

async fn bump(
    client: &mut Client,
    id: ProducerId,
    epoch: u32,
    stream: &StreamInfo,
) -> Result<(u32, Vec<Option<u64>>), Code> {
    match client.request(&Request::BumpProducer { id: id.0, epoch, stream: stream.id }).await {
        Ok(Response::ProducerBumped { epoch, partitions }) => {
            assert!(partitions.iter().map(|NextSequence { partition, .. }| *partition).eq(0..2));
            Ok((epoch, partitions.iter().map(|next| next.next).collect()))
        }
        Err(refusal) => Err(refusal.code),
        other => panic!("{other:?}"),
    }
}

fn numbered(id: ProducerId, epoch: u32, base: u64, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(id, epoch, base);
    records.iter().for_each(|record| builder.push(record).expect("legal"));
    builder.finish().expect("not empty")
}

fn one(id: ProducerId, epoch: u32, base: u64) -> Bytes {
    numbered(id, epoch, base, &[Record::new(base.to_string())])
}

/// Sends a batch to partition 0 with these flags; gives the offset or the code.
async fn send(producer: &mut Producer, stream: &StreamInfo, batch: &Bytes, flags: u8) -> Result<u64, Code> {
    produce(producer, stream, batch, flags).await.map(|produced| match produced {
        Produced::Stored(stored) => stored.base_offset.0,
        Produced::Duplicates(all) => panic!("{all:?}"),
    })
}

async fn produce(producer: &mut Producer, stream: &StreamInfo, batch: &Bytes, flags: u8) -> Result<Produced, Code> {
    producer.send_flagged(stream, 0, 42, batch, flags).await;
    let (correlation, result) = producer.any_ack().await;
    assert_eq!(correlation, 42);
    result.map_err(|refusal| refusal.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sent_again_is_stored_once_over_connections_and_restarts() {
    let (rig, mut client, stream) = rig_with_stream().await;
    let id = init(&mut client, None).await;
    let mut producer = client.producer(64).await;
    for base in 0..20 {
        producer.send(&stream, 0, base, &one(id, 0, base)).await;
    }
    // Cut before most answers came.
    assert_eq!(producer.ack().await.1.map(|stored| stored.base_offset), Ok(Offset(0)));
    client.connection.close(0_u32.into(), b"");
    drop(producer);
    let again = rig.connect().await;
    let mut producer = again.producer(64).await;
    for base in 0..25 {
        producer.send_flagged(&stream, 0, base, &one(id, 0, base), if base < 20 { FLAG_RESEND } else { 0 }).await;
    }
    for base in 0..25 {
        assert_eq!(producer.ack().await.1.map(|stored| stored.base_offset), Ok(Offset(base)));
    }
    let rig = rig.restart().await;
    let client = rig.connect().await;
    let mut producer = client.producer(64).await;
    for base in [3, 24] {
        assert_eq!(send(&mut producer, &stream, &one(id, 0, base), FLAG_RESEND).await, Ok(base), "after a restart");
    }
    assert_eq!(send(&mut producer, &stream, &one(id, 0, 25), 0).await, Ok(25));
    let values: Vec<String> = client.read_all(&stream).await[0].iter().map(|(_, record)| text(record)).collect();
    assert_eq!(values, (0..26).map(|base| base.to_string()).collect::<Vec<_>>());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_that_do_not_follow_are_refused_each_with_its_code() {
    let (rig, mut client, stream) = rig_with_stream().await;
    let id = init(&mut client, None).await;
    let mut producer = client.producer(8).await;
    assert_eq!(send(&mut producer, &stream, &one(id, 0, 7), 0).await, Err(Code::UnknownProducer), "nothing is known");
    assert_eq!(send(&mut producer, &stream, &one(id, 0, 0), FLAG_RESUME).await, Ok(0));
    producer.send(&stream, 0, 1, &one(id, 0, 5)).await;
    let refusal = producer.ack().await.1.expect_err("4 are missing");
    assert_eq!(refusal.code, Code::OutOfOrderSequence);
    assert!(refusal.text.contains("sequence 5 where 1 is next"), "{refusal}");
    let two = numbered(id, 0, 1, &[Record::new("1"), Record::new("2")]);
    assert_eq!(send(&mut producer, &stream, &two, 0).await, Err(Code::Throttled), "the gate is closed");
    assert_eq!(send(&mut producer, &stream, &two, FLAG_RESUME).await, Ok(1));
    assert_eq!(
        send(&mut producer, &stream, &numbered(id, 0, 2, &[Record::new("2"), Record::new("3")]), 0).await,
        Err(Code::UnknownProducer),
        "half of it is stored"
    );
    // Each partition counts for itself; without a number nothing counts.
    producer.resume(&stream, 1, 2, &one(id, 0, 0)).await;
    assert_eq!(producer.ack().await.1.map(|stored| stored.base_offset), Ok(Offset(0)));
    for offset in [3, 4] {
        assert_eq!(send(&mut producer, &stream, &one(ProducerId(0), 0, 0), FLAG_RESUME).await, Ok(offset));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_producer_of_a_name_fences_the_one_before_over_restarts_too() {
    let (rig, mut client, stream) = rig_with_stream().await;
    let (old, other) = (init(&mut client, Some("loader")).await, init(&mut client, Some("other")).await);
    let mut producer = client.producer(8).await;
    assert_eq!(send(&mut producer, &stream, &one(old, 0, 0), 0).await, Ok(0));
    // By another client.
    let new = init(&mut rig.connect().await, Some("loader")).await;
    assert_eq!(send(&mut producer, &stream, &one(old, 0, 1), 0).await, Err(Code::Fenced));
    assert_eq!(bump(&mut client, old, 0, &stream).await, Err(Code::Fenced));
    assert_eq!(send(&mut producer, &stream, &one(new, 0, 0), FLAG_RESUME).await, Ok(1));
    assert_eq!(send(&mut producer, &stream, &one(other, 0, 0), 0).await, Ok(2));
    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    let mut producer = client.producer(8).await;
    assert_eq!(send(&mut producer, &stream, &one(old, 0, 1), 0).await, Err(Code::Fenced));
    assert_eq!(bump(&mut client, old, 0, &stream).await, Err(Code::Fenced));
    assert_eq!(send(&mut producer, &stream, &one(new, 0, 1), FLAG_RESUME).await, Ok(3));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_fences_what_was_sent_before_and_says_where_to_go_on() {
    let (rig, mut client, stream) = rig_with_stream().await;
    let id = init(&mut client, None).await;
    let mut producer = client.producer(8).await;
    for base in 0..3 {
        assert_eq!(send(&mut producer, &stream, &one(id, 0, base), 0).await, Ok(base));
    }
    let mut again = rig.connect().await;
    for _ in 0..2 {
        assert_eq!(bump(&mut again, id, 0, &stream).await, Ok((1, vec![Some(3), Some(0)])), "as often as it is asked");
    }
    assert_eq!(send(&mut producer, &stream, &one(id, 0, 3), 0).await, Err(Code::Fenced), "an old copy comes late");
    let mut second = again.producer(8).await;
    assert_eq!(
        send(&mut second, &stream, &one(id, 1, 2), FLAG_RESEND).await,
        Ok(2),
        "stored before, under the old epoch"
    );
    assert_eq!(send(&mut second, &stream, &one(id, 1, 3), 0).await, Ok(3));
    // A raise that was asked for long ago does no harm.
    bump(&mut client, id, 0, &stream).await.expect("repeated");
    assert_eq!(send(&mut second, &stream, &one(id, 1, 4), 0).await, Ok(4));
    let unknown = StreamInfo { id: 999, ..stream.clone() };
    assert_eq!(bump(&mut client, id, 1, &unknown).await, Err(Code::UnknownStream));
    for no_one in [ProducerId(0), ProducerId(u64::MAX), ProducerId(id.0 + 100)] {
        assert_eq!(bump(&mut client, no_one, 0, &stream).await, Err(Code::UnknownProducer));
    }
    assert_eq!(bump(&mut client, id, u32::MAX, &stream).await, Err(Code::IllegalSetting));
    assert_eq!(client.refused(&Request::InitProducer { name: Some("No".into()) }).await, Code::IllegalName);
    let (_, metrics) = get(&rig.server, "/metrics").await;
    assert!(metrics.contains("\nmillstream_producers_initialised_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nmillstream_producers_bumped_total 3\n"), "{metrics}");
    rig.stop().await;
}

fn with_ids(ids: &[&str]) -> Vec<Record> {
    ids.iter().map(|id| Record::new(format!("value of {id}")).key("k").dedup_id((*id).to_owned())).collect()
}

fn places(produced: Result<Produced, Code>) -> Result<Vec<(u32, u64)>, u64> {
    match produced.expect("not refused") {
        Produced::Duplicates(all) => Ok(all.iter().map(|of: &Duplicate| (of.index, of.offset.0)).collect()),
        Produced::Stored(Stored { base_offset, .. }) => Err(base_offset.0),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_dedup_ids_are_answered_with_the_first_ones_place_and_store_nothing() {
    let (rig, mut client, stream) = rig_with_stream().await;
    let (first, id) = (init(&mut client, None).await, init(&mut client, None).await);
    let mut producer = client.producer(8).await;
    let batch = numbered(first, 0, 0, &with_ids(&["a", "b", "c"]));
    assert_eq!(places(produce(&mut producer, &stream, &batch, 0).await), Err(0));
    assert_eq!(
        places(produce(&mut producer, &stream, &batch, FLAG_RESEND).await),
        Err(0),
        "by its number, not by its ids"
    );

    // Another producer, as a program that has started anew: all known, and what is pipelined behind goes on.
    producer.send(&stream, 0, 1, &numbered(id, 0, 0, &with_ids(&["c", "a"]))).await;
    producer.send(&stream, 0, 2, &numbered(id, 0, 2, &with_ids(&["d"]))).await;
    assert_eq!(places(producer.any_ack().await.1.map_err(|refusal| refusal.code)), Ok(vec![(0, 2), (1, 0)]));
    assert_eq!(places(producer.any_ack().await.1.map_err(|refusal| refusal.code)), Err(3));
    // Some known: those are named, nothing is stored, and nothing behind it overtakes the rest.
    producer.send(&stream, 0, 3, &numbered(id, 0, 3, &with_ids(&["e", "b", "f", "d"]))).await;
    producer.send(&stream, 0, 4, &numbered(id, 0, 7, &with_ids(&["g"]))).await;
    assert_eq!(places(producer.any_ack().await.1.map_err(|refusal| refusal.code)), Ok(vec![(1, 1), (3, 3)]));
    // By the gate, or by its number if it was handed over before that was closed.
    let behind = producer.any_ack().await.1.expect_err("behind it").code;
    assert!(matches!(behind, Code::Throttled | Code::OutOfOrderSequence), "{behind}");
    let rest = numbered(id, 0, 3, &with_ids(&["e", "f"]));
    assert_eq!(places(produce(&mut producer, &stream, &rest, FLAG_RESUME).await), Err(4), "under the same number");
    assert_eq!(places(produce(&mut producer, &stream, &numbered(id, 0, 5, &with_ids(&["g"])), 0).await), Err(6));
    // Of another key, or without a number, or after a restart.
    let other = [Record::new("x").key("other").dedup_id("a")];
    assert_eq!(places(produce(&mut producer, &stream, &numbered(id, 0, 6, &other), 0).await), Err(7));
    let plain = numbered(ProducerId(0), 0, 0, &with_ids(&["g"]));
    assert_eq!(places(produce(&mut producer, &stream, &plain, 0).await), Ok(vec![(0, 6)]));
    // An answer is on its way before it is counted.
    until(async || {
        let (_, metrics) = get(&rig.server, "/metrics").await;
        metrics.contains("\nmillstream_produce_duplicate_records_total 5\n").then_some(())
    })
    .await;
    let rig = rig.restart().await;
    let client = rig.connect().await;
    let mut producer = client.producer(8).await;
    assert_eq!(places(produce(&mut producer, &stream, &plain, 0).await), Ok(vec![(0, 6)]));
    assert_eq!(client.read_all(&stream).await[0].len(), 8);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_dedup_ids_is_said() {
    let (rig, client, stream) = rig_with_stream().await;
    let mut producer = client.producer(8).await;
    let twins = numbered(ProducerId(0), 0, 0, &with_ids(&["a", "a"]));
    assert_eq!(produce(&mut producer, &stream, &twins, 0).await, Err(Code::IllegalRecord), "an id twice in a batch");
    // A header that a good client's builder does not let pass, in a flagged batch.
    let crafted = |name: &str, instead: &str| {
        assert_eq!(name.len(), instead.len());
        let record = Record::new("x").header(name, "1").dedup_id("1");
        let mut bytes = numbered(ProducerId(0), 0, 0, &[record]).to_vec();
        let at = bytes.windows(name.len()).position(|found| found == name.as_bytes()).expect("it is there");
        bytes[at..at + name.len()].copy_from_slice(instead.as_bytes());
        renumber(&bytes, ProducerId(0), 0, 0)
    };
    for (name, instead) in [("xx-dedup-id", "ms-dedup-id"), ("xx-unknown", "ms-unknown")] {
        let batch = crafted(name, instead);
        assert!(BatchView::parse(&batch).is_ok());
        assert_eq!(produce(&mut producer, &stream, &batch, FLAG_RESUME).await, Err(Code::IllegalRecord), "{instead}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_answer_of_duplicates_arrives() {
    let (rig, client, stream) = rig_with_stream().await;
    let count = CONTROL_BATCH_RECORDS_MAX;
    let records: Vec<Record> = (0..count).map(|n| Record::new("x").dedup_id(n.to_string())).collect();
    let batch = numbered(ProducerId(0), 0, 0, &records);
    let mut producer = client.producer(64).await;
    assert_eq!(places(produce(&mut producer, &stream, &batch, 0).await), Err(0));
    let repeats = 40;
    for n in 0..repeats {
        producer.send(&stream, 0, n, &batch).await;
    }
    for n in 0..repeats {
        let (correlation, result) = producer.any_ack().await;
        assert_eq!(correlation, n);
        let all = places(result.map_err(|refusal| refusal.code)).expect("all known");
        assert!(all.into_iter().eq((0..count).map(|n| (n, u64::from(n)))));
    }
    rig.stop().await;
}
