//! Who puts the load on: a task for each producer, reader and worker, over whatever it is connected to.
//!
//! - [`Sender`], [`Reader`], [`Jobs`]: what they are connected to; `target` has one of each for the network and the engine.
//! - `producer`, `reader`, `worker`: the tasks. `subscription`: what readers share, and when they have all.

pub mod producer;
pub mod reader;
pub mod subscription;
pub mod worker;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use millstream_client::{ConsumedBatch, Record};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::RunClock;
use crate::failure::Failure;
use crate::record::Window;

/// What a producer sends through.
pub trait Sender: Send + 'static {
    /// Resolves a record's fate.
    type Ticket: Send + 'static;

    /// Takes a record in; waits while there is no room.
    fn send(&mut self, record: Record) -> impl Future<Output = Result<Self::Ticket, Failure>> + Send;

    /// Nothing more is due for now.
    fn idle(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends what is left, and waits for all of it.
    fn finish(self) -> impl Future<Output = Result<Sent, Failure>> + Send;

    /// Waits until the record is acknowledged: when was it?
    fn acked(ticket: Self::Ticket, clock: RunClock) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// What a sender has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Batches acknowledged.
    pub batches: u64,
    /// Batches sent again.
    pub batches_resent: u64,
    /// Bytes of batches, encoded and compressed.
    pub batch_bytes: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Item {
    /// Records.
    Batch(ConsumedBatch),
    /// Partitions came or went: what follows may have come before.
    Moved,
}

/// What a consumer reads from.
pub trait Reader: Send + 'static {
    /// The next item; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Result<Item, Failure>>> + Send;

    /// Ends it well.
    fn close(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A message to work on.
#[derive(Debug)]
pub struct Job {
    /// The record's value, and its stamp if that lies beside it.
    pub value: Bytes,
    pub stamp: Option<Bytes>,
    pub key: Option<Bytes>,
    /// The producer's time, for records without stamps.
    pub timestamp: i64,
    pub partition: u32,
    pub offset: u64,
    /// Deliveries with this one.
    pub receives: u16,
}

/// What a worker gets its messages from.
pub trait Jobs: Send + 'static {
    /// Names the message until its ack is answered.
    type Handle: Send + 'static;
    /// The answer to an ack.
    type Answer: Send + 'static;

    /// The next message.
    fn next(&mut self) -> impl Future<Output = Option<Result<(Job, Self::Handle), Failure>>> + Send;

    /// Acknowledges it; does not wait.
    fn ack(&mut self, message: Self::Handle) -> Self::Answer;

    /// Waits until the ack is durable.
    fn settled(answer: Self::Answer) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes nothing more, and ends well.
    fn close(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What all tasks of a run share.
#[derive(Debug)]
pub struct Shared {
    /// Its number, in every stamp.
    pub run: u32,
    /// Its time.
    pub clock: RunClock,
    /// What counts.
    pub window: Arc<Window>,
    /// Producers stop.
    pub stop: CancellationToken,
    /// Readers and workers stop.
    pub done: CancellationToken,
    /// Room for records that are not read by all yet.
    pub room: Option<Semaphore>,
    /// Records that were due and not sent, because the time was over.
    pub unsent: AtomicU64,
    /// Whether records carry stamps, and whether they are looked at.
    pub is_stamped: bool,
    pub verifies: bool,
    /// Keys keep their order.
    pub fifo: bool,
}

/// Records without stamps carry when they were to be sent as their producer's time: µs since the run began, from 1.
pub fn unstamped_time(clock: RunClock, intended_ns: u64) -> i64 {
    i64::try_from(intended_ns.saturating_sub(clock.origin_ns()) / 1_000).unwrap_or(i64::MAX) + 1
}

/// When that was to be sent.
pub fn intended_of(clock: RunClock, timestamp: i64) -> u64 {
    clock.origin_ns() + u64::try_from(timestamp - 1).unwrap_or(0) * 1_000
}
