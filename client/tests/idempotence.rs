//! Idempotent producers, names and dedup ids against a scripted server: what each loss and refusal costs, and what a receipt
//! then says.

mod support;

use std::time::Duration;

use futures::future::join_all;
use millstream_client::{
    Client, Code, Dedup, Delivery, Offset, Outcome, Producer, ProducerBuilder, Receipt, Record, Timestamp,
};
use millstream_protocol::frame::control::Request;
use support::{Answer, Fake, STREAM};

/// A key of partition 0.
const KEY: &str = "b";

/// One record a batch: each is flushed by its size.
fn builder(client: &Client) -> ProducerBuilder {
    client.producer(STREAM).linger(Duration::ZERO).batch_bytes(1_024)
}

async fn producer(client: &Client) -> Producer {
    builder(client).build().await.expect("the stream is there")
}

fn record(n: usize) -> Record {
    Record::new(format!("{n:04}{}", "x".repeat(1_000))).key(KEY)
}

fn numbers(values: impl IntoIterator<Item = String>) -> Vec<usize> {
    values.into_iter().map(|value| value[..4].parse().expect("a number")).collect()
}

async fn enqueue(producer: &Producer, records: impl IntoIterator<Item = Record>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for record in records {
        deliveries.push(producer.enqueue(record).await.expect("there is room"));
    }
    deliveries
}

async fn receipts(deliveries: Vec<Delivery>) -> Vec<Receipt> {
    join_all(deliveries).await.into_iter().map(|outcome| outcome.expect("stored")).collect()
}

fn bumps(fake: &Fake) -> Vec<u32> {
    let requests = fake.state.requests.lock();
    let epoch = |request: &Request| match request {
        Request::BumpProducer { epoch, .. } => Some(*epoch),
        _ => None,
    };
    requests.iter().filter_map(epoch).collect()
}

#[tokio::test]
async fn a_batch_stored_before_the_cut_gets_the_first_ones_offset() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    fake.answers([Answer::Store, Answer::StoreAndCut]);
    let receipts = receipts(enqueue(&producer, (0..6).map(record)).await).await;
    assert_eq!(receipts.iter().map(|receipt| receipt.offset.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(receipts.iter().all(|receipt| !receipt.duplicate));
    assert_eq!(numbers(fake.log(0)), [0, 1, 2, 3, 4, 5]);
    let again: Vec<_> = fake.arrivals().into_iter().filter(|arrival| arrival.resend).collect();
    assert!(again.iter().any(|arrival| arrival.numbers == (0, 1)), "under the same number: {again:?}");
    assert!(bumps(&fake).is_empty());
    assert_eq!(producer.stats().records_duplicate, 0);
}

#[tokio::test]
async fn numbers_of_refused_batches_are_used_by_those_behind_them() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    fake.answers([Answer::Store, Answer::Refuse(Code::CorruptBatch), Answer::Refuse(Code::DiskFull)]);
    let outcomes = join_all(enqueue(&producer, (0..6).map(record)).await).await;
    let offsets: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().map(|receipt| receipt.offset.0).ok()).collect();
    // Which of them met the second refusal hangs on how many were in flight; it was sent again.
    assert_eq!(offsets, [Some(0), None, Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(numbers(fake.log(0)), [0, 2, 3, 4, 5]);
    assert!(bumps(&fake).is_empty(), "there is no doubt");
}

#[tokio::test]
async fn an_outcome_that_is_unknown_costs_a_bump_even_if_that_is_lost_too() {
    for is_stored in [false, true] {
        let fake = Fake::start();
        fake.state.producers.lock().cut_bumps = 2;
        let client = fake.client().await;
        let producer = producer(&client).await;
        let code = Code::DurabilityUnknown;
        let failed = if is_stored { Answer::StoreAndRefuse(code) } else { Answer::Refuse(code) };
        fake.answers([Answer::Store, failed]);
        let outcomes = join_all(enqueue(&producer, (0..5).map(record)).await).await;
        let failed: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().map(|error| error.code())).collect();
        assert_eq!(failed, [None, Some(code), None, None, None]);
        let expected: &[usize] = if is_stored { &[0, 1, 2, 3, 4] } else { &[0, 2, 3, 4] };
        assert_eq!(numbers(fake.log(0)), expected);
        assert_eq!(bumps(&fake), [0, 0, 0], "asked again until it is answered");
        let last = fake.arrivals().pop().expect("some arrived");
        assert_eq!(last.numbers, (1, expected.len() as u64 - 1));
    }
}

