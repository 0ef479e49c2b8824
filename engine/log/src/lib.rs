//! Millstream's log: partitions of batches in segments, on a [`storage::Storage`]. No network, no tokio.
//!
//! # Promises
//! An append is answered when the partition's [`Durability`] holds:
//! - `Synced`: the batch is on the disk. It survives a crash of the process and loss of power, not loss of the disk.
//! - `Written`: it is in the page cache. It survives a crash of the process.
//!
//! Readers see nothing above the high watermark, which follows that same durability: what was read from a `Synced`
//! partition does not vanish. Offsets count records, rise by one, and are never given out twice; compaction leaves gaps and
//! moves nothing.
//!
//! # Fault by fault
//! | fault | what happens |
//! | --- | --- |
//! | process killed, power lost | the next start reads the active segments from the medium, cuts a torn tail into `quarantine/`, and serves the rest |
//! | a write, sync or rename fails | its partition is read-only until a restart; waiters get `durability unknown`; nothing is retried |
//! | disk full | the batch is cut off again durably and refused with `disk full`; appends succeed as soon as there is room |
//! | damage below what was known durable | a typed error names the offsets lost; both sides stay readable |
//! | process killed, power lost in a compaction | of each segment the newest whole generation is served; what was compacted away stays away |
//! | two processes on one directory | the second is refused |
//! | the clock steps | append times never go back; a step above a minute is reported, not followed for an hour |
//!
//! # Example
//! ```
//! use millstream_log::{Identity, Kind, Log, LogConfig, PartitionConfig};
//! use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
//! use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, Record, StreamId};
//!
//! let dir = tempfile::tempdir()?;
//! let log = Log::open(dir.path(), LogConfig::default(), 1)?;
//! let identity =
//!     Identity { stream: StreamId(1), partition: PartitionId(0), incarnation: Incarnation(7), kind: Kind::Records };
//! let partition = log.create_partition(identity, PartitionConfig::default(), Epoch(1))?;
//! let mut batch = BatchBuilder::new(Codec::None);
//! batch.push(&Record::new("42.5 km").key("ride-17"))?;
//! let appended = partition.append_wait(BatchView::parse(&batch.finish()?)?)?;
//! assert_eq!(appended.base_offset, Offset(0));
//! let mut chunk = partition.read(Offset(0), 1 << 20)?;
//! let batch = BatchView::split_stored(&mut chunk.bytes, partition.incarnation())?;
//! assert_eq!(batch.header().record_count, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod clock;
mod compaction;
mod data_dir;
mod disk_space;
mod error;
mod index;
mod lane;
mod log;
mod partition;
mod read;
mod recovery;
mod retention;
mod segment;
mod state_log;
pub mod storage;
mod verify;

pub use clock::{Clock, Stopwatch, SystemClock, WallClock};
pub use compaction::{Compacted, CompactionFacts, CompactionPlan, CompactionPolicy, plan_compaction};
pub use data_dir::FORMAT_VERSION;
pub use error::LogError;
pub use event_listener::{EventListener, Listener};
pub use lane::{AppendSink, Appended};
pub use log::{Drive, Environment, Log, LogConfig, Replay};
pub use partition::{Durability, Partition, PartitionConfig};
pub use read::Chunk;
pub use recovery::open::Recovered;
pub use retention::{Reason, RetentionPolicy, SegmentFacts, plan_retention};
pub use segment::{Identity, Kind};
pub use state_log::{Machine, StateLog};
pub use verify::{Damage, PartitionReport, accept_losses, verify};
