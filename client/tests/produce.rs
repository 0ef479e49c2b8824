//! The producer against a scripted server: order and receipts through refusals, cuts and silence.

mod support;

use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use millstream_client::{Client, Code, Delivery, Epoch, Offset, Outcome, PartitionId, Producer, Record, Timestamp};
use support::{Answer, Fake, STREAM};

/// A key of partition 0.
const KEY: &str = "b";

/// One record a batch: each is flushed by its size.
async fn producer(client: &Client) -> Producer {
    let builder = client.producer(STREAM).linger(Duration::ZERO).batch_bytes(1_024);
    builder.build().await.expect("the stream is there")
}

fn record(n: usize) -> Record {
    Record::new(format!("{n:04}{}", "x".repeat(1_000))).key(KEY)
}

fn numbers(values: impl IntoIterator<Item = String>) -> Vec<usize> {
    values.into_iter().map(|value| value[..4].parse().expect("a number")).collect()
}

async fn enqueue(producer: &Producer, range: std::ops::Range<usize>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for n in range {
        deliveries.push(producer.enqueue(record(n)).await.expect("there is room"));
    }
    deliveries
}

#[tokio::test]
async fn records_are_stored_in_order_and_each_gets_its_receipt() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = client.producer(STREAM).build().await.expect("the stream is there");
    let deliveries = enqueue(&producer, 0..2_000).await;
    let partition = deliveries[0].partition();
    assert_eq!(partition, millstream_client::partition_of_key(KEY.as_bytes(), 2));
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let receipt = delivery.await.expect("it is stored");
        assert_eq!((receipt.partition, receipt.offset), (partition, Offset(n as u64)));
        assert_eq!((receipt.epoch, receipt.append_time), (Epoch(3), Timestamp(1_700)));
    }
    assert_eq!(numbers(fake.log(partition.0)), (0..2_000).collect::<Vec<_>>());
    let stats = producer.stats();
    assert_eq!((stats.records, stats.records_acked, stats.buffered_bytes), (2_000, 2_000, 0));
    assert_eq!((stats.batches_acked, stats.batches_resent, stats.batches_in_flight), (stats.batches_sent, 0, 0));
    assert!(stats.batches_sent < 20, "they share batches: {stats:?}");
    producer.close().await.expect("nothing failed");
}

#[tokio::test]
async fn records_enqueued_together_have_their_outcomes_in_order_through_a_full_buffer() {
    let fake = Fake::start();
    let client = fake.client().await;
    // Room for two batches of three records: it fills again and again.
    let builder = client.producer(STREAM).linger(Duration::from_millis(500)).batch_bytes(4 << 10).buffer_bytes(8 << 10);
    let producer = builder.build().await.expect("the stream is there");
    let records = (0..500).map(|n| if n == 250 { record(n).header("ms-unknown", "") } else { record(n) });
    let deliveries = producer.enqueue_all(records).await;
    assert_eq!((deliveries.len(), deliveries.is_empty()), (500, false));
    let mut stored = 0;
    for (n, outcome) in deliveries.outcomes().await.into_iter().enumerate() {
        match outcome {
            Ok(receipt) => {
                assert_eq!(receipt.offset, Offset(stored), "record {n}");
                stored += 1;
            }
            Err(error) => assert_eq!((n, error.code()), (250, Code::IllegalRecord)),
        }
    }
    let partition = millstream_client::partition_of_key(KEY.as_bytes(), 2);
    assert_eq!(numbers(fake.log(partition.0)), (0..500).filter(|n| *n != 250).collect::<Vec<_>>());
    let stats = producer.stats();
    assert_eq!((stats.records, stats.records_acked, stats.buffered_bytes), (499, 499, 0));
    assert!(stats.batches_sent < 499 / 2, "no batch is left with one record where three fit: {stats:?}");
    assert!(producer.enqueue_all([]).await.is_empty());
    producer.close().await.expect("nothing was sent that failed");
}

#[tokio::test]
async fn records_without_keys_reach_every_partition_and_linger_sends_a_lone_one() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = client.producer(STREAM).linger(Duration::from_millis(1)).build().await.expect("it is there");
    for n in 0..4 {
        producer.send(Record::new(format!("{n:04}"))).await.expect("it is stored");
    }
    assert_eq!((fake.log(0).len(), fake.log(1).len()), (2, 2));
}

