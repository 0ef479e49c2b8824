//! Millstream's server: QUIC and HTTP listeners, sessions, budgets, metrics.
//!
//! ```text
//! quic::endpoint ─► quic::connection ─► session::control ─► broker, lakes
//!   sockets, limits   hello, streams    session::produce ─► partition.append ─► acks (from the lanes)
//!                                       session::consume ◄─ partition.read (blocking threads)
//! http ─► /health, /metrics
//! ```
//! It owns the sockets, who may use them and how much memory they may hold. What a stream, a partition or a lake
//! *is* belongs to `millstream-broker`, `millstream-log` and `millstream-lake`; bytes and their meaning to
//! `millstream-protocol`. It must never know a file of the log, and nothing here blocks a tokio worker on a disk:
//! appends are handed to the log's lanes, everything else that may wait for a disk goes to the blocking threads.
//!
//! Invariants
//! - Every request passes [`authorize`](crate::authorize) before anything is done for it.
//! - A frame's body is read only under a reservation for its whole length (`budget`).
//! - What is acknowledged was answered by a lane; nothing acknowledged is ever dropped.
//! - A panic in a connection ends that connection only.
//!
//! Proof: `tests/*.rs`, by verb, over real QUIC on loopback.
//!
//! # Example
//! ```no_run
//! # async fn f() -> Result<(), millstream_server::ServeError> {
//! use millstream_server::{Server, ServerConfig};
//!
//! let server = Server::start(ServerConfig { data_dir: "./millstream-data".into(), ..ServerConfig::default() }).await?;
//! println!("{} {}", server.address(), server.fingerprint());
//! server.stop().await
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod authorize;
mod budget;
mod client_file;
mod config;
mod error;
mod frame_io;
mod http;
mod lake_answers;
mod lakes;
mod metrics;
mod private_file;
mod quic;
mod server;
mod session;
mod shared;

pub use client_file::ClientFile;
pub use config::{ConfigError, ServerConfig};
pub use error::ServeError;
pub use server::Server;
