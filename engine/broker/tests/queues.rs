//! Queues on a real directory, in process: receivers that come and go, crashes, dead letters, order, delays.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use millstream_broker::queue::{Act, Delivered, Outlet, QueueHandle, QueueReceiver, Receipt, Receiving, Verb};
use millstream_broker::{Broker, BrokerConfig, Stream};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::{CreateMode, StreamConfig};
use millstream_protocol::frame::queue::{OnDead, QueueBackoff, QueueConfig, QueueOrdering, QueueStart};
use millstream_protocol::{Code, Header, PartitionId, Record};
use support::copy_dir;

const DEADLINE: Duration = Duration::from_secs(30);

/// A message as a receiver sees it.
#[derive(Debug, Clone)]
struct Message {
    partition: u32,
    receipt: Receipt,
    receives: u16,
    record: Record,
}

impl Message {
    fn text(&self) -> String {
        String::from_utf8(self.record.value.clone().unwrap_or_default().to_vec()).unwrap()
    }

    fn header(&self, name: &str) -> Option<String> {
        let header = self.record.headers.iter().find(|header| header.name == name)?;
        Some(String::from_utf8(header.value.clone()?.to_vec()).unwrap())
    }
}

#[derive(Default)]
struct Inbox {
    messages: Mutex<(Vec<Message>, bool)>,
    changed: Condvar,
}

impl Outlet for Inbox {
    fn deliver(&self, delivered: Delivered) {
        let mut records = BTreeMap::new();
        for batch in &delivered.batches {
            let mut found = batch.records().unwrap();
            while let Some(record) = found.next_with_offset() {
                let (offset, record) = record.unwrap();
                records.insert(offset.0, record);
            }
        }
        let messages = delivered.deliveries.iter().map(|delivery| Message {
            partition: delivered.partition.0,
            receipt: delivery.receipt,
            receives: delivery.receives,
            record: records[&delivery.receipt.offset].clone(),
        });
        self.messages.lock().unwrap().0.extend(messages);
        self.changed.notify_all();
    }

