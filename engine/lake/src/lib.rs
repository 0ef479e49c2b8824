//! Millstream's sink: a stream landed in object storage as Parquet or NDJSON, exactly once.
//!
//! ```text
//! partition ─► read once ─► a directory's open file ─► closed: round of files ─► intent ─► manifest entry ─► a create-only PUT each ─► checkpoint
//!              (walk, json)  (layout, shred, file)      (sink/intake)           (durable)  (fences others)   (judged)               (durable)
//! ```
//!
//! **The protocol.** Files are built in a local spool while records are read. When some are closed (full, old enough, asked for,
//! or to make room) they are a *round*: which files, of which directories, from which offset to which, with how many rows and which
//! columns. The round is written durably into the partition's state as its *intent*, since a roll by age is a fact of the
//! clock that a restart would decide differently. Then the same is put as the next manifest entry, create-only, where another writer
//! with the same past would meet this one; then each file, create-only; then the checkpoint moves on. A redo after a crash reads the
//! round's records from the log again and comes to the same files: what becomes of a record depends on the record, the layout and the
//! file's schema alone.
//!
//! The checkpoint is a *floor*, below which everything is in files, and, by directory, how far above the floor its records are:
//! directories close their files at different times. A restart reads from the floor and skips exactly what has landed.
//!
//! | killed | what a restart finds | what it does |
//! | --- | --- | --- |
//! | before the intent is durable | the last checkpoint | reads from the floor: nothing was put |
//! | after the intent, before the entry | the intent | builds, claims the entry, puts |
//! | after the entry, before or between the PUTs | the intent; its own entry is there; some files may be | looks which Parquet files are there by the intent in their footers, builds the others, finds its entry to be of the same plan, puts |
//! | after the PUTs, before the checkpoint | the same, all files there | finds all there, checkpoints |
//! | after the checkpoint | the checkpoint | goes on behind it |
//! | in a retry of errors, before the old error file is deleted | the intent; the old error file | builds from it, puts, deletes it, checkpoints |
//! | in a retry of errors, after that | the intent; no old error file | knows thereby that all was put: checkpoints |
//!
//! "Already exists" proves nothing by itself (an answer may be lost, two lakes may share a directory): one function judges
//! every put, `judge`. Objects are recognised by meaning, not bytes, since libraries and texts change between versions: a Parquet file by the
//! intent in its footer, NDJSON by its lines whatever their compression, an error file by its records whatever it says of the
//! reasons, an entry by its plan.
//!
//! **Files.** `<directory>/<partition:05>-<first:020>-<last:020>.parquet` (or `.ndjson`, `.ndjson.zst`, `.ndjson.gz`): records of that
//! directory (`layout.rs`) and partition, from the first to the last offset; those of the range that are not in it
//! are in other directories. What cannot land is in `errors/`, one line each with the reason.
//!
//! **One lake, one place.** `_millstream/owner.json` says whose a place is; another lake stops there before it has
//! put anything (`owner.rs`). Two servers with copies of one data directory stop each other at the manifest (`manifest.rs`).
//!
//! **Columns** (Parquet) come from the records, or from a declared schema; the rules are in [`schema`]. Because the schema of a
//! lake widens as records come, a reader of all files at once takes the union of their columns: in DuckDB
//! `select … from read_parquet('dir/**/*.parquet', union_by_name = true)`.
//!
//! **NDJSON** files hold each record's value as it was sent, byte for byte, one a line; a value with a raw line break
//! in it (pretty-printed JSON) has the white space between its tokens taken out. Nothing is added to the value.
//!
//! **Memory**: row groups of all lakes share one budget ([`Budget`]): beyond it the largest is closed early. A finished file is read
//! into memory for its PUT; how much of that there is at once is bounded, too (`settings.rs`).
//!
//! Not here: whether a lake exists (the broker's catalog), when retention deletes (the log; a lake only holds it).
//! Proof: `tests/exactly_once.rs`, `tests/layouts.rs`, `tests/declared.rs` (a crash at each step), `tests/stores.rs`, `tests/s3.rs`,
//! `tests/moto.rs` (stores that fail and lie), `tests/real_data.rs`, and the models beside the pure parts.
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
mod workers;

pub use budget::Budget;
pub use error::LakeError;
pub use settings::LakeSettings;
pub use sink::Sink;
pub use source::Source;
pub use workers::Workers;