#[tokio::test]
async fn a_forgotten_producer_goes_on_and_what_cannot_be_known_is_said() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = producer(&client).await;
    producer.send(record(0)).await.expect("stored");
    fake.state.producers.lock().forget(0);
    producer.send(record(1)).await.expect("no copy of it can be stored: it is sent under a new number");
    assert_eq!(bumps(&fake), [0]);
    fake.answers([Answer::StoreAndCut, Answer::Refuse(Code::UnknownProducer)]);
    let delivery = producer.enqueue(record(2)).await.expect("there is room");
    while fake.log(0).len() < 3 {
        tokio::task::yield_now().await;
    }
    fake.state.producers.lock().forget(0);
    let error = delivery.await.expect_err("the server has forgotten whether it has it");
    assert_eq!((error.code(), error.outcome()), (Code::UnknownProducer, Outcome::Indefinite));
    assert_eq!(producer.send(record(3)).await.expect("it goes on").offset, Offset(3));
    assert_eq!(numbers(fake.log(0)), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_newer_producer_of_the_name_ends_the_older_one() {
    let fake = Fake::start();
    let client = fake.client().await;
    let old = builder(&client).name("sensor-7").build().await.expect("it is there");
    old.send(record(0)).await.expect("stored");
    let new = builder(&client).name("sensor-7").build().await.expect("it is there");
    let error = old.send(record(1)).await.expect_err("fenced");
    assert_eq!((error.code(), error.outcome(), error.is_retryable()), (Code::Fenced, Outcome::Definite, false));
    assert!(error.to_string().contains("a newer producer of the name \"sensor-7\" has taken over"), "{error}");
    assert_eq!(old.send(record(2)).await.expect_err("it has ended").code(), Code::Fenced);
    new.send(record(3)).await.expect("stored");
    assert_eq!(numbers(fake.log(0)), [0, 3]);
}

#[tokio::test]
async fn what_may_be_stored_when_a_producer_is_fenced_is_not_called_failed() {
    let fake = Fake::start();
    let client = fake.client().await;
    let old = builder(&client).name("sensor-7").build().await.expect("it is there");
    fake.answers([Answer::StoreAndCut]);
    let delivery = old.enqueue(record(0)).await.expect("there is room");
    while fake.log(0).is_empty() {
        tokio::task::yield_now().await;
    }
    fake.state.producers.lock().init(Some("sensor-7".to_owned())).expect("another program");
    // Its copy may have come before the newer one or behind it: both are true.
    if let Err(error) = delivery.await {
        assert_eq!(error.outcome(), Outcome::Indefinite, "{error:?}");
    }
    assert_eq!(old.send(record(1)).await.expect_err("fenced").code(), Code::Fenced);
}

#[tokio::test]
async fn an_older_server_is_named_with_the_way_out() {
    let fake = Fake::start();
    fake.state.producers.lock().is_unsupported = true;
    let client = fake.client().await;
    let error = client.producer(STREAM).build().await.expect_err("it knows no producers");
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.to_string().contains(".idempotent(false)"), "{error}");
    client.producer(STREAM).idempotent(false).build().await.expect("it needs no number");
    let error = client.producer(STREAM).idempotent(false).name("a").build().await.expect_err("nothing to fence");
    assert_eq!(error.code(), Code::IllegalSetting);
    let error = client.producer(STREAM).name("No!").build().await.expect_err("illegal");
    assert_eq!(error.code(), Code::IllegalName);
}

