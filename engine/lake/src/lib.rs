//! Millstream's sink: a stream landed in object storage as Parquet or NDJSON, exactly once.
//!
//! ```text
//! partition ─► scan: count, infer ─► decide a range ─► intent ─► build from the log ─► one create-only PUT ─► checkpoint
//!                                                     (durable)   (spool, redoable)     judged                (durable)
//! ```
//!
//! **The protocol.** What a file holds is decided first and written durably into the partition's state as an
//! *intent* (range, name, schema, writer's epoch): a roll by age is a fact of the clock that a restart would
//! decide differently. Then the file is built from the log into a local spool, put with one create-only PUT, and
//! the checkpoint moves on. Scanning decides and building obeys, so the redo of an intent after a crash is exactly
//! the normal path: the same range, the same name, the same rows.
//!
//! | killed | what a restart finds | what it does |
//! | --- | --- | --- |
//! | before the intent is durable | the last checkpoint | decides anew: nothing was put |
//! | after the intent, before the PUT | the intent | builds and puts |
//! | after the PUT, before the checkpoint | the intent; the object is there | builds, is told "already exists", reads the object back, finds its own intent in it, checkpoints |
//! | after the checkpoint | the checkpoint | goes on behind it |
//!
//! "Already exists" proves nothing by itself (an answer may be lost, two lakes may share a directory): one
//! function judges every put, `judge`.
//!
//! **Files.** `<partition:05>-<first:020>-<last:020>.parquet` (or `.ndjson`) directly under the lake's URL: all
//! records of that partition in that range, except those in `errors/<same>.ndjson`, one line each with the reason.
//! Rows plus rejected records are the records of the range; that is asserted for each file.
//!
//! **One lake, one directory.** `_millstream/owner.json` says whose a directory is; a second lake stops there before it has
//! put anything (`owner.rs`).
//!
//! **Columns** (Parquet) come from the records; the rules are in [`schema`]. Because the schema of a lake widens as
//! records come, a reader of all files at once takes the union of their columns: in DuckDB
//! `select … from read_parquet('dir/*.parquet', union_by_name = true)`.
//!
//! **NDJSON** files hold each record's value as it was sent, byte for byte, one a line; a value with a raw line break
//! in it (pretty-printed JSON) has the white space between its tokens taken out. Nothing is added to the value.
//!
//! **Memory**: the log is read a chunk at a time, rows are encoded a chunk at a time, a row group is bounded; the
//! finished file is read into memory once, for its PUT.
//!
//! Not here: whether a lake exists (the broker's catalog), when retention deletes (the log; a lake only holds it).
//! Proof: `tests/exactly_once.rs` (a crash at each step), `tests/stores.rs` (stores that fail and lie),
//! `tests/real_data.rs`, and the models beside the pure parts.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod audit;
mod budget;
pub mod doctor;
mod error;
mod file;
mod json;
mod judge;
mod layout;
mod manifest;
mod number;
mod owner;
mod plan;
mod preview;
pub mod reader;
mod rfc3339;
pub mod schema;
mod settings;
mod shred;
mod sink;
mod source;
mod state;
mod store;
mod walk;

pub use budget::Budget;
pub use error::LakeError;
pub use settings::LakeSettings;
pub use sink::Sink;
pub use source::Source;
