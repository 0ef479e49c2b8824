//! Millstream's broker: what streams, lakes and queues exist, and where their partitions are. Usable without the network.
//!
//! Every decision is a pure machine ([`catalog`], [`group`], [`queue`]); [`Broker`] is the shell that runs them on the log. No side file
//! holds state: the machines' events are in state logs of the same engine as the records.
//!
//! # Example
//! ```
//! use millstream_broker::{Broker, BrokerConfig};
//! use millstream_protocol::frame::control::{CreateMode, StreamConfig};
//!
//! let dir = tempfile::tempdir()?;
//! let broker = Broker::open(BrokerConfig::new(dir.path()))?;
//! let stream = broker.create_stream("flights", 4, StreamConfig::default(), CreateMode::Explicit)?;
//! assert_eq!(stream.partitions().len(), 4);
//! assert!(broker.stream("trains").is_err());
//! broker.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod broker;
pub mod catalog;
mod error;
pub mod group;
mod interest;
mod producer;
pub mod queue;
mod recovery;
mod stream;

pub use broker::{Broker, BrokerConfig, Lake};
pub use catalog::QueueEntry;
pub use error::BrokerError;
pub use group::{GroupStats, Heartbeat};
pub use recovery::Recovery;
pub use stream::Stream;
