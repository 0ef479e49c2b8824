//! The engine, driven as a server drives it: appends with a number in flight, answers through a sink.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use millstream_benches::memory;
use millstream_log::{
    AppendSink, Appended, Durability, Identity, Kind, Log, LogConfig, LogError, Partition, PartitionConfig,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, Record, StreamId};
use parking_lot::Mutex;

use crate::Error;

/// A batch of about that many bytes, of 1 KiB records.
pub fn batch(bytes: usize) -> BatchView {
    let noise = memory::noise(1 << 10);
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..(bytes >> 10).max(1) {
        builder.push(&Record::new(noise.clone())).expect("a small record");
    }
    BatchView::parse(&builder.finish().expect("not empty")).expect("just built")
}

/// An open log with some partitions.
pub struct Engine {
    partitions: Vec<Arc<Partition>>,
    log: Log,
    dir: tempfile::TempDir,
}

/// Counts answers.
struct Counting(Mutex<Sender<(usize, Option<LogError>)>>);

impl AppendSink for Counting {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        let count = results.len();
        let error = results.into_iter().find_map(|(_, result)| result.err());
        // Whoever gave up has said why.
        let _ = self.0.lock().send((count, error));
    }
}

impl Engine {
    /// A new log with one lane, that many unsynced bytes and that many partitions.
    pub fn open(
        dir: &std::path::Path,
        unsynced_bytes: u64,
        partitions: u32,
        durability: Durability,
    ) -> Result<Self, Error> {
        let dir = tempfile::tempdir_in(dir)?;
        let log = Log::open(dir.path(), LogConfig { lanes: 1, unsynced_bytes, ..LogConfig::default() }, 1)?;
        let config = PartitionConfig { durability, segment_bytes: 4 << 30, ..PartitionConfig::default() };
        let made = (0..partitions).map(|partition| {
            let incarnation = Incarnation(u64::from(partition) + 1);
            let identity =
                Identity { stream: StreamId(1), partition: PartitionId(partition), incarnation, kind: Kind::Records };
            log.create_partition(identity, config, Epoch(1))
        });
        let partitions = made.collect::<Result<_, _>>()?;
        Ok(Self { partitions, log, dir })
    }

    /// MB/s of appending `bytes` in batches.
    pub fn append(&self, batch: &BatchView, bytes: u64, in_flight: usize) -> Result<f64, Error> {
        let count = bytes / batch.bytes().len() as u64;
        let rate = self.append_each(batch, count.max(1), in_flight)?;
        Ok(rate * batch.bytes().len() as f64 / 1e6)
    }

    /// Batches a second, over all partitions in turn.
    pub fn append_each(&self, batch: &BatchView, count: u64, in_flight: usize) -> Result<f64, Error> {
        let (send, answers) = channel();
        let sink: Arc<dyn AppendSink> = Arc::new(Counting(Mutex::new(send)));
        crate::settle();
        let start = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < in_flight as u64 {
                let partition = &self.partitions[sent as usize % self.partitions.len()];
                partition.append(batch.clone(), sent, &sink)?;
                sent += 1;
            }
            let (more, error) = answers.recv()?;
            if let Some(error) = error {
                return Err(error.into());
            }
            answered += more as u64;
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// MB/s of reading the first partition from its beginning to its end.
    pub fn read(&self, chunk: usize) -> Result<f64, Error> {
        let partition = &self.partitions[0];
        let start = Instant::now();
        let (mut next, mut bytes) = (Offset(0), 0);
        while next < partition.high_watermark() {
            let found = partition.read(next, chunk)?;
            bytes += std::hint::black_box(&found.bytes).len();
            next = found.next;
        }
        Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
    }

    /// The first partition's segment.
    pub fn segment(&self) -> Result<PathBuf, Error> {
        let name = format!("streams/0000000001/00000-{}/00000000000000000000.00000000.log", Incarnation(1));
        Ok(self.dir.path().join(name))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.log.close();
    }
}
