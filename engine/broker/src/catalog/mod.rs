//! The catalog: which streams, lakes and queues exist. A pure machine: [`Catalog::step`] decides, [`Catalog::apply`] is the only
//! door to the state, live and in recovery.
//!
//! | input | events |
//! | --- | --- |
//! | `Start` | `Started` |
//! | `CreateStream` | `StreamCreated` (its directories exist before) |
//! | `DeleteStream` | `StreamDeleted`; once its files are gone `StreamRemoved` |
//! | `CreateLake`, `AlterLake`, `RemoveLake` | `LakeCreated`, `LakeAltered`, `LakeRemoved` |
//! | `Queue` | one `Queue` event: created, updated, moved (purge, seek), paused, redriven, deleted; removed once what it stored is gone |
//! | `NameProducer` | `ProducerNamed`, with the name that is forgotten for it, if any |
//!
//! Invariants
//! - A number is given to one stream, lake or queue, ever.
//! - A name has one producer id; at most `PRODUCER_NAMES_MAX` names are remembered, those named last.
//! - A lake's stream exists as long as the lake does, a queue's stream and its dead-letter stream as long as the queue.
//! - A queue has at most one redrive that runs; its target stream exists as long as it runs.
//! - No way of dead letters, from stream to stream over queues, leads in a circle.
//!
//! Not here: directories, partitions, stores (the shell's). Proof: `tests/catalog_model.rs`.

mod encoding;
mod lakes;
mod queues;
mod redrives;
mod state;

pub use queues::{QueueEntry, QueueEvent, QueueInput, QueueRule};
pub use redrives::{RedriveCounts, RedriveEntry, RedriveEvent, RedriveInput, RedriveStatus, RedriveTo};
pub use state::{Catalog, Event, Input, LakeEntry, StreamEntry};
