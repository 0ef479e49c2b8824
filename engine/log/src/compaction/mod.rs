//! Compaction by key: of each key the latest record stays, tombstones expire, offsets never change.
//!
//! - [`plan`] (pure): whether it is worth while, and which segments it is about.
//! - [`keys`] (pure): key → latest offset, in bounded memory, and the rule which record stays.
//! - `stored`: the batches of a segment, one by one. `rewrite`: one segment's next generation. `run`: drives it all.
//!
//! # How
//! A sealed segment is *dirty* until its preamble has a time cleaned. A run maps the keys of the dirty segments, oldest
//! first, to their latest offsets, and then rewrites every sealed segment that holds something older, oldest first: into
//! `{base}.{generation + 1}.log.tmp`, synced, renamed, directory synced, swapped in memory; then the old generation is
//! unlinked and the directory synced again. Readers that hold the old one read on in it.
//!
//! Memory is bounded by [`CompactionPolicy::key_map_bytes`] for exact keys (hashes would lose a record at the first
//! collision). Where the bound is met the run goes on in *rounds*: map as many keys as fit, rewrite, map the next ones. A
//! round ends between two segments if it can; inside of one segment that alone is too much, it is rewritten without a
//! time cleaned, and gets that in the round that reaches its end.
//!
//! # Invariants
//! - A record goes only if a later one of its key is stored, synced and sealed, or if it is an expired tombstone.
//! - A tombstone goes only in a run that has mapped its key, and after all segments below have been rewritten by that map,
//!   durably: no older value can come back. Above a segment that cannot be rewritten (damaged), tombstones stay.
//! - A segment is cleaned after all segments below: what a crash leaves dirty is mapped again.
//! - The time cleaned is that of the *first* cleaning, so that tombstones expire however often a segment is rewritten.
//! - Offsets are spanned without gaps: every batch stays, if need be without records. Empty neighbours are joined where one
//!   batch can say the same (same epoch, producer, flags; offsets and sequences follow): otherwise one header a batch
//!   would stay for ever, half of a stream of small single records. Recovery, reads and time look-ups need no exception.
//! - The active segment, and segments younger than the lag, are not touched.
//! - Until the next generation's name is durable nothing of the old one is unlinked; after a sync or rename that failed
//!   nothing is known (see `storage`), so this partition is not compacted again until a restart.
//!
//! Not here: which generation is served after a crash (`recovery::generations`), when to run (the server), whether every
//! record has a key (checked where they come in; one without a key stays). Proof: `tests/compaction.rs`, a model and a
//! crash at each step.

mod keys;
mod plan;
mod rewrite;
mod run;
mod stored;

pub use plan::{CompactionFacts, CompactionPlan, CompactionPolicy, plan_compaction};
pub(crate) use rewrite::is_unfinished;
pub use run::Compacted;
pub(crate) use run::Compactor;
