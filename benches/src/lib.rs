//! What the benches share: the ceilings, and the table of ratios.
//!
//! Absolute figures of a virtual machine move by a third from one minute to the next. So every bench runs the product
//! and its ceiling (the shortest program that does the same work on the bare machine) in turn, several rounds in one
//! run, and reports the ratio of each round with its spread.
//!
//! | bench | what it holds against what |
//! | --- | --- |
//! | `micro` | single hot steps, batches among them, which stand beside [`memory`] |
//! | `lake` | landing a backlog, against a bare program that decodes the same JSON and writes the same Parquet; memory, freshness |
//! | `queue` | nothing: prints what a queue's machine costs, in memory and by the second |
//! | `ceilings` | nothing: prints the bare machine, [`disk`] and [`memory`], and what a thread that writes costs beside QUIC |
//!
//! `cargo run --release -p millstream-benches --bin ratios` holds each whole path over QUIC against its ceiling, the raw
//! [`pipe`] for the most part, with client and server as two processes on both sides.
//!
//! [`peers`] are the servers that people would pick instead, if they are installed.
//!
//! Ceilings and peers know nothing of the product: nothing in this library names one of its crates.
#![deny(missing_docs)]

#[path = "../ceilings/disk.rs"]
pub mod disk;
#[path = "../ceilings/gather.rs"]
pub mod gather;
#[path = "../ceilings/memory.rs"]
pub mod memory;
pub mod pace;
#[path = "../peers/mod.rs"]
pub mod peers;
#[path = "../ceilings/pipe.rs"]
pub mod pipe;
pub mod process;
#[path = "../ceilings/quic.rs"]
pub mod quic;
pub mod ratio;
pub mod settings;