    fn ended(&self) {
        self.messages.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Inbox {
    /// Takes at least `count` messages.
    #[track_caller]
    fn take(&self, count: usize) -> Vec<Message> {
        let messages = self.messages.lock().unwrap();
        let (mut messages, timeout) =
            self.changed.wait_timeout_while(messages, DEADLINE, |(messages, _)| messages.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} messages came", messages.0.len());
        std::mem::take(&mut messages.0)
    }

    fn wait_end(&self) {
        let messages = self.messages.lock().unwrap();
        let waited = self.changed.wait_timeout_while(messages, DEADLINE, |(_, is_over)| !*is_over).unwrap();
        assert!(!waited.1.timed_out(), "it hears that the queue is gone");
    }
}

fn receive(queue: &QueueHandle, key: u128, window: u32, visibility_ms: Option<u64>) -> (QueueReceiver, Arc<Inbox>) {
    let inbox = Arc::new(Inbox::default());
    (queue.receive(Receiving { key, outlet: inbox.clone(), window, visibility_ms, held: None }).unwrap(), inbox)
}

fn say(queue: &QueueHandle, message: &Message, act: Act) -> Result<(), Code> {
    let verb = Verb { queue: queue.id(), partition: message.partition, receipt: message.receipt, act };
    queue.say_wait(vec![verb]).pop().unwrap().code().map_or(Ok(()), Err)
}

fn ack(queue: &QueueHandle, messages: &[Message]) {
    let verb = |message: &Message| Verb {
        queue: queue.id(),
        partition: message.partition,
        receipt: message.receipt,
        act: Act::Ack,
    };
    let results = queue.say_wait(messages.iter().map(verb).collect());
    assert!(results.iter().all(|result| result.code().is_none()), "{results:?}");
}

fn nack(delay_ms: u64) -> Act {
    Act::Nack { delay_ms: Some(delay_ms), error: "it failed".to_owned() }
}

fn open(dir: &Path) -> Arc<Broker> {
    Broker::open(BrokerConfig::new(dir)).unwrap()
}

fn with_stream(dir: &Path, partitions: u32) -> (Arc<Broker>, Arc<Stream>) {
    let broker = open(dir);
    let stream = broker.create_stream("jobs", partitions, StreamConfig::default(), CreateMode::Explicit).unwrap();
    (broker, stream)
}

fn produce(stream: &Stream, partition: u32, records: impl IntoIterator<Item = Record>) -> u64 {
    let mut builder = BatchBuilder::new(Codec::None);
    records.into_iter().for_each(|record| builder.push(&record).unwrap());
    let batch = BatchView::parse(&builder.finish().unwrap()).unwrap();
    stream.partition(PartitionId(partition)).unwrap().append_wait(batch).unwrap().base_offset.0
}

fn texts(range: std::ops::Range<u64>) -> impl Iterator<Item = Record> {
    range.map(|n| Record::new(n.to_string()))
}

/// Waits until it holds. Each look is a question to the queue's thread, which has its turn in between.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn each_message_comes_to_one_of_the_receivers_and_an_acked_one_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 3);
    let queue = broker.create_queue("work", "jobs", QueueConfig::default(), QueueStart::Earliest).unwrap();
    let (_first, first_inbox) = receive(&queue, 1, 10, None);
    let (_second, second_inbox) = receive(&queue, 2, 10, None);
    for partition in 0..3 {
        for batch in 0..4 {
            produce(&stream, partition, texts(batch * 25..(batch + 1) * 25));
        }
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 300 {
        for inbox in [&first_inbox, &second_inbox] {
            let messages = inbox.messages.lock().unwrap().0.drain(..).collect::<Vec<_>>();
            assert!(messages.len() <= 10, "no more than the window: {}", messages.len());
            for message in &messages {
                assert_eq!(message.receives, 1);
                assert!(seen.insert((message.partition, message.receipt.offset)), "twice: {message:?}");
            }
            ack(&queue, &messages);
        }
    }
    let state = queue.state().unwrap();
    assert_eq!(state.partitions.iter().map(|part| part.tally.acked).sum::<u64>(), 300);
    assert!(state.partitions.iter().all(|part| part.floor == 100 && part.entries == 0), "{state:?}");
    drop(stream);
    broker.close().unwrap();
    first_inbox.wait_end();
    drop((_first, _second, queue, broker));
    let broker = open(dir.path());
    let queue = broker.queue("work").unwrap();
    let (_third, inbox) = receive(&queue, 3, 10, None);
    produce(&broker.stream("jobs").unwrap(), 1, [Record::new("new")]);
    let messages = inbox.take(1);
    assert_eq!(messages.iter().map(Message::text).collect::<Vec<_>>(), ["new"], "nothing that was acknowledged comes");
}

#[test]
fn what_was_out_in_a_crash_comes_again_with_its_count_and_what_was_answered_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 1);
    let queue = broker.create_queue("work", "jobs", QueueConfig::default(), QueueStart::Earliest).unwrap();
    produce(&stream, 0, texts(0..10));
    let (_receiver, inbox) = receive(&queue, 1, 100, None);
    let messages = inbox.take(10);
    ack(&queue, &messages[3..6]);
    assert_eq!(say(&queue, &messages[7], nack(0)), Ok(()));
    let again = inbox.take(1);
    assert_eq!((again[0].text().as_str(), again[0].receives), ("7", 2));
    // Its second delivery is not known to be durable; an answer behind it is.
    ack(&queue, &messages[9..10]);
    copy_dir(dir.path(), copy.path());
    let broker = open(copy.path());
    let queue = broker.queue("work").unwrap();
    let (_receiver, inbox) = receive(&queue, 1, 100, None);
    let mut found: Vec<(String, u16)> =
        inbox.take(6).iter().map(|message| (message.text(), message.receives)).collect();
    found.sort();
    assert_eq!(
        found,
        [("0", 2), ("1", 2), ("2", 2), ("6", 2), ("7", 3), ("8", 2)].map(|(text, n)| (text.to_owned(), n))
    );
}

#[test]
fn after_its_last_delivery_a_message_lies_in_the_dead_letters_once_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 2);
    let dead = broker.create_stream("dead", 2, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let config = QueueConfig { max_receives: Some(3), dead_letter: Some("dead".to_owned()), ..QueueConfig::default() };
    let queue = broker.create_queue("work", "jobs", config, QueueStart::Earliest).unwrap();
    let dead_queue = broker.create_queue("post-mortem", "dead", QueueConfig::default(), QueueStart::Earliest).unwrap();
    let header = Header { name: "trace".to_owned(), value: Some("t-1".into()) };
    let record = Record { headers: vec![header], ..Record::new("poison").key("k") };
    assert_eq!(produce(&stream, 1, [Record::new("good"), record]), 0);
    let (_receiver, inbox) = receive(&queue, 1, 10, None);
    let mut counts = Vec::new();
    while counts.len() < 3 {
        for message in inbox.take(1) {
            if message.text() == "good" {
                ack(&queue, &[message]);
            } else {
                counts.push(message.receives);
                assert_eq!(say(&queue, &message, nack(0)), Ok(()));
            }
        }
    }
    assert_eq!(counts, [1, 2, 3]);
    let (_mourner, letters) = receive(&dead_queue, 9, 10, None);
    let letters = letters.take(1);
    let letter = &letters[0];
    assert_eq!((letter.text().as_str(), letter.record.key.as_deref()), ("poison", Some(b"k".as_slice())));
    for (name, value) in [
        ("trace", "t-1"),
        ("ms-dl-stream", "jobs"),
        ("ms-dl-partition", "1"),
        ("ms-dl-offset", "1"),
        ("ms-dl-queue", "work"),
        ("ms-dl-reason", "max_receives"),
        ("ms-dl-error", "it failed"),
        ("ms-dl-receives", "3"),
    ] {
        assert_eq!(letter.header(name).as_deref(), Some(value), "{name}");
    }
    until("it is settled", || queue.state().unwrap().partitions[1].tally.dead == 1);
    // Again and again, over restarts: still one letter each.
    produce(&stream, 1, texts(0..20));
    let mut rejected = 0;
    while rejected < 20 {
        for message in inbox.take(1) {
            assert_eq!(say(&queue, &message, Act::Reject { error: String::new() }), Ok(()));
            rejected += 1;
        }
    }
    until("all are settled", || queue.state().unwrap().partitions[1].tally.dead == 21);
    let high_watermarks =
        |stream: &Stream| stream.info().partitions.iter().map(|p| p.high_watermark).collect::<Vec<_>>();
    assert_eq!(high_watermarks(&dead), [0, 21]);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let broker = open(copy.path());
    let queue = broker.queue("work").unwrap();
    until("the letters arrived before", || queue.state().unwrap().partitions[1].counts.dying == 0);
    assert_eq!(high_watermarks(&broker.stream("dead").unwrap()), [0, 21]);
}