#[tokio::test]
async fn a_refused_batch_is_sent_again_before_what_was_behind_it() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    fake.answers([Answer::Store, Answer::Refuse(Code::DiskFull), Answer::Refuse(Code::Throttled)]);
    let deliveries = enqueue(&producer, 0..10).await;
    let partition = deliveries[0].partition();
    for (n, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.await.expect("in the end").offset, Offset(n as u64));
    }
    assert_eq!(numbers(fake.log(partition.0)), (0..10).collect::<Vec<_>>());
    assert!(producer.stats().batches_resent > 0);
    let resumed: Vec<_> = fake.arrivals().into_iter().filter(|arrival| arrival.resume).map(|a| a.values).collect();
    assert_eq!(resumed.len(), 2, "a flag for each failure");
    assert!(resumed.into_iter().all(|values| numbers(values)[0] == 1));
}

#[tokio::test]
async fn a_definite_refusal_fails_its_batch_only() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    fake.answers([Answer::Store, Answer::Refuse(Code::CorruptBatch)]);
    let deliveries = enqueue(&producer, 0..6).await;
    let partition = deliveries[0].partition();
    let outcomes = join_all(deliveries).await;
    let failed: Vec<usize> = (0..6).filter(|n| outcomes[*n].is_err()).collect();
    assert_eq!(failed, [1]);
    let error = outcomes[1].as_ref().expect_err("refused");
    assert_eq!((error.code(), error.outcome()), (Code::CorruptBatch, Outcome::Definite));
    assert_eq!(numbers(fake.log(partition.0)), [0, 2, 3, 4, 5]);
    assert_eq!(producer.flush().await.expect_err("a flush tells it too").code(), Code::CorruptBatch);
    producer.flush().await.expect("once");
}

#[tokio::test]
async fn what_was_in_flight_on_a_lost_connection_is_sent_again_in_order() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    fake.answers([Answer::Store, Answer::StoreAndCut, Answer::Store, Answer::Cut]);
    let deliveries = enqueue(&producer, 0..20).await;
    let partition = deliveries[0].partition();
    for delivery in deliveries {
        delivery.await.expect("in the end");
    }
    assert_eq!(numbers(fake.log(partition.0)), (0..20).collect::<Vec<_>>(), "each once, and in order");
    let arrivals = fake.arrivals();
    assert!(arrivals.iter().filter(|arrival| numbers(arrival.values.clone())[0] == 1).count() > 1, "it was sent again");
    assert!(arrivals.iter().all(|arrival| !arrival.resume), "a new stream has nothing to resume from");
}

#[tokio::test]
async fn a_producer_that_is_not_idempotent_may_store_a_batch_twice() {
    let fake = Fake::start();
    fake.state.producers.lock().is_unsupported = true;
    let client = fake.client().await;
    let builder = client.producer(STREAM).linger(Duration::ZERO).batch_bytes(1_024).idempotent(false);
    let producer = builder.build().await.expect("it needs no number");
    fake.answers([Answer::Store, Answer::StoreAndCut, Answer::Store, Answer::Cut]);
    let deliveries = enqueue(&producer, 0..20).await;
    let partition = deliveries[0].partition();
    for delivery in deliveries {
        delivery.await.expect("in the end");
    }
    let log = numbers(fake.log(partition.0));
    let mut first_copies = log.clone();
    let mut seen = std::collections::HashSet::new();
    first_copies.retain(|n| seen.insert(*n));
    assert_eq!(first_copies, (0..20).collect::<Vec<_>>());
    assert!(log.iter().filter(|n| **n == 1).count() > 1, "stored before the cut, and again");
    let repeats = (log.len() - 20) as u64;
    assert!(repeats <= producer.stats().batches_resent, "{repeats} repeats are more than were sent again");
    assert!(fake.arrivals().iter().all(|arrival| !arrival.resend && arrival.numbers == (0, 0)));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_with_the_outcome_unknown() {
    let fake = Fake::start();
    let client = fake.client().await;
    let builder = client.producer(STREAM).linger(Duration::ZERO).delivery_timeout(Duration::from_millis(300));
    let producer = builder.build().await.expect("the stream is there");
    fake.answers([Answer::Silence]);
    let error = producer.send(record(0)).await.expect_err("no answer");
    assert_eq!(error.outcome(), Outcome::Indefinite, "{error:?}");
    assert_eq!(producer.send(record(1)).await.expect("a new stream").offset, Offset(0));
}

#[tokio::test]
async fn without_a_server_records_fail_after_the_delivery_timeout_and_were_not_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    let builder = client.producer(STREAM).delivery_timeout(Duration::from_millis(400));
    let producer = builder.build().await.expect("the stream is there");
    fake.stop();
    drop(fake);
    let deliveries = enqueue(&producer, 0..3).await;
    for delivery in deliveries {
        let error = delivery.await.expect_err("there is nobody");
        assert!(matches!(error.code(), Code::TimedOut | Code::ConnectionLost), "{error:?}");
    }
    assert!(producer.flush().await.is_err());
    assert_eq!(producer.stats().buffered_bytes, 0);
}

