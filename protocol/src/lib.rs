//! Millstream's formats: what is on the wire is what is on the disk is what a consumer fetches.
//!
//! ```text
//! client                          server                         disk               consumer
//! Record ─► BatchBuilder ─► frame ─► BatchView::parse, stamp ─► segment ─► frame ─► BatchView ─► Record
//!           encodes once            checks, writes 40 bytes    same bytes          checks, decodes
//! ```
//!
//! - [`batch`]: the batch, the unit of produce, storage and fetch: a 112-byte header and its records.
//! - [`frame`]: how batches and control messages travel on a QUIC stream.
//! - [`buffers`]: large ones that are used again.
//! - [`Code`]: every error a client can see, as a number for ever.
//! - [`limits`]: every maximum, tied to each other by assertions.
//!
//! This crate must never know a socket, a file, a clock or an executor: bytes go in, types come out.
//! Nothing here trusts its input: lengths are checked before anything is allocated, archives are always
//! validated, and each decoder has a test that feeds it cuts, flips and lying lengths (`tests/hostile.rs`).
//!
//! # Example
//! ```
//! use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
//! use millstream_protocol::{Record, Timestamp};
//!
//! let mut builder = BatchBuilder::new(Codec::Lz4);
//! builder.push(&Record::new("42.5 km").key("ride-17").timestamp(Timestamp(1_700_000_000_000)))?;
//! let batch = builder.finish()?;
//! let view = BatchView::parse(&batch)?;
//! let records = view.records()?.collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(records[0].value.as_deref(), Some(&b"42.5 km"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod batch;
pub mod buffers;
mod code;
pub mod frame;
mod ids;
pub mod limits;
pub mod names;
mod record;
mod units;

pub use code::{Class, Code, Outcome};
pub use ids::{Epoch, Incarnation, LakeId, Offset, PartitionId, ProducerId, QueueId, StreamId};
pub use record::{Header, Record};
pub use units::{ByteSize, Timestamp};

/// The ALPN protocol name: it carries the wire's version.
pub const ALPN: &[u8] = b"millstream/1";