#[test]
fn groups_stay_in_order_whoever_fails_and_whoever_receives() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 2);
    broker.create_stream("dead", 1, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let config = QueueConfig {
        ordering: QueueOrdering::Fifo { group_batch: 3, on_dead: OnDead::Skip },
        dead_letter: Some("dead".to_owned()),
        backoff: QueueBackoff { min_ms: 0, max_ms: 0, factor_percent: 100 },
        ..QueueConfig::default()
    };
    let queue = broker.create_queue("orders", "jobs", config, QueueStart::Earliest).unwrap();
    let keyed = |n: u64| Record::new(n.to_string()).key(format!("key-{}", n % 7));
    for partition in 0..2 {
        produce(&stream, partition, (0..70).map(keyed));
    }
    produce(&stream, 0, [Record::new("no key")]);
    let receivers: Vec<_> = (0..3).map(|key| receive(&queue, key, 5, None)).collect();
    let mut done: BTreeMap<(u32, String), Vec<u64>> = BTreeMap::new();
    let (mut turn, mut settled) = (0_u64, 0);
    while settled < 140 {
        for (_, inbox) in &receivers {
            let messages = inbox.messages.lock().unwrap().0.drain(..).collect::<Vec<_>>();
            let mut failed: BTreeSet<(u32, String)> = BTreeSet::new();
            for message in messages {
                let key = String::from_utf8(message.record.key.clone().unwrap().to_vec()).unwrap();
                let group = (message.partition, key);
                turn += 1;
                if failed.contains(&group) {
                    let refused = say(&queue, &message, Act::Ack).unwrap_err();
                    let ended = [Code::OutOfGroupOrder, Code::ReceiptExpired];
                    assert!(ended.contains(&refused), "it ended with the one before: {refused}");
                } else if turn % 5 == 0 {
                    assert_eq!(say(&queue, &message, Act::Nack { delay_ms: None, error: String::new() }), Ok(()));
                    failed.insert(group);
                } else {
                    assert_eq!(say(&queue, &message, Act::Ack), Ok(()));
                    done.entry(group).or_default().push(message.receipt.offset);
                    settled += 1;
                }
            }
        }
    }
    assert_eq!(done.len(), 14);
    assert!(done.values().all(|offsets| offsets.len() == 10 && offsets.is_sorted()), "{done:?}");
    until("what has no group is with the dead letters", || queue.state().unwrap().partitions[0].tally.dead == 1);
}

