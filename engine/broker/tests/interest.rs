//! Retention by interest on a real directory: what goes is what all queues and groups on the stream are past, durably, and
//! what comes back after a crash finds all that it still wants.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use millstream_broker::queue::{Act, Delivered, Outlet, QueueHandle, QueueReceiver, Receipt, Receiving, Verb};
use millstream_broker::{Broker, BrokerConfig, Stream};
use millstream_log::LogError;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::{CreateMode, StreamConfig};
use millstream_protocol::frame::group::{GroupJoin, GroupReset, OffsetCommit, ResetTo, StreamPartition};
use millstream_protocol::frame::queue::{QueueConfig, QueueStart};
use millstream_protocol::{Offset, PartitionId, Record};
use support::copy_dir;

const DEADLINE: Duration = Duration::from_secs(30);
/// Five of them fill a segment.
const RECORD_BYTES: usize = 200 << 10;
const IN_A_SEGMENT: u64 = 5;

#[derive(Default)]
struct Inbox {
    receipts: Mutex<Vec<Receipt>>,
    changed: Condvar,
}

impl Outlet for Inbox {
    fn deliver(&self, delivered: Delivered) {
        self.receipts.lock().unwrap().extend(delivered.deliveries.iter().map(|delivery| delivery.receipt));
        self.changed.notify_all();
    }

    fn ended(&self) {}
}

/// A queue and its one receiver.
struct Work {
    queue: QueueHandle,
    inbox: Arc<Inbox>,
    _receiver: QueueReceiver,
}

impl Work {
    fn on(queue: QueueHandle) -> Self {
        let inbox = Arc::new(Inbox::default());
        let receiving = Receiving { key: 1, outlet: inbox.clone(), window: 1_000, visibility_ms: None, held: None };
        let _receiver = queue.receive(receiving).unwrap();
        Self { queue, inbox, _receiver }
    }

    /// The next `count` messages, by offset.
    #[track_caller]
    fn take(&self, count: usize) -> Vec<Receipt> {
        let receipts = self.inbox.receipts.lock().unwrap();
        let (mut receipts, waited) =
            self.inbox.changed.wait_timeout_while(receipts, DEADLINE, |receipts| receipts.len() < count).unwrap();
        assert!(!waited.timed_out(), "{} of {count} messages came", receipts.len());
        let mut taken = std::mem::take(&mut *receipts);
        taken.sort();
        taken
    }

    #[track_caller]
    fn ack(&self, receipts: &[Receipt]) {
        let verb = |receipt: &Receipt| Verb { queue: self.queue.id(), partition: 0, receipt: *receipt, act: Act::Ack };
        let results = self.queue.say_wait(receipts.iter().map(verb).collect());
        assert!(results.iter().all(|result| result.code().is_none()), "{results:?}");
    }

    fn floor(&self) -> u64 {
        self.queue.state().unwrap().partitions[0].floor
    }
}

fn open(dir: &Path) -> Arc<Broker> {
    Broker::open(BrokerConfig::new(dir)).unwrap()
}

fn by_interest() -> StreamConfig {
    StreamConfig { segment_bytes: 1 << 20, ..StreamConfig::by_interest() }
}

/// A stream with so many large records in its only partition.
fn with_stream(dir: &Path, config: StreamConfig, records: u64) -> (Arc<Broker>, Arc<Stream>) {
    let broker = open(dir);
    let stream = broker.create_stream("jobs", 1, config, CreateMode::Explicit).unwrap();
    produce(&stream, records);
    (broker, stream)
}

fn produce(stream: &Stream, records: u64) {
    for n in 0..records {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&Record::new(vec![n as u8; RECORD_BYTES])).unwrap();
        let batch = BatchView::parse(&builder.finish().unwrap()).unwrap();
        stream.partition(PartitionId(0)).unwrap().append_wait(batch).unwrap();
    }
}

fn queue(broker: &Broker, name: &str, start: QueueStart) -> Work {
    Work::on(broker.create_queue(name, "jobs", QueueConfig::default(), start).unwrap())
}

/// Runs retention; gives the log start.
fn retain(broker: &Broker) -> u64 {
    broker.run_retention();
    log_start(broker)
}

fn log_start(broker: &Broker) -> u64 {
    broker.stream("jobs").unwrap().partition(PartitionId(0)).unwrap().log_start().0
}

