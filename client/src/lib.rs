//! The Millstream client: what an application uses to send, receive and administer records.
//!
//! One [`Client`] is one QUIC connection, made again when it is lost and shared by all that hangs on it:
//!
//! - [`Producer`]: batches records per partition, compresses them, keeps several batches in flight in order, waits
//!   when its buffer is full, sends again after a lost connection so that each batch is stored once, and gives a receipt
//!   for each record.
//! - [`Consumer`]: reads a stream's partitions from a position, checks every batch, goes on after a lost
//!   connection where it stood, and says what is missing.
//! - [`GroupConsumer`]: reads as a member of a consumer group, which shares partitions out and keeps positions.
//! - [`Queue`]: messages that are worked on one by one: asked for or pushed, acknowledged, failed, extended.
//! - Admin calls on the client itself: streams, lakes, groups and queues.
//!
//! It is not a server, and does not embed one: it knows the protocol and nothing of the engine. It needs a tokio
//! runtime with time and I/O enabled.
//!
//! # Example
//! ```no_run
//! use millstream_client::{Client, Record, Start};
//!
//! # async fn example() -> millstream_client::Result<()> {
//! let client = Client::connect("127.0.0.1:4650", "sha256:5f1c…").await?;
//! let producer = client.producer("rides").build().await?;
//! let receipt = producer.send(Record::new("42.5 km").key("ride-17")).await?;
//! println!("stored at {}/{}", receipt.partition, receipt.offset);
//! let mut consumer = client.consumer("rides").start(Start::Earliest).bounded().build().await?;
//! while let Some(record) = consumer.next().await {
//!     println!("{:?}", record?.record.value);
//! }
//! # Ok(()) }
//! ```
//!
//! # Errors
//! Every call returns the one opaque [`Error`]: a stable [`Code`] for the program, a text that says what to do for
//! the person. Its class says what can be done about it, its [`Outcome`] whether the request surely had no effect.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod admin;
mod backoff;
mod client;
mod clock;
mod config;
mod connection;
mod consumer;
mod control;
mod error;
mod frame_io;
mod group;
mod local;
mod producer;
mod queue;
mod tls;
mod transport;

pub use admin::CommittedPosition;
pub use client::Client;
pub use config::{ClientBuilder, NoTrust, Trusted};
pub use consumer::{ConsumedBatch, ConsumedRecord, ConsumedRecords, Consumer, ConsumerBuilder, Position, Start};
pub use error::{Error, Gap, Result};
pub use group::{
    Commit, CommitOutcome, GroupBatch, GroupConsumer, GroupConsumerBuilder, GroupEvent, GroupPosition, GroupRecord,
    NamedPartition,
};
pub use local::LocalServer;
pub use producer::{Dedup, Deliveries, Delivery, Producer, ProducerBuilder, ProducerStats, Receipt, partition_of_key};
pub use queue::{Message, MessageReceipt, Messages, MessagesBuilder, Queue, Said, Settling, Worker, WorkerReport};
pub use tls::Fingerprint;

pub use millstream_protocol::batch::{BatchView, Codec};
pub use millstream_protocol::frame::control::{
    Cleanup, Compaction, Durability, LakeAudit, LakeColumn, LakeColumns, LakeCompression, LakeConfig, LakeDelivery,
    LakeFormat, LakePartition, LakePreview, LakeRetry, LakeStatus, PartitionInfo, PartitionRecovery, PartitionState,
    RecoveryInfo, StreamConfig, StreamInfo, StreamSummary,
};
pub use millstream_protocol::frame::group::{
    GroupInfo, GroupMember, GroupPartition, GroupReset, GroupState, GroupSummary, ResetTo, StreamPartition,
};
pub use millstream_protocol::frame::queue::{
    OnDead, PeekedHeader, PeekedMessage, QueueBackoff, QueueConfig, QueueCounts, QueueInfo, QueueOrdering,
    QueuePartition, QueueStart, QueueSummary, RedriveInfo, RedriveOptions, RedriveStatus, Standing,
};
pub use millstream_protocol::{
    ByteSize, Class, Code, Epoch, Header, Incarnation, Offset, Outcome, PartitionId, Record, StreamId, Timestamp,
};
