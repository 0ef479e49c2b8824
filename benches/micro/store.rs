//! A log with one lane and one partition, in a directory that goes with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use millstream_log::{
    AppendSink, Appended, Clock, Durability, Environment, Identity, Kind, Log, LogConfig, LogError, Partition,
    PartitionConfig,
};
use millstream_protocol::batch::BatchView;
use millstream_protocol::{Epoch, Incarnation, PartitionId, StreamId, Timestamp};

/// Appends that are not answered, at most.
const IN_FLIGHT: u64 = 8;

/// The log.
pub struct Store {
    /// All of it.
    pub log: Log,
    /// Its partition: `written`.
    pub partition: Arc<Partition>,
    _dir: tempfile::TempDir,
}

impl Store {
    /// A new one. Its time goes on by a millisecond with each look at it.
    pub fn open() -> Self {
        let parent = std::env::var_os("MILLSTREAM_BENCH_DIR");
        let parent = parent.map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
        let dir = tempfile::tempdir_in(parent).expect("a directory");
        let machine = Environment::of_the_machine().expect("enough descriptors");
        let environment = Environment { clock: Arc::new(Ticks(AtomicI64::new(1_700_000_000_000))), ..machine };
        let config = LogConfig { lanes: 1, ..LogConfig::default() };
        let log = Log::open_in(environment, dir.path(), config, 1).expect("it opens");
        let identity = Identity {
            stream: StreamId(1),
            partition: PartitionId(0),
            incarnation: Incarnation(1),
            kind: Kind::Records,
        };
        let config = PartitionConfig { durability: Durability::Written, ..PartitionConfig::default() };
        let partition = log.create_partition(identity, config, Epoch(1)).expect("it is made");
        Self { log, partition, _dir: dir }
    }

    /// One with `count` batches.
    pub fn with(batch: &BatchView, count: u64) -> Self {
        let store = Self::open();
        store.append(batch, count);
        store
    }

    /// The time that `count` appends take, a few in flight.
    pub fn append(&self, batch: &BatchView, count: u64) -> Duration {
        let (send, answers) = channel();
        let sink: Arc<dyn AppendSink> = Arc::new(Answers(send));
        let start = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < IN_FLIGHT {
                self.partition.append(batch.clone(), sent, &sink).expect("it takes appends");
                sent += 1;
            }
            answered += answers.recv().expect("the sink is here").expect("it stores them");
        }
        start.elapsed()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.log.close();
    }
}

struct Answers(Sender<Result<u64, LogError>>);

impl AppendSink for Answers {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        let count = results.len() as u64;
        let error = results.into_iter().find_map(|(_, result)| result.err());
        // Whoever gave up has said why.
        let _ = self.0.send(error.map_or(Ok(count), Err));
    }
}

/// Every look takes a millisecond: neighbouring batches have different times.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn append_time(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
    }
}
