//! What a partition's files say after a crash: [`scan`] reads batches one by one, [`tail`] judges where the log ends,
//! [`open`] carries it out on the medium, [`generations`] chooses where compaction left two of a segment, [`quarantine`] keeps what is cut or not understood.
//!
//! Recovery never unlinks: what it does not understand it renames and reports.

mod generations;
pub(crate) mod open;
pub(crate) mod quarantine;
pub(crate) mod scan;
pub(crate) mod tail;
