//! Millstream's log on a disk that misbehaves: a simulated [`SimDisk`], and the [`model`] that says what must hold on it.
//!
//! One seed is one run: what the disk is like, what is appended, read and deleted, when the process is killed and the
//! power lost, is drawn from it; the same seed gives the same calls in the same order. The log is the real one, driven by
//! the caller ([`millstream_log::Drive::Caller`]). Not here: the real file system, the server (`tools/torture`).
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod client;
mod disk;
mod lying;
pub mod model;
mod rng;
mod run;

pub use disk::{Nature, SimDisk};
pub use lying::Bug;
pub use rng::Rng;
pub use run::{Failure, Report, run};
