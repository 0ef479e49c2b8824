//! Millstream's log: partitions of batches in segments, on a [`storage::Storage`]. No network, no tokio.
//!
//! # Promises
//! An append is answered when the partition's [`Durability`] holds:
//! - `Synced`: the batch is on the disk, in its segment or in the lane's journal. It survives a crash of the process and loss
//!   of power, not loss of the disk.
//! - `Written`: it is in the page cache. It survives a crash of the process. A loss of power may take the end of the log: at
//!   most [`LogConfig::unsynced_bytes`], and readers that had seen it are told (`log truncated`), by the epoch.
//!
//! Readers see nothing above the high watermark, which follows that same durability: what was read from a `Synced`
//! partition does not vanish. Offsets count records, rise by one, and are never given out twice; compaction leaves gaps and
//! moves nothing. A batch is there whole or not at all.
//!
//! # Fault by fault
//! | fault | what happens | shown by |
//! | --- | --- | --- |
//! | process killed, power lost | the next start replays the journals, reads what no index covers from the medium, cuts a torn tail into `quarantine/`, syncs, and only then serves | `millstream-sim`, `millstream-torture kill` |
//! | a write, rename or `fdatasync` fails | its partition is read-only until a restart; waiters get `durability unknown`; nothing is retried, other partitions go on; the restart believes the medium, not the page cache | `tests/faults.rs`, `millstream-sim` |
//! | the journal's sync fails | the same, for every partition of that pass | `millstream-sim` |
//! | a segment's later sync fails | its partition is read-only; the journal files that hold its batches are kept until a start has replayed them | `millstream-sim` |
//! | a read fails (EIO) | that read fails; nothing else | `millstream-sim` |
//! | disk nearly full | records are refused with `disk full`; reads, deletions and state go on, out of a reserve if need be; appends resume by themselves | `millstream-sim` |
//! | a write finds no room | the batch is cut off again durably and refused; appends succeed as soon as there is room | `tests/faults.rs`, `millstream-sim` |
//! | damage below what was known durable | a typed error names the offsets lost; both sides stay readable; `verify` names the same | `millstream-sim/tests/every_byte.rs` |
//! | damage to the last commit before a kill | like a torn write: cut, kept in quarantine, reported | the same |
//! | process killed, power lost in a compaction | of each segment the newest whole generation is served; what was compacted away stays away | `tests/compaction.rs`, `millstream-sim` |
//! | no descriptor is free | the append or read is refused (`throttled`) and nothing is poisoned | |
//! | two processes on one directory | the second is refused | `data_dir` |
//! | the clock steps | append times never go back; a step above a minute is reported, not followed for an hour; at a start far ahead of the newest record nothing is deleted by age for an hour | `clock`, `retention` |
//!
//! Assumed of the disk: `fdatasync` that says OK tells the truth; bytes that were durable and have not been written since
//! survive whatever happens to the rest of their sector.
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
mod dedup;
mod disk_space;
mod error;
mod fences;
mod index;
mod lane;
mod little_endian;
mod log;
mod new_batch;
mod partition;
mod producers;
mod read;
mod recent;
mod recovery;
mod retention;
mod segment;
mod state_log;
pub mod storage;
mod tables;
mod verify;

pub use clock::{Clock, Stopwatch, SystemClock, WallClock};
pub use compaction::{Compacted, CompactionFacts, CompactionPlan, CompactionPolicy, plan_compaction};
pub use data_dir::{FORMAT_VERSION, InternalLog};
pub use dedup::DedupKey;
pub use error::LogError;
pub use event_listener::{EventListener, Listener};
pub use lane::{AppendSink, Appended};
pub use log::{Drive, Environment, Log, LogConfig, Replay};
pub use new_batch::NewBatch;
pub use partition::{Durability, Partition, PartitionConfig, Watch};
pub use read::Chunk;
pub use recovery::open::Recovered;
pub use retention::{Reason, RetentionPolicy, SegmentFacts, plan_retention};
pub use segment::{Identity, Kind};
pub use state_log::events::{EventLog, SnapshotStore};
pub use state_log::table::{StateTable, TableEvent};
pub use state_log::{Machine, StateLog};
pub use verify::{Damage, PartitionReport, accept_losses, verify};
