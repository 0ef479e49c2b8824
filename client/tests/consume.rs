//! The consumer against a scripted server: each record once, gaps said aloud, positions kept.

mod support;

use std::time::Duration;

use futures::StreamExt;
use millstream_client::{Client, Code, Consumer, Epoch, Gap, Offset, PartitionId, Position, Record, Start};
use millstream_protocol::frame::control::{ConsumeEvent, Start as WireStart};
use support::{Fake, Piece, STREAM, compact, fill};

const P0: PartitionId = PartitionId(0);

async fn of_partition_0(client: &Client) -> Consumer {
    let builder = client.consumer(STREAM).start(Start::Earliest).partitions([P0]).bounded();
    builder.build().await.expect("the stream is there")
}

/// Everything that comes: offsets with their values, and errors by code.
async fn all(mut consumer: Consumer) -> Vec<Result<(u64, String), Code>> {
    let mut items = Vec::new();
    while let Some(item) = consumer.next().await {
        items.push(item.map_err(|error| error.code()).map(|found| {
            let value = found.record.value.expect("a value");
            (found.offset.0, String::from_utf8(value.to_vec()).expect("text"))
        }));
    }
    items
}

fn ok(offset: u64, value: &str) -> Result<(u64, String), Code> {
    Ok((offset, value.to_owned()))
}

fn gap(from: u64, resume: u64) -> Piece {
    let code = Code::RecordsLost.number();
    Piece::Event(ConsumeEvent::Gap { partition: 0, from, resume, code, text: "lost".into() })
}

#[tokio::test]
async fn a_bounded_consumer_gets_everything_of_all_partitions_and_ends() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b"], &["c"]]);
    fill(&fake, 1, &[&["d"]]);
    let client = fake.client().await;
    let consumer = client.consumer(STREAM).bounded().build().await.expect("the stream is there");
    let mut seen: Vec<_> = consumer
        .map(|item| item.expect("it is whole"))
        .map(|found| (found.partition.0, found.offset.0, found.epoch, found.record.value.expect("a value")))
        .collect()
        .await;
    seen.sort();
    let wanted = [(0, 0, "a"), (0, 1, "b"), (0, 2, "c"), (1, 0, "d")];
    assert_eq!(seen, wanted.map(|(partition, offset, value)| (partition, offset, Epoch(3), value.into())));
}

#[tokio::test]
async fn an_empty_stream_ends_at_once_when_bounded() {
    let fake = Fake::start();
    assert!(all(of_partition_0(&fake.client().await).await).await.is_empty());
}

#[tokio::test]
async fn a_following_consumer_waits_for_what_comes_after_latest() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["old"]]);
    let client = fake.client().await;
    let mut consumer = client.consumer(STREAM).start(Start::Latest).build().await.expect("the stream is there");
    let producer = client.producer(STREAM).build().await.expect("the stream is there");
    producer.send(Record::new("new").key("b")).await.expect("it is stored");
    let found = consumer.next().await.expect("it waits").expect("it is whole");
    assert_eq!((found.offset, found.record.value), (Offset(1), Some("new".into())));
    assert_eq!(consumer.high_watermark(P0), Some(Offset(2)));
}

#[tokio::test]
async fn a_start_within_a_batch_skips_what_lies_below_it() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"], &["d"]]);
    let client = fake.client().await;
    let builder = client.consumer(STREAM).start(Start::Offset(Offset(2))).partitions([P0]).bounded();
    assert_eq!(all(builder.build().await.expect("it is there")).await, [ok(2, "c"), ok(3, "d")]);
}

#[tokio::test]
async fn a_lost_connection_is_made_again_behind_the_last_batch_and_nothing_comes_twice() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b"], &["c"], &["d"]]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Cut]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Batch(P0, 1), Piece::Cut]);
    let consumer = of_partition_0(&fake.client().await).await;
    assert_eq!(all(consumer).await, [ok(0, "a"), ok(1, "b"), ok(2, "c"), ok(3, "d")]);
    let starts: Vec<WireStart> = fake.state.opened.lock().iter().map(|open| open.partitions[0].start).collect();
    let at = |offset| WireStart::Offset { offset, epoch: Some(3) };
    assert_eq!(starts, [WireStart::Earliest, at(2), at(3)]);
}