#[tokio::test]
async fn known_dedup_ids_get_the_first_ones_place_and_the_rest_of_their_batch_is_stored() {
    for codec in [millstream_client::Codec::None, millstream_client::Codec::Zstd] {
        for idempotent in [true, false] {
            let fake = Fake::start();
            let client = fake.client().await;
            let of = |n: usize, id: &str| Record::new(format!("{n:04}")).key(KEY).dedup_id(id.to_owned());
            let first = client.producer(STREAM).build().await.expect("it is there");
            receipts(enqueue(&first, [of(0, "a"), of(1, "b"), of(2, "c")]).await).await;

            let builder = client.producer(STREAM).linger(Duration::from_secs(3_600)).compression(codec);
            let second = builder.idempotent(idempotent).build().await.expect("it is there");
            // All known, some known, none known; the ones behind go on under the right numbers.
            let all = enqueue(&second, [of(3, "c"), of(4, "a")]).await;
            second.flush().await.expect("no failure");
            let some = enqueue(&second, [of(5, "new"), of(6, "b"), of(7, "newer"), of(8, "a")]).await;
            second.flush().await.expect("no failure");
            let last = enqueue(&second, [of(9, "newest")]).await;
            second.flush().await.expect("no failure");
            let told = |receipts: Vec<Receipt>| -> Vec<(u64, bool)> {
                assert!(receipts.iter().all(|receipt| receipt.append_time == Timestamp(1_700)));
                receipts.iter().map(|receipt| (receipt.offset.0, receipt.duplicate)).collect()
            };
            assert_eq!(told(receipts(all).await), [(2, true), (0, true)]);
            assert_eq!(told(receipts(some).await), [(3, false), (1, true), (4, false), (0, true)]);
            assert_eq!(told(receipts(last).await), [(5, false)]);
            assert_eq!(numbers(fake.log(0)), [0, 1, 2, 5, 7, 9]);
            let stats = second.stats();
            assert_eq!((stats.records_acked, stats.records_duplicate, stats.records_failed), (7, 4, 0));
            assert_eq!((stats.batches_acked, stats.buffered_bytes), (3, 0));
        }
    }
}

#[tokio::test]
async fn an_id_twice_in_a_row_opens_a_batch_of_its_own() {
    let fake = Fake::start();
    let client = fake.client().await;
    let producer = client.producer(STREAM).linger(Duration::from_millis(20)).build().await.expect("it is there");
    let of = |n: usize| Record::new(format!("{n:04}")).key(KEY).dedup_id("same");
    let receipts = receipts(enqueue(&producer, (0..4).map(of)).await).await;
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.offset.0, receipt.duplicate)).collect();
    assert_eq!(told, [(0, false), (0, true), (0, true), (0, true)]);
    assert_eq!(numbers(fake.log(0)), [0]);
    // Another key's is another id.
    let other = Record::new("0009").key("d").dedup_id("same");
    assert!(!producer.send(other).await.expect("stored").duplicate);
}

#[tokio::test]
async fn content_decides_where_it_is_asked_to() {
    let fake = Fake::start();
    let client = fake.client().await;
    let builder = client.producer(STREAM).linger(Duration::from_millis(5)).dedup(Dedup::Content);
    let producer = builder.build().await.expect("it is there");
    // Without keys: the id picks the partition, or equal records would not meet.
    let receipts = receipts(enqueue(&producer, (0..40).map(|n| Record::new(format!("{:04}", n % 10)))).await).await;
    let firsts = &receipts[..10];
    for (n, receipt) in receipts.iter().enumerate() {
        let first = &firsts[n % 10];
        assert_eq!((receipt.partition, receipt.offset), (first.partition, first.offset));
        assert_eq!(receipt.duplicate, n >= 10, "{n}");
    }
    assert_eq!(fake.log(0).len() + fake.log(1).len(), 10);
}
