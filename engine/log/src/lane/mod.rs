//! Commit lanes: a few threads that own the partitions' tails.
//!
//! Appends go to a lane through a channel; the lane drains all that waits, stamps it, hands it to its [`journal`], and
//! answers every waiter by its own partition's result. [`admission`] says which batches are stored; [`step`] is what a lane does with one drained heap of commands;
//! [`thread`] drives it, or a simulator does ([`stepped`]).

pub(crate) mod admission;
pub(crate) mod flush;
pub(crate) mod journal;
pub(crate) mod ring;
pub(crate) mod step;
pub(crate) mod stepped;
pub(crate) mod thread;

use std::sync::Arc;

use crossbeam_channel::Sender;
use millstream_protocol::{Offset, Timestamp};

use crate::error::LogError;
use crate::new_batch::NewBatch;
use crate::partition::Partition;

/// Where a batch was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The time it was stamped with.
    pub append_time: Timestamp,
}

/// Gets the results of appends.
pub trait AppendSink: Send + Sync {
    /// Called on a lane's thread, once the stream's durability holds or the append has failed: do not block. Each token
    /// comes once; the order is that of the appends, per partition.
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>);

    /// Asked on the lane's thread before the append under this token is written: `false` refuses it with
    /// [`LogError::Behind`]. A source that pipelines says `false` behind a failed append until it has begun anew, so
    /// that nothing is stored ahead of what is sent again.
    fn admits(&self, token: u64) -> bool {
        let _ = token;
        true
    }
}

/// What a lane is asked to do.
pub(crate) enum Command {
    Append(Append),
    /// Seal the active segment if it has records (retention by age wants it to be deletable).
    Roll(Arc<Partition>),
    /// Answer once everything before it has been carried out.
    Barrier(Sender<()>),
    /// End the lane's thread.
    Stop,
}

/// One batch on its way.
pub(crate) struct Append {
    pub partition: Arc<Partition>,
    pub batch: NewBatch,
    pub token: u64,
    pub sink: Arc<dyn AppendSink>,
}