/// Every record from `from` to `end` can be read.
#[track_caller]
fn expect_all(broker: &Broker, from: u64, end: u64) {
    let stream = broker.stream("jobs").unwrap();
    let partition = stream.partition(PartitionId(0)).unwrap();
    let mut next = Offset(from);
    while next < Offset(end) {
        let chunk = partition.read(next, 1 << 20).unwrap();
        assert!(chunk.next > next, "{next}");
        next = chunk.next;
    }
}

#[test]
fn consumed_segments_go_and_an_unacked_message_holds_its_own_over_a_crash() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (broker, stream) = with_stream(dir.path(), by_interest(), 22);
    let work = queue(&broker, "work", QueueStart::Earliest);
    assert_eq!(retain(&broker), 0, "nothing is acknowledged");
    let messages = work.take(22);
    assert_eq!(retain(&broker), 0, "it is only out");
    work.ack(&messages[..7]);
    work.ack(&messages[8..22]);
    assert_eq!(work.floor(), 7);
    let start = retain(&broker);
    assert_eq!(start, IN_A_SEGMENT, "the whole segments below message 7");
    assert!(stream.partition(PartitionId(0)).unwrap().size_bytes() < 18 * (RECORD_BYTES as u64 + 1_000));

    // Killed here: nothing at or above the floor is missing, and the floor has not fallen.
    copy_dir(dir.path(), copy.path());
    let crashed = open(copy.path());
    assert_eq!(log_start(&crashed), start);
    expect_all(&crashed, start, 22);
    let again = Work::on(crashed.queue("work").unwrap());
    assert_eq!(again.floor(), 7);
    assert_eq!(retain(&crashed), start, "nobody is further than before");
    let message = again.take(1);
    assert_eq!(message.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), [7]);
    again.ack(&message);
    assert_eq!(retain(&crashed), 20, "all but the active segment");
    assert_eq!(again.queue.state().unwrap().partitions[0].tally.expired_by_retention, 0);

    // The first life goes on, too; once the active segment is large enough it goes like the rest.
    work.ack(&messages[7..8]);
    assert_eq!(retain(&broker), 20);
    produce(&stream, 3);
    let last = work.take(3);
    work.ack(&last[..2]);
    assert_eq!(retain(&broker), 20);
    work.ack(&last[2..]);
    broker.close().unwrap();
    drop((work, stream, broker));
    let broker = open(dir.path());
    assert!(retain(&broker) >= 20);
    expect_all(&broker, log_start(&broker), 25);
}

#[test]
fn the_slower_queue_says_what_stays_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _stream) = with_stream(dir.path(), by_interest(), 22);
    assert_eq!(retain(&broker), 0, "nobody is interested: nothing goes");
    let fast = queue(&broker, "fast", QueueStart::Earliest);
    let slow = queue(&broker, "slow", QueueStart::Earliest);
    fast.ack(&fast.take(22));
    assert_eq!(retain(&broker), 0);
    slow.ack(&slow.take(22)[..11]);
    assert_eq!(retain(&broker), 10);
    broker.delete_queue("slow").unwrap();
    assert_eq!(retain(&broker), 20);
    broker.delete_queue("fast").unwrap();
    produce(&broker.stream("jobs").unwrap(), 10);
    assert_eq!(retain(&broker), 20, "nobody is interested again");
}

#[test]
fn a_purge_lets_go_and_a_seek_or_a_new_queue_keeps_from_where_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), by_interest(), 22);
    let work = queue(&broker, "work", QueueStart::Earliest);
    work.ack(&work.take(22));
    // Told at once: the queue itself may not have heard of it yet.
    broker.seek_queue("work", QueueStart::Offset(12)).unwrap();
    assert_eq!(retain(&broker), 10, "the segment of message 12 stays");
    expect_all(&broker, 12, 22);
    let messages = work.take(10);
    assert_eq!(messages[0].offset, 12);
    let late = queue(&broker, "late", QueueStart::Earliest);
    let old = late.take(12);
    assert_eq!(old[0].offset, 10, "the log start, where the rest is gone");
    work.ack(&messages);
    assert_eq!(retain(&broker), 10, "the new one wants all of it");
    broker.purge_queue("late").unwrap();
    assert_eq!(retain(&broker), 20);
    assert!(matches!(
        stream.partition(PartitionId(0)).unwrap().read(Offset(12), 1),
        Err(LogError::OffsetOutOfRange { .. })
    ));
    for queue in ["work", "late"] {
        let state = broker.queue(queue).unwrap().state().unwrap();
        assert_eq!(state.partitions[0].tally.expired_by_retention, 0, "{queue}");
    }
}

