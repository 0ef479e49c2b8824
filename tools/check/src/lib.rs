//! Judges what clients of Millstream saw: histories, and the checkers of the promises of the log, of groups and of queues.
//!
//! - [`history`]: the events, one JSON line each; who writes them and who reads them.
//! - [`value`]: the payload that tells who sent it and whether it is whole.
//! - [`log`]: takes a history in and judges it; the checkers of the log and of consumer groups. `queue`: those of queues.
//! - [`verdict`]: what they found.
//! - [`seeded`]: choices out of a seed, for whoever makes load.
//!
//! It looks at histories only: it knows no server, no client and no disk, so that none of them can talk it round.
//! Not here: lakes.
//!
//! # Example
//! ```
//! use millstream_check::history::{Event, Place, What};
//! use millstream_check::log::{LogHistory, Rules};
//! use millstream_check::value::ValueId;
//!
//! let (at, value) = (Place { stream: 0, partition: 0 }, ValueId::new(1, 0));
//! let mut history = LogHistory::default();
//! for (at_ns, what) in [
//!     (10, What::Invoke { at, values: vec![value] }),
//!     (20, What::Ok { at, base_offset: 0, values: vec![value], resends: 0 }),
//!     (30, What::FinalEnd { at, start: 0, end: 1 }), // nothing was found before
//! ] {
//!     history.push(Event { at_ns, process: 1, what });
//! }
//! let verdict = history.judge(Rules::default());
//! assert_eq!(verdict.violations()[0].check.id(), "L1");
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod history;
pub mod log;
mod queue;
pub mod seeded;
pub mod value;
pub mod verdict;
