//! A consumer group of processes: what is sent to it, its members, and what they left to be judged.

mod data;
mod handover;
pub mod member;

pub use data::{Data, seen};
pub use handover::{Handovers, Poll, Seen};