#[test]
fn groups_hold_what_they_have_not_committed_while_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), by_interest(), 22);
    let work = queue(&broker, "work", QueueStart::Earliest);
    work.ack(&work.take(22));
    let at = StreamPartition { stream: stream.id.0, partition: 0 };
    let join = GroupJoin {
        group: "readers".to_owned(),
        member: 1,
        instance: None,
        streams: vec!["jobs".to_owned()],
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        client: "tests".to_owned(),
    };
    let epoch = broker.join_group(&join).unwrap().assignment.unwrap().partitions[0].epoch;
    assert_eq!(retain(&broker), 0, "a member that has not committed may want anything");
    let commit = OffsetCommit { at, epoch, offset: 6, batch_epoch: None, metadata: String::new() };
    assert_eq!(broker.commit_offsets("readers", Some(1), &[commit]).unwrap()[0].code, 0);
    assert_eq!(retain(&broker), 5);
    broker.leave_group("readers", 1, true).unwrap();
    assert_eq!(retain(&broker), 5, "its commits stay");
    let reset = GroupReset {
        group: "others".to_owned(),
        stream: "jobs".to_owned(),
        partitions: vec![],
        to: ResetTo::Offset(16),
        dry_run: false,
    };
    broker.reset_group(&reset).unwrap();
    drop((stream, work));
    broker.close().unwrap();
    drop(broker);
    let broker = open(dir.path());
    assert_eq!(retain(&broker), 5);
    broker.delete_group("readers").unwrap();
    assert_eq!(retain(&broker), 15);
    broker.delete_offsets("others", "jobs", &[]).unwrap();
    assert_eq!(retain(&broker), 20, "a group that is left without commits on the stream holds nothing");
}

#[test]
fn an_age_limit_deletes_by_itself_and_what_was_unsettled_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let config = StreamConfig { retention_ms: Some(1_000), ..by_interest() };
    let (broker, _stream) = with_stream(dir.path(), config, 7);
    let work = queue(&broker, "work", QueueStart::Earliest);
    let since = Instant::now();
    while retain(&broker) < 7 {
        assert!(since.elapsed() < DEADLINE, "a second is over soon");
        std::thread::yield_now();
    }
    let expired = || work.queue.state().unwrap().partitions[0].tally.expired_by_retention;
    while expired() < 7 {
        assert!(since.elapsed() < DEADLINE, "{} are counted", expired());
        std::thread::yield_now();
    }
}

#[test]
fn a_queue_or_group_that_begins_while_records_go_misses_nothing_of_what_it_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, stream) = with_stream(dir.path(), by_interest(), 0);
    let fast = queue(&broker, "fast", QueueStart::Earliest);
    let is_over = Arc::new(AtomicBool::new(false));
    let retaining = std::thread::spawn({
        let (broker, is_over) = (broker.clone(), is_over.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                broker.run_retention();
            }
        }
    });
    let partition = stream.partition(PartitionId(0)).unwrap();
    for _ in 0..40 {
        produce(&stream, IN_A_SEGMENT + 1);
        // From here on the segments go, at some moment of what follows.
        fast.ack(&fast.take(IN_A_SEGMENT as usize + 1));
        let late = queue(&broker, "late", QueueStart::Earliest);
        let first = late.queue.entry.floors[0];
        let reset = GroupReset {
            group: "readers".to_owned(),
            stream: "jobs".to_owned(),
            partitions: vec![],
            to: ResetTo::Earliest,
            dry_run: false,
        };
        let committed = broker.reset_group(&reset).unwrap()[0].offset.unwrap();
        let messages = late.take((partition.high_watermark().0 - first) as usize);
        assert_eq!(messages[0].offset, first);
        assert_eq!(late.queue.state().unwrap().partitions[0].tally.expired_by_retention, 0);
        broker.delete_queue("late").unwrap();
        expect_all(&broker, committed, partition.high_watermark().0);
        broker.delete_group("readers").unwrap();
    }
    assert!(log_start(&broker) > 0);
    is_over.store(true, Ordering::Relaxed);
    retaining.join().unwrap();
}
