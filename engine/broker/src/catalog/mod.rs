//! The catalog: which streams and lakes exist. A pure machine: [`Catalog::step`] decides, [`Catalog::apply`] is the only
//! door to the state, live and in recovery.
//!
//! | input | events |
//! | --- | --- |
//! | `Start` | `Started` |
//! | `CreateStream` | `StreamCreated` (its directories exist before) |
//! | `DeleteStream` | `StreamDeleted`; once its files are gone `StreamRemoved` |
//! | `CreateLake`, `RemoveLake` | `LakeCreated`, `LakeRemoved` |
//! | `NameProducer` | `ProducerNamed`, with the name that is forgotten for it, if any |
//!
//! Invariants
//! - A number is given to one stream or lake, ever.
//! - A name has one producer id; at most `PRODUCER_NAMES_MAX` names are remembered, those named last.
//! - A lake's stream exists as long as the lake does.
//!
//! Not here: directories, partitions, stores (the shell's). Proof: `tests/catalog_model.rs`.

mod encoding;
mod state;

pub use state::{Catalog, Event, Input, LakeEntry, StreamEntry};