#[tokio::test]
async fn a_bounded_consumer_ends_where_it_first_would_have_whatever_came_since() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"]]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Cut]);
    let consumer = of_partition_0(&fake.client().await).await;
    fill(&fake, 0, &[&["later"]]);
    assert_eq!(all(consumer).await, [ok(0, "a"), ok(1, "b")]);
}

#[tokio::test]
async fn a_gap_is_an_item_and_delivery_goes_on_behind_it() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b", "c"], &["d"]]);
    fake.pieces([Piece::Batch(P0, 0), gap(1, 3), Piece::Batch(P0, 2)]);
    let mut consumer = of_partition_0(&fake.client().await).await;
    consumer.next().await.expect("a record").expect("it is whole");
    let error = consumer.next().await.expect("an item").expect_err("a gap");
    assert_eq!(error.gap(), Some(Gap { partition: P0, from: Offset(1), resume: Offset(3) }));
    assert_eq!((error.code(), error.to_string().as_str()), (Code::RecordsLost, "lost"));
    assert_eq!(consumer.positions()[0].next, Offset(3));
    assert_eq!(all(consumer).await, [ok(3, "d")]);
}

#[tokio::test]
async fn a_failed_partition_ends_and_the_others_go_on() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"]]);
    fill(&fake, 1, &[&["b"]]);
    let code = Code::LogTruncated.number();
    let failed = ConsumeEvent::Failed { partition: 0, code, text: "lost its tail".into() };
    fake.pieces([Piece::Event(failed), Piece::Batch(PartitionId(1), 0)]);
    let client = fake.client().await;
    let mut consumer = client.consumer(STREAM).bounded().build().await.expect("the stream is there");
    let error = consumer.next().await.expect("an item").expect_err("it failed");
    assert_eq!((error.code(), error.partition(), error.gap()), (Code::LogTruncated, Some(P0), None));
    assert_eq!(all(consumer).await, [ok(0, "b")]);
}

#[tokio::test]
async fn a_batch_damaged_on_the_way_is_fetched_again() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"]]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Damaged(P0, 1), Piece::Stop]);
    let consumer = of_partition_0(&fake.client().await).await;
    assert_eq!(all(consumer).await, [ok(0, "a"), ok(1, "b")]);
}

#[tokio::test]
async fn a_batch_damaged_where_it_is_stored_is_a_gap() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b", "c"], &["d"]]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Damaged(P0, 1)]);
    fake.pieces([Piece::Damaged(P0, 1)]);
    let consumer = of_partition_0(&fake.client().await).await;
    assert_eq!(all(consumer).await, [ok(0, "a"), Err(Code::RecordsLost), ok(3, "d")]);
}

#[tokio::test]
async fn a_stream_made_again_ends_the_consumer() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"]]);
    fake.pieces([Piece::Batch(P0, 0), Piece::Cut]);
    let mut consumer = of_partition_0(&fake.client().await).await;
    *fake.state.incarnation.lock() += 1;
    // The first batch is of the old incarnation and comes; behind the cut there is another stream.
    assert_eq!(consumer.next().await.expect("an item").expect("it is whole").offset, Offset(0));
    let error = consumer.next().await.expect("an item").expect_err("another stream");
    assert_eq!(error.code(), Code::StreamDeleted);
    assert!(consumer.next().await.is_none(), "it has ended");
}