#[test]
fn filters_delays_pause_purge_seek_and_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 1);
    let far = QueueConfig { filter: "value.distance >= 2000.0".to_owned(), ..QueueConfig::default() };
    let error = broker.create_queue(
        "bad",
        "jobs",
        QueueConfig { filter: "value.x =>".to_owned(), ..far.clone() },
        QueueStart::Latest,
    );
    assert_eq!(error.err().unwrap().code(), Code::FilterInvalid);
    let queue = broker.create_queue("far", "jobs", far.clone(), QueueStart::Earliest).unwrap();
    let ride = |km: u64| Record::new(format!("{{\"distance\": {km}}}"));
    produce(&stream, 0, (0..40).map(|n| ride(n * 100)));
    produce(&stream, 0, [Record::new("no JSON")]);
    let (receiver, inbox) = receive(&queue, 1, 100, None);
    let messages = inbox.take(20);
    assert!(messages.iter().all(|message| message.receipt.offset >= 20));
    until("the rest is judged", || queue.state().unwrap().partitions[0].tally.filtered == 21);
    assert_eq!(queue.state().unwrap().partitions[0].filter_errors, 1);
    ack(&queue, &messages);

    // Another filter holds from now on.
    let near = QueueConfig { filter: "value.distance < 2000.0".to_owned(), ..far };
    broker.update_queue("far", near.clone()).unwrap();
    produce(&stream, 0, [ride(1), ride(2_500)]);
    let near_one = inbox.take(1);
    assert_eq!(near_one[0].text(), "{\"distance\": 1}");

    // A pause holds back what is new, and lets acks through.
    broker.pause_queue("far", true).unwrap();
    produce(&stream, 0, [ride(2)]);
    ack(&queue, &near_one);
    let paused = queue.state().unwrap().partitions[0].clone();
    assert_eq!((paused.counts.in_flight, paused.not_looked_at + paused.counts.available > 0), (0, true));
    broker.pause_queue("far", false).unwrap();
    let kept = inbox.take(1);

    // A purge settles what is out, too; its receipts mean nothing any more.
    produce(&stream, 0, [ride(3)]);
    let out = inbox.take(1);
    broker.purge_queue("far").unwrap();
    assert_eq!(say(&queue, &kept[0], Act::Ack), Err(Code::ReceiptExpired));
    assert_eq!(say(&queue, &out[0], nack(0)), Err(Code::ReceiptExpired));
    assert_eq!(queue.state().unwrap().partitions[0].tally.purged, 2);

    // Back to the beginning: what was acknowledged comes again, under the filters that held then.
    broker.seek_queue("far", QueueStart::Earliest).unwrap();
    let replayed = inbox.take(23);
    assert_eq!(replayed.len(), 23, "20 far ones, then 1, 2 and 3");
    ack(&queue, &replayed);

    // A delayed queue delivers when it is time, not before.
    let later = broker.create_queue(
        "later",
        "jobs",
        QueueConfig { delay_ms: 300, ..QueueConfig::default() },
        QueueStart::Latest,
    );
    let later = later.unwrap();
    let (_late_receiver, late) = receive(&later, 1, 10, None);
    let since = std::time::Instant::now();
    produce(&stream, 0, [ride(9)]);
    late.take(1);
    assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());

    assert_eq!(broker.delete_stream("jobs").unwrap_err().code(), Code::StreamInUse);
    broker.delete_queue("far").unwrap();
    inbox.wait_end();
    assert_eq!(say(&queue, &replayed[0], Act::Ack), Err(Code::QueueDeleted));
    assert_eq!(broker.queue("far").err().unwrap().code(), Code::UnknownQueue);
    drop(receiver);
    broker.delete_queue("later").unwrap();
    broker.delete_stream("jobs").unwrap();
}

#[test]
fn deadlines_graces_and_late_acks() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), 1);
    let config = QueueConfig { disconnect_grace_ms: Some(100), ..QueueConfig::default() };
    let queue = broker.create_queue("work", "jobs", config, QueueStart::Earliest).unwrap();
    produce(&stream, 0, texts(0..2));
    let (slow, slow_inbox) = receive(&queue, 1, 2, Some(200));
    let first = slow_inbox.take(2);
    slow.set_window(0);
    until("both are back", || queue.state().unwrap().partitions[0].counts.available == 2);
    // Late, and nobody has begun with it since.
    assert_eq!(say(&queue, &first[0], Act::Ack), Ok(()));
    assert_eq!(say(&queue, &first[0], Act::Ack), Ok(()), "the same receipt again");
    let (other, other_inbox) = receive(&queue, 2, 1, None);
    let second = other_inbox.take(1);
    assert_eq!(say(&queue, &first[1], Act::Ack), Err(Code::ReceiptExpired), "another delivery has begun");
    assert_eq!(say(&queue, &second[0], Act::Extend { visibility_ms: 50_000 }), Ok(()));
    assert_eq!(say(&queue, &second[0], Act::Extend { visibility_ms: 43_200_001 }), Err(Code::VisibilityOutOfRange));
    let foreign =
        Verb { queue: millstream_protocol::QueueId(999), partition: 0, receipt: second[0].receipt, act: Act::Ack };
    assert_eq!(queue.say_wait(vec![foreign])[0].code(), Some(Code::ReceiptForeign));
    assert_eq!(say(&queue, &second[0], Act::Reject { error: String::new() }), Err(Code::NoDeadLetter));
    // Its receiver is lost: after the grace another one has it, long before its deadline.
    drop(other);
    slow.set_window(1);
    let third = slow_inbox.take(1);
    assert_eq!((third[0].text(), third[0].receives), (second[0].text(), 3));
    ack(&queue, &third);
}
