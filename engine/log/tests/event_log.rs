//! Events beside a partition: handed over without waiting, told of when they are durable, there again after a crash.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use millstream_log::{AppendSink, Appended, EventLog, LogError, Machine, PartitionConfig};
use millstream_protocol::QueueId;
use support::{Bench, Fault};

/// The numbers it was told, in order; large enough to need several batches.
#[derive(Default, Debug, PartialEq, Eq, Clone)]
struct Numbers(Vec<u64>);

impl Machine for Numbers {
    type Event = (u64, usize);

    fn apply(&mut self, (number, _): &(u64, usize)) {
        self.0.push(*number);
    }

    fn encode_event((number, padding): &(u64, usize)) -> Vec<u8> {
        [number.to_le_bytes().to_vec(), vec![7; *padding]].concat()
    }

    fn decode_event(bytes: &[u8]) -> Result<(u64, usize), String> {
        let number = bytes.first_chunk().ok_or("too short")?;
        Ok((u64::from_le_bytes(*number), bytes.len() - 8))
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String> {
        Ok(Self(bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()))
    }
}

#[derive(Default)]
struct Heard {
    results: Mutex<Vec<(u64, Result<Appended, LogError>)>>,
    changed: Condvar,
    is_barred: AtomicBool,
}

impl Heard {
    fn wait(&self, count: usize) -> Vec<(u64, Result<Appended, LogError>)> {
        let results = self.changed.wait_while(self.results.lock().unwrap(), |results| results.len() < count).unwrap();
        results.clone()
    }
}

impl AppendSink for Heard {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        if results.iter().any(|(_, result)| result.is_err()) {
            self.is_barred.store(true, Ordering::Release);
        }
        self.results.lock().unwrap().extend(results);
        self.changed.notify_all();
    }

    fn admits(&self, _: u64) -> bool {
        !self.is_barred.load(Ordering::Acquire)
    }
}

#[test]
fn events_are_there_again_after_a_kill_with_and_without_a_snapshot() {
    let mut bench = Bench::new();
    bench.config.snapshot_interval_bytes = 4_096;
    let mut expected = Numbers::default();
    for life in 0..4_u64 {
        let log = bench.open();
        let partition = match life {
            0 => bench.create(&log, 0, PartitionConfig::default()),
            _ => bench.reopen(&log, 0, PartitionConfig::default()),
        };
        let (mut events, mut machine): (EventLog<Numbers>, Numbers) = log.open_queue(&partition, QueueId(3)).unwrap();
        assert_eq!(machine, expected);
        let heard = Arc::new(Heard::default());
        let sink: Arc<dyn AppendSink> = heard.clone();
        let mut batches = 0;
        for pass in 0..50_u64 {
            // Every tenth needs several batches.
            let padding = if pass % 10 == 0 { 400_000 } else { 10 };
            let decided: Vec<(u64, usize)> = (0..5).map(|n| (life * 1_000 + pass * 5 + n, padding)).collect();
            decided.iter().for_each(|event| machine.apply(event));
            batches += events.append(&decided, pass, &sink).unwrap().len();
            if let Some(state) = events.snapshot_if_due(&machine) {
                heard.wait(batches);
                events.snapshots().store(events.durable_end(), &state);
            }
        }
        let results = heard.wait(batches);
        assert!(batches > 50 && results.iter().all(|(_, result)| result.is_ok()));
        assert!(results.is_sorted_by_key(|(token, _)| *token));
        expected = machine;
        assert_eq!(log.stored_queues().unwrap(), [QueueId(3)]);
        drop((events, sink, partition));
        bench.kill(log);
    }
}

#[test]
fn behind_a_batch_that_was_not_stored_nothing_is_until_the_owner_begins_again() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let (mut events, _): (EventLog<Numbers>, Numbers) = log.open_queue(&partition, QueueId(1)).unwrap();
    let heard = Arc::new(Heard::default());
    let sink: Arc<dyn AppendSink> = heard.clone();
    assert_eq!(events.append(&[(1, 0)], 0, &sink).unwrap(), [1]);
    assert!(heard.wait(1)[0].1.is_ok());
    // More than the journal takes in passing: it goes to its segment, whose write fails.
    bench.storage.arm(Fault::NoRoom, "/queues/");
    for number in 2..6 {
        events.append(&[(number, 300_000)], number, &sink).unwrap();
    }
    let results = heard.wait(5);
    let stored: Vec<u64> = results.iter().filter(|(_, result)| result.is_ok()).map(|(token, _)| *token).collect();
    let machine = events.reload().unwrap();
    assert_eq!(machine.0.len(), stored.len(), "{results:?}");
    assert!(machine.0.windows(2).all(|two| two[0] < two[1]) && stored.len() < 5, "{machine:?}");
    heard.is_barred.store(false, Ordering::Release);
    events.append(&[(9, 0)], 9, &sink).unwrap();
    assert!(heard.wait(6)[5].1.is_ok());
    assert_eq!(events.reload().unwrap().0.last(), Some(&9));
}

#[test]
fn a_deleted_queue_leaves_nothing_and_another_ones_events_stay() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let heard = Arc::new(Heard::default());
    let sink: Arc<dyn AppendSink> = heard.clone();
    for queue in [1, 2] {
        let (mut events, _): (EventLog<Numbers>, Numbers) = log.open_queue(&partition, QueueId(queue)).unwrap();
        events.append(&[(queue, 0)], queue, &sink).unwrap();
    }
    heard.wait(2);
    log.delete_queue(QueueId(1)).unwrap();
    log.delete_queue(QueueId(1)).unwrap();
    assert_eq!(log.stored_queues().unwrap(), [QueueId(2)]);
    drop(partition);
    bench.kill(log);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    let (_, first): (EventLog<Numbers>, Numbers) = log.open_queue(&partition, QueueId(1)).unwrap();
    let (_, second): (EventLog<Numbers>, Numbers) = log.open_queue(&partition, QueueId(2)).unwrap();
    assert_eq!((first.0.as_slice(), second.0.as_slice()), ([].as_slice(), [2].as_slice()));
}
