//! Micro-benches: one hot step each, by itself, in memory or the page cache. For finding what a change costs; how near the
//! product is to the machine is the other benches' business.
//!
//! `cargo bench -p millstream-benches --bench micro [-- <filter>]`, for example `-- batch/encode` or `-- fetch`.
//!
//! | file | steps |
//! | --- | --- |
//! | `batch.rs` | records to a batch, its checksum, its check, a batch to records; beside a copy and a checksum of the same bytes |
//! | `append.rs` | a batch into a partition's log, and the way to a lane and back |
//! | `look_up.rs` | where an offset, or a time, is |
//! | `fetch.rs` | a slice of a partition out of the page cache |
//! | `frame.rs` | frames to bytes and back |
//! | `queue.rs` | messages through a queue's machine |
//! | `filter.rs` | a filter on a record |
//!
//! Files go where `MILLSTREAM_BENCH_DIR` says, the build directory otherwise. Started by anything but `cargo bench`, each step
//! runs once.

mod append;
mod batch;
mod fetch;
mod filter;
mod frame;
mod look_up;
mod queue;
mod records;
mod store;

criterion::criterion_main!(
    batch::steps,
    append::steps,
    look_up::steps,
    fetch::steps,
    frame::steps,
    queue::steps,
    filter::steps
);