#[tokio::test]
async fn a_server_that_does_not_come_back_is_given_up() {
    let fake = Fake::start();
    let client = fake.client().await;
    let builder = client.consumer(STREAM).follow().reconnect_timeout(Duration::from_millis(300));
    let mut consumer = builder.build().await.expect("the stream is there");
    fake.stop();
    drop(fake);
    let error = consumer.next().await.expect("an item").expect_err("nobody there");
    assert_eq!(error.code(), Code::ConnectionLost, "{error:?}");
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn batches_come_whole_and_mix_with_records() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"], &["d", "e"]]);
    let mut consumer = of_partition_0(&fake.client().await).await;
    assert_eq!(consumer.next().await.expect("a record").expect("whole").offset, Offset(0));
    let rest = consumer.next_batch().await.expect("a batch").expect("whole");
    assert_eq!((rest.first, rest.end, rest.offset_count()), (Offset(1), Offset(3), 2));
    let offsets: Vec<u64> = rest.records().expect("lz4").map(|record| record.expect("whole").offset.0).collect();
    assert_eq!(offsets, [1, 2]);
    let next = consumer.next_batch().await.expect("a batch").expect("whole");
    assert_eq!((next.first, next.view.header().record_count), (Offset(3), 2));
    assert_eq!(consumer.positions(), [Position { partition: P0, next: Offset(5), epoch: Some(Epoch(3)) }]);
    assert!(consumer.next_batch().await.is_none());
}

#[tokio::test]
async fn what_compaction_took_is_passed_over_and_the_rest_has_its_offsets() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"], &["d", "e"], &["f"], &["g", "h"]]);
    compact(&fake, 0, &[1, 5]);
    let client = fake.client().await;
    assert_eq!(all(of_partition_0(&client).await).await, [ok(1, "b"), ok(5, "f")], "and no error for what is gone");

    let mut consumer = of_partition_0(&client).await;
    let mut batches = Vec::new();
    while let Some(batch) = consumer.next_batch().await {
        let batch = batch.expect("whole");
        let offsets: Vec<u64> = batch.records().expect("lz4").map(|record| record.expect("whole").offset.0).collect();
        batches.push((batch.first.0, batch.end.0, offsets));
    }
    assert_eq!(batches, [(0, 3, vec![1]), (3, 5, vec![]), (5, 6, vec![5]), (6, 8, vec![])]);
    // An empty batch is read like any other: the position is behind it.
    assert_eq!(consumer.positions(), [Position { partition: P0, next: Offset(8), epoch: Some(Epoch(3)) }]);
    let inside = client.consumer(STREAM).partitions([P0]).start(Start::Offset(Offset(2))).bounded();
    assert_eq!(all(inside.build().await.expect("it is there")).await, [ok(5, "f")], "from an offset that is gone");
}

#[tokio::test]
async fn kept_positions_go_on_where_the_application_was() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"]]);
    fill(&fake, 1, &[&["d"]]);
    let client = fake.client().await;
    let mut first = of_partition_0(&client).await;
    first.next().await.expect("a record").expect("it is whole");
    let kept = first.positions();
    assert_eq!(kept, [Position { partition: P0, next: Offset(1), epoch: Some(Epoch(3)) }]);
    let second = client.consumer(STREAM).positions(kept).bounded().build().await.expect("it is there");
    assert_eq!(all(second).await, [ok(1, "b"), ok(2, "c")]);
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded_by_the_prefetch() {
    let fake = Fake::start();
    let large = "x".repeat(300_000);
    let value: &[&str] = &[&large];
    fill(&fake, 0, &[value; 40]);
    let client = fake.client().await;
    let builder = client.consumer(STREAM).partitions([P0]).bounded().prefetch_bytes(1);
    let consumer = builder.build().await.expect("it is there");
    // A budget below one frame lets one frame through at a time, and all in the end.
    assert_eq!(all(consumer).await.len(), 40);
}

#[tokio::test]
async fn unknown_streams_and_partitions_have_no_consumer() {
    let fake = Fake::start();
    let client = fake.client().await;
    let error = client.consumer("nowhere").build().await.expect_err("there is none");
    assert_eq!(error.code(), Code::UnknownStream);
    let error = client.consumer(STREAM).partitions([PartitionId(2)]).build().await.expect_err("there are two");
    assert_eq!(error.code(), Code::UnknownPartition);
}
