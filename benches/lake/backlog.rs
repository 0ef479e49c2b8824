//! The product: a log of four partitions that holds the flights, and a lake that lands them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_benches::pipe::runtime;
use millstream_lake::{LakeSettings, Sink, Source};
use millstream_log::{Durability, Identity, Kind, Log, LogConfig, Partition, PartitionConfig};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::LakeConfig;
use millstream_protocol::{Epoch, Incarnation, LakeId, PartitionId, Record, StreamId};
use rustix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::flights::Flights;

/// Of the stream.
pub const PARTITIONS: u32 = 4;
/// Records that clients send at once.
pub const BATCH_RECORDS: usize = 1_000;
const TIMEOUT: Duration = Duration::from_secs(1_800);

/// What something took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Of all threads of this process.
    pub cpu: Duration,
    pub wall: Duration,
}

/// Measures it.
pub struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch { cpu: cpu(), wall: Instant::now() }
    }

    pub fn stop(self) -> Cost {
        Cost { cpu: cpu() - self.cpu, wall: self.wall.elapsed() }
    }
}

/// A stream with all that is to be landed.
pub struct Backlog {
    partitions: Vec<Arc<Partition>>,
    log: Log,
    rows: u64,
    landings: AtomicU64,
}

impl Backlog {
    /// Appends the flights in batches as clients send them, to the partitions in turn. With `slots` each record gets a field of
    /// that many values in front.
    pub fn fill(dir: &Path, flights: &Flights, slots: Option<usize>) -> Result<Backlog, Error> {
        let log = Log::open(dir, LogConfig::default(), 1)?;
        let config = PartitionConfig { durability: Durability::Written, ..PartitionConfig::default() };
        let made = (0..PARTITIONS).map(|partition| {
            let incarnation = Incarnation(u64::from(partition) + 1);
            let identity =
                Identity { stream: StreamId(1), partition: PartitionId(partition), incarnation, kind: Kind::Records };
            log.create_partition(identity, config, Epoch(1))
        });
        let partitions = made.collect::<Result<Vec<_>, _>>()?;
        let (mut rows, mut batches) = (0_usize, 0);
        let mut builder = BatchBuilder::new(Codec::Lz4);
        let mut append = |builder: BatchBuilder| -> Result<(), Error> {
            let batch = BatchView::parse(&builder.finish()?)?;
            partitions[batches % partitions.len()].append_wait(batch)?;
            batches += 1;
            Ok(())
        };
        flights.each_line(|line| {
            let line = line.trim_ascii_end();
            let value = match slots {
                Some(slots) => [format!("{{\"slot\":{},", rows % slots).as_bytes(), &line[1..]].concat(),
                None => line.to_vec(),
            };
            builder.push(&Record::new(value))?;
            rows += 1;
            if rows.is_multiple_of(BATCH_RECORDS) {
                append(std::mem::replace(&mut builder, BatchBuilder::new(Codec::Lz4)))?;
            }
            Ok(())
        })?;
        if !rows.is_multiple_of(BATCH_RECORDS) {
            append(builder)?;
        }
        rustix::fs::sync();
        Ok(Backlog { partitions, log, rows: rows as u64, landings: AtomicU64::new(0) })
    }

    /// Lands all of it in a new lake under `dir`, which goes afterwards.
    pub fn land(&self, dir: &Path, layout: &str, open_files: u32) -> Result<Cost, Error> {
        let number = self.landings.fetch_add(1, Ordering::Relaxed);
        let root = tempfile::tempdir_in(dir)?;
        let runtime = runtime("lake")?;
        let url = format!("file://{}/lake", root.path().display());
        let config = LakeConfig { layout: layout.into(), open_files, ..LakeConfig::new("backlog", "flights", url) };
        let settings = LakeSettings::new(root.path().join("spool"));
        rustix::fs::sync();
        let watch = Stopwatch::start();
        runtime.block_on(async {
            let sources =
                self.partitions.iter().map(|source| Arc::new(Arc::clone(source)) as Arc<dyn Source>).collect();
            // A new lake each time: what the partitions know of another is not this one's.
            let sink = Sink::start(LakeId(number + 1), config, "flights", sources, settings)?;
            sink.flush(TIMEOUT).await?;
            let status = sink.status();
            sink.stop().await;
            match status.rows == self.rows {
                true => Ok(watch.stop()),
                false => Err(format!("{} of {} records landed", status.rows, self.rows).into()),
            }
        })
    }

    /// The same; this process's anonymous memory before and at its peak, in bytes.
    pub fn land_watched(&self, dir: &Path, layout: &str, open_files: u32) -> Result<(u64, u64), Error> {
        let before = anonymous_bytes()?;
        let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(anonymous_bytes().unwrap_or_default(), Ordering::Relaxed);
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            });
            let landed = self.land(dir, layout, open_files);
            done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            landed
        })?;
        Ok((before, peak.into_inner()))
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.log.close();
    }
}

/// `RssAnon` of this process, in bytes.
fn anonymous_bytes() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kib << 10)
}
