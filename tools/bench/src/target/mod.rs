//! What the load is put on: a server over the network, or the engine in this process.
//!
//! - `flags`: which server. `network`: through the public client, as an application sees it. `own_server`: one that this
//!   program starts. `engine`: the broker's in-process API, without a network.

pub mod engine;
pub mod flags;
pub mod network;
pub mod own_server;

use std::future::Future;

use millstream_client::{Client, QueueConfig, QueueOrdering, QueueStart};

use crate::drive::{Jobs, Reader, Sender};
use crate::failure::Failure;
use crate::load::Load;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With what comes from now on.
    Now,
    /// With the first record, and goes on.
    Earliest,
    /// With the first record, to the last there is now.
    Whole,
}

/// A queue that begins there: with dead letters it is FIFO, one of a group at a time.
fn queue_settings(from: From, dead_letter: Option<&str>) -> (QueueConfig, QueueStart) {
    let ordering = match dead_letter {
        None => QueueOrdering::Unordered,
        Some(_) => QueueOrdering::Fifo { group_batch: 1, on_dead: <_>::default() },
    };
    let dead_letter = dead_letter.map(str::to_owned);
    let start = if from == From::Now { QueueStart::Latest } else { QueueStart::Earliest };
    (QueueConfig { ordering, dead_letter, ..QueueConfig::default() }, start)
}

/// A stream as it was found or made.
#[derive(Debug, Clone, Copy)]
pub struct StreamFacts {
    /// How many partitions.
    pub partitions: u32,
    /// Records that can be read.
    pub records: u64,
    /// Whether nothing of it was deleted.
    pub is_whole: bool,
}

/// What a load is put on.
pub trait Target: Send + Sync {
    /// For producers.
    type Sender: Sender;
    /// For consumers.
    type Reader: Reader;
    /// For members of a group.
    type Member: Reader;
    /// For workers.
    type Jobs: Jobs;

    /// What there is of that stream, if it is there.
    fn look(&self, stream: &str) -> impl Future<Output = Result<Option<StreamFacts>, Failure>> + Send;

    /// Makes the load's stream.
    fn make_stream(&self, stream: &str, load: &Load) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Deletes it.
    fn delete_stream(&self, stream: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes a queue on it, from its end on, or from its beginning; with a stream for dead letters it is FIFO.
    fn make_queue(
        &self,
        queue: &str,
        stream: &str,
        from: From,
        dead_letter: Option<&str>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Deletes it.
    fn delete_queue(&self, queue: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// A producer's.
    fn sender(&self, stream: &str, load: &Load) -> impl Future<Output = Result<Self::Sender, Failure>> + Send;

    /// A consumer's, of these partitions.
    fn reader(
        &self,
        stream: &str,
        partitions: Vec<u32>,
        from: From,
    ) -> impl Future<Output = Result<Self::Reader, Failure>> + Send;

    /// A group's member.
    fn member(&self, stream: &str, group: &str) -> impl Future<Output = Result<Self::Member, Failure>> + Send;

    /// A worker's.
    fn jobs(&self, queue: &str, load: &Load) -> impl Future<Output = Result<Self::Jobs, Failure>> + Send;

    /// A connection for what only a server has.
    fn client(&self) -> Result<&Client, Failure>;

    /// Ends all connections.
    fn close(self) -> impl Future<Output = ()> + Send;
}