#[tokio::test]
async fn a_record_above_the_limit_is_refused_at_once_and_nothing_else_is_affected() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = client.producer(STREAM).build().await.expect("the stream is there");
    let good = producer.enqueue(record(0)).await.expect("there is room");
    let error = producer.enqueue(Record::new(vec![0; 1_000_001])).await.expect_err("too large");
    assert_eq!(error.code(), Code::RecordTooLarge);
    assert!(error.to_string().contains("1000001") && error.to_string().contains("1000000"), "{error}");
    let error = producer.enqueue(Record::new("x").key(vec![0; 5_000])).await.expect_err("too long a key");
    assert_eq!(error.code(), Code::IllegalRecord);
    let error = producer.enqueue(Record::new("x").timestamp(Timestamp(i64::MAX))).await.expect_err("the far future");
    assert_eq!(error.code(), Code::TimestampTooFarAhead);
    let limit = producer.enqueue(Record::new(vec![b'x'; 1_000_000])).await.expect("just so");
    good.await.expect("not affected");
    limit.await.expect("not affected");
}

#[tokio::test]
async fn a_full_buffer_makes_enqueue_wait_and_an_ack_makes_room() {
    let fake = Fake::start();
    let client = fake.client().await;
    // The linger is long: only the full buffer can send the first batch.
    let builder = client.producer(STREAM).linger(Duration::from_secs(3_600)).buffer_bytes(10_000);
    let producer = builder.build().await.expect("the stream is there");
    for n in 0..50 {
        drop(producer.enqueue(record(n)).await.expect("there is room in the end"));
        assert!(producer.stats().buffered_bytes < 10_000 + 1_200);
    }
    producer.close().await.expect("nothing failed");
    let stored = fake.log(0).len() + fake.log(1).len();
    assert_eq!(stored, 50);
}

#[tokio::test]
async fn a_deleted_stream_ends_the_producer_with_a_clear_error() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    producer.send(record(0)).await.expect("it is stored");
    fake.answers([Answer::Refuse(Code::StreamDeleted)]);
    assert_eq!(producer.send(record(1)).await.expect_err("gone").code(), Code::StreamDeleted);
    let again = loop {
        // The delivery resolves before the task that ends the producer has run.
        match producer.send(record(2)).await {
            Err(error) => break error,
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(again.code(), Code::StreamDeleted);
}

#[tokio::test]
async fn a_stream_made_again_under_the_same_name_is_not_written_to() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    producer.send(record(0)).await.expect("it is stored");
    *fake.state.incarnation.lock() += 1;
    fake.answers([Answer::Cut]);
    let error = producer.send(record(1)).await.expect_err("another stream");
    assert!(error.to_string().contains("deleted"), "{error}");
    assert_eq!(fake.log(0).len() + fake.log(1).len(), 1);
}

#[tokio::test]
async fn a_dropped_producer_fails_what_it_had_not_sent() {
    let fake = Fake::start();
    let client = fake.client().await;
    let builder = client.producer(STREAM).linger(Duration::from_secs(3_600));
    let producer = builder.build().await.expect("the stream is there");
    let mut delivery = producer.enqueue(record(0)).await.expect("there is room");
    assert!((&mut delivery).now_or_never().is_none());
    drop(producer);
    let error = delivery.await.expect_err("it was dropped");
    assert_eq!((error.code(), error.outcome()), (Code::ConnectionLost, Outcome::Definite));
    assert!(fake.arrivals().is_empty());
}

#[tokio::test]
async fn an_unknown_stream_has_no_producer() {
    let fake = Fake::start();
    let error = fake.client().await.producer("nowhere").build().await.expect_err("there is none");
    assert_eq!(error.code(), Code::UnknownStream);
    let error = fake.client().await.producer(STREAM).batch_bytes(1).build().await.expect_err("too small");
    assert_eq!(error.code(), Code::IllegalSetting);
}

#[test]
fn the_key_is_one_of_partition_zero() {
    assert_eq!(millstream_client::partition_of_key(KEY.as_bytes(), 2), PartitionId(0));
}
