//! An S3 server for tests, which fails on command.
//!
//! It speaks enough of S3 for a lake and for those who read one: put, get, head, delete, list and buckets, with signatures
//! checked, and **create-only puts that are atomic**: of two racing puts with `If-None-Match: *` exactly one wins. What a real
//! store does once a month it does whenever it is told to ([`Fault`]), or at random from a seed ([`Chaos`]): refusals, lost and
//! late answers, requests that arrive after their sender has given up, bodies that are cut.
//!
//! ```text
//! connection ─► front: which fault? ─► s3s: signature, XML ─► backend: errors, headers ─► store: one lock (─► directory)
//! ```
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use millstream_s3::{Act, Fault, Operation, Server, Settings};
//! let server = Server::start(Settings::default()).await?;
//! server.faults().push(Fault::new(Act::ApplyThenHangUp).on(Operation::Put).key("owner"));
//! // … a client put at server.endpoint() …
//! assert!(server.store().get("test", "owner.json").is_some());
//! # Ok(()) }
//! ```
//!
//! Everything is in memory, without a bound, and in a directory too if one is named. Not here: TLS, multipart uploads, copies,
//! versions, virtual-hosted buckets. Never for data that anybody needs.
//! Proof: `tests/server.rs` (with a client that is not ours), `tests/faults.rs` (each fault does what it says).
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod asked;
mod backend;
mod chaos;
mod directory;
mod faults;
mod front;
mod listing;
mod server;
mod store;

pub use asked::Operation;
pub use chaos::Chaos;
pub use faults::{Act, Fault, Faults, Refusal, Seen, Tally};
pub use server::{ACCESS_KEY, REGION, SECRET_KEY, Server, Settings, StartError};
pub use store::{Condition, Object, Store, StoreError};
