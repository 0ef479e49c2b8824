//! A consumer group of processes: what is sent to it, its members, and what they left to be judged.

mod feed;
mod handover;
pub mod member;
mod processes;

pub use feed::{Data, Feed, seen};
pub use handover::{Handovers, Poll, Seen};
pub use processes::{Members, Setup};
