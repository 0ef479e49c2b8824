//! What the benches share: the ceilings, and the table of ratios.
//!
//! Absolute figures of a virtual machine move by a third from one minute to the next. So every bench runs the product
//! and its ceiling (the shortest program that does the same work on the bare machine) in turn, several rounds in one
//! run, and reports the ratio of each round with its spread.
//!
//! | bench | what it holds against what |
//! | --- | --- |
//! | `end_to_end` | durable produce, fetch and ack latency over QUIC, against the raw [`pipe`] |
//! | `micro` | single hot steps, batches among them, which stand beside [`memory`] |
//! | `lake` | landing a backlog, against a bare program that decodes the same JSON and writes the same Parquet; memory, freshness |
//! | `queue` | nothing: prints what a queue's machine costs, in memory and by the second |
//! | `ceilings` | nothing: prints the bare machine, [`disk`] and [`memory`] |
//!
//! [`peers`] are the servers that people would pick instead, if they are installed.
//!
//! Ceilings and peers know nothing of the product: this library depends on none of its crates.
#![deny(missing_docs)]

#[path = "../ceilings/disk.rs"]
pub mod disk;
#[path = "../ceilings/memory.rs"]
pub mod memory;
#[path = "../peers/mod.rs"]
pub mod peers;
#[path = "../ceilings/pipe.rs"]
pub mod pipe;
#[path = "../ceilings/quic.rs"]
pub mod quic;
pub mod ratio;
pub mod settings;
